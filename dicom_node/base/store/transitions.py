"""State changes of the life cycles: one compare-and-set each, with an event in the same transaction.

Named leases, each held by one process at a time. Events of the node itself: none is lost if the database is
unreachable.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.base.errors import NodeError, NotAllowedNow
from dicom_node.base.events import STUDY_MOVED, Event, EventType, happened
from dicom_node.base.lifecycle import (
    AWAITED,
    COMMITMENT,
    DELIVERY,
    END_STATES,
    FETCH,
    HELD,
    JOB,
    OPEN_DELIVERIES,
    READ_FROM_WORK,
    REQUESTED,
    STUDY,
    WORKITEM,
    DeliveryState,
    JobState,
    StudyState,
    study_state,
)
from dicom_node.base.store.awaited import AwaitedAnswer
from dicom_node.base.store.database import EVENTS, Database
from dicom_node.base.store.mapping import Base, has_come
from dicom_node.base.store.tables import (
    ClaimedWorkitem,
    Commitment,
    Delivery,
    EventRow,
    Fetch,
    HeldResult,
    Job,
    Lease,
    Original,
    RequestedCommitment,
    Result,
    Study,
)

_LEAST_PAUSE = 5.0  # seconds before a lease that somebody else holds is asked for again
_State = TypeVar("_State", bound=StrEnum)
_Row = Job | Delivery | Commitment | RequestedCommitment | Fetch | ClaimedWorkitem | AwaitedAnswer

# FOR NO KEY UPDATE: an event that others write about the study holds KEY SHARE on it, and does not wait.
FOR_UPDATE = {"key_share": True}
_AS_READ, _OF_ATTEMPT = ("id", "state"), ("id", "state", "attempts")
_HOW = {"attempt": "attempts", "reason": "reason"}
_ASKED = {"transaction": "transaction_uid"}
_OF_STUDY = {"study": "study_instance_uid", "peer": "peer"}
_CYCLES: Mapping[type[Base], tuple[Mapping[Any, Any], Sequence[str], Mapping[str, str]]] = {
    Job: (JOB, _OF_ATTEMPT, {"job": "id", "rule": "rule"} | _HOW),
    Delivery: (
        DELIVERY,
        _OF_ATTEMPT,
        {
            "delivery": "id",
            "destination": "destination",
            "instance": "item.sop_instance_uid",
            "status": "status",
            "reason": "reason",
        },
    ),
    Commitment: (COMMITMENT, _AS_READ, _ASKED | {"destination": "destination", "objects": "deliveries"}),
    RequestedCommitment: (
        REQUESTED,
        _AS_READ,
        _ASKED | {"peer": "peer", "objects": "objects", "failed": "failed"} | _HOW,
    ),
    Fetch: (FETCH, _OF_ATTEMPT, _OF_STUDY | {"objects": "objects"} | _HOW),
    ClaimedWorkitem: (
        WORKITEM,
        _AS_READ,
        _OF_STUDY | {"workitem": "workitem_uid", "outcome": "outcome"} | _HOW,
    ),
    AwaitedAnswer: (AWAITED, _AS_READ, _OF_STUDY | {"job": "job_id", "reason": "reason"}),
}
"""The life cycle of a table's rows, the columns that must be as read, and the columns that an event has, by
the names of its fields; of a list its length.
"""


def record(session: Session, event_type: EventType, study_id: int | None = None, **fields: Any) -> Event:
    """Append an event to the event table, with the UID of its study; it is logged when the transaction is
    committed.
    """
    if study_id is not None and "study" not in fields:
        uid = session.scalar(select(Study.study_instance_uid).where(Study.id == study_id))
        fields = {"study": uid, **fields}
    event = Event(event_type, datetime.now(UTC), fields)
    session.info.setdefault(EVENTS, []).append(event)
    append(session, event, study_id)
    return event


def append(session: Session, event: Event, study_id: int | None = None) -> None:
    """Append to the event table an event that was logged before, such as one from the listener's journal."""
    session.add(EventRow(at=event.at, number=event.type.number, study_id=study_id, fields=dict(event.fields)))


def move_study(session: Session, study: Study, event: EventType, *, reason: str = "") -> None:
    """Change a study's state by an event. Raises NotAllowedNow if another process changed it first, and
    NodeError if the event cannot happen in the study's state.
    """
    _set_study(session, study, _next(STUDY, study, event), event, reason)


def update_queue_place(session: Session, job: Job) -> None:
    """Update the job's place in the queue of the distributed engine (PostgreSQL), after the job was created,
    moved or put first.
    """
    if session.get_bind().dialect.name == "postgresql":
        from dicom_node.base.store import tickets

        tickets.follow(session, job)


def move_held(session: Session, rows: Sequence[HeldResult], event: EventType, **values: Any) -> int:
    """Change the state of results of one study that wait for acceptance, each only if its state is unchanged
    since it was read.

    ``values``: values for further columns. Returns how many were changed.
    """
    as_read = ("result_id", "state")
    moved = [row for row in rows if _set(session, row, _next(HELD, row, event), values, as_read)]
    if moved:
        record(
            session,
            event,
            moved[0].study_id,
            results=len(moved),
            since=min(row.since for row in moved).isoformat(),
            numbers=[row.result_id for row in moved],
        )
    return len(moved)


def move(session: Session, row: _Row, event: EventType, **values: Any) -> None:
    """Change the state of a row by an event. Raises NotAllowedNow if another process changed it first.

    ``values``: values for further columns.
    """
    if not try_move(session, row, event, **values):
        raise _lost(row)


def try_move(session: Session, row: _Row, event: EventType, **values: Any) -> bool:
    """Change the state of a row by an event, if its state (and its attempt, if it has one) is unchanged since
    it was read.

    ``values``: values for further columns. Returns False if another process changed the row first.
    """
    cycle, same, recorded = _CYCLES[type(row)]
    if not _set(session, row, _next(cycle, row, event), values, same):
        return False
    fields = {field: attrgetter(column)(row) for field, column in recorded.items()}
    if isinstance(row, Job):
        update_queue_place(session, row)
    item = row.item if isinstance(row, Delivery) else row
    fields = {name: len(v) if isinstance(v, list) else v for name, v in fields.items()}
    record(session, event, getattr(item, "study_id", None), **fields)
    return True


def _lost(row: Study | _Row) -> NotAllowedNow:
    """Build the error for a row that another process changed first."""
    return NotAllowedNow(
        f"{row.__tablename__} {row.id} was changed by another process at the same time: try again"
    )


def settle_study(session: Session, study_id: int) -> None:
    """Derive a study's state from its jobs and deliveries, and store it.

    Every function that ends a job or a delivery calls this in the same transaction. A study that is being
    received or is in quarantine is left alone: assembly or a person changes it.
    """
    study = session.get_one(Study, study_id, populate_existing=True, with_for_update=FOR_UPDATE)
    if study.state not in READ_FROM_WORK:
        return
    jobs = session.execute(
        select(Job.state, Job.reason).where(Job.study_id == study_id, Job.study_revision == study.revision)
    ).all()
    said = select(Delivery.state, Delivery.reason)
    results = session.execute(said.join(Delivery.result).where(Result.study_id == study_id)).all()
    # Results decide the state of a study; originals only while they are on their way, or given up.
    unfinished = Delivery.state.in_(OPEN_DELIVERIES | {DeliveryState.DEAD})
    originals = session.execute(
        said.join(Delivery.original).where(Original.study_id == study_id, unfinished)
    ).all()
    deliveries = [*results, *originals]
    state = study_state([job.state for job in jobs], [delivery.state for delivery in deliveries])
    if state == study.state:
        return
    reason = ""
    if state in END_STATES:
        reason = "; ".join(dict.fromkeys(row.reason for row in (*jobs, *deliveries) if row.reason))
    settle_study_as(session, study, state, reason)


def settle_studies(session: Session, study_ids: Iterable[int]) -> None:
    """Derive and store the state of each of these studies, in a fixed order, because other transactions lock
    them too.
    """
    for study_id in sorted(set(study_ids)):
        settle_study(session, study_id)


def settle_study_as(session: Session, study: Study, state: StudyState, reason: str = "") -> None:
    """Store a study's state as derived from its jobs and deliveries.

    Raises NotAllowedNow if another process changed it first, and NodeError for a study that is being received
    or is in quarantine.
    """
    if study.state not in {StudyState.COMPLETE, *READ_FROM_WORK} or state not in READ_FROM_WORK:
        raise NodeError(f"study {study.id}: {study.state} cannot become {state}")
    _set_study(session, study, state, STUDY_MOVED, reason)


def _set_study(session: Session, study: Study, to: StudyState, event: EventType, reason: str) -> None:
    """Store a study's state, and record ``event`` with the states before and after."""
    before = study.state
    if not _set(session, study, to, {"reason": reason}):
        raise _lost(study)
    # In the word of lists: "held" where nothing came of the study but jobs that a limit holds.
    held = select(Job.id).where(Job.study_id == study.id, Job.state == JobState.HELD).limit(1)
    is_held = to is StudyState.NOT_APPLICABLE and session.scalar(held) is not None
    after, uid = JobState.HELD if is_held else to, study.study_instance_uid
    record(session, event, study.id, study=uid, before=before, after=after, reason=reason)


def _next(table: Mapping[tuple[_State, EventType], _State], row: Any, event: EventType) -> _State:
    """Return the state that follows ``event`` by the life cycle ``table``. Raises NodeError if the event
    cannot happen in the row's state.
    """
    try:
        return table[row.state, event]
    except KeyError:
        number = row.result_id if isinstance(row, HeldResult) else row.id
        raise NodeError(
            f"{row.__tablename__} {number} is {row.state}: event {event.number} cannot happen to it"
        ) from None


def _set(
    session: Session,
    row: Study | HeldResult | _Row,
    to: StrEnum,
    values: Mapping[str, Any],
    same: Sequence[str] = _AS_READ,
) -> bool:
    """Set a row's state and further ``values`` if its columns ``same`` are unchanged since it was read;
    return whether they were.
    """
    here = [getattr(type(row), column) == getattr(row, column) for column in same]
    changed = session.execute(update(type(row)).where(*here).values(state=to, **values))
    assert isinstance(changed, CursorResult)
    if changed.rowcount != 1:
        return False
    session.refresh(row)
    return True


def utc_now() -> datetime:
    """Return the present time in UTC, aware."""
    return datetime.now(UTC)


def database_time(session: Session) -> datetime:
    """Return the present time by the database's clock, which all machines of a site share."""
    if session.get_bind().dialect.name == "sqlite":
        return utc_now()
    now: datetime = session.execute(select(func.now())).scalar_one()
    return now


_STARTED = datetime.now(UTC) - timedelta(seconds=time.monotonic())


def steady_now() -> datetime:
    """Return the time in UTC by a clock that never jumps: UTC at the process's start plus monotonic time
    since.

    Setting the machine's clock does not change quiet times by it. Times that people see are from
    :func:`utc_now`.
    """
    return _STARTED + timedelta(seconds=time.monotonic())


def acquire_lease(database: Database, name: str, owner: str, seconds: float) -> bool:
    """Take or renew the lease ``name`` for ``seconds`` from now; return False if another owner has it."""
    with database.write() as session:
        return take_lease(session, name, owner, seconds)


def take_lease(session: Session, name: str, owner: str, seconds: float) -> bool:
    """Take or renew a lease as :func:`acquire_lease` does, in the caller's transaction; nobody else can take
    it until the transaction ends.
    """
    now, length = utc_now(), timedelta(seconds=seconds)
    until = now + length
    taken = session.execute(
        update(Lease)
        .where(Lease.name == name, or_(Lease.owner == owner, has_come(Lease.until, now, length)))
        .values(owner=owner, until=until)
    )
    if getattr(taken, "rowcount", 0):
        return True
    try:
        with session.begin_nested():
            session.execute(insert(Lease).values(name=name, owner=owner, until=until))
    except IntegrityError:  # there is one, and somebody else holds it
        return False
    return True


def lock_lease(session: Session, name: str, owner: str) -> bool:
    """Lock a lease until the transaction ends, so that nobody takes it; return whether ``owner`` has it."""
    return session.scalar(select(Lease.owner).where(Lease.name == name).with_for_update()) == owner


def pass_lease_on(session: Session, name: str, owner: str, to: str) -> None:
    """Give the lease of ``owner`` to the owner ``to``."""
    session.execute(update(Lease).where(Lease.name == name, Lease.owner == owner).values(owner=to))


def release_lease(database: Database, name: str, owner: str) -> None:
    """Release the lease, so that the next owner need not wait until it expires."""
    with database.write() as session:
        session.execute(delete(Lease).where(Lease.name == name, Lease.owner == owner))


class RenewableLease:
    """A lease that a loop checks again and again. It lasts ``seconds`` from each renewal, and is renewed only
    when ``spare`` seconds of them have passed (None: half).
    """

    def __init__(
        self, database: Database, name: str, owner: str, seconds: float, spare: float | None = None
    ) -> None:
        """Prepare the lease ``name`` for ``owner``; :meth:`keep` takes it. ``seconds`` and ``spare`` as
        explained at the class.
        """
        self._database, self._name, self._owner, self._seconds = database, name, owner, seconds
        self._spare = seconds / 2 if spare is None else spare
        self._held = False
        self._ask_at = 0.0

    def keep(self) -> bool:
        """Take or renew the lease if that is due; return whether this process has it. If so, it lasts at
        least ``seconds`` less ``spare`` from now.
        """
        now = time.monotonic()
        if now >= self._ask_at:
            self._held = acquire_lease(self._database, self._name, self._owner, self._seconds)
            self._ask_at = now + min(self._spare, _LEAST_PAUSE if not self._held else self._seconds)
        return self._held


class OwnEvents:
    """Records events of a process: logs them at once, and stores them as soon as the database answers."""

    def __init__(self, database: Database) -> None:
        """Store events in ``database``; those that wait are stored as soon as it answers again."""
        self._database = database
        self._waiting: list[Event] = []
        self._lock = threading.RLock()  # storing finds out that the database is back, which stores
        database.outage.then = self._store

    def say(self, event_type: EventType, **fields: str | int | float) -> None:
        """Log an event and store it; an unreachable database does not stop the caller."""
        event = happened(event_type, **fields)
        with self._lock:
            self._waiting = [*self._waiting, event][-100:]
        self._store()

    def _store(self) -> None:
        """Store the waiting events; if the database does not answer, they wait on."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            try:
                with self._database.write() as session:
                    for event in waiting:
                        append(session, event)
            except SQLAlchemyError as error:
                self._waiting = waiting
                self._database.outage.note_error(error)
