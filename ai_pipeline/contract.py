"""The contract between the node and a pipeline: plain frozen types, no DICOM object, no torch.

First the images that a pipeline gets and what it says of them: findings with their places, measurements,
notes, derived pictures. Coordinates of every :class:`Region` are the coordinates of DICOM for SCOORD and for
GSPS ``PIXEL`` graphics (PS3.3 C.18.6.1.2 and C.10.5.1.2): ``(column, row)``, sub-pixel, ``(0.0, 0.0)`` at the
top left corner of the top left pixel and ``(Columns, Rows)`` at the bottom right corner of the last one.

Then the card, a pipeline's description in one place: ``check``, the command line, the form of a rule, the
documentation and the results read it from here. Last the interface: the calls of the node, and the answers.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import chain
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, ClassVar, Literal, Protocol, Self, Union, get_args, get_origin, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.fields import FieldInfo


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 section 8): value, coding scheme designator (``SCT``, ``DCM`` …), meaning."""

    value: str
    scheme: str
    meaning: str


# No concept of DCM or SCT says it: (113101, DCM, Clean Pixel Data Option) names a de-identification profile.
BURNED_IN = Code("BURNED_IN", "99AINODE", "Burned-in annotation to remove")
"""Code of findings that say nothing of the patient: burned-in annotation that the policy removes."""
OUTER_TO_OUTER = Code("OUTERTOOUTER", BURNED_IN.scheme, "From outer to outer edge of the skull")
"""Method of a biparietal diameter; the concept of DICOM and LOINC leaves it open."""
LOOK_FIRST = Code("LOOKFIRST", BURNED_IN.scheme, "Look at it first")
"""Call on an image of which the model cannot judge more: it may be of a gravely ill patient."""


class Decision(StrEnum):
    """What a finding's probability means; indeterminate: between the model's two thresholds."""

    PRESENT = "present"
    ABSENT = "absent"
    INDETERMINATE = "indeterminate"


class Origin(StrEnum):
    """The method that found a region; readers trust a detector's box more than an activation's."""

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
        """Raise ValueError for a region without area or with the wrong number of points."""
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
    """The model that gave a result. ``sha256`` of its weights; ``card_sha256`` of its card."""

    id: str
    version: str
    sha256: str
    card_sha256: str
    calibrated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """A map of the evidence for a finding: ``values`` float32 ``[rows, columns]`` of the image, 0 to 1."""

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
        """Raise ValueError for a probability outside of 0 to 1."""
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
    them. ``call``: as in Measurement.
    """

    name: str
    text: str
    source_uid: str | None = None
    on_faces: bool = False
    places: tuple[tuple[int, int, int, int], ...] = ()
    names: tuple[str, ...] = ()
    call: Code | None = None


@dataclass(frozen=True, slots=True)
class DerivedAge:
    """The gestational age that follows from a measurement. ``days``: the age, and ``spread_days`` two
    standard deviations of it in the population. ``equation``: where the formula is from (PS3.16 CID 12013).
    """

    days: int
    spread_days: int
    equation: Code


@dataclass(frozen=True, slots=True)
class Measurement:
    """A number with its unit, measured at a place in one image. ``name`` is for readers; ``quantity``,
    ``unit`` (UCUM) and the body ``site`` are coded. ``frame`` as in :class:`Finding`.

    ``lines``: polylines of two points or more along which it was measured, in the coordinates of
    :class:`Region`; open, or ``closed``: outlines whose last point is joined to the first. ``model``: the
    model that drew the lines; None if the number was only read in the picture. ``fetus``: which fetus was
    measured, by its letter or number in the picture, "1" if there is only one; "" for a measurement of the
    patient. ``statement``: the number in a reader's words, with its meaning; "" if the short result does not
    need it. ``error``: 95 % of two measurements of an unchanged patient differ by less, in the unit; None if
    it was not measured: then the number is not compared with an earlier one. ``method`` as in
    :class:`MeasuredQuantity`. ``call``: one of the card's calls if the number is one; None if it asks for
    nobody's attention. ``age``: the gestational age that follows from it, None if none does.
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
    method: Code | None = None
    call: Code | None = None
    age: DerivedAge | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is no number, or for lines without length."""
        if not math.isfinite(self.value):
            raise ValueError("a measurement needs a number")
        fewest = 3 if self.closed else 2
        if not self.lines or any(len(line) < fewest or line[0] == line[-1] for line in self.lines):
            raise ValueError("a measurement needs lines whose ends lie apart")


Point = tuple[float, float]
PixelArray = npt.NDArray[np.generic]
Picture = npt.NDArray[np.uint8]
"""As displayed, ``[rows, columns]`` or RGB ``[rows, columns, 3]``."""
Grey = npt.NDArray[np.uint8]
"""As displayed, ``[rows, columns]``."""
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Meaning(StrEnum):
    """The meaning of a burned-in mark; it decides whether the mark is removed for a destination."""

    IDENTITY = "identity"
    MEASUREMENT = "measurement"
    ORIENTATION = "orientation"
    SCALE = "scale"
    ACOUSTIC = "acoustic"
    LOGO = "logo"


@dataclass(frozen=True, slots=True)
class Reading:
    """One burned-in annotation that was read in an image: its text, or the place of a drawn one. The text may
    be a name: it is for the node's access-controlled record alone, never for logs, events, errors, results or
    JSON. ``bounds`` is (left, top, right, bottom) in the coordinates of :class:`Region`; ``frame`` as in
    :class:`Finding`; ``kind``: a MarkKind; ``text`` is empty for drawings; ``removed``: False if the policy
    left the mark in the picture.
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
    """The check by which a pipeline refused an image: that of the header or that of the pixels."""

    HEADER = "header"
    PIXELS = "pixels"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An image ``source_uid`` that ``accepts`` refused, and the model that would have analysed it. The node
    counts refusals, and shows only ``look_first``: the sentence, without PHI, that tells a reader to look at
    an image that may be of a gravely ill patient; "" for one that is merely of another kind.
    """

    source_uid: str
    model: ModelRef
    by: RefusedBy
    look_first: str = ""


@dataclass(frozen=True, slots=True)
class JudgedView:
    """The View Position (0018,5101) that a pipeline assumed: a stamp may contradict the header."""

    source_uid: str
    view: str


@dataclass(frozen=True, slots=True)
class Scores:
    """The calibrated probability (0 to 1) of every label of a classifier's card for one image.

    Labels that are not reported are included: the node counts them to notice drift, and shows them of a trial
    alone. One per image and model; ``reoriented``: the image was turned or inverted before the analysis.
    """

    source_uid: str
    model: ModelRef
    values: Mapping[str, float]
    reoriented: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a probability outside of 0 to 1."""
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

    ``age_years``: None if the header gives no usable age. ``attributes``: further values by keyword, as text;
    ``technical``: settings of an ultrasound machine. ``overlay_groups``: groups 60xx whose overlay plane has
    pixels; ``embedded_overlay_bits``: bits of the pixel data that hold one. ``removed_by_hand``: drawn boxes.
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
    technical: tuple[str, ...] = ()


class SourceImage(Protocol):
    """One image as a pipeline sees it; ``ai_pipeline.images.decode`` makes it from DICOM or a picture.

    Frames are decoded when asked for. ``stored(i)`` gives the samples after decoding, with YBR converted to
    RGB and palettes looked up: ``[rows, columns]`` or ``[rows, columns, 3]``. ``display(i)`` gives the
    picture that a viewer shows: uint8, bright = dense (MONOCHROME2), after modality and VOI LUT, ``[rows,
    columns]`` for grey and ``[rows, columns, 3]`` RGB for colour; with ``shorter_side`` a large picture may
    be halved, and keeps at least that many pixels on its shorter side. ``show(samples, i)`` gives such a
    picture of other samples of the stored kind. ``i`` counts from 0. All raise PixelError, which names the
    cause.
    """

    @property
    def uid(self) -> str:
        """The SOP Instance UID; of a picture, a UID derived from its bytes."""

    @property
    def series_uid(self) -> str:
        """The Series Instance UID; "" if the header lacks it."""

    @property
    def header(self) -> ImageHeader:
        """The values of the header that pipelines use."""

    def stored(self, frame: int = 0) -> PixelArray:
        """The samples of a frame after decoding."""

    def display(self, frame: int = 0, shorter_side: int = 0) -> npt.NDArray[np.uint8]:
        """The picture of a frame as a viewer shows it."""

    def show(self, samples: PixelArray, frame: int = 0) -> npt.NDArray[np.uint8]:
        """The picture of other samples, as a viewer shows this frame."""


class ImageKind(StrEnum):
    """The kinds of derived pictures that a pipeline may return."""

    CLEANED = "cleaned"
    MASK = "mask"
    HEATMAP = "heatmap"
    ORGANS = "organs"


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


@dataclass(frozen=True, slots=True)
class PipelineOption:
    """The description of one option of a pipeline. ``kind``: type of the value: bool, int, float, str, list
    (of texts) or dict (of numbers by name). ``choices``: the texts that the value may be; empty: any text.
    ``default``: in words. ``help``: the text beside the option in the form of a rule. ``manual``: the text in
    the documentation. ``wanted``: the end of "must be …" in the message on a faulty value. ``lifts``: the
    condition of a rule ("modality") that does not bind the pipeline once the option is set. ``leaves_text``:
    True when the option, once set, leaves text in pictures; such pictures must not go to a de-identified
    peer.
    """

    key: str
    kind: type
    label: str
    default: str
    required: bool
    choices: tuple[str, ...] = ()
    help: str = ""
    manual: str = ""
    unit: str = ""
    wanted: str = ""
    lifts: str = ""
    leaves_text: bool = False


def option(
    default: Any = ...,
    label: str = "",
    help: str = "",
    *,
    unit: str = "",
    usual: str = "",
    wanted: str = "",
    lifts: str = "",
    leaves_text: bool = False,
    **limits: Any,
) -> Any:
    """A field of :class:`PipelineOptions`. Without ``default``, a rule must set the option.

    ``label`` and ``help`` appear in the form of a rule; the docstring below the field is its manual.
    ``usual``: the default in words, if its value is not clear. ``wanted``: the end of "must be …" in the
    message on a faulty value ("a share above 0"). ``limits``: ``ge``, ``le``, ``pattern`` … as
    ``pydantic.Field`` has them. Others as in :class:`PipelineOption`.
    """
    further: dict[str, JsonValue] = {
        "help": help,
        "unit": unit,
        "usual": usual,
        "wanted": wanted,
        "lifts": lifts,
        "leaves_text": leaves_text,
    }
    return Field(default, title=label or None, json_schema_extra=further, **limits)


class PipelineOptions(BaseModel):
    """The options that a rule may set for a pipeline, one field for each. This base class has none.

    ``former``: options of earlier versions, which rules may still name, and what to do instead.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    former: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def of(cls, options: Mapping[str, object]) -> Self:
        """Check the ``options`` of a rule and fill in defaults. Raises pydantic.ValidationError. Options of
        earlier versions (``former``) are ignored, because stored jobs may still have them.
        """
        known = {key: value for key, value in options.items() if key not in cls.former}
        return cls.model_validate_json(json.dumps(known, default=str))

    @classmethod
    def faults(cls, options: Mapping[str, object]) -> dict[str, str]:
        """What is wrong with the values of ``options``: a remedy in words by option; empty if all are
        valid.
        """
        known = {one.key: one for one in cls.listed()}
        try:
            cls.of(options)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            faulty = {str(one["loc"][0]): one for one in reversed(found) if one["loc"]}
            return {key: _remedy(known.get(key), one) for key, one in reversed(faulty.items())}
        return {}

    @classmethod
    def sets(cls, key: str, options: Mapping[str, object]) -> bool:
        """Whether ``options`` set the option ``key`` to another value than its default."""
        return bool(getattr(cls.of(options), key) != cls.model_fields[key].get_default())

    @classmethod
    def listed(cls) -> tuple[PipelineOption, ...]:
        """Describe every option, in the order of the fields."""
        return tuple(_option(key, field) for key, field in cls.model_fields.items())


@dataclass(frozen=True, slots=True)
class MeasuredQuantity:
    """A quantity that a pipeline measures. ``about``: what the lines of its measurements show, as the end of
    a sentence. ``method``: the code of how it is measured, where the quantity's code leaves that open.
    """

    name: str
    code: Code
    about: str = ""
    method: Code | None = None


@dataclass(frozen=True, slots=True)
class CodingScheme:
    """A private coding scheme (PS3.3 C.12.1.1.7): its designator, which begins with 99, and its name."""

    designator: str
    name: str
    organization: str


@dataclass(frozen=True, slots=True)
class ModelSlot:
    """A replaceable model of a pipeline: a site may put its own model in its place. ``shipped``: the id of
    the model that runs by default, "" for none. ``role``: a ``classifier``, or a ``detector`` of boxes.
    """

    name: str
    shipped: str
    role: Literal["classifier", "detector"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineCard:
    """The description of a pipeline.

    ``name``: the name of its entry point, which results carry. ``version``: raised with every change that
    alters a result (UIDs of results are derived from it and from the models). ``about``: one line, for the
    form of a rule. ``intended_use``: whom and what it is for, and what not. ``per_image``: an image's result
    does not depend on the others, so the node may run the pipeline on each image as it arrives.

    ``modalities``, ``views``: Modality (0008,0060) and View Position (0018,5101) of the images that it takes,
    empty for any; ``auto_for``: modalities for which ``ai-pipeline run --pipeline auto`` chooses it.
    ``recognises``: what ``accepts`` knows by the pixels, such as "a chest film"; "": it goes by the header.
    ``region``: the part of the body (PS3.16 CID 4031), which reports name where an image does not. ``codes``:
    of findings, unless a model's card has them; ``outlines``: structures in its Segmentations (PS3.16 CID
    7151); ``measures``: quantities that it measures; ``calls``: what asks for a person's attention and is no
    finding; ``scheme``: of its private codes. ``slots``: models that a site may exchange.
    """

    name: str
    version: str
    about: str = ""
    intended_use: str = ""
    options: type[PipelineOptions] = PipelineOptions
    per_image: bool = True
    modalities: frozenset[str] = frozenset()
    views: frozenset[str] = frozenset()
    auto_for: frozenset[str] = frozenset()
    region: Code | None = None
    recognises: str = ""
    codes: tuple[Code, ...] = ()
    outlines: tuple[Code, ...] = ()
    measures: tuple[MeasuredQuantity, ...] = ()
    calls: tuple[Code, ...] = ()
    scheme: CodingScheme | None = None
    slots: tuple[ModelSlot, ...] = ()

    def slot(self, role: str) -> ModelSlot | None:
        """The slot with this ``role``; None if the pipeline has none."""
        return next((one for one in self.slots if one.role == role), None)

    @property
    def private_codes(self) -> tuple[Code, ...]:
        """The pipeline's codes that belong to no standard (PS3.3 8.2)."""
        codes = (*self.codes, *self.outlines, *(one.code for one in self.measures), *self.calls)
        return tuple(code for code in codes if code.scheme.startswith("99"))


_WANTED: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text, in quotes",
    list: 'a list, such as ["a", "b"]',
    dict: "a table, such as { key = 1 }",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _remedy(known: PipelineOption | None, fault: Any) -> str:
    """What must be changed in an option's value, in words. ``known``: the option, None if there is none of
    that name; ``fault``: pydantic's description of the error.
    """
    if known is None:
        return "no such option"
    if fault["type"] == "missing":
        return f"must be given: {known.wanted}" if known.wanted else "must be given"
    if fault["type"] == "value_error":
        return str(fault["msg"]).removeprefix("Value error, ")
    bounds = [f"{word} {fault['ctx'][key]:g}" for key, word in _BOUNDS.items() if key in fault.get("ctx", {})]
    if bounds:
        return f"must be {bounds[0]}{f' {known.unit}' if known.unit else ''}"
    if known.choices:
        joined = " or " if len(known.choices) == 2 else ", "
        return f"must be {'' if len(known.choices) == 2 else 'one of '}{joined.join(known.choices)}"
    return f"must be {known.wanted or _WANTED.get(known.kind, 'another value')}"


def _option(key: str, field: FieldInfo) -> PipelineOption:
    """Describe the option that the pydantic field ``field`` of name ``key`` defines."""
    further = dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}
    usual = str(further.pop("usual", ""))
    kind, choices = _kind(field.annotation)
    return PipelineOption(
        key,
        kind,
        field.title or key,
        usual or ("" if field.is_required() else _in_words(field.get_default(call_default_factory=True))),
        field.is_required(),
        choices,
        manual=" ".join((field.description or "").split()),
        **further,  # type: ignore[arg-type]
    )


def _kind(annotation: Any) -> tuple[type, tuple[str, ...]]:
    """The type of an option's value, and the texts that it may be (none for any), from the field's
    annotation.
    """
    if get_origin(annotation) in (Union, UnionType):
        [annotation] = [one for one in get_args(annotation) if one is not NoneType]
    if get_origin(annotation) is Literal:
        return str, get_args(annotation)
    kind = get_origin(annotation) or annotation
    if issubclass(kind, StrEnum):
        return str, tuple(one.value for one in kind)
    if issubclass(kind, Mapping):
        return dict, ()
    return (list if issubclass(kind, tuple | list | frozenset) else kind), ()


def _in_words(default: object) -> str:
    """An option's default value as words for a person."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, int | float):
        return f"{default:g}"
    if isinstance(default, tuple | list | frozenset | Mapping) or default is None:
        return ", ".join(map(str, default or ())) or "none"
    return str(default)


@dataclass(frozen=True, slots=True)
class Accept:
    """The answer that the images ``source_uids`` will be analysed; the node counts those ``refused``."""

    source_uids: tuple[str, ...]
    refused: tuple[Refusal, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Refuse:
    """The pipeline's answer that it will analyse none of the images; ``reason`` is one sentence, without PHI;
    ``refused`` as in Accept.
    """

    reason: str
    refused: tuple[Refusal, ...] = field(default=(), compare=False)


class Progress(Protocol):
    """A function called with the share of the work done, 0 to 1, and a word for people; raises to cancel."""

    def __call__(self, share: float, what: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ProgramFile:
    """A file that a program left. ``name``: its path below the output folder, which may be PHI."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class PipelineResult:
    """The results of a pipeline. ``timings`` in seconds by stage (``decode``, ``model``, ``total`` …).

    ``scores`` are for the node's counts, from pipelines whose cards have labels. ``readings`` are for the
    access-controlled record alone. ``drawn_on``: the image on which pictures are drawn: the source, or only
    its ``cleaned`` image. ``objects``: DICOM that a program wrote, which nobody has judged yet. ``records``:
    JSON texts that programs left, for the access-controlled record alone: they may name the patient.
    """

    findings: tuple[Finding, ...] = ()
    images: tuple[DerivedImage, ...] = ()
    quality: tuple[QualityNote, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    models: tuple[ModelRef, ...] = ()
    scores: tuple[Scores, ...] = ()
    readings: tuple[Reading, ...] = field(default=(), repr=False)
    measurements: tuple[Measurement, ...] = ()
    views: tuple[JudgedView, ...] = ()
    drawn_on: Literal["source", "cleaned"] = "source"
    objects: tuple[ProgramFile, ...] = ()
    records: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def joined(cls, results: Sequence[PipelineResult]) -> PipelineResult:
        """Join the results of single images: notes and models are listed once, seconds are added up."""
        whole: dict[str, Any] = {
            one.name: tuple(chain.from_iterable(getattr(result, one.name) for result in results))
            for one in fields(cls)
            if one.default == ()
        }
        seconds = Counter[str]()
        for result in results:
            seconds.update(result.timings)
        on_cleaned = any(result.drawn_on == "cleaned" for result in results)
        once = {name: tuple(dict.fromkeys(whole[name])) for name in ("quality", "models")}
        return cls(**whole | once, timings=dict(seconds), drawn_on="cleaned" if on_cleaned else "source")


class Pipeline(Protocol):
    """Turns images into findings. Constructed once per process; ``warm_up`` loads the models.

    ``options`` come from a rule; ``card.options`` reads and checks them.
    """

    card: PipelineCard

    def warm_up(self) -> None:
        """Load the models, so that the first image need not wait for them."""

    def models(self) -> tuple[ModelRef, ...]:
        """The models that the pipeline uses, to be named in its results."""

    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept | Refuse:
        """Choose the images that the pipeline analyses, or say why it analyses none. ``options`` come from a
        rule.
        """

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        """Analyse the images that ``accepts`` chose. ``report`` is called with the progress; ``options`` come
        from a rule.
        """


@runtime_checkable
class ChecksOptions(Protocol):
    """A pipeline (protocol) that also checks its options against its models or this machine."""

    def option_faults(self, options: Mapping[str, object]) -> Mapping[str, str]:
        """What is wrong with ``options`` beyond the checks of their types, as remedies by option."""


@runtime_checkable
class StatesOccasions(Protocol):
    """A pipeline (protocol) that knows what its results can say with a rule's options."""

    def occasions(self, options: Mapping[str, object]) -> Collection[str]:
        """All occasions for ``then`` of a rule that results can give with ``options`` and the present models:
        "NAME suspected" of a finding, or the name of a call; * stands for names that nobody knows yet.
        """


@runtime_checkable
class ExchangesModels(Protocol):
    """A pipeline (protocol) with models that a site may exchange (``card.slots``)."""

    @staticmethod
    def try_out(card_file: Path, seconds: int) -> None:
        """Run the model of the card ``card_file`` on test pictures. Raises CardError if it fails or takes
        longer than ``seconds``.
        """
