"""Searches in the list of studies; quick however many studies there are."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from ai_pipeline.contract import BURNED_IN
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import ObjectRole, ResultKind, StudyState
from dicom_node.base.sitekey import PatientNames
from dicom_node.base.store import views
from dicom_node.base.store.tables import (
    Delivery,
    Instance,
    Job,
    ReportedFinding,
    Result,
    Study,
    StudyName,
    Withdrawal,
)
from dicom_node.base.store.views import View
from dicom_node.deliver import outbox

PAGE = 50
"""Studies of one page."""
NOT_SHOWN = (ObjectRole.OWN, ObjectRole.ASIDE)
"""Roles of objects that no list counts as images of a study."""
_FEW = 500  # so many studies are sorted sooner than looked for along the order of the list
_LAST = "\U0010ffff"  # the last code point, which no text of DICOM has


class Order(StrEnum):
    """The order of the list of studies."""

    RECEIVED = "received"  # the newest object first
    WAITING = "waiting"  # the oldest first
    DATE = "date"  # Study Date (0008,0020), the newest first
    OLDEST_DATE = "oldest_date"


@dataclass(frozen=True, slots=True)
class Search:
    """A search for studies; "" and () match all. ``patient`` and ``accession`` may end with ``*``.

    ``words``: words of the patient's name, as :func:`name_words` returns them. ``since`` and ``until``: Study
    Dates, YYYYMMDD. ``received``: an object arrived since then. ``sender``: the calling AE title of an image.
    ``finding``: the code meaning of a finding that the newest reports call present. ``states``: states of a
    study, HELD too.
    """

    patient: str = ""
    words: Sequence[str] = ()
    accession: str = ""
    modality: str = ""
    sender: str = ""
    finding: str = ""
    since: str = ""
    until: str = ""
    received: datetime | None = None
    states: Sequence[StudyState | str] = ()
    order: Order = Order.RECEIVED


def grouped(pairs: Iterable[Any]) -> defaultdict[Any, list[Any]]:
    """The second of each pair, listed by its first."""
    found: defaultdict[Any, list[Any]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return found


def name_words(settings: Settings, name: str) -> list[str]:
    """The hashes of the words of a name; for a name without words a hash that no study has."""
    return (PatientNames(settings.node.data_dir).hashes(name) or [""]) if name.strip() else []


def names(session: Session, settings: Settings, studies: Collection[int]) -> Mapping[int, str]:
    """The Patient's Name of each study, "" without one."""
    return PatientNames(settings.node.data_dir).of(session, studies)


def search(session: Session, wanted: Search, after: int | None = None) -> tuple[list[View], int | None]:
    """One page of studies, and the number of its last study if more follow, for ``after`` of the next page.

    In a row, ``findings`` are the findings that the newest reports call present, and ``short_result`` has the
    lines of their short results. ``cover``: the number of the image shown for the study, None if no image is
    stored. ``seconds``: the time from the last object to the last delivery of a delivered study, else None.
    """
    chosen = select(Study.id).where(*_conditions(session, wanted))
    ids = session.scalars(_ordered(session, chosen, wanted.order, after).limit(PAGE + 1)).all()
    ids, more = ids[:PAGE], ids[PAGE - 1] if len(ids) > PAGE else None
    by_number = {study.id: study for study in session.scalars(select(Study).where(Study.id.in_(ids)))}
    shown = views.numbered_studies(session, select(Study).where(Study.id.in_(by_number)))
    found, short = _findings(session, shown), _short_results(session, shown)
    covers, seconds = _covers(session, shown), _seconds(session, by_number)
    rows = [
        {
            "id": number,
            "accession": by_number[number].accession_number,
            "findings": found[number],
            "short_result": short[number],
            **covers.get(number, {"cover": None, "description": ""}),
            "seconds": seconds.get(number),
            **shown[number],
        }
        for number in ids
        if number in shown
    ]
    return remarked(session, rows), more


def _findings(session: Session, studies: Collection[int]) -> defaultdict[int, list[str]]:
    """The findings that the newest reports of each study state as present, each once, without
    burned-in text.
    """
    chosen = select(ReportedFinding.study_id, ReportedFinding.finding).distinct()
    chosen = chosen.where(ReportedFinding.finding != BURNED_IN.meaning, ReportedFinding.study_id.in_(studies))
    return grouped(session.execute(chosen.order_by(ReportedFinding.finding)))


def _short_results(session: Session, studies: Collection[int]) -> defaultdict[int, list[str]]:
    """The lines of the newest report of each rule, without withdrawn reports."""
    chosen = select(Result.study_id, Job.rule, Result.short_result).join(Job, Job.id == Result.job_id)
    chosen = chosen.outerjoin(Withdrawal, Withdrawal.result_id == Result.id)
    chosen = chosen.where(Withdrawal.result_id.is_(None), Result.deidentified.is_(False))
    chosen = chosen.where(Result.study_id.in_(studies), Result.kind == ResultKind.SR).order_by(Result.id)
    newest = {(study, rule): text for study, rule, text in session.execute(chosen)}
    return grouped((study, line) for (study, _), text in newest.items() for line in text.splitlines())


def _covers(session: Session, studies: Collection[int]) -> dict[int, View]:
    """The first available image of each study, with its Study Description."""
    first = select(func.min(Instance.id)).group_by(Instance.study_id)
    first = first.where(Instance.study_id.in_(studies), Instance.role == ObjectRole.SOURCE)
    chosen = select(Instance.study_id, Instance.id, Instance.purged, Instance.attributes)
    return {
        study: {
            "cover": None if purged else number,
            "description": str(attributes.get("StudyDescription") or ""),
        }
        for study, number, purged, attributes in session.execute(chosen.where(Instance.id.in_(first)))
    }


def _seconds(session: Session, studies: Mapping[int, Study]) -> dict[int, float]:
    """The seconds from the last object to the last delivery, for studies that are delivered."""
    at = func.max(func.coalesce(Delivery.confirmed_at, Delivery.sent_at))
    chosen = select(Result.study_id, at).join(Delivery, Delivery.result_id == Result.id)
    chosen = chosen.where(Result.study_id.in_(studies)).group_by(Result.study_id)
    return {
        number: max((moment - studies[number].last_received_at).total_seconds(), 0.0)
        for number, moment in session.execute(chosen)
        if moment and studies[number].state is StudyState.DELIVERED
    }


def remarked(session: Session, rows: Sequence[View]) -> list[View]:
    """The rows, with withdrawn results and reasons of failed deliveries added.

    ``withdrawn``: "all", "some" or "". ``reason`` is added only if the study has no reason of its own. Each
    row needs its ``id``.
    """
    numbers = [row["id"] for row in rows]
    chosen = select(Result.study_id, func.count(Result.id), func.count(Withdrawal.result_id))
    of_studies = Result.study_id.in_(numbers), Result.kind != ResultKind.REJECTION
    counted = chosen.outerjoin(Withdrawal, Withdrawal.result_id == Result.id).where(*of_studies)
    gone = {
        study: "all" if withdrawn == results else "some" if withdrawn else ""
        for study, results, withdrawn in session.execute(counted.group_by(Result.study_id))
    }
    waits = outbox.reasons(session, Study.id.in_(numbers))
    return [
        {**row, "withdrawn": gone.get(row["id"], ""), "reason": row["reason"] or waits.get(row["id"], "")}
        for row in rows
    ]


def _conditions(session: Session, wanted: Search) -> Iterator[ColumnElement[bool]]:
    """The SQL conditions of a search."""
    # In SQLite LIKE makes no difference of case and so uses no index: there it is a range of code points.
    in_sqlite = session.get_bind().dialect.name == "sqlite"
    for column, text in ((Study.patient_id, wanted.patient), (Study.accession_number, wanted.accession)):
        if text.endswith("*"):
            begin = text.rstrip("*")
            is_in = (
                column.between(begin, begin + _LAST)
                if in_sqlite
                else column.startswith(begin, autoescape=True)
            )
            each = func.substr(column, 1, len(begin)) == begin
            yield _by_index_or_each(session, select(Study.id).where(is_in), each)
        elif text:
            yield column == text
    yield from (_has_row(session, StudyName.study_id, StudyName.word == word) for word in wanted.words)
    for image, value in ((Instance.modality, wanted.modality), (Instance.calling_ae, wanted.sender)):
        if value:
            of_images = (image == value) & Instance.role.not_in(NOT_SHOWN)
            yield _has_row(session, Instance.study_id, of_images)
    if wanted.finding:
        yield _has_row(session, ReportedFinding.study_id, ReportedFinding.finding == wanted.finding[:64])
    if wanted.states:
        yield views.in_states(wanted.states)
    if wanted.since:
        yield Study.study_date >= wanted.since
    if wanted.received:
        yield Study.last_received_at >= wanted.received
    if wanted.until:
        yield Study.study_date <= wanted.until


def _has_row(
    session: Session, study: InstrumentedAttribute[int], which: ColumnElement[bool]
) -> ColumnElement[bool]:
    """The condition that a study has a row ``which``. ``study``: the column with the number of the row's
    study.
    """
    return _by_index_or_each(
        session, select(study).where(which).distinct(), exists().where(study == Study.id, which)
    )


def _by_index_or_each(
    session: Session, by_index: Select[int], each: ColumnElement[bool]
) -> ColumnElement[bool]:
    """The condition that a study is among those of ``by_index`` if these are few; else the condition
    ``each``.

    Many would all be sorted for one page, and few be looked for among all studies.
    """
    few = session.scalars(by_index.limit(_FEW + 1)).all()
    return Study.id.in_(few) if len(few) <= _FEW else each


def _ordered(session: Session, chosen: Select[int], order: Order, after: int | None) -> Select[int]:
    """The query in this order, from after the study ``after``. It uses keysets, so that late pages cost no
    more than the first.
    """
    column: Any = Study.study_date if order in (Order.DATE, Order.OLDEST_DATE) else Study.last_received_at
    ascending = order in (Order.WAITING, Order.OLDEST_DATE)
    last = session.scalar(select(column).where(Study.id == after)) if after is not None else None
    if last is not None:
        here, there = tuple_(column, Study.id), tuple_(last, after)
        chosen = chosen.where(here > there if ascending else here < there)
    return chosen.order_by(*(key.asc() if ascending else key.desc() for key in (column, Study.id)))
