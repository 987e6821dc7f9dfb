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
from dicom_node.base.dicom.identity import patient_id_of
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
from dicom_node.deliver import outages

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
    Dates, YYYYMMDD. ``received``: an object arrived since then, ``received_until``: the first arrived before
    then. ``sender``: the calling AE title of an image.
    ``finding``: the code meaning of a finding that the newest reports call present. ``states``: as
    ``views.in_states`` takes them; (): all but trials.
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
    received_until: datetime | None = None
    states: Sequence[StudyState | str] = ()
    order: Order = Order.RECEIVED


def grouped(pairs: Iterable[Any]) -> defaultdict[Any, list[Any]]:
    """Return the second elements of the pairs as lists, by the first elements."""
    found: defaultdict[Any, list[Any]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return found


def name_words(settings: Settings, name: str) -> list[str]:
    """Return the hashes of the words in a patient's name, for a search; [] for "".

    A name without words gives a hash that no study has.
    """
    return (PatientNames(settings.node.data_dir).hashes(name) or [""]) if name.strip() else []


def names(session: Session, settings: Settings, studies: Collection[int]) -> Mapping[int, str]:
    """Return the Patient's Name by number of the study; "" if a study has none."""
    return PatientNames(settings.node.data_dir).of(session, studies)


def search(session: Session, wanted: Search, after: int | None = None) -> tuple[list[View], int | None]:
    """Return (one page of studies, ``after`` for the next page or None).

    In a row, ``findings`` and ``short_result`` are those of the newest reports; ``cover`` is the number of
    the image shown for the study, None if none is stored; ``seconds`` is the time from the last object to the
    last delivery, None if the study is not delivered.
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
    return with_withdrawals(session, rows), more


def _findings(session: Session, studies: Collection[int]) -> defaultdict[int, list[str]]:
    """Return, by study, the findings that its newest reports call present, without burned-in text."""
    chosen = select(ReportedFinding.study_id, ReportedFinding.finding).distinct()
    chosen = chosen.where(ReportedFinding.finding != BURNED_IN.meaning, ReportedFinding.study_id.in_(studies))
    return grouped(session.execute(chosen.order_by(ReportedFinding.finding)))


def _short_results(session: Session, studies: Collection[int]) -> defaultdict[int, list[str]]:
    """Return, by study, the lines of the newest report of each rule, without withdrawn reports."""
    chosen = select(Result.study_id, Job.rule, Result.short_result).join(Job, Job.id == Result.job_id)
    chosen = chosen.outerjoin(Withdrawal, Withdrawal.result_id == Result.id)
    chosen = chosen.where(Withdrawal.result_id.is_(None), Result.deidentified.is_(False))
    chosen = chosen.where(Result.study_id.in_(studies), Result.kind == ResultKind.SR).order_by(Result.id)
    newest = {(study, rule): text for study, rule, text in session.execute(chosen)}
    return grouped((study, line) for (study, _), text in newest.items() for line in text.splitlines())


def _covers(session: Session, studies: Collection[int]) -> dict[int, View]:
    """Return, by study, the number of its first image (None if its file was deleted) and its Study
    Description.
    """
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
    """Return, by delivered study, the seconds from its last object to its last delivery."""
    at = func.max(func.coalesce(Delivery.confirmed_at, Delivery.sent_at))
    chosen = select(Result.study_id, at).join(Delivery, Delivery.result_id == Result.id)
    chosen = chosen.where(Result.study_id.in_(studies)).group_by(Result.study_id)
    return {
        number: max((moment - studies[number].last_received_at).total_seconds(), 0.0)
        for number, moment in session.execute(chosen)
        if moment and studies[number].state is StudyState.DELIVERED
    }


def with_withdrawals(session: Session, rows: Sequence[View]) -> list[View]:
    """Return the rows with ``withdrawn`` added ("all", "some" or "" of a study's results).

    A row without a ``reason`` gets that of a failed delivery. Each row needs the ``id`` of its study.
    """
    numbers = [row["id"] for row in rows]
    chosen = select(Result.study_id, func.count(Result.id), func.count(Withdrawal.result_id))
    of_studies = Result.study_id.in_(numbers), Result.kind != ResultKind.REJECTION
    counted = chosen.outerjoin(Withdrawal, Withdrawal.result_id == Result.id).where(*of_studies)
    gone = {
        study: "all" if withdrawn == results else "some" if withdrawn else ""
        for study, results, withdrawn in session.execute(counted.group_by(Result.study_id))
    }
    waits = outages.reasons(session, Study.id.in_(numbers))
    return [
        {**row, "withdrawn": gone.get(row["id"], ""), "reason": row["reason"] or waits.get(row["id"], "")}
        for row in rows
    ]


def _conditions(session: Session, wanted: Search) -> Iterator[ColumnElement[bool]]:
    """Yield the SQL conditions of a search."""
    # In SQLite LIKE makes no difference of case and so uses no index: there it is a range of code points.
    in_sqlite = session.get_bind().dialect.name == "sqlite"
    patient_id = patient_id_of(wanted.patient)
    for column, text in ((Study.patient_id, patient_id), (Study.accession_number, wanted.accession)):
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
            yield _has_row(session, Instance.study_id, (image == value) & Instance.role.not_in(NOT_SHOWN))
    if wanted.finding:
        yield _has_row(session, ReportedFinding.study_id, ReportedFinding.finding == wanted.finding[:64])
    yield views.in_states(wanted.states)
    if wanted.since:
        yield Study.study_date >= wanted.since
    if wanted.received:
        yield Study.last_received_at >= wanted.received
    if wanted.received_until:
        yield Study.first_received_at < wanted.received_until
    if wanted.until:
        yield Study.study_date <= wanted.until


def _has_row(
    session: Session, study: InstrumentedAttribute[int], which: ColumnElement[bool]
) -> ColumnElement[bool]:
    """Return the SQL condition that a study has a row for which ``which`` is true.

    ``study``: the column with the study's number in that row's table.
    """
    return _by_index_or_each(
        session, select(study).where(which).distinct(), exists().where(study == Study.id, which)
    )


def _by_index_or_each(
    session: Session, by_index: Select[int], each: ColumnElement[bool]
) -> ColumnElement[bool]:
    """Return the SQL condition that a study is among those that ``by_index`` selects.

    If they are few their numbers are listed, which is quick; if many, the equal condition ``each`` is tested
    study by study.
    """
    few = session.scalars(by_index.limit(_FEW + 1)).all()
    return Study.id.in_(few) if len(few) <= _FEW else each


def _ordered(session: Session, chosen: Select[int], order: Order, after: int | None) -> Select[int]:
    """Return the query in this order, beginning behind the study ``after`` (None: at the beginning).

    It compares keys instead of skipping rows, so late pages cost no more than the first.
    """
    column: Any = Study.study_date if order in (Order.DATE, Order.OLDEST_DATE) else Study.last_received_at
    ascending = order in (Order.WAITING, Order.OLDEST_DATE)
    last = session.scalar(select(column).where(Study.id == after)) if after is not None else None
    if last is not None:
        here, there = tuple_(column, Study.id), tuple_(last, after)
        chosen = chosen.where(here > there if ascending else here < there)
    return chosen.order_by(*(key.asc() if ascending else key.desc() for key in (column, Study.id)))
