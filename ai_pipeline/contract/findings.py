"""The results of a pipeline on images: findings with their places, measurements, notes.

Coordinates of every :class:`Region` are the coordinates of DICOM for SCOORD and for GSPS ``PIXEL`` graphics
(PS3.3 C.18.6.1.2 and C.10.5.1.2): ``(column, row)``, sub-pixel, ``(0.0, 0.0)`` at the top left corner of the
top left pixel and ``(Columns, Rows)`` at the bottom right corner of the last one.

The images that a pipeline gets, and the pictures that it derives from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 section 8): value, coding scheme designator (``SCT``, ``DCM`` …), meaning."""

    value: str
    scheme: str
    meaning: str


# No concept of DCM or SCT says it: (113101, DCM, Clean Pixel Data Option) names a de-identification profile.
BURNED_IN = Code("BURNED_IN", "99AINODE", "Burned-in annotation to remove")
"""Code of findings that say nothing of the patient: burned-in annotation that the policy removes."""


class Decision(StrEnum):
    """The meaning of a probability at the model's operating threshold."""

    PRESENT = "present"
    ABSENT = "absent"
    INDETERMINATE = "indeterminate"


class Origin(StrEnum):
    """How a region was found; readers weigh a detector's box more than an activation's."""

    DETECTOR = "detector"
    ACTIVATION = "activation"
    TEXT = "text"
    MARK = "mark"


@dataclass(frozen=True, slots=True)
class Region:
    """A place in a source image. ``points``: ``(left, top), (right, bottom)`` of a box, or the vertices of a
    polygon, which is not closed.
    """

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
        """The bounding box: ``(left, top, right, bottom)``."""
        xs = [x for x, _ in self.points]
        ys = [y for _, y in self.points]
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model that gave a result. ``sha256``: of its weights; ``card_sha256``: of its card (thresholds,
    codes).
    """

    id: str
    version: str
    sha256: str
    card_sha256: str
    calibrated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """A map of the evidence for a finding: ``values`` float32 ``[rows, columns]`` of the source image, 0 to
    1.
    """

    values: npt.NDArray[np.float32]
    method: str


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One statement of a model about one image.

    ``probability`` 0 to 1, None if the model gives none; ``frame`` 1-based as in DICOM, None in a still;
    ``tracking_uid`` is set by ``results``; ``site``: PS3.16 CID 4031 or SNOMED CT; ``side``: the patient's
    side on which all regions lie; ``certainty``: how far to trust a call that the finding is present, in
    words; ``reliability``: the figure behind it, the share of such calls that are right. A ``research_only``
    finding is not shown, and it must not follow from the others if findings are ``exclusive`` (their sum is
    1).
    """

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
    certainty: str = ""
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
    """A note for the reader on how far to trust the result. Never holds PHI.

    ``text``: one or more whole sentences. ``on_faces``: must be read wherever the findings are. ``places``:
    boxes like UltrasoundRegion.box, for the node alone. ``names``: the subjects of the note, as readers name
    them.
    """

    name: str
    text: str
    source_uid: str | None = None
    on_faces: bool = False
    places: tuple[tuple[int, int, int, int], ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number with its unit, measured at a place in one image. ``name`` is for readers; ``quantity``,
    ``unit`` (UCUM) and the body ``site`` are coded. ``frame`` as in :class:`Finding`.

    ``lines``: polylines of two points or more along which it was measured, in the coordinates of
    :class:`Region`; open, or ``closed``: outlines whose last point is joined to the first. ``model``: the
    model that drew the lines; None if the number was only read in the picture. ``fetus``: which fetus was
    measured, by its letter or number in the picture, "1" if there is only one; "" for a measurement of the
    patient. ``statement``: the number in a reader's words, with its meaning; "" if the short result does not
    need it. ``error``: 95 % of two measurements of an unchanged patient differ by less
    (:func:`repeatability`), in the unit; None if it was not measured: then the number is not compared with an
    earlier one.
    """

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
    fetus: str = ""
    statement: str = ""
    error: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError("a measurement needs a number")
        fewest = 3 if self.closed else 2
        if not self.lines or any(len(line) < fewest or line[0] == line[-1] for line in self.lines):
            raise ValueError("a measurement needs lines whose ends lie apart")


def repeatability(limits: tuple[float, float], step: float) -> float:
    """The difference of two measurements below which they count as unchanged, rounded up to ``step``.

    ``limits``: the range that holds 95 % of the differences from a reader on test images. Half its width is
    1.96 standard deviations of one measurement (a constant bias cancels out), and a difference of two has √2
    of it (J. Bland, D. Altman, Stat Methods Med Res 1999).
    """
    low, high = limits
    return math.ceil(math.sqrt(2) * (high - low) / 2 / step) * step


Point = tuple[float, float]
PixelArray = npt.NDArray[np.generic]
Picture = npt.NDArray[np.uint8]
"""As displayed, ``[rows, columns]`` or RGB ``[rows, columns, 3]``."""
Grey = npt.NDArray[np.uint8]
"""As displayed, ``[rows, columns]``."""
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Meaning(StrEnum):
    """The purpose of a burned-in mark; by it a destination's policy decides what must be removed."""

    IDENTITY = "identity"
    MEASUREMENT = "measurement"
    ORIENTATION = "orientation"
    SCALE = "scale"
    ACOUSTIC = "acoustic"
    LOGO = "logo"


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of a burned-in annotation, or the place of a drawn one. The text may be a name.

    For the node's access-controlled record alone: never for logs, events, errors, results or JSON. ``bounds``
    is (left, top, right, bottom) in the coordinates of :class:`Region`; ``frame`` as in :class:`Finding`;
    ``kind``: a MarkKind; ``text`` is empty for drawings; ``removed``: False if the policy kept the mark.
    """

    source_uid: str
    frame: int | None
    kind: str
    meaning: Meaning
    bounds: tuple[float, float, float, float]
    confidence: float
    removed: bool
    text: str = field(default="", repr=False)


class RefusedBy(StrEnum):
    """The check that an image did not pass."""

    HEADER = "header"
    PIXELS = "pixels"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An image that ``accepts`` refused, and the model that it was refused for. Counted, never shown."""

    source_uid: str
    model: ModelRef
    by: RefusedBy


@dataclass(frozen=True, slots=True)
class JudgedView:
    """The View Position (0018,5101), such as AP, as which an image was judged: a stamp in it may contradict
    its header.
    """

    source_uid: str
    view: str


@dataclass(frozen=True, slots=True)
class Scores:
    """The calibrated probability (0 to 1) of every label of a classifier's card for one image.

    Labels that are not reported are included: the node counts them to notice drift and never shows them. One
    per image and model; ``reoriented``: the image was turned or inverted before the analysis.
    """

    source_uid: str
    model: ModelRef
    values: Mapping[str, float]
    reoriented: bool = False

    def __post_init__(self) -> None:
        if not all(0.0 <= value <= 1.0 for value in self.values.values()):
            raise ValueError("a probability is not between 0 and 1")


@dataclass(frozen=True, slots=True)
class UltrasoundRegion:
    """One item of the Sequence of Ultrasound Regions (0018,6011), PS3.3 C.8.5.5.

    ``box``: left, top, right, bottom in pixels, the last two exclusive. ``spacing``: millimetres between rows
    and columns, None if not both are in centimetres. Format and type are 0 if the item has none.
    """

    box: tuple[int, int, int, int]
    spacing: tuple[float, float] | None = None
    spatial_format: int = 0
    data_type: int = 0


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header values of an image that a pipeline gets besides pixels: decoded, without identity.

    ``age_years``: None if the header gives no usable age. ``attributes``: further values by keyword, as text.
    ``overlay_groups``: groups 60xx whose overlay plane has pixels; ``embedded_overlay_bits``: bits of the
    pixel data, from 0 on, that hold an overlay plane. ``removed_by_hand``: boxes that a person wants removed.
    """

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

    Frames are decoded when asked for. ``stored(i)`` gives the samples after decoding, with YBR converted to
    RGB and palettes looked up: ``[rows, columns]`` or ``[rows, columns, 3]``. ``display(i)`` gives the
    picture that a viewer shows: uint8, bright = dense (MONOCHROME2), after modality and VOI LUT, ``[rows,
    columns]`` for grey and ``[rows, columns, 3]`` RGB for colour; with ``shorter_side`` a large picture may
    be halved, and keeps at least that many pixels on its shorter side. ``show(samples, i)`` gives such a
    picture of other samples of the stored kind. ``i`` counts from 0. All raise PixelError, which names the
    cause.
    """

    @property
    def uid(self) -> str: ...
    @property
    def series_uid(self) -> str: ...
    @property
    def header(self) -> ImageHeader: ...
    def stored(self, frame: int = 0) -> PixelArray: ...
    def display(self, frame: int = 0, shorter_side: int = 0) -> npt.NDArray[np.uint8]: ...
    def show(self, samples: PixelArray, frame: int = 0) -> npt.NDArray[np.uint8]: ...


class ImageKind(StrEnum):
    """The kinds of derived pictures that a pipeline may return."""

    ANNOTATED = "annotated"
    CLEANED = "cleaned"
    PROCESSED = "processed"  # a cleaned one, changed further
    MASK = "mask"
    HEATMAP = "heatmap"
    ORGANS = "organs"


@dataclass(frozen=True, slots=True)
class Processing:
    """A further processing of a cleaned image; its pictures get a series of their own.

    ``name``: one word that tells it from the others; ``title``: a reader's words, such as "less speckle";
    ``code``: PS3.16 CID 7203; ``caution``: a use that the picture is not meant for.
    """

    name: str
    title: str
    code: Code
    caution: str


@dataclass(frozen=True, slots=True, eq=False)
class DerivedImage:
    """A picture made from one source image.

    ``frames``: ``[frames, rows, columns]`` or ``[frames, rows, columns, 3]``: in the source's stored type for
    ``cleaned``, uint8 RGB for pictures, for ``organs`` one mask (0, 255) each; may be a read-only
    ``numpy.memmap``, so that a cine need not be in memory. ``verified`` is True only when a cleaned image was
    proven to hold no legible text. ``outside_sha256`` of a cleaned image: the SHA-256 of its samples outside
    the mask, frame by frame, equal to the SHA-256 of the source's samples.
    """

    kind: ImageKind
    source_uid: str
    frames: PixelArray
    photometric: Literal["MONOCHROME1", "MONOCHROME2", "RGB"]
    description: str
    verified: bool = False
    models: tuple[ModelRef, ...] = ()
    outside_sha256: str = ""
    organs: tuple[Code, ...] = ()
    processing: Processing | None = None

    @property
    def name(self) -> str:
        """One word for the picture: its kind, or the name of its further processing."""
        return self.processing.name if self.processing else self.kind.value
