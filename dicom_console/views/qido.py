"""Searches of DICOMweb (QIDO-RS, PS3.18 8.3.4 and 10.6): the keys of a query, and what matches them.

Studies are narrowed in the database as far as its columns go. The rest is matched against the header of an
object, as C-FIND matches it (PS3.4 C.2.2.2), so that each attribute of the dictionary is a key.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from itertools import islice
from typing import Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items
from sqlalchemy import ColumnElement, exists, or_
from sqlalchemy.orm import Session

from ai_pipeline.images.dates import as_da, as_dt, as_tm
from ai_pipeline.images.numbers import value_of
from dicom_console.views import dicomweb, search
from dicom_console.views.dicomweb import HeldObject
from dicom_console.views.search import Order, Search
from dicom_node.config.settings import Settings
from dicom_node.errors import FaultyInput, NotFound
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import StudyState
from dicom_node.store.tables import Instance, Result, Study

_STUDY_LEVEL: Final = frozenset(
    {
        *dicomweb.OF_STUDY, "ModalitiesInStudy", "IssuerOfPatientID", "OtherPatientIDs", "OtherPatientNames",
        "PatientBirthTime", "PatientComments", "EthnicGroup", "PatientAge", "PatientSize", "PatientWeight",
        "Occupation", "AdmissionID", "AdditionalPatientHistory", "ProcedureCodeSequence",
        "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord", "TimezoneOffsetFromUTC",
    }
)  # fmt: skip
"""Attributes of the Patient and Study modules (PS3.3 C.7.1, C.7.2): the same in each object of a study."""
_SERIES_LEVEL: Final = frozenset(
    {
        *dicomweb.OF_SERIES, "SeriesDate", "SeriesTime", "Laterality", "BodyPartExamined", "ProtocolName",
        "PatientPosition", "OperatorsName", "PerformingPhysicianName", "PerformedProcedureStepID",
        "PerformedProcedureStepDescription", "RequestAttributesSequence", "Manufacturer", "InstitutionName",
        "InstitutionalDepartmentName", "StationName", "ManufacturerModelName", "DeviceSerialNumber",
        "SoftwareVersions", "FrameOfReferenceUID",
    }
)  # fmt: skip
"""Attributes of the modules General Series, General Equipment and Frame of Reference (PS3.3 C.7.3 to 7.5)."""
_UIDS: Final = {"StudyInstanceUID": "study_uid", "SeriesInstanceUID": "series_uid", "SOPInstanceUID": "uid"}
"""Keys that need no header: the field of a HeldObject that has them."""
_MODALITIES: Final[Mapping[str, tuple[ResultKind, ...]]] = {
    "SR": (ResultKind.SR, ResultKind.ASSESSMENT),
    "PR": (ResultKind.GSPS,),
    "SEG": (ResultKind.SEG,),
    "DOC": (ResultKind.PDF,),
    "KO": (ResultKind.REJECTION,),
    "OT": (ResultKind.SC, ResultKind.SUMMARY, ResultKind.HEATMAP, ResultKind.CLEANED),
}
"""Results by Modality (0008,0060); pictures may have that of their source as well, which is there anyway."""
_CONTROLS: Final = frozenset({"limit", "offset", "includefield", "accept"})
_DATE = re.compile(r"(\d{8})?(-?)(\d{8})?")
_WILD: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})  # PS3.4 C.2.2.2.4
_RANGED: Final = {"DA": as_da, "DT": as_dt, "TM": as_tm}
_BATCH = 200  # studies of one query of the database
EXAMINED: Final = 10_000
"""Names and headers that one search looks at; it takes some seconds."""

Path = tuple[int, ...]
"""The tags of nested sequences, and of the attribute in them."""


class Level(IntEnum):
    """What is searched for."""

    STUDY = 0
    SERIES = 1
    INSTANCE = 2


@dataclass(frozen=True, slots=True)
class Query:
    """A search. ``keys``: the value to match by attribute; ``fields``: attributes that are asked for besides.

    ``everything``: all attributes are asked for. ``is_fuzzy``: names need not match literally. ``ignored``:
    parameters that are not understood, as they were given.
    """

    level: Level
    keys: Mapping[Path, str]
    fields: frozenset[int] = frozenset()
    everything: bool = False
    is_fuzzy: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def by_words(self) -> bool:
        """Whether PatientName is matched by its whole words; with a wildcard only where that is asked for."""
        name = self.value("PatientName")
        return bool(name) and (self.is_fuzzy or not _is_wild(name))

    def value(self, keyword: str) -> str:
        """The value of a key, "" without it."""
        return self.keys.get((tag_for_keyword(keyword) or 0,), "")

    @property
    def keywords(self) -> tuple[str, ...] | None:
        """The attributes of the answer that come from a file; None: all."""
        if self.everything and self.level is Level.INSTANCE:
            return None
        levels = (dicomweb.OF_STUDY, dicomweb.OF_SERIES, dicomweb.OF_INSTANCE)[: self.level + 1]
        more = [{*_STUDY_LEVEL}, {*_SERIES_LEVEL}][: self.level + 1] if self.everything else []
        asked = {keyword_for_tag(tag) for tag in self.fields | {path[0] for path in self.keys}} - {*_UIDS}
        return tuple(dict.fromkeys([*(one for some in [*levels, *more] for one in some), *sorted(asked)]))


@dataclass(slots=True)
class Matches:
    """The objects of each study, series or instance that matched.

    ``more``: further ones match. ``whole``: False where the search ended before all studies were looked at.
    """

    objects: list[list[HeldObject]] = field(default_factory=list)
    more: bool = False
    whole: bool = True


def query_of(level: Level, given: Iterable[tuple[str, str]]) -> Query:
    """The query of these parameters. Raises FaultyInput for a date, time or number that is none."""
    keys: dict[Path, str] = {}
    fields: set[int] = set()
    ignored, is_fuzzy, everything = [], False, False
    for name, value in given:
        if name == "includefield":
            for one in value.split(","):
                path = _path(one)
                if one == "all":
                    everything = True
                elif path and _level(path[0]) <= level:
                    fields.add(path[0])
                else:
                    ignored.append(one)
        elif name == "fuzzymatching" and value.casefold() in ("true", "false"):
            is_fuzzy = value.casefold() == "true"
        elif name not in _CONTROLS:
            path = _path(name)
            if path is None or path in keys or _level(path[0]) > level or not _can_match(path, value):
                ignored.append(name)
            else:
                keys[path] = _checked(path, value)
    return Query(level, keys, frozenset(fields), everything, is_fuzzy, tuple(ignored))


class _EnoughExamined(Exception):
    """EXAMINED studies or headers were looked at."""


def find(
    session: Session, settings: Settings, query: Query, limit: int, offset: int, within: tuple[str, str]
) -> Matches:
    """What matches, without the first ``offset``, at most ``limit``.

    ``within``: the UIDs of a study and a series that are searched, "" for all.
    """
    found = Matches()
    matching = _matching(session, settings, query, within)
    try:
        for _ in islice(matching, offset):
            pass
        found.objects += islice(matching, limit)
        found.more = next(matching, None) is not None
    except _EnoughExamined:
        found.whole = False
    return found


def _matching(
    session: Session, settings: Settings, query: Query, within: tuple[str, str]
) -> Iterator[list[HeldObject]]:
    """The objects of each study, series or instance that matches. Raises _EnoughExamined."""
    needs_header = any(
        path not in _BY_DATABASE or (path in _BY_BEGINNING and _is_wild(value.rstrip("*")))
        for path, value in query.keys.items()
        if value
    )
    budget = iter(range(EXAMINED))
    asked = {name: uids for keyword, name in _UIDS.items() if (uids := _listed(query.value(keyword)))}
    for held in _studies(session, settings, query, within, budget):
        series = [held] if query.level is Level.STUDY else dicomweb.by_series(held).values()
        for objects in ([one] for one in held) if query.level is Level.INSTANCE else series:
            if not all(any(getattr(one, name) in uids for one in objects) for name, uids in asked.items()):
                continue
            if needs_header:
                _spend(budget)
                if not _matches(session, settings, objects, query):
                    continue
            yield objects


def _spend(budget: Iterator[int]) -> None:
    if next(budget, None) is None:
        raise _EnoughExamined


def _studies(
    session: Session, settings: Settings, query: Query, within: tuple[str, str], budget: Iterator[int]
) -> Iterator[list[HeldObject]]:
    """The objects of each study that may match, the newest Study Date first.

    A wildcard in the name is matched here: names are encrypted in the database.
    """
    name = "" if query.by_words else query.value("PatientName")
    pattern = _pattern(name, ignore_case=True) if name else None
    wanted, conditions = _narrowed(settings, query), [*_conditions(query, within[0])]
    after: int | None = None
    while True:
        numbers, after = search.numbers(session, wanted, *conditions, after=after, most=_BATCH)
        names = search.names(session, settings, numbers) if pattern else {}
        held = dicomweb.of_studies(session, numbers)
        for number in numbers:
            if pattern:
                _spend(budget)
                if not _fits(pattern, names[number]):
                    continue
            if objects := [one for one in held.get(number, ()) if within[1] in ("", one.series_uid)]:
                yield objects
        if after is None:
            return


def _narrowed(settings: Settings, query: Query) -> Search:
    """What the database can tell of a study: none that matches is left out."""
    since, is_range, until = _DATE.fullmatch(query.value("StudyDate")).groups("")  # type: ignore[union-attr]
    name = re.sub(r"[*?^=]", " ", query.value("PatientName")) if query.by_words else ""
    return Search(
        patient=_beginning(query.value("PatientID")),
        words=search.name_words(settings, name),
        accession=_beginning(query.value("AccessionNumber")),
        since=since,
        until=until if is_range else since,
        order=Order.DATE,
    )


def _conditions(query: Query, study: str) -> Iterator[ColumnElement[bool]]:
    """What the database can tell besides. ``study``: the UID of the only one that is searched, or ""."""
    yield Study.state != StudyState.QUARANTINED
    if study:
        yield Study.study_instance_uid == study
    if uids := _listed(query.value("StudyInstanceUID")):
        yield Study.study_instance_uid.in_(uids)
    if uids := _listed(query.value("SeriesInstanceUID")):
        yield _has(Instance.series_instance_uid.in_(uids), Result.series_instance_uid.in_(uids))
    if uids := _listed(query.value("SOPInstanceUID")):
        yield _has(Instance.sop_instance_uid.in_(uids), Result.sop_instance_uid.in_(uids))
    modality = query.value("ModalitiesInStudy") or (query.value("Modality") if query.level else "")
    if modality and not _is_wild(modality) and "\\" not in modality:
        yield _has(Instance.modality == modality, Result.kind.in_(_MODALITIES.get(modality, ())))


def _has(of_instance: ColumnElement[bool], of_result: ColumnElement[bool]) -> ColumnElement[bool]:
    return or_(
        exists().where(Instance.study_id == Study.id, of_instance),
        exists().where(Result.study_id == Study.id, of_result),
    )


def _beginning(value: str) -> str:
    """The value up to its first wildcard, with a ``*`` if it has any."""
    [begin, *rest] = re.split(r"[*?]", value, maxsplit=1)
    return f"{begin}*" if rest and begin else begin


def _matches(session: Session, settings: Settings, objects: Sequence[HeldObject], query: Query) -> bool:
    """By the header of the first object; one that cannot be read matches no key that needs it."""
    keys = {path: value for path, value in query.keys.items() if value and path not in _NOT_IN_HEADER}
    try:
        header = dicomweb.header(
            dicomweb.file_of(session, settings, objects[0]), [*{path[0] for path in keys}]
        )
    except NotFound:
        return False
    if query.value("ModalitiesInStudy"):
        header.ModalitiesInStudy = modalities(session, settings, objects[0].study)
    return all(_matches_at(header, path, value) for path, value in keys.items())


def modalities(session: Session, settings: Settings, study: int) -> list[str]:
    """Modality of each series of a study that a viewer may see, each once."""
    found = set()
    for objects in dicomweb.by_series(dicomweb.of_studies(session, [study]).get(study, ())).values():
        with suppress(NotFound):
            header = dicomweb.header(dicomweb.file_of(session, settings, objects[0]), ["Modality"])
            found.add(str(header.get("Modality") or ""))
    return sorted(found - {""})


def _matches_at(dataset: Dataset, path: Path, value: str) -> bool:
    """Whether an attribute matches, in a sequence in any of its items.

    What is missing, or is no value of its VR, is like what is empty: one object must not end a search.
    """
    held = value_of(dataset, path[0])
    each = held if isinstance(held, (MultiValue, Items, list)) else [held]
    if len(path) > 1:
        return any(isinstance(one, Dataset) and _matches_at(one, path[1:], value) for one in each)
    return any(_matches_value(_vr(path[0]), str(one if one is not None else ""), value) for one in each)


def _matches_value(vr: str, held: str, value: str) -> bool:
    """Single value, list of UID, range and wildcard matching (PS3.4 C.2.2.2.1 to C.2.2.2.5)."""
    if vr == "UI":
        return held in _listed(value)
    if vr in _RANGED:
        begin, is_range, end = value.partition("-")
        whole = _RANGED[vr](held) or ""
        low, high = begin.replace(":", ""), (end if is_range else begin).replace(":", "")
        # A time that is given to the minute begins at its first second and ends with its last one.
        begun = low.ljust(6, "0") <= whole.ljust(6, "0")
        return bool(whole) and begun and (not high or whole <= high.ljust(26, "9"))
    if vr in _WILD:
        patterns = [_pattern(one, ignore_case=vr == "PN") for one in value.split("\\")]
        return any(_fits(one, held, vr) for one in patterns)
    try:
        return float(held) == float(value)
    except ValueError:
        return held.strip() == value


def _fits(pattern: re.Pattern[str], text: str, vr: str = "PN") -> bool:
    """Whether the text fits, of a name also one of its component groups (PS3.5 6.2)."""
    texts = [one.rstrip("^ ") for one in (text, *text.split("="))] if vr == "PN" else [text.strip()]
    return any(map(pattern.fullmatch, texts))


@lru_cache(16)
def _pattern(value: str, *, ignore_case: bool) -> re.Pattern[str]:
    """``*``: any characters; ``?``: one. It takes no more time for many of them: fnmatch never goes back."""
    return re.compile(fnmatch.translate(value.replace("[", "[[]")), re.IGNORECASE if ignore_case else 0)


def _path(name: str) -> Path | None:
    """The tags of ``PatientName``, ``00100010`` or ``RequestAttributesSequence.00401001``.

    None if an attribute is unknown, or is in one that is no sequence.
    """
    tags: list[int] = []
    for part in name.split("."):
        tag = int(part, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", part) else tag_for_keyword(part)
        if tag is None or not keyword_for_tag(tag) or (tags and _vr(tags[-1]) != "SQ"):
            return None
        tags.append(int(tag))
    return tuple(tags)


def _can_match(path: Path, value: str) -> bool:
    """Whether it is no bulk data, and no sequence as a whole, which is only asked for."""
    vr = _vr(path[-1])
    return not vr.startswith("O") and vr != "UN" and (vr != "SQ" or not value)


def _level(tag: int) -> Level:
    keyword = keyword_for_tag(tag)
    if keyword in _STUDY_LEVEL or keyword in _UIDS:  # a study is found by what it holds
        return Level.STUDY
    return Level.SERIES if keyword in _SERIES_LEVEL else Level.INSTANCE


def _vr(tag: int) -> str:
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return ""


def _checked(path: Path, value: str) -> str:
    """The value of a key. Raises FaultyInput for a date or time that is none."""
    value = value.strip()
    if not value.strip("*"):  # universal matching
        return ""
    vr, keyword = _vr(path[-1]), keyword_for_tag(path[-1])
    if vr == "DA" and not (_DATE.fullmatch(value) and all(map(as_da, filter(None, value.split("-"))))):
        raise FaultyInput(f"{keyword} is YYYYMMDD, or two dates with a - between them, of which one may lack")
    if vr == "TM" and not re.fullmatch(r"[\d:.]{0,17}-?[\d:.]{0,17}", value):
        raise FaultyInput(f"{keyword} is HHMMSS, or two times with a - between them, of which one may lack")
    return value


def _listed(value: str) -> list[str]:
    return [one for one in re.split(r"[,\\]", value) if one]


def _is_wild(value: str) -> bool:
    return "*" in value or "?" in value


def _paths(*keywords: str) -> frozenset[Path]:
    return frozenset((int(tag_for_keyword(one) or 0),) for one in keywords)


_NOT_IN_HEADER: Final = _paths(*_UIDS, "PatientName")
"""Keys that are matched otherwise than by the header of the first object."""
_BY_BEGINNING: Final = _paths("PatientID", "AccessionNumber")
"""Keys of which the database matches the letters before the first wildcard."""
_BY_DATABASE: Final = _NOT_IN_HEADER | _BY_BEGINNING | _paths("StudyDate")
"""Keys whose values, if they are literal, need no header."""
