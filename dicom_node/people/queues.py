"""A person's actions on what waits in queues, each in the audit: jobs (run again, put first, cancel) and the
machines that do them; deliveries (send again, discard, send to a further peer); studies that the running node
fetches from peers; notifications.

What lives and what fills: processes of the site, senders that are silent, the disk of the data folder.

Each node records its own processes in the database, and one node finds silent ones. The free space is
recorded once an hour. So that the disk lasts, old events, ended associations, procedure steps and work items
are deleted. Rows of studies, results and deliveries stay.
"""

import hashlib
import shutil
import threading
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from sqlalchemy import Delete, Select, delete, exists, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from dicom_node import __version__
from dicom_node.base import events
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.section import did_you_mean
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import every
from dicom_node.base.errors import FaultyInput, NotAllowedNow, NotFound
from dicom_node.base.lifecycle import (
    OPEN_FETCHES,
    AuditAction,
    FetchState,
    JobState,
    NotificationState,
    StudyState,
)
from dicom_node.base.store import fetches, sight
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    Association,
    ClaimedWorkitem,
    Delivery,
    DiskSample,
    EventRow,
    Job,
    Notification,
    NotifiedEvent,
    PerformedStep,
    ReceivedObject,
    SiteProcess,
    Study,
)
from dicom_node.base.store.transitions import acquire_lease, database_time, record, release_lease, utc_now
from dicom_node.base.store.views import View, columns, find_study
from dicom_node.jobs.queue import cancel, put_first, retry
from dicom_node.people import (
    PRINTABLE,
    Row,
    ServiceRequest,
    audit,
    existing,
    open_database,
    reading,
    writing,
)

Change = Literal["retry", "put_first", "cancel"]
FetchChange = Literal["again", "cancel"]
STUCK = (JobState.HELD, JobState.FAILED, JobState.CANCELLED)
"""States of a job that goes on only if a person wants it."""
_AT_ONCE = 100  # jobs that are changed together: others write between
_MAY_RUN = (Job.study_revision == Study.revision) & Study.state.not_in(
    (StudyState.RECEIVING, StudyState.QUARANTINED)
)


class StuckJobs(ServiceRequest):
    """A request to run jobs again that are in this state; ``rule``: only jobs of this rule, "" for all.

    Such jobs continue only if a person wants it.
    """

    state: Literal["held", "failed", "cancelled"]
    rule: str = ""


def change_jobs(
    settings: Settings,
    numbers: Sequence[int],
    change: Change,
    by: audit.Person = audit.COMMAND_LINE,
) -> None:
    """Cancel these jobs, run them again or put them first in the queue (``change``): all of them or none.

    ``numbers``: of the jobs. Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        for job_id in dict.fromkeys(numbers):
            _change_job(session, job_id, change, by)


def _change_job(session: Session, job_id: int, change: Change, by: audit.Person) -> None:
    """Cancel one job, run it again or put it first in the queue, and note it in the audit."""
    {"retry": retry, "put_first": put_first, "cancel": cancel}[change](session, job_id)
    job = session.get_one(Job, job_id)
    audit.note(
        session,
        by,
        AuditAction.JOB_CHANGED,
        study_id=job.study_id,
        what={"change": change, "rule": job.rule, "images": sources_sha256(job)},
        job=job_id,
        change=change,
    )


def stuck_jobs(session: Session) -> list[View]:
    """Rows with the number of ``jobs`` that a person may run again, for each ``state`` and ``rule``."""
    return [
        {"state": state, "rule": rule, "jobs": number}
        for state, rule, number in session.execute(
            select(Job.state, Job.rule, func.count())
            .join(Study, Job.study_id == Study.id)
            .where(_MAY_RUN, Job.state.in_(STUCK))
            .group_by(Job.state, Job.rule)
            .order_by(Job.state, Job.rule)
        )
    ]


def run_jobs_again(
    settings: Settings,
    numbers: Sequence[int] = (),
    states: Collection[JobState] = (),
    *,
    rule: str = "",
    since: datetime | None = None,
    by: audit.Person = audit.COMMAND_LINE,
) -> int:
    """Queue these jobs again, all of them or none; without ``numbers`` all jobs in these states (of
    :data:`STUCK`).

    ``rule``: only jobs of this rule, "" for all. ``since``: only jobs made since then. Returns how many; of
    all jobs in a state one that changes meanwhile is left out. Raises NotFound, NotAllowedNow.
    """
    if numbers:
        change_jobs(settings, numbers, "retry", by)
        return len(numbers)
    chosen = select(Job.id).join(Study, Job.study_id == Study.id).where(_MAY_RUN, Job.state.in_(states))
    if rule:
        chosen = chosen.where(Job.rule == rule)
    if since is not None:
        chosen = chosen.where(Job.created_at >= since)
    done = 0
    with open_database(settings) as database:
        with database.read() as session:
            found = list(session.scalars(chosen.order_by(Job.id)))
        for first in range(0, len(found), _AT_ONCE):
            with database.write() as session:
                for job_id in found[first : first + _AT_ONCE]:
                    with suppress(NotFound, NotAllowedNow):  # before it changes anything
                        _change_job(session, job_id, "retry", by)
                        done += 1
    return done


def sources_sha256(job: Job) -> str:
    """A hash of the UIDs of the job's images, by which a job is found again after a restore gave it another
    number.
    """
    return hashlib.sha256(" ".join(sorted(job.source_uids)).encode()).hexdigest()


def forget_machine(settings: Settings, machine: str, by: audit.Person = audit.COMMAND_LINE) -> int:
    """Delete the lost processes of a machine that was removed from the site; returns how many.

    Raises NotFound if no process of this machine is lost.
    """
    with writing(settings) as session:
        lost = delete(SiteProcess).where(SiteProcess.machine == machine, SiteProcess.lost)
        forgotten = len(session.scalars(lost.returning(SiteProcess.name)).all())
        if not forgotten:
            raise NotFound(f"no lost process is of a machine called {machine!r}")
        audit.note(session, by, AuditAction.MACHINE_REMOVED, machine=machine, processes=forgotten)
    return forgotten


class Receiver(ServiceRequest):
    """A request that names the peer to send to."""

    peer: str = Field(max_length=64, pattern=PRINTABLE)


def send_again(
    settings: Settings,
    numbers: Sequence[int] = (),
    *,
    dead: bool = False,
    destination: str = "",
    by: audit.Person = audit.COMMAND_LINE,
) -> int:
    """Send these given-up deliveries again, or all that were given up (``dead``); returns how many.

    ``numbers``: of deliveries. ``destination``: with ``dead`` only those to this peer, "" for all. Raises
    NotFound, NotAllowedNow.
    """
    from dicom_node.deliver import outbox

    with writing(settings) as session:
        done = outbox.retry_all(session, destination or None) if dead else list(numbers)
        for number in numbers:
            outbox.retry(session, number)
        _note_deliveries(session, by, AuditAction.DELIVERY_RETRIED, done, dead=dead, destination=destination)
    return len(done)


def discard_deliveries(
    settings: Settings,
    numbers: Sequence[int] = (),
    *,
    because: str,
    dead: bool = False,
    destination: str = "",
    by: audit.Person = audit.COMMAND_LINE,
) -> int:
    """Discard these deliveries, so that they are not sent, or all that were given up (``dead``); returns how
    many.

    ``numbers``: of deliveries. ``because`` is shown with them but never logged: a person may have written a
    name. ``destination``: with ``dead`` only those to this peer, "" for all. Raises NotFound, NotAllowedNow,
    FaultyInput.
    """
    from dicom_node.deliver import outbox

    words = audit.checked_reason(because)
    with writing(settings) as session:
        done = outbox.discard_all(session, words, destination or None) if dead else list(numbers)
        for number in numbers:
            outbox.discard(session, number, words)
        _note_deliveries(session, by, AuditAction.DISCARDED, done, words, dead=dead, destination=destination)
    return len(done)


def _note_deliveries(
    session: Session,
    by: audit.Person,
    action: AuditAction,
    done: Sequence[int],
    words: str = "",
    *,
    dead: bool,
    destination: str,
) -> None:
    """Note a person's action on deliveries in the audit, one row for each study.

    ``done``: numbers of the deliveries. ``words``: the person's reason. The decision names results by UID, so
    that it can be applied again after a restore.
    """
    by_study: dict[int, dict[int, list[str]]] = {}
    for row in session.scalars(select(Delivery).where(Delivery.id.in_(done)).order_by(Delivery.id)):
        by_study.setdefault(row.item.study_id, {})[row.id] = [row.item.sop_instance_uid, row.destination]
    for study, pairs in by_study.items():
        about = {"all_dead": len(pairs), "destination": destination} if dead else {"deliveries": [*pairs]}
        audit.note(
            session,
            by,
            action,
            study_id=study,
            what={"deliveries": list(pairs.values())},
            words=words,
            **about,
        )


def send_study(
    settings: Settings, study_instance_uid: str, peer: str, by: audit.Person = audit.COMMAND_LINE
) -> int:
    """Send a study's newest results to a further peer; returns how many objects.

    Raises NotFound, NotAllowedNow.
    """
    from dicom_node.deliver import outbox

    to = settings.peer(peer)
    with writing(settings) as session:
        study = find_study(session, study_instance_uid).id
        number = outbox.send_to(session, study, to, settings.peers)
        audit.note(
            session,
            by,
            AuditAction.SENT_TO_PEER,
            study_id=study,
            what={"peer": to.name},
            peer=to.name,
            objects=number,
        )
    return number


LONGEST_RANGE = 366 * 30
"""Days of one request."""


class FetchRequest(ServiceRequest):
    """A request to fetch studies from a peer, from the day ``first`` to the day ``last``.

    ``modalities``: () for all. ``rule``: the only rule that may take them, "" for all rules. ``per_minute``:
    studies per minute, 0 for the peer's setting.
    """

    peer: str
    first: date
    last: date
    modalities: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")], ...] = ()
    rule: str = ""
    per_minute: Annotated[float, Field(ge=0, le=600)] = 0

    @property
    def questions(self) -> int:
        """The number of queries to the peer that the request leads to: one for each day and modality."""
        return max((self.last - self.first).days + 1, 0) * max(len(self.modalities), 1)


def request_fetches(
    settings: Settings,
    request: FetchRequest,
    by: audit.Person = audit.COMMAND_LINE,
) -> Row:
    """Query a peer for studies, and queue the fetch of those that the node does not have.

    Returns the number of studies ``found``, those ``here`` already, those fetched or given up ``before``, of
    answers that did not match the query (``strays``), and of queued fetches (``wanted``), with the ``first``
    number of these. Raises NotFound, FaultyInput, Unavailable; fetches that were queued before the error
    remain.
    """
    from dicom_node.deliver import scu
    from dicom_node.studies import fetch_queue

    peer = _peer_to_query(settings, request.peer)
    if request.rule and settings.rule(request.rule) is None:
        raise NotFound(
            f"no rule is called {request.rule!r}; "
            + did_you_mean(request.rule, [rule.name for rule in settings.rules], "configured")
        )
    if not 0 <= (request.last - request.first).days <= LONGEST_RANGE:
        raise FaultyInput("the last day lies before the first, or 30 years after it")
    archive = scu.open_archive(peer, settings)
    with open_database(settings) as database:
        asked = fetch_queue.ask(
            database,
            archive,
            peer.name,
            fetch_queue.daily_queries(request.first, request.last, request.modalities),
            rule=request.rule,
            per_minute=request.per_minute,
        )
        with database.write() as session:
            audit.note(
                session,
                by,
                AuditAction.STUDIES_FETCHED,
                peer=peer.name,
                studies=asked["wanted"],
                rule=request.rule,
            )
    return Row(**asked)


def change_fetches(
    settings: Settings, name: str, change: FetchChange, by: audit.Person = audit.COMMAND_LINE
) -> int:
    """Fetch given-up and cancelled studies of a peer again, or cancel its waiting fetches; returns how many.

    ``name``: the peer, which need not be configured any more. Raises NotFound, FaultyInput.
    """
    from dicom_node.studies import fetch_queue

    if change == "again":
        _peer_to_query(settings, name)
    with writing(settings) as session:
        number = {"again": fetch_queue.fetch_again, "cancel": fetch_queue.cancel}[change](session, name)
        audit.note(session, by, AuditAction.STUDIES_FETCHED, peer=name, studies=number, did=change)
    return number


def missing_studies(
    settings: Settings,
    name: str,
    days: int,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    fetch_them: bool = False,
) -> list[View]:
    """Rows for a peer's studies of the last ``days`` that should have a result according to the rules, and
    have none.

    ``name``: the peer. ``fetch_them``: fetch the studies that never arrived, or arrived incomplete. Raises
    NotFound, Unavailable.
    """
    from dicom_node.studies import missing_studies

    peer = _peer_to_query(settings, name)
    with open_database(settings) as database:
        found = missing_studies.missing(database, settings, peer, days)
        fetched = [one for one in found if one.fetchable] if fetch_them else []
        if fetched:
            with database.write() as session:
                for one in fetched:
                    missing_studies.fetch_missing(session, peer.name, one)
                audit.note(session, by, AuditAction.STUDIES_FETCHED, peer=peer.name, studies=len(fetched))
    return [
        {
            "study_instance_uid": one.found.study_instance_uid,
            "study_date": one.found.study_date,
            "modalities": list(one.found.modalities),
            "rule": one.rule,
            "why": one.why,
            "fetched": one in fetched,
        }
        for one in found
    ]


def fetches_by_peer(settings: Settings) -> dict[str, View]:
    """The number of studies of each peer that were fetched, are still to be fetched (``open``), or failed."""
    with reading(settings) as session:
        counted = fetches.states_by_peer(session)
    return {
        peer: {
            "fetched": states.get(FetchState.FETCHED, 0),
            "open": sum(states.get(state, 0) for state in OPEN_FETCHES),
            "failed": states.get(FetchState.FAILED, 0) + states.get(FetchState.CANCELLED, 0),
        }
        for peer, states in counted.items()
    }


def list_fetches(
    session: Session,
    *,
    peer: str = "",
    states: Collection[FetchState] = (),
    limit: int | None = None,
    before: int | None = None,
) -> list[View]:
    """Rows for studies that the node fetches from peers, the newest first.

    ``peer``, ``states``: only these, empty for all. ``before``: only those with a lower number.
    """
    return [
        {
            "fetch": row.id,
            **columns(row, "peer", "study_instance_uid", "rule", "state", "reason", "attempts"),
            **columns(row, "objects", "asked_at", "started_at", "ended_at"),
        }
        for row in fetches.listed(session, peer, states, limit, before)
    ]


def _peer_to_query(settings: Settings, name: str) -> PeerSettings:
    """The settings of a peer to query. Raises NotFound, and FaultyInput if it answers no queries or the
    person may see only some studies.
    """
    peer = settings.peer(name)
    if sight.SENDERS.get():  # it would fetch again what is here, and list what is hidden
        raise FaultyInput("studies of a peer are of all senders, and this user sees some only")
    if "query" not in peer.may:
        raise FaultyInput(f'peer {name} may not be asked for studies: add "query" to its may')
    return peer


def notifiers(settings: Settings) -> list[View]:
    """Rows for the configured notifications, without addresses of webhooks and tokens."""
    return [row for notifier in every("notifiers") for row in notifier.configured(settings)]


def list_notifications(
    session: Session,
    *,
    states: Iterable[NotificationState] = (),
    limit: int | None = None,
    before: int | None = None,
) -> list[View]:
    """Rows for sent and waiting notifications, the newest first, without subject and text.

    ``states``: only these, empty for all. ``before``: only those with a lower number.
    """
    chosen = select(Notification).order_by(Notification.id.desc()).limit(limit)
    if wanted := tuple(states):
        chosen = chosen.where(Notification.state.in_(wanted))
    if before is not None:
        chosen = chosen.where(Notification.id < before)
    return [
        {
            "notification": row.id,
            **columns(row, "rule", "state", "reason", "attempts", "created_at", "next_at", "sent_at"),
            "events": [f"{group['text']} × {group['count']}" for group in row.content.get("groups", ())],
        }
        for row in session.scalars(chosen)
    ]


def test_notifier(
    settings: Settings, name: str, by: audit.Person = audit.COMMAND_LINE, *, finding: str = ""
) -> View:
    """Send a test message of the notification ``name`` at once; returns ``ok`` and ``text``. Raises NotFound.

    ``finding``: send the message for a study in which this finding is suspected; "" for a plain test.
    """
    rows = {row["name"]: (row["kind"], one) for one in every("notifiers") for row in one.configured(settings)}
    if name not in rows:
        raise NotFound(f"no notification is called {name!r}; {did_you_mean(name, rows, 'configured')}")
    kind, notifier = rows[name]
    is_sent, text = notifier.send_test(settings, name, finding)
    with writing(settings) as session:
        audit.note(session, by, AuditAction.NOTIFIER_TESTED, notification=name, ok=int(is_sent))
    return {"name": name, "kind": kind, "ok": is_sent, "text": text or "sent"}


def notify_again(settings: Settings, numbers: Sequence[int], by: audit.Person = audit.COMMAND_LINE) -> None:
    """Send given-up notifications again: all of these or none; ``numbers``: of the notifications.

    Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        for number in numbers:
            row = existing(
                session, Notification, number, f"no notification has the number {number}", lock=True
            )
            if row.state is not NotificationState.FAILED:
                raise NotAllowedNow(f"notification {number} is {row.state}: only a failed one is sent again")
            row.state, row.next_at, row.refusals = NotificationState.PENDING, utc_now(), 0
        audit.note(session, by, AuditAction.NOTIFIED_AGAIN, notifications=list(numbers))


def note_free_space(database: Database, settings: Settings, now: datetime | None = None) -> None:
    """Record the free space of the data folder's disk; delete records older than a month."""
    now = now or utc_now()
    with database.write() as session:
        session.merge(DiskSample(at=now, free_bytes=shutil.disk_usage(settings.node.data_dir).free))
        session.execute(delete(DiskSample).where(DiskSample.at < now - timedelta(days=30)))


def days_left(session: Session, settings: Settings, now: datetime | None = None) -> float | None:
    """The days until the disk is so full that C-STORE is refused; None if it does not fill.

    The rate is measured since the oldest record of the last week. None also if records span less than a day.
    """
    now = now or utc_now()
    week = select(DiskSample).where(DiskSample.at >= now - timedelta(days=7))
    oldest = session.scalar(week.order_by(DiskSample.at).limit(1))
    if oldest is None or now - oldest.at < timedelta(days=1):  # a day has its peaks and its night
        return None
    free = shutil.disk_usage(settings.node.data_dir).free
    a_day = (oldest.free_bytes - free) / ((now - oldest.at) / timedelta(days=1))
    return max(free - settings.spool.minimum_free_mib * 2**20, 0) / a_day if a_day > 0 else None


_BATCH: Final = 5000  # rows in one transaction: others get their turn to write


def forget_past(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete events, associations, procedure steps and work items older than ``node.event_days``; returns how
    many.

    Events that a notification refers to stay, and so does the newest event: SQLite numbers events from it.
    """
    before = (now or utc_now()) - timedelta(days=settings.node.event_days)
    named = exists().where(NotifiedEvent.event_id == EventRow.id)
    is_newest = EventRow.id == select(func.max(aliased(EventRow).id)).scalar_subquery()
    events = select(EventRow.id).where(EventRow.at < before, ~named, ~is_newest).order_by(EventRow.at)
    associations = select(Association.id).where(Association.closed_at < before)
    steps = select(PerformedStep.id).where(PerformedStep.changed_at < before)
    items = select(ClaimedWorkitem.id).where(ClaimedWorkitem.ended_at < before)
    return (
        _forget(database, events, delete(EventRow).where(~named), EventRow.id)
        + _forget(database, associations, delete(Association), Association.id)
        + _forget(database, steps, delete(PerformedStep), PerformedStep.id)
        + _forget(database, items, delete(ClaimedWorkitem), ClaimedWorkitem.id)
    )


def _forget(database: Database, old: Select[Any], deletion: Delete, key: InstrumentedAttribute[Any]) -> int:
    """Delete the rows whose keys the query ``old`` selects, by the statement ``deletion``, a few at a time so
    that others can write meanwhile; returns how many.

    ``key``: the primary key of their table.
    """
    total = 0
    while True:
        with database.read() as session:
            rows = session.scalars(old.limit(_BATCH)).all()
        with database.write() as session:
            session.execute(deletion.where(key.in_(rows)))
        total += len(rows)
        if len(rows) < _BATCH:
            return total


def report_silence(database: Database, settings: Settings) -> None:
    """Record event 1010 for each peer that has sent nothing for longer than its setting, once per silence."""
    started = select(func.min(EventRow.at)).where(EventRow.number == events.NODE_STARTED.number)
    received = select(func.max(ReceivedObject.received_at))
    for peer in settings.peers:
        if not peer.silent_hours:
            continue
        with database.write() as session:
            of_peer = received.where(ReceivedObject.calling_ae == peer.ae_title)
            last = session.scalar(of_peer) or session.scalar(started)
            if last is None or last > utc_now() - timedelta(hours=peer.silent_hours):
                continue
            reported = session.scalars(
                select(EventRow.fields).where(
                    EventRow.number == events.PEER_SILENT.number, EventRow.at > last
                )
            )
            if all(fields.get("peer") != peer.name for fields in reported):
                record(
                    session,
                    events.PEER_SILENT,
                    peer=peer.name,
                    hours=peer.silent_hours,
                    last=last.isoformat(),
                )


SIGN_SECONDS: Final = 10.0
"""How often a node tells the database of its processes."""
SILENT_SECONDS: Final = 30.0
"""A process that was not heard of for this long counts as lost."""
_WATCH: Final = "process watch"  # the lease of the node that looks for lost ones


@dataclass(frozen=True, slots=True)
class Sign:
    """The sign of life of one process of this node.

    ``name``: "main", "listener", "worker-1", "console". ``pid``: None if it does not run. ``silent_seconds``:
    the time since its last sign of life.
    """

    name: str
    pid: int | None
    silent_seconds: float = 0.0


def node_name(place: str) -> str:
    """The name, in events, of the node of this machine that has this place (name of its lock) in the data
    folder.
    """
    return f"{audit.machine_name()}/{place}"


class SignsOfLife:
    """Records signs of life of the processes of one node, and finds lost processes of the whole site.

    ``place``: the node's name on the data folder, such as "all" or "listener-1". ``owner``: the name under
    which it takes the lease for finding lost processes.
    """

    def __init__(self, database: Database, place: str, owner: str) -> None:
        """Prepare for the node with this ``place``; the parameters are explained at the class."""
        self._database, self._place, self._owner = database, place, owner
        self._machine = audit.machine_name()
        self._ours = SiteProcess.machine == self._machine, SiteProcess.place == place
        self._lock, self._left = threading.Lock(), False
        self._before: datetime | None = None  # the report before the last one of this node
        self._steady_since = utc_now()  # its reports have come without a gap since then

    def report(self, signs: Collection[Sign], places_here: Collection[str]) -> None:
        """Record that the processes of this node are alive, then find lost processes of the whole site.

        ``places_here``: names of the nodes that run on this machine now. Lost processes of other nodes on
        this machine are forgotten: they were restarted under a new name, or removed. Raises SQLAlchemyError.
        """
        with self._lock:
            if self._left:
                return
            with self._database.write() as session:
                now = database_time(session)
                # The clock was put back: a time ahead would hide a loss for as long.
                session.execute(update(SiteProcess).where(SiteProcess.seen_at > now).values(seen_at=now))
                self._write(session, signs, now)
                if self._before is None:
                    session.execute(
                        delete(SiteProcess).where(
                            SiteProcess.machine == self._machine,
                            SiteProcess.lost,
                            SiteProcess.place.not_in(places_here),
                        )
                    )
            before, self._before = self._before, now
            if before is None or not timedelta() <= now - before <= 2 * timedelta(seconds=SIGN_SECONDS):
                self._steady_since = now  # without a database all were silent: others need a moment, too
            since = now - timedelta(seconds=SILENT_SECONDS)
            if self._steady_since <= since and acquire_lease(
                self._database, _WATCH, self._owner, 3 * SIGN_SECONDS
            ):
                self._mark_lost(since, now)

    def leave(self) -> None:
        """Remove the rows of this node, which stops as planned and must not be reported as lost.

        Later calls of ``report`` do nothing.
        """
        with self._lock:
            self._left = True
            with suppress(SQLAlchemyError):  # a node ends without a database, too
                with self._database.write() as session:
                    session.execute(delete(SiteProcess).where(*self._ours))
                release_lease(self._database, _WATCH, self._owner)

    def _write(self, session: Session, signs: Iterable[Sign], now: datetime) -> None:
        """Store the signs of life of this node's processes."""
        known = {row.name: row for row in session.scalars(select(SiteProcess).where(*self._ours))}
        for sign in signs:
            row = known.pop(sign.name, None)
            if sign.pid is None:  # it ended and is started again: it shows no life
                continue
            if row is None:
                row = SiteProcess(
                    machine=self._machine, place=self._place, name=sign.name, pid=0, since=now, lost=False
                )
                session.add(row)
            if row.pid != sign.pid:
                row.pid, row.since, row.version = sign.pid, now, __version__
            row.seen_at = now - timedelta(seconds=sign.silent_seconds)
            if row.lost and sign.silent_seconds < SILENT_SECONDS:
                row.lost = False
                record(session, events.PROCESS_BACK, None, **_process_fields(row))
        for row in known.values():  # fewer workers since the configuration was read again
            session.delete(row)

    def _mark_lost(self, since: datetime, now: datetime) -> None:
        """Mark processes whose last sign of life is older than ``since`` as lost, each with an event."""
        with self._database.write() as session:
            lost = select(SiteProcess).where(SiteProcess.seen_at <= since, SiteProcess.lost.is_(False))
            for row in session.scalars(lost.with_for_update(skip_locked=True)):
                row.lost = True
                record(
                    session,
                    events.PROCESS_LOST,
                    None,
                    **_process_fields(row),
                    silent_seconds=round((now - row.seen_at).total_seconds()),
                )


def list_processes(session: Session) -> list[View]:
    """Rows for all processes of the site, by machine and place. ``state``: alive or lost."""
    now, found = database_time(session), []
    for row in session.scalars(
        select(SiteProcess).order_by(SiteProcess.machine, SiteProcess.place, SiteProcess.name)
    ):
        silent = max((now - row.seen_at).total_seconds(), 0.0)
        found.append(
            _process_fields(row)
            | columns(row, "pid", "version", "since", "seen_at")
            | {
                "silent_seconds": round(silent, 1),
                "state": "alive" if silent < SILENT_SECONDS and not row.lost else "lost",
            }
        )
    return found


def health(session: Session) -> View:
    """The state of the processes of this machine: the number of those ``alive``, and place and name of those
    ``silent`` for too long.
    """
    here = [row for row in list_processes(session) if row["machine"] == audit.machine_name()]
    silent = [f"{row['place']}/{row['process']}" for row in here if row["state"] != "alive"]
    return {"alive": len(here) - len(silent), "silent": silent}


def forget_lost(database: Database, _settings: Settings) -> None:
    """Delete processes that have been lost for a week."""
    with database.write() as session:
        old = SiteProcess.seen_at < database_time(session) - timedelta(days=7)
        session.execute(delete(SiteProcess).where(SiteProcess.lost, old))


def _process_fields(row: SiteProcess) -> dict[str, Any]:
    """The fields of an event that name a process: machine, place, process."""
    return {"machine": row.machine, "place": row.place, "process": row.name}
