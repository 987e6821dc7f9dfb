"""What all results of one job share: pipeline, models, time, node, and the earlier images to compare with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from pydicom.dataset import Dataset

from ai_pipeline import contract
from dicom_node.base.dicom.uids import (
    Installation,
)
from dicom_node.base.lifecycle import ResultForm, ResultKind
from dicom_node.results.stated_report import StatedFinding, StatedNumber


@dataclass(frozen=True, slots=True)
class PreviousImage:
    """An image of an earlier study, and what its report said of it.

    ``on``: the date of that study. ``report`` and ``image``: data sets with only the UIDs of each
    (``stand_in_of``). ``findings`` and ``numbers``: the report's content on this image. ``same_options``:
    whether the pipeline ran with the present options.
    """

    on: date
    report: Dataset
    image: Dataset
    findings: tuple[StatedFinding, ...]
    numbers: tuple[StatedNumber, ...]
    same_options: bool


@dataclass(frozen=True, slots=True)
class ResultContext:
    """Values that all results of one job share.

    ``analysed_at``, with time zone, is taken once per job and is the time in every object. ``kinds``: all
    kinds of result that any destination can show. ``form``: how the destinations want them. ``region``: the
    part of the body that the pipeline is made for (CID 4031), None if there is no single one. ``scheme``: the
    coding scheme of the pipeline's private codes, None without private codes. ``supersedes``: the SOP
    Instance UID of the report that the new one replaces, "" for none; ``supersedes_series``: its Series
    Instance UID (empty: the series of the new report). ``exists(uid)``: whether the object with this SOP
    Instance UID was built before; then it is named, not built again. ``series_began(uid)``: when the first
    job with results in the series with this Series Instance UID analysed its images; None: the series is new.
    ``previous``: earlier images to compare with, by the SOP Instance UID of the present image; ``study_day``:
    the date of this study. ``no_call``: kinds of results that are built of an image on which nothing needs a
    person's attention; None: the report and cleaned images (if only cleaning was done, the cleaned images, or
    the report for peers that do not take them). ``series_offset``: added to all series numbers, so that those
    of two rules of a study differ.
    """

    pipeline: str
    pipeline_version: str
    models: tuple[contract.ModelRef, ...]
    analysed_at: datetime
    kinds: frozenset[ResultKind]
    installation: Installation
    options: Mapping[str, object] = field(default_factory=dict)
    region: contract.Code | None = None
    scheme: contract.CodingScheme | None = None
    station_name: str = ""
    form: ResultForm = field(default_factory=ResultForm)
    supersedes: str = ""
    supersedes_series: str = ""
    exists: Callable[[str], bool] = lambda _uid: False
    series_began: Callable[[str], datetime | None] = lambda _uid: None
    previous: Mapping[str, PreviousImage] = field(default_factory=dict)
    study_day: date | None = None
    no_call: frozenset[ResultKind] | None = frozenset(ResultKind)
    series_offset: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError if ``analysed_at`` has no time zone."""
        if self.analysed_at.tzinfo is None:
            raise ValueError("analysed_at needs a time zone")

    @staticmethod
    def of_person(what: str, at: datetime, installation: Installation, station: str) -> "ResultContext":
        """The context for a person's statement on results, made at the time ``at``; no pipeline and no model
        ran.

        ``what``: the kind of statement, such as "assessment"; it stands in place of the pipeline's name.
        ``station``: our AE title.
        """
        return ResultContext(what, "1", (), at, frozenset(), installation, station_name=station)
