"""The inputs and the output of the builders of results: plain frozen types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

from ai_pipeline.contract import Code, CodingScheme, Decision, ModelRef, SourceImage
from dicom_node.dicom.own_objects import Installation
from dicom_node.model.kinds import ResultKind


class Cause(StrEnum):
    """The cause why the AI did not run, as far as PS3.16 CID 9300 and 9303 have a code."""

    FORMAT = "format"  # the objects are damaged
    OBJECT_TYPE = "object_type"  # not what the pipeline is for
    INCOMPLETE = "incomplete"  # objects are gone
    RESOURCES = "resources"  # time or memory ran out
    QUALITY = "quality"  # the pixels do not allow it
    EQUIPMENT = "equipment"  # the node itself: a model, a setting
    UNKNOWN = "unknown"


BURNED_IN_HEAD: Final = "Burned-in annotation: "
"""How a conclusion's paragraph on burned-in text begins; before it is the short result."""
NOT_HERE: Final = "no longer here"
"""Name of the note on images of the study that were purged, so that the result is without them."""


NOT_READ: Final = "not read"
"""Name of the note on objects that came with the study and cannot be read: they may belong to it."""


StatedCode = tuple[str, str, str]
"""Value, scheme and meaning."""
StatedPlace = tuple[str, list[int], list[tuple[float, float]]]
"""SOP Instance UID of an image, its frames ([]: all of them), and points in it."""


@dataclass(frozen=True, slots=True)
class StatedFinding:
    """A finding of a report that was sent. ``code``: value and scheme; ``model``: name and version.

    ``presence``: the concept of its decision. ``sites``: location and side. ``numbers``: number and unit by
    name.
    """

    image: str
    code: tuple[str, str]
    meaning: str
    decision: Decision
    model: str
    tracking_uid: str
    presence: StatedCode = ("", "", "")
    sites: tuple[StatedCode, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    places: Sequence[StatedPlace] = ()


@dataclass(frozen=True, slots=True)
class StatedNumber:
    """A measurement of a report that was sent. ``code`` and ``unit``: value and scheme.

    Other fields as in ``StatedFinding``. ``sites``: location and side of the measurement. ``fetus``: "" if
    the patient was measured.
    """

    image: str
    code: tuple[str, str]
    meaning: str
    value: float
    unit: tuple[str, str]
    model: str
    tracking_uid: str
    sites: tuple[StatedCode, ...] = ()
    fetus: str = ""
    places: Sequence[StatedPlace] = ()


@dataclass(frozen=True, slots=True)
class EarlierObject:
    """The UIDs of an object in an earlier study."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    uid: str


@dataclass(frozen=True, slots=True)
class PreviousImage:
    """An image of an earlier study with the content of its ``report``.

    ``same_options``: whether the pipeline ran with the present options.
    """

    on: date
    report: EarlierObject
    image: EarlierObject
    findings: tuple[StatedFinding, ...]
    numbers: tuple[StatedNumber, ...]
    same_options: bool


@dataclass(frozen=True, slots=True)
class ResultContext:
    """Values that all results of one job share.

    ``analysed_at``, with time zone, is taken once per job and is the time in every object. ``kinds``: all
    kinds that any destination can show. ``charset``: what the destinations want, ISO_IR 192 (``utf8``) or the
    character set of the source. ``region``: the part of the body that the pipeline is made for (CID 4031),
    None if there is no single one. ``scheme``: the coding scheme of the pipeline's private codes, None
    without private codes.
    ``burned_in_boxes``: whether the destinations want a box around each burned-in text. ``supersedes``: the
    SOP Instance UID of the report that the new one replaces; ``supersedes_series``: its Series Instance UID
    (empty: the series of the new report). ``exists(uid)``: whether the object with this SOP Instance UID was
    built before; then it is named, not built again. ``series_began(uid)``: when the first job with results in
    the series with this Series Instance UID analysed its images; None: the series is new. ``previous``:
    earlier images to compare with, by SOP Instance UID; ``study_day``: the date of this study.
    """

    pipeline: str
    pipeline_version: str
    rule: str
    models: tuple[ModelRef, ...]
    analysed_at: datetime
    kinds: frozenset[ResultKind]
    installation: Installation
    options: Mapping[str, object] = field(default_factory=dict)
    region: Code | None = None
    scheme: CodingScheme | None = None
    station_name: str = ""
    charset: Literal["utf8", "source"] = "utf8"
    burned_in_boxes: bool = False
    supersedes: str = ""
    supersedes_series: str = ""
    exists: Callable[[str], bool] = lambda _uid: False
    series_began: Callable[[str], datetime | None] = lambda _uid: None
    previous: Mapping[str, PreviousImage] = field(default_factory=dict)
    study_day: date | None = None

    def __post_init__(self) -> None:
        if self.analysed_at.tzinfo is None:
            raise ValueError("analysed_at needs a time zone")

    @staticmethod
    def of_person(what: str, at: datetime, installation: Installation, station: str) -> ResultContext:
        """The context for a person's statement ``what`` on results, made at ``at``; no pipeline and no model
        ran.

        ``station``: our AE title.
        """
        return ResultContext(what, "1", "", (), at, frozenset(), installation, station_name=station)


@dataclass(frozen=True, slots=True, eq=False)
class SourceObject:
    """One analysed image, with its Part 10 file.

    ``pixels_sha256`` (of the pixels, the header, a person's boxes and the site's device rules for them) and
    ``identity_sha256`` (of patient and study attributes) become part of every UID. ``by_hand``: a sentence
    about boxes that a person drew, "" without any. ``assume_charset``: the Specific Character Set to use if
    the file names none or a wrong one.
    """

    image: SourceImage
    path: Path
    pixels_sha256: str
    identity_sha256: str
    assume_charset: str = ""
    by_hand: str = ""


@dataclass(frozen=True, slots=True)
class BuiltObject:
    """One result. ``data``: the complete Part 10 file, None if the object was built before (``exists``).

    ``deidentified``: only for destinations that must not know the patient, in this ``pseudonym_domain``.
    ``burned_in_boxes``: for destinations that want such boxes (True) or do not (False); None: for both.
    ``charset``: for destinations with this ``charset``; None: for all.
    """

    kind: ResultKind
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    supersedes: str
    data: bytes | None = field(repr=False)
    deidentified: bool = False
    pseudonym_domain: str = ""
    burned_in_boxes: bool | None = None
    charset: Literal["utf8", "source"] | None = None
