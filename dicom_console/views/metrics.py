"""Recent problems, each listed once: lasting problems first, then problems solved within a day.

The present state of the node in numbers: for the first page, and as metrics for monitoring programs.

They are quick to get however many studies it has seen. No metric contains patient data.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Histogram
from sqlalchemy import func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from ai_pipeline.errors import CardError
from ai_pipeline.models import registry
from dicom_console.views import listing
from dicom_node import __version__
from dicom_node.base import connectors, events
from dicom_node.base.config.loading import undercuts
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import Gauge
from dicom_node.base.events import EventType
from dicom_node.base.lifecycle import (
    OPEN_DELIVERIES,
    OPEN_FETCHES,
    OPEN_JOBS,
    OPEN_WORKITEMS,
    DeliveryState,
    FetchState,
    JobState,
    ObjectRole,
    RequestedState,
    ReviewCause,
    Role,
    StudyState,
    WorkitemState,
)
from dicom_node.base.processes import running
from dicom_node.base.store import deliveries
from dicom_node.base.store.tables import (
    Association,
    ClaimedWorkitem,
    CleaningReview,
    Delivery,
    EventRow,
    Fetch,
    Instance,
    Job,
    ReceivedObject,
    RequestedCommitment,
    Result,
    SiteProcess,
    Study,
)
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, as_json, list_events
from dicom_node.deliver import holding
from dicom_node.deliver.outages import outages
from dicom_node.people import audit, cleaning_reviews
from dicom_node.people.audit import machine_name
from dicom_node.people.disk import days_left, disk_fault, space
from dicom_node.people.happened import repeat_key
from dicom_node.people.processes import list_processes, silent_since, working
from dicom_node.receive.spool import Spool

SHOWN, SOLVED_SHOWN = 12, 8
"""Problems of the list: that last, and that were solved."""
_SOLVED_FOR: Final = timedelta(days=1)  # that a solved problem is shown
_LOOKED_AT: Final = 100  # events: many may tell of one thing
_ENDS_LOOKED_AT: Final = 1000  # events that may end one of them

# Left out is what a person did, and what follows from it: the audit has it, and one act is many events. A
# peer that is away would fill the list with its retries: it has a number of its own.
_NO_PROBLEMS: Final = {
    events.DELIVERY_RETRIED, events.DELIVERY_BY_HAND, events.DELIVERY_DISCARDED, events.DELIVERY_ADDED,
    events.DELIVERY_WITHDRAWN, events.JOB_CANCELLED, events.STUDY_RERUN, events.STUDY_RELEASED,
    events.VERSION_CHOSEN, events.OBJECTS_REINDEXED, events.RESULT_WITHDRAWN,
    events.DECISION_SETTLED,
}  # fmt: skip
_BAD: Final = [
    kind.number for kind in events.all_types() if kind.level >= logging.WARNING and kind not in _NO_PROBLEMS
]
_JOB_ENDED: Final = (events.JOB_SUCCEEDED, events.JOB_NOT_APPLICABLE, events.JOB_CANCELLED)
_ENDED_BY: Final[Mapping[EventType, tuple[tuple[EventType, ...], tuple[str, ...]]]] = {
    events.PROCESS_LOST: ((events.PROCESS_BACK,), ("machine", "place", "process")),
    events.DESTINATION_AWAY: ((events.DESTINATION_BACK,), ("destination",)),
    events.INDEXING_FAILED: ((events.INDEXING_BACK,), ()),
    events.SPOOL_DIFFERS: ((events.SPOOL_AGREES,), ()),
    events.AUDIT_NOT_SENT: ((events.AUDIT_SENT_AGAIN,), ()),
    events.STORE_AWAY: ((events.STORE_BACK,), ("machine",)),
    events.TRACES_NOT_SENT: ((events.TRACES_SENT_AGAIN,), ()),
    events.CONFIGURATION_REFUSED: ((events.CONFIGURATION_RELOADED,), ()),
    events.CONSOLE_CANNOT_START: ((events.CONSOLE_STARTED,), ()),
    events.OBJECT_CONFLICT: ((events.STUDY_RELEASED,), ()),
    events.OBJECT_QUARANTINED: ((events.STUDY_RELEASED,), ()),
    events.STUDY_QUARANTINED: ((events.STUDY_RELEASED, events.STUDY_CORRECTED), ()),
    events.CORRECTION_AWAITED: ((events.STUDY_RELEASED, events.STUDY_CORRECTED), ()),
    events.JOB_FAILED: (_JOB_ENDED, ("rule",)),
    events.JOB_HELD: (_JOB_ENDED, ("rule",)),
    events.JOB_TAKEN_OVER: ((*_JOB_ENDED, events.JOB_FAILED), ("rule",)),
    events.DELIVERY_DEAD: (
        (events.DELIVERY_CONFIRMED, events.DELIVERY_DISCARDED, events.DELIVERY_WITHDRAWN), ("delivery",)
    ),
}  # fmt: skip
"""The events that end a problem, and the fields that say that it is the same one, beside its study."""
_TOLD_OF_REJECTION: Final = ("calling", "called", "address", "meaning")
"""Without the numbers of PS3.8 9.3.4, which the meaning says in words."""


def problems(session: Session, settings: Settings, lasts: Mapping[EventType, bool]) -> list[View]:
    """Return the newest problems, each once: first those that last, then those solved within a day.

    In a row, ``times`` is how often it occurred, ``over`` when it ended (None: it lasts, "": unknown),
    ``how`` the event that ended it, and ``caller`` the AE title that was rejected, else "". ``lasts``:
    whether the problems last that no event ends.
    """
    found: dict[object, View] = {}
    for row in reversed(list_events(session, numbers=_BAD, limit=_LOOKED_AT)):
        row["caller"] = ""
        if row["number"] == events.ASSOCIATION_REJECTED.number:
            row["fields"] = {key: row["fields"][key] for key in _TOLD_OF_REJECTION if key in row["fields"]}
            row["caller"] = str(row["fields"].get("calling", ""))
        same = found.setdefault(repeat_key(row), row | {"times": 0})
        same["times"] += 1
    rows = list(found.values())
    ends = _ending_events(session, rows)
    for row in rows:
        row["over"], row["how"] = _end_of_problem(session, settings, row, ends, lasts)
    since = as_json(utc_now() - _SOLVED_FOR)
    solved = [row for row in rows if row["over"] is not None and (row["over"] or row["at"]) >= since]
    solved.sort(key=lambda row: str(row["over"] or row["at"]), reverse=True)
    return _merged(row for row in rows if row["over"] is None)[:SHOWN] + _merged(solved)[:SOLVED_SHOWN]


def _merged(rows: Iterable[View]) -> list[View]:
    """Return the problems, of which those that several studies have in common are one row: the row of the
    study that had the problem last.
    """
    found: dict[object, View] = {}
    for row in rows:
        texts = {key: value for key, value in row["fields"].items() if key != "study"}
        same = found.setdefault(
            repeat_key(row | {"study_instance_uid": None, "fields": texts}), row | {"times": 0}
        )
        same["times"] += row["times"]
    return list(found.values())


def _ending_events(session: Session, rows: list[View]) -> list[tuple[EventRow, str | None]]:
    """Return the newest events that may have ended one of these problems, the oldest first: (event, Study
    Instance UID or None).
    """
    kinds = [events.by_number(row["number"]) for row in rows]
    numbers = {end.number for kind in kinds for end in _ENDED_BY.get(kind, ((), ()))[0]}
    uids = {row["study_instance_uid"] for row in rows}
    chosen = select(EventRow, Study.study_instance_uid).join(
        Study, Study.id == EventRow.study_id, isouter=True
    )
    chosen = chosen.where(
        EventRow.number.in_(numbers),
        EventRow.at >= min((datetime.fromisoformat(row["at"]) for row in rows), default=utc_now()),
        or_(EventRow.study_id.is_(None), Study.study_instance_uid.in_(uids)),
    )
    newest = session.execute(chosen.order_by(EventRow.id.desc()).limit(_ENDS_LOOKED_AT))
    return [(row, uid) for row, uid in newest][::-1]


def _end_of_problem(
    session: Session,
    settings: Settings,
    row: View,
    ends: list[tuple[EventRow, str | None]],
    lasts: Mapping[EventType, bool],
) -> tuple[str | None, str]:
    """Return (when the problem ``row`` ended, the event that ended it); (None, "") while it lasts, and "" as
    time if unknown.

    ``ends``: the candidates, as ``_ending_events`` returns them.
    """
    since = datetime.fromisoformat(row["at"])
    kind = events.by_number(row["number"])
    if kind in lasts:
        return (None if lasts[kind] else ""), ""
    if kind is events.ASSOCIATION_REJECTED:  # until the caller is let in; by title, as peers count
        here = Association.calling_ae == row["caller"], Association.opened_at >= since
        return as_json(session.scalar(select(func.min(Association.opened_at)).where(*here))), ""
    if kind is events.PEER_SILENT:  # until it sends again
        title = next((peer.ae_title for peer in settings.peers if peer.name == row["fields"].get("peer")), "")
        here = ReceivedObject.calling_ae == title, ReceivedObject.received_at > since
        return as_json(session.scalar(select(func.max(ReceivedObject.received_at)).where(*here))), ""
    by, keys = _ENDED_BY.get(kind, ((), ()))
    numbers = {end.number for end in by}
    about = row["study_instance_uid"], [row["fields"].get(key) for key in keys]
    for end, uid in ends:
        at = as_json(end.at)
        is_of_it = end.number in numbers and at >= row["at"]
        if is_of_it and (uid, [end.fields.get(key) for key in keys]) == about:
            return at, events.by_number(end.number).text
    return None, ""


_NOT_CONFIRMED: Final = (DeliveryState.UNASSESSED, *OPEN_DELIVERIES, DeliveryState.DEAD)
STATES: Final[Mapping[str, tuple[str, InstrumentedAttribute[Any], Sequence[StrEnum]]]] = {
    "studies": (
        "Studies in states that are no good end.",
        Study.state,
        (
            *(StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUEUED, StudyState.RUNNING),
            *(StudyState.UNASSESSED, StudyState.DELIVERING, StudyState.QUARANTINED, StudyState.FAILED),
        ),
    ),
    "jobs": ("Jobs that are not done.", Job.state, (*OPEN_JOBS, JobState.HELD)),
    "deliveries": (
        "Deliveries not confirmed.",
        Delivery.state,
        _NOT_CONFIRMED,
    ),
    "fetches": (
        "Studies to be fetched from peers, or given up.",
        Fetch.state,
        (*OPEN_FETCHES, FetchState.FAILED),
    ),
    "workitems": (
        "Work items of worklist managers, claimed or given up.",
        ClaimedWorkitem.state,
        (*OPEN_WORKITEMS, WorkitemState.GIVEN_UP),
    ),
    "commitment_requests": (
        "Requests of peers for storage commitment without a report.",
        RequestedCommitment.state,
        (RequestedState.WAITING, RequestedState.DECIDED),
    ),
}
"""Metrics that count rows by state: what they are, and the states."""
_EDGES: Final = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)
_SETTLED: Final = timedelta(seconds=2)
"""What ended this recently waits for the next question: its transaction may not be seen yet."""
_RATE_MINUTES = 5  # that the rate of objects is taken from


def overview(session: Session, settings: Settings) -> View:
    """Return everything that the first page shows: receiving, queue, deliveries, tasks for people, models,
    disk, problems.

    ``named`` has the studies that the problems mention, by UID.
    """
    studies = _by_state(
        session, Study.state, (StudyState.RECEIVING, StudyState.QUARANTINED, StudyState.FAILED)
    )
    sent = _by_state(session, Delivery.state, (*OPEN_DELIVERIES, DeliveryState.DEAD))
    arrived = EventRow.at >= utc_now() - timedelta(minutes=_RATE_MINUTES), EventRow.number.in_(events.INDEXED)
    space = _disk(settings)
    lost = audit.waiting_decisions(session)
    wrong = problems(
        session,
        settings,
        {
            events.DISK_LOW: bool(space["fault"]),
            events.DECISIONS_UNKNOWN: bool(lost),
            events.DECISIONS_CHANGED: bool(lost),
        },
    )
    unassessed, hours = holding.numbers(session), settings.outbox.assess_hours
    due = as_json(utc_now() - timedelta(hours=hours))  # results that came before wait too long for a person
    late = hours and unassessed["oldest"] and unassessed["oldest"] < due
    return {
        "receiving": {
            "associations": session.scalar(select(func.count()).where(Association.closed_at.is_(None))),
            "studies": studies[StudyState.RECEIVING],
            "objects_per_minute": (session.scalar(select(func.count()).where(*arrived)) or 0) / _RATE_MINUTES,
        },
        "jobs": _by_state(session, Job.state, (JobState.RUNNING, JobState.QUEUED, JobState.HELD))
        | {"oldest": as_json(_oldest_job(session))},
        "deliveries": {
            "open": sum(sent[state] for state in OPEN_DELIVERIES),
            "dead": sent[DeliveryState.DEAD],
            "oldest": as_json(_oldest_delivery(session)),
            "stalled": _stalled(session),
            "why": deliveries.STALLED,
        },
        "outages": [asdict(one) | {"since": as_json(one.since)} for one in outages(session)],
        "studies": studies,
        "unassessed": unassessed | {"late": bool(late)},
        "cleaning": cleaning_reviews.count_reviews(session),
        "models": _models(settings.workers.models_dir),
        "disk": space,
        "processes": list_processes(session),
        "undone": [task for task, number in working(session, settings).items() if not number],
        "problems": wrong,
        "undercut": [*undercuts(settings)],
        "decisions": len(lost),
        "named": listing.named(
            session, settings, [{"study_instance_uid": row["fields"].get("study")} for row in wrong]
        ),
    }


def _disk(settings: Settings) -> View:
    """Return ``free`` and ``total`` bytes of the data folder's disk, the ``minimum`` below which nothing is
    accepted, whether it is ``low``, and its ``fault`` in words ("" if it takes objects).
    """
    minimum, (total, free) = settings.spool.minimum_free_mib * 2**20, space(settings)
    low = total > 0 and free < minimum
    return {"free": free, "total": total, "minimum": minimum, "low": low, "fault": disk_fault(settings)}


def _by_state(
    session: Session, column: InstrumentedAttribute[Any], states: Sequence[StrEnum]
) -> dict[str, int]:
    """Return the number of rows in each of these states, by one query.

    ``column``: the table's state column.
    """
    chosen = select(column, func.count()).where(column.in_(states)).group_by(column)
    return {state.value: 0 for state in states} | {str(state): n for state, n in session.execute(chosen)}


def _oldest_job(session: Session) -> datetime | None:
    """Return when the oldest job that still waits in the queue was created; None if none waits."""
    return session.scalar(select(func.min(Job.created_at)).where(Job.state == JobState.QUEUED))


def _oldest_delivery(session: Session) -> datetime | None:
    """Return when the oldest result was built that is not delivered yet; None if there is none."""
    chosen = select(func.min(Result.created_at)).join(Delivery, Delivery.result_id == Result.id)
    return session.scalar(chosen.where(Delivery.state.in_(OPEN_DELIVERIES)))


@lru_cache(maxsize=1)
def _models(folder: Path | None) -> list[View]:
    """Return each installed model and whether its weight files exist.

    ``folder``: the site's own models, None for none.
    """
    try:
        cards = registry.cards(folder)
    except CardError:
        return [{"name": "model cards", "version": "", "ready": False}]
    return [
        {
            "name": card.id,
            "version": card.version,
            "ready": all(part.path.is_file() for part in card.weights),
        }
        for card in cards
    ]


def _stalled(session: Session) -> int:
    """Return how many deliveries are due for minutes while nothing is sent to their peers."""
    return session.scalar(select(func.count(Delivery.id)).where(deliveries.stalled(session))) or 0


def gauges(session: Session, settings: Settings) -> Iterator[Gauge]:
    """Yield all metrics of the node; the time for it does not grow with the number of studies."""
    yield Gauge("build_info", "The version of the console; always 1.", 1, (("version", __version__),))
    yield from _disk_gauges(session, settings)
    yield from _reception_gauges(session)
    yield from _spool_gauges(settings)
    yield from _process_gauges(session, settings)
    yield from _peer_gauges(session, settings)
    yield from _person_gauges(session)
    yield from _waiting_gauges(session)
    for measure in connectors.every("metrics"):
        yield from measure(session)
    yield from _state_gauges(session, settings)


def _age(since: datetime | None) -> float:
    """Return the seconds since a time; 0 for None."""
    return (utc_now() - since).total_seconds() if since else 0.0


def _disk_gauges(session: Session, settings: Settings) -> Iterator[Gauge]:
    """Yield the space on the data folder's disk, and how long it lasts where that can be foreseen."""
    days = days_left(session, settings)
    if days is not None:
        yield Gauge("disk_days_left", "Until nothing is taken, as the last week went.", days)
    space = _disk(settings)
    yield Gauge("disk_free_bytes", "Free space on the data folder's disk.", space["free"])
    yield Gauge("disk_minimum_bytes", "Under this much free nothing is taken.", space["minimum"])


def _reception_gauges(session: Session) -> Iterator[Gauge]:
    """Yield what came in over the network."""
    last = session.scalar(select(ReceivedObject.received_at).order_by(ReceivedObject.id.desc()).limit(1))
    if last is not None:
        yield Gauge("received_last_seconds", "Since an object was received.", _age(last))
    is_open = select(func.count()).where(Association.closed_at.is_(None))
    yield Gauge("associations_open", "Associations that are open.", session.scalar(is_open) or 0)
    received = session.scalar(select(func.max(ReceivedObject.id))) or 0
    yield Gauge("objects_received", "Objects received since the database was made.", received)


def _spool_gauges(settings: Settings) -> Iterator[Gauge]:
    """Yield the objects that listeners acknowledged: on the disk, not yet in the database."""
    waiting = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20).pending()
    waits_for = 0.0
    with suppress(FileNotFoundError, IndexError):  # indexed at this moment, or none
        waits_for = max(time.time() - waiting[0].stat().st_mtime, 0.0)
    yield Gauge("objects_waiting", "Acknowledged objects that are not indexed.", len(waiting))
    yield Gauge("objects_waiting_oldest_seconds", "Age of the oldest of them.", waits_for)


def _process_gauges(session: Session, settings: Settings) -> Iterator[Gauge]:
    """Yield the signs of life of the site's processes; one that stopped as planned does not count."""
    site = list_processes(session)
    for row in site:
        yield Gauge(
            "process_silent_seconds",
            "Since a process of the site showed life.",
            row["silent_seconds"],
            tuple((key, str(row[key])) for key in ("machine", "place", "process")),
        )
    lost = sum(row["state"] == "lost" for row in site)
    yield Gauge("processes_lost", "Processes of the site that show no life.", lost)
    for task, number in working(session, settings).items():
        yield Gauge("task_processes", "Processes that do a task and show life.", number, (("task", task),))


def _peer_gauges(session: Session, settings: Settings) -> Iterator[Gauge]:
    """Yield what waits for each peer, since when it confirms nothing, and whether it is silent."""
    counted = select(Delivery.destination, Delivery.state, func.count())
    counted = counted.where(Delivery.state.in_(_NOT_CONFIRMED))
    rows = session.execute(counted.group_by(Delivery.destination, Delivery.state))
    numbers = {(peer, state): number for peer, state, number in rows}
    receivers = {peer.name for peer in settings.peers if "receive" in peer.may}
    away = {outage.destination: outage.since for outage in outages(session)}
    for name in sorted(receivers | {name for name, _ in numbers}):
        for state in _NOT_CONFIRMED:
            number = numbers.get((name, state), 0)
            yield Gauge(
                "peer_deliveries",
                "Deliveries that a peer has not confirmed.",
                number,
                (("peer", name), ("state", state)),
            )
        yield Gauge(
            "peer_away_seconds",
            "Since a peer has confirmed nothing; 0: it is no outage.",
            _age(away.get(name)),
            (("peer", name),),
        )
    for sender in settings.peers:
        if sender.silent_hours:
            silent = silent_since(session, sender) is not None
            yield Gauge(
                "peer_silent",
                "1: no object came for longer than its silent_hours.",
                silent,
                (("peer", sender.name),),
            )
    yield Gauge("deliveries_stalled", "Deliveries that are due, while nothing sends.", _stalled(session))


def _person_gauges(session: Session) -> Iterator[Gauge]:
    """Yield what waits for a person beside jobs and results."""
    waiting = len(audit.waiting_decisions(session))
    yield Gauge("decisions_waiting", "Decisions that a restored database lacks.", waiting)
    counted = select(CleaningReview.cause, func.count()).where(CleaningReview.verdict.is_(None))
    numbers = dict(session.execute(counted.group_by(CleaningReview.cause)).all())
    for cause in ReviewCause:
        number = numbers.get(cause, 0)
        yield Gauge("cleaning_reviews", "Images to look at, by why.", number, (("cause", cause),))


def _waiting_gauges(session: Session) -> Iterator[Gauge]:
    """Yield the results built so far, and how long work and results have waited."""
    built = session.scalar(select(func.max(Result.id))) or 0
    yield Gauge("results_built", "Result objects built since the database was made.", built)
    yield Gauge("jobs_oldest_seconds", "Age of the oldest job that waits.", _age(_oldest_job(session)))
    yield Gauge(
        "deliveries_oldest_seconds",
        "Age of the oldest result that is on its way.",
        _age(_oldest_delivery(session)),
    )
    yield Gauge(
        "unassessed_oldest_seconds",
        "How long results have waited for a person, at most.",
        _age(holding.oldest_unassessed(session)),
    )


def _state_gauges(session: Session, settings: Settings) -> Iterator[Gauge]:
    """Yield the number of rows in each state; of commitment requests only where a peer is asked for it."""
    asks_for_commitment = any(peer.commit_after for peer in settings.peers)
    for name, (about, column, states) in STATES.items():
        if name == "commitment_requests" and not asks_for_commitment:
            continue
        for state, number in _by_state(session, column, states).items():
            yield Gauge(name, about, number, (("state", state),))


def not_ready(session: Session, settings: Settings) -> str:
    """Return why the node accepts no objects now; "" if it accepts them.

    Raises SQLAlchemyError. Listeners on other machines than the console's are not checked: use C-ECHO.
    """
    session.scalar(select(func.count()).where(Study.id == 0))
    if fault := disk_fault(settings):
        return fault
    here = running(settings.node.data_dir)
    for row in list_processes(session):
        is_ours = row["machine"] == machine_name() and row["place"] in here
        if is_ours and row["process"] == "listener" and row["state"] == "lost":
            return "the listener shows no life"
    runs = {Role.at(place) for place in here}
    places = session.scalars(select(SiteProcess.place).where(SiteProcess.machine == machine_name()))
    is_lost = any(Role.at(place).receives for place in places)  # where it runs no more
    if not any(role.receives for role in runs) and (is_lost or Role.CONSOLE not in runs):
        return "no node that receives runs on this machine"
    return ""


class Durations:
    """Histograms, for Prometheus, of deliveries and jobs that ended since the console started."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._turnaround = Histogram(
            "dicom_node_turnaround_seconds",
            "From the last object of a study to the confirmed delivery of a result.",
            ["peer", "rule", "modality"],
            buckets=_EDGES,
            registry=self.registry,
        )
        self._jobs = Histogram(
            "dicom_node_job_seconds",
            "Run time of jobs that succeeded, waiting left out.",
            ["rule", "modality"],
            buckets=_EDGES,
            registry=self.registry,
        )
        self._since = utc_now()
        self._one_at_a_time = threading.Lock()

    def add_new(self, session: Session) -> None:
        """Add the deliveries and jobs that ended since the last call to the histograms."""
        with self._one_at_a_time:
            since, self._since = self._since, max(self._since, utc_now() - _SETTLED)
            modality = (
                select(func.min(Instance.modality))
                .where(Instance.study_id == Study.id, Instance.role == ObjectRole.SOURCE)
                .scalar_subquery()
            )
            delivered = (
                select(
                    Delivery.destination, Job.rule, modality, Delivery.confirmed_at, Study.last_received_at
                )
                .join(Result, Result.id == Delivery.result_id)
                .join(Job, Job.id == Result.job_id)
                .join(Study, Study.id == Result.study_id)
                .where(Delivery.confirmed_at > since, Delivery.confirmed_at <= self._since)
            )
            for peer, rule, kind, ended, began in session.execute(delivered):
                seconds = max((ended - began).total_seconds(), 0.0)
                self._turnaround.labels(peer, rule, kind or "").observe(seconds)
            done = (
                select(Job.rule, modality, Job.started_at, Job.finished_at)
                .join(Study, Study.id == Job.study_id)
                .where(Job.state == JobState.SUCCEEDED, Job.started_at.is_not(None))
                .where(Job.finished_at > since, Job.finished_at <= self._since)
            )
            for rule, kind, began, ended in session.execute(done):
                self._jobs.labels(rule, kind or "").observe((ended - began).total_seconds())
