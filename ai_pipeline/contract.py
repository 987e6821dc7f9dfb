"""The contract between the node and a pipeline: plain frozen types, no DICOM object, no torch.

Coordinates of every :class:`Region` are those that DICOM uses for SCOORD and for GSPS ``PIXEL``
graphics (PS3.3 C.18.6.1.2 and C.10.5.1.2): ``(column, row)``, sub-pixel, ``(0.0, 0.0)`` at the top
left corner of the top left pixel and ``(Columns, Rows)`` at the bottom right corner of the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Point = tuple[float, float]
PixelArray = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 section 8): value, coding scheme designator (``SCT``, ``DCM`` …), meaning."""

    value: str
    scheme: str
    meaning: str


# No concept of DCM or SCT says it: (113101, DCM, Clean Pixel Data Option) names a de-identification profile.
BURNED_IN = Code("BURNED_IN", "99AINODE", "Burned-in annotation to remove")
"""Of findings that say nothing of the patient: annotation that the policy wants gone."""
CARDIOTHORACIC_RATIO = Code("CARDIOTHORACIC", BURNED_IN.scheme, "Cardiothoracic ratio")  # LOINC: fetal ones


class Decision(StrEnum):
    """What a probability means at the model's operating threshold."""

    PRESENT = "present"
    ABSENT = "absent"
    INDETERMINATE = "indeterminate"


class Origin(StrEnum):
    """How a region was found; readers weigh a detector's box more than an activation's."""

    DETECTOR = "detector"
    ACTIVATION = "activation"
    TEXT = "text"
    MARK = "mark"


class ImageKind(StrEnum):
    """Derived pictures that a pipeline may hand back."""

    ANNOTATED = "annotated"
    CLEANED = "cleaned"
    DESPECKLED = "despeckled"
    MASK = "mask"
    HEATMAP = "heatmap"
    ORGANS = "organs"


class Meaning(StrEnum):
    """What a burned-in mark is for; a destination's policy decides by it what has to go."""

    IDENTITY = "identity"
    MEASUREMENT = "measurement"
    ORIENTATION = "orientation"
    SCALE = "scale"
    ACOUSTIC = "acoustic"
    LOGO = "logo"


@dataclass(frozen=True, slots=True)
class Region:
    """A place in a source image. ``points``: ``(left, top), (right, bottom)`` of a box; of a polygon its
    vertices, not closed."""

    type: Literal["box", "polygon"]
    points: tuple[Point, ...]
    origin: Origin

    def __post_init__(self) -> None:
        wanted = 2 if self.type == "box" else 3
        if len(self.points) < wanted or (self.type == "box" and len(self.points) != 2):
            raise ValueError(f"a {self.type} of {len(self.points)} points")
        left, top, right, bottom = self.bounds
        if not (left < right and top < bottom):
            raise ValueError(f"a {self.type} without area: {self.points}")

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """``(left, top, right, bottom)``."""
        xs = [x for x, _ in self.points]
        ys = [y for _, y in self.points]
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model of a result. ``sha256`` of its weights, ``card_sha256`` of its card (thresholds, codes)."""

    id: str
    version: str
    sha256: str
    card_sha256: str
    calibrated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """Where a finding comes from: ``values`` float32 ``[rows, columns]`` of the source image, 0 to 1."""

    values: npt.NDArray[np.float32]
    method: str


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One thing that a model says about one image.

    ``probability`` 0 to 1, None where there is none; ``frame`` 1-based as in DICOM, None in a still;
    ``tracking_uid`` is set by ``results``; ``site``: PS3.16 CID 4031 or SNOMED CT; ``side``: that of the
    patient on which all regions lie; ``reliability``: how many of such calls are right. What is
    ``research_only`` is not shown; nor may it be told from the others where ``exclusive`` ones sum to 1."""

    label: str
    code: Code
    probability: float | None
    threshold: float | None
    decision: Decision
    source_uid: str
    model: ModelRef
    frame: int | None = None
    regions: tuple[Region, ...] = ()
    site: Code | None = None
    side: Literal["", "L", "R"] = ""
    evidence: Heatmap | None = None
    tracking_uid: str = ""
    reliability: str = ""
    research_only: bool = False
    exclusive: bool = False

    def __post_init__(self) -> None:
        if self.probability is not None and not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability {self.probability} is not between 0 and 1")

    @property
    def name(self) -> str:
        """``label`` as a reader sees it: "Serous Cystadenoma"."""
        return self.label.replace("_", " ")


@dataclass(frozen=True, slots=True)
class QualityNote:
    """Something that a reader should know about how far to trust the result. Never holds PHI. ``on_faces``:
    must be read wherever the findings are. ``places``: where, for the node alone; as UltrasoundRegion.box."""

    name: str
    text: str
    source_uid: str | None = None
    on_faces: bool = False
    places: tuple[tuple[int, int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of a burned-in annotation, or the place of a drawn one. The text may be a name.

    For the node's access-controlled record alone: never for logs, events, errors, results or JSON. ``bounds``
    is (left, top, right, bottom) in the coordinates of :class:`Region`; ``frame`` as in :class:`Finding`;
    ``kind``: a MarkKind; ``text`` is empty for drawings; ``removed`` False: the policy kept the mark."""

    source_uid: str
    frame: int | None
    kind: str
    meaning: Meaning
    bounds: tuple[float, float, float, float]
    confidence: float
    removed: bool
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number with its unit, taken at a place in one image. ``name`` is a reader's; ``quantity``, ``unit``
    (UCUM) and the body ``site`` are coded. ``frame`` as in :class:`Finding`.

    ``lines``: polylines of two points or more on which it was taken, in the coordinates of :class:`Region`;
    open, or ``closed``: outlines whose last point is joined to the first. ``model``: the model that drew
    them; None where the number was written in the picture and only read."""

    source_uid: str
    name: str
    quantity: Code
    value: float
    unit: Code
    lines: tuple[tuple[Point, ...], ...]
    model: ModelRef | None = None
    site: Code | None = None
    frame: int | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        fewest = 3 if self.closed else 2
        if not self.lines or any(len(line) < fewest or line[0] == line[-1] for line in self.lines):
            raise ValueError("a measurement needs lines whose ends lie apart")


class RefusedBy(StrEnum):
    """The gate that an image did not pass."""

    HEADER = "header"
    PIXELS = "pixels"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An image that ``accepts`` passed over, and the model that it was for. Counted, never shown."""

    source_uid: str
    model: ModelRef
    by: RefusedBy


@dataclass(frozen=True, slots=True)
class Scores:
    """The calibrated probability (0 to 1) of every label of a classifier's card for one image.

    Also of labels that are not reported: the node counts them to notice drift and never shows them. One per
    image and model; ``reoriented``: the image was turned or inverted before the analysis."""

    source_uid: str
    model: ModelRef
    values: Mapping[str, float]
    reoriented: bool = False

    def __post_init__(self) -> None:
        if not all(0.0 <= value <= 1.0 for value in self.values.values()):
            raise ValueError("a probability is not between 0 and 1")


@dataclass(frozen=True, slots=True, eq=False)
class DerivedImage:
    """A picture made from one source image.

    ``frames``: ``[frames, rows, columns]`` or ``[frames, rows, columns, 3]`` in the source's stored type
    (for ``cleaned``) or uint8 RGB (for pictures), of ``organs`` a mask (0, 255) for each; may be a read-only
    ``numpy.memmap`` so that a cine need not be in memory. ``verified`` is True only when a cleaned image was
    proven to hold no legible text. ``outside_sha256`` of a cleaned image: the SHA-256 of its samples outside
    the mask, frame by frame, which the source's samples have too."""

    kind: ImageKind
    source_uid: str
    frames: PixelArray
    photometric: Literal["MONOCHROME1", "MONOCHROME2", "RGB"]
    description: str
    verified: bool = False
    models: tuple[ModelRef, ...] = ()
    outside_sha256: str = ""
    organs: tuple[Code, ...] = ()


@dataclass(frozen=True, slots=True)
class Accept:
    """The pipeline will look at ``source_uids``; ``refused``: those passed over, for the node's counts."""

    source_uids: tuple[str, ...]
    refused: tuple[Refusal, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Refuse:
    """The pipeline does not apply; ``reason`` is one sentence, without PHI; ``refused`` as in Accept."""

    reason: str
    refused: tuple[Refusal, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class UltrasoundRegion:
    """One item of the Sequence of Ultrasound Regions (0018,6011), PS3.3 C.8.5.5.

    ``box``: left, top, right, bottom in pixels, the last two exclusive. ``spacing``: millimetres between rows
    and columns, None if not both are in centimetres. Format and type are 0 if it has none."""

    box: tuple[int, int, int, int]
    spacing: tuple[float, float] | None = None
    spatial_format: int = 0
    data_type: int = 0


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a pipeline may know of an image besides its pixels: decoded header values, no identity.

    ``age_years``: None where the header gives no usable age. ``attributes``: further values by keyword, as
    text. ``overlay_groups``: groups 60xx whose overlay plane has pixels; ``embedded_overlay_bits``: bits of
    the pixel data, from 0 on, that hold one. ``removed_by_hand``: boxes that a person wants gone."""

    modality: str
    sop_class_uid: str
    rows: int
    columns: int
    frames: int
    photometric: str
    bits_stored: int
    body_part: str = ""
    view_position: str = ""
    laterality: str = ""
    presentation_intent: str = ""
    age_years: float | None = None
    image_type: tuple[str, ...] = ()
    burned_in_annotation: str = ""
    lossy: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    ultrasound_regions: tuple[UltrasoundRegion, ...] = ()
    overlay_groups: tuple[int, ...] = ()
    embedded_overlay_bits: tuple[int, ...] = ()
    removed_by_hand: tuple[tuple[int, int, int, int], ...] = ()


class SourceImage(Protocol):
    """One image as a pipeline sees it; ``ai_pipeline.images.decode`` makes it from DICOM, PNG or JPEG.

    Frames are decoded when asked for. ``stored(i)`` gives the component samples after the node's one
    decoder and one fixed YBR→RGB or palette→RGB step: ``[rows, columns]`` or ``[rows, columns, 3]``.
    ``display(i)`` gives what a viewer shows: uint8, bright = dense (MONOCHROME2), after modality and VOI LUT,
    ``[rows, columns]`` for grey and ``[rows, columns, 3]`` RGB for colour; ``show(samples, i)`` gives that of
    other samples of the stored kind. ``i`` counts from 0. All raise PixelError, which names the cause.
    """

    @property
    def uid(self) -> str: ...
    @property
    def series_uid(self) -> str: ...
    @property
    def header(self) -> ImageHeader: ...
    def stored(self, frame: int = 0) -> PixelArray: ...
    def display(self, frame: int = 0) -> npt.NDArray[np.uint8]: ...
    def show(self, samples: PixelArray, frame: int = 0) -> npt.NDArray[np.uint8]: ...


class Progress(Protocol):
    """Called with the share done, 0 to 1, and a word for a person; may raise to cancel the run."""

    def __call__(self, share: float, what: str) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class PipelineResult:
    """All that a pipeline found. ``timings`` in seconds by stage (``decode``, ``model``, ``total`` …).

    ``scores`` are for the node's counts, from pipelines whose cards have labels. ``readings`` are for the
    access-controlled record alone. ``drawn_on``: what pictures show, source or only its ``cleaned`` image."""

    findings: tuple[Finding, ...] = ()
    images: tuple[DerivedImage, ...] = ()
    quality: tuple[QualityNote, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    models: tuple[ModelRef, ...] = ()
    scores: tuple[Scores, ...] = ()
    readings: tuple[Reading, ...] = field(default=(), repr=False)
    measurements: tuple[Measurement, ...] = ()
    drawn_on: Literal["source", "cleaned"] = "source"


class Pipeline(Protocol):
    """From images to findings. Constructed once per process; ``warm_up`` loads the models.

    ``options`` come from the rule (for example ``clean = true``); unknown options are an error that
    ``dicom-node check`` reports, so each pipeline names what it knows in ``options``. ``per_image``: an
    image's result does not depend on the others, so the node may ask for each as it arrives.
    """

    name: str
    version: str
    options: Mapping[str, type]
    per_image: bool

    def warm_up(self) -> None: ...
    def models(self) -> tuple[ModelRef, ...]: ...
    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept | Refuse: ...
    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult: ...


@runtime_checkable
class ChecksOptions(Protocol):
    """A pipeline whose options can be wrong in more than their type, such as a table of labels."""

    def option_faults(self, options: Mapping[str, object]) -> Mapping[str, str]:
        """What is wrong with the values of ``options``, by option, as a remedy for a person."""
        ...
