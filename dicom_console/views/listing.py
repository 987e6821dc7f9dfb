"""Studies: the page and the list entry of one, and searches, which are quick however many there are."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, exists, func, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from ai_pipeline.contract import BURNED_IN
from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotFound
from dicom_node.base.kinds import ObjectRole, ResultKind
from dicom_node.base.lifecycle import DeliveryState, StudyState
from dicom_node.base.store import views
from dicom_node.base.store.patient_names import PatientNames
from dicom_node.base.store.tables import (
    Delivery,
    Instance,
    Job,
    ReceivedObject,
    ReportedFinding,
    Result,
    Study,
    StudyName,
    Withdrawal,
)
from dicom_node.base.store.views import View, columns
from dicom_node.deliver import outages
from dicom_node.people import Row, assessments
from dicom_node.people.images import images_of, number_in, person, report_files, subject, view
from dicom_node.results import sr as report
from dicom_node.results.common.concepts import CUT_OFF

_FIGURES = 12  # of a UID, at least
_LOOKED_INTO = 6  # images of a study, for one with marks
_MOST = 200  # images, received objects and events that a study's page shows
_MOST_READ = 2000  # events that the timeline is made of
_STEPS = 60  # of the timeline that are shown: those that come first
_LIKELIEST = 3  # findings of a model
_OF_OBJECTS: Final = {
    *events.INDEXED,
    *(kind.number for kind in (events.RESULT_BUILT, events.RESULT_EXISTS, events.DELIVERY_SENT)),
    *(kind.number for kind in (events.DELIVERY_CONFIRMED, events.DELIVERY_RETRIED)),
}
"""Events of which each object has its own."""
_PICTURES = (ResultKind.SC, ResultKind.SUMMARY, ResultKind.HEATMAP, ResultKind.CLEANED)


def uid(session: Session, number: int) -> str:
    """The Study Instance UID, or the study's name in lists if it has no UID. Raises NotFound."""
    called: str = brief(session, number)["study"]
    return called


def brief(session: Session, number: int) -> View:
    """The study's entry in lists. Raises NotFound."""
    found = views.numbered_studies(session, select(Study).where(Study.id == number))
    if not found:
        raise NotFound("there is no such study")
    return remarked(session, [{"id": number, **found[number]}])[0]


def show(session: Session, settings: Settings, number: int) -> View:
    """The content of a study's page. Raises NotFound."""
    shown = brief(session, number)
    study = session.get_one(Study, number)
    images = [
        {
            "id": row.id,
            **columns(row, "modality", "role", "sop_instance_uid", "purged", "bytes"),
            "series": row.attributes.get("SeriesDescription", ""),
            "view": row.attributes.get("ViewPosition", ""),
            "size": f"{row.attributes.get('Columns', '?')} × {row.attributes.get('Rows', '?')}",
            "frames": number_in(row, "NumberOfFrames") or 1,
        }
        for row in images_of(session, number)
    ]
    received = select(ReceivedObject).where(ReceivedObject.study_id == number).order_by(ReceivedObject.id)
    of_object = ("sop_instance_uid", "outcome", "reason", "calling_ae", "bytes", "received_at")
    reports = report_files(session, settings, number)  # the newest of each rule
    findings = [row for path in reports for row in report.findings(path)]
    happened = views.list_events(session, study_instance_uid=shown["study"], debug=False, limit=_MOST_READ)
    return {
        **shown,
        "accession": study.accession_number,
        "person": person(session, settings, number),
        "images": images,
        "lead": _lead(session, settings, images),
        "received": [columns(row, *of_object) for row in session.scalars(received.limit(_MOST))],
        "jobs": views.list_jobs(session, study_instance_uid=shown["study"], workers=0),
        "results": _results(session, settings, number),
        "held": assessments.held_results(session, settings, number),
        "findings": assessments.with_verdicts(session, number, findings),
        "measurements": [row for path in reports for row in report.measurements(path)],
        "conclusions": list(dict.fromkeys(filter(None, map(report.conclusion, reports)))),
        "likeliest": _likeliest(findings),
        "missing": assessments.missing_findings(session, settings, number, findings),
        "steps": views.list_steps(session, study.study_instance_uid),
        "timeline": timeline(happened),
        "events": happened[-_MOST:],
        "most": _MOST,
    }


def timeline(rows: Sequence[View]) -> list[View]:
    """The steps of a study by its events, in order of time, each with the ``seconds`` since the one before.

    What happened to several objects of a sender, job or destination is one step: the last time, and how many
    ``times``. The study's own states follow from its jobs and deliveries: they are no steps.
    """
    steps: dict[object, View] = {}
    phase = 0  # objects before and after another step are not counted together
    for place, row in enumerate(rows):
        phase = phase if row["number"] in _OF_OBJECTS else place
        key = phase, row["number"], *(row["fields"].get(name) for name in ("calling", "job", "destination"))
        if row["number"] != events.STUDY_MOVED.number:
            steps[key] = row | {"times": steps.get(key, {"times": 0})["times"] + 1}
    ordered = sorted(steps.values(), key=lambda row: str(row["at"]))[:_STEPS]
    times = [datetime.fromisoformat(row["at"]) for row in ordered]
    waited = [None, *((later - earlier).total_seconds() for earlier, later in pairwise(times))]
    return [row | {"seconds": seconds} for row, seconds in zip(ordered, waited, strict=False)]


def questions(rows: Sequence[View]) -> list[View]:
    """The options of ``services.studies.versions``, grouped by question, questions about patients first."""
    found = grouped(((row["if_taken"], row["sop_instance_uid"]), row) for row in rows)
    return [
        {
            "choose": options[0]["choose"],
            "if_taken": if_taken,
            "sop_instance_uid": uid,
            "options": options,
            "differs": sorted({word for option in options for word in option["differs"]}),
        }
        for (if_taken, uid), options in found.items()
    ]


def study_heading(session: Session, settings: Settings, number: int) -> View:
    """The study's number, date and patient, for the heading of the study's subpages. Raises NotFound."""
    row = session.get(Study, number)
    if row is None:
        raise NotFound("there is no such study")
    shown = columns(row, "id", "patient_id", "study_date")
    return shown | {"person": person(session, settings, number)}


def named(session: Session, rows: Sequence[View | Row]) -> dict[str, View]:
    """For each Study Instance UID in ``rows``, the fields with which a list names the study.

    The fields are ``id``, ``patient_id``, ``revision`` and ``ending``, the shortest end of the UID that no
    other study of the list has.
    """
    uids = {row["study_instance_uid"] for row in rows if row["study_instance_uid"]}
    found = session.scalars(select(Study).where(Study.study_instance_uid.in_(uids))).all()
    return {
        str(row.study_instance_uid): columns(row, "id", "patient_id", "revision")
        | {"ending": _ending(str(row.study_instance_uid), uids)}
        for row in found
    }


def _ending(uid: str, others: Collection[str]) -> str:
    """At least a dozen characters of it, that begin with a figure and are the end of no other."""
    for length in range(_FIGURES, len(uid)):
        end = uid[-length:]
        if end[0] != "." and sum(other.endswith(end) for other in others) <= 1:
            return f"…{end}"
    return uid


def dead_by_destination(session: Session) -> dict[str, int]:
    """The number of deliveries that were given up, for each destination."""
    chosen = select(Delivery.destination, func.count()).where(Delivery.state == DeliveryState.DEAD)
    rows = session.execute(chosen.group_by(Delivery.destination).order_by(Delivery.destination))
    return {destination: number for destination, number in rows}  # noqa: C416


def _lead(session: Session, settings: Settings, images: Sequence[View]) -> View | None:
    """The first image that a report draws on, as its page shows it; else the first that is here."""
    first: View | None = None
    for number in [row["id"] for row in images if not row["purged"]][:_LOOKED_INTO]:
        seen = view(session, settings, number)
        first = first or seen
        if seen["marks"]:
            return seen
    return first


def _results(session: Session, settings: Settings, number: int) -> list[View]:
    """Result objects, the newest first, each with its deliveries; ``subject``: what a heat map is of."""
    chosen = select(Result).where(Result.study_id == number).order_by(Result.id.desc()).limit(_MOST)
    sent = select(Delivery, Result.id).join(Delivery.result).where(Result.study_id == number)
    names = (
        "id",
        "destination",
        "state",
        "reason",
        "status",
        "attempts",
        "sent_at",
        "confirmed_at",
        "discarded_because",
    )
    rows_sent = session.execute(sent.order_by(Delivery.id))
    deliveries = grouped((result, columns(row, *names)) for row, result in rows_sent)
    rows = session.scalars(chosen).all()
    taken_back = select(Withdrawal).where(Withdrawal.result_id.in_([row.id for row in rows]))
    gone = {one.result_id: one for one in session.scalars(taken_back)}
    return [
        {
            **columns(row, "id", "job_id", "kind", "sop_instance_uid", "bytes", "deidentified", "created_at"),
            "purged": row.purged,
            "subject": subject(session, settings, row),
            "withdrawn": columns(gone[row.id], "at", "actor", "because") if row.id in gone else None,
            "has_pixels": row.id not in gone and not row.purged and row.kind in _PICTURES,
            "deliveries": deliveries[row.id],
        }
        for row in rows
    ]


def _likeliest(findings: Sequence[Mapping[str, Any]]) -> list[View]:
    """For each model that scored more findings than the page shows, the three findings with the highest
    scores.

    Each row has the ``model`` and its ``findings``: ``finding``, ``decision``, ``score`` and ``cut_off`` with
    their units. The cut-off is ``""`` if the report does not state it, as for an absent finding. If several
    images have a score for a finding, the highest counts. Scores of different models are not compared: only
    scores of a calibrated model are probabilities.
    """

    def value(row: View) -> float:
        return float(row["score"].split()[0])  # of "83.1 %"

    scored: dict[str, dict[str, View]] = {}
    for row in findings:
        numbers = row["numbers"]
        scores = [text for name, text in numbers.items() if name != CUT_OFF.meaning]
        if len(scores) != 1 or tuple(row["code"]) == (BURNED_IN.value, BURNED_IN.scheme):
            continue
        found = {
            "finding": row["finding"],
            "decision": row["decision"],
            "score": scores[0],
            "cut_off": numbers.get(CUT_OFF.meaning, ""),
        }
        best = scored.setdefault(row["model"], {})
        if row["finding"] not in best or value(found) > value(best[row["finding"]]):
            best[row["finding"]] = found
    return [
        {"model": model, "findings": sorted(best.values(), key=value, reverse=True)[:_LIKELIEST]}
        for model, best in scored.items()
        if len(best) > _LIKELIEST
    ]


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
    """What the newest reports of each study call present, each once; that text is burned in is no finding."""
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
    """The first image of each study that is here, and the Study Description that it has."""
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
    """The time from the last object to the last delivery, of those that are delivered."""
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
    waits = outages.reasons(session, Study.id.in_(numbers))
    return [
        {**row, "withdrawn": gone.get(row["id"], ""), "reason": row["reason"] or waits.get(row["id"], "")}
        for row in rows
    ]


def _conditions(session: Session, wanted: Search) -> Iterator[ColumnElement[bool]]:
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
            yield _few(session, select(Study.id).where(is_in), each)
        elif text:
            yield column == text
    yield from (_has(session, StudyName.study_id, StudyName.word == word) for word in wanted.words)
    for image, value in ((Instance.modality, wanted.modality), (Instance.calling_ae, wanted.sender)):
        if value:
            of_images = (image == value) & Instance.role.not_in(NOT_SHOWN)
            yield _has(session, Instance.study_id, of_images)
    if wanted.finding:
        yield _has(session, ReportedFinding.study_id, ReportedFinding.finding == wanted.finding[:64])
    if wanted.states:
        yield views.in_states(wanted.states)
    if wanted.since:
        yield Study.study_date >= wanted.since
    if wanted.received:
        yield Study.last_received_at >= wanted.received
    if wanted.until:
        yield Study.study_date <= wanted.until


def _has(
    session: Session, study: InstrumentedAttribute[int], which: ColumnElement[bool]
) -> ColumnElement[bool]:
    """``study``: the column that says of which study such a row is."""
    return _few(session, select(study).where(which).distinct(), exists().where(study == Study.id, which))


def _few(session: Session, by_index: Select[int], each: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition of what an index finds where that is little; else ``each``, asked of study by study.

    Many would all be sorted for one page, and few be looked for among all studies.
    """
    few = session.scalars(by_index.limit(_FEW + 1)).all()
    return Study.id.in_(few) if len(few) <= _FEW else each


def _ordered(session: Session, chosen: Select[int], order: Order, after: int | None) -> Select[int]:
    """By keyset: a page far down costs no more than the first one."""
    column: Any = Study.study_date if order in (Order.DATE, Order.OLDEST_DATE) else Study.last_received_at
    ascending = order in (Order.WAITING, Order.OLDEST_DATE)
    last = session.scalar(select(column).where(Study.id == after)) if after is not None else None
    if last is not None:
        here, there = tuple_(column, Study.id), tuple_(last, after)
        chosen = chosen.where(here > there if ascending else here < there)
    return chosen.order_by(*(key.asc() if ascending else key.desc() for key in (column, Study.id)))
