"""What a result is built from and what comes out: plain frozen types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

from ai_pipeline.contract import Code, CodingScheme, ModelRef, PipelineResult, SourceImage
from dicom_node.dicom.own_objects import Installation
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.previous import PreviousImage


def _nothing_exists(_uid: str) -> bool:
    return False


def _begins_now(_uid: str) -> datetime | None:
    return None


class Cause(StrEnum):
    """Why the AI did not run, as far as PS3.16 CID 9300 and 9303 can say it."""

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


def not_here(result: PipelineResult) -> tuple[str, ...]:
    """The texts of such notes: they shape the report, whose UID is derived from them too."""
    return tuple(note.text for note in result.quality if note.name == NOT_HERE)


@dataclass(frozen=True, slots=True)
class ResultContext:
    """Values that all results of one job share.

    ``analysed_at``, with time zone, is taken once per job: every time in every object is this one. ``kinds``
    is the union of what the destinations can show. ``charset`` is ISO_IR 192 (``utf8``) or that of the
    source. ``region``: the part of the body that the pipeline is made for (CID 4031), None if there is no
    single one. ``scheme``: what the designator of the pipeline's private codes stands for, None without any
    of its own. ``burned_in_boxes``: the destinations want a box around each burned-in text. ``supersedes`` is
    the SOP Instance UID of the report that the new one replaces and ``supersedes_series`` its Series Instance
    UID (empty: the series into which the new report goes). ``exists`` tells of a SOP Instance UID whether
    that object was built before; then it is named, not built again. ``series_began``: of a Series Instance
    UID, when the first job with results in that series analysed its images; None: it is a new one.
    ``previous``: earlier images to compare with, by SOP Instance UID; ``study_day``: the day of this study.
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
    exists: Callable[[str], bool] = _nothing_exists
    series_began: Callable[[str], datetime | None] = _begins_now
    previous: Mapping[str, PreviousImage] = field(default_factory=dict)
    study_day: date | None = None

    def __post_init__(self) -> None:
        if self.analysed_at.tzinfo is None:
            raise ValueError("analysed_at needs a time zone")

    @staticmethod
    def of_person(what: str, at: datetime, installation: Installation, station: str) -> ResultContext:
        """``what`` a person says of results at that time; no pipeline and no model ran. ``station``: our AE
        title."""
        return ResultContext(what, "1", "", (), at, frozenset(), installation, station_name=station)


@dataclass(frozen=True, slots=True, eq=False)
class SourceObject:
    """One image that was analysed, with the file it came in (Part 10).

    ``pixels_sha256`` (of the pixels, with a person's boxes and the site's device rules for them) and
    ``identity_sha256`` (of patient and study attributes) become part of every UID. ``by_hand``: a sentence
    about boxes that a person drew, "" without any. ``assume_charset`` is the Specific Character Set to take
    where the file names none or a wrong one.
    """

    image: SourceImage
    path: Path
    pixels_sha256: str
    identity_sha256: str
    assume_charset: str = ""
    by_hand: str = ""


@dataclass(frozen=True, slots=True)
class BuiltObject:
    """One result: ``data`` is the whole Part 10 file, None when it exists already (``exists``).

    ``deidentified``: only for destinations that may not know the patient, in this ``pseudonym_domain``.
    ``burned_in_boxes``: for destinations that ask for such boxes (True) or do not (False); None: for both.
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
