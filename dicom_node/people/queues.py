"""A person's actions on what waits in queues, each in the audit: jobs (run again, put first, cancel) and the
machines that do them; deliveries (send again, discard, send to a further peer); studies that the running node
fetches from peers; notifications.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import PeerSettings, Settings, did_you_mean
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
from dicom_node.base.store.tables import Delivery, Job, Notification, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, columns, find_study
from dicom_node.jobs.queue import cancel, put_first, retry
from dicom_node.people import (
    PRINTABLE,
    Row,
    ServiceRequest,
    audit,
    existing,
    monitoring,
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
    """Jobs that go on only if a person wants it: those in a state, of one rule or of all."""

    state: Literal["held", "failed", "cancelled"]
    rule: str = ""


def change_jobs(
    settings: Settings,
    numbers: Sequence[int],
    change: Change,
    by: audit.Person = audit.COMMAND_LINE,
) -> None:
    """Apply one of the actions on jobs (``jobs.by_hand``) to all of these or none. Raises NotFound,
    NotAllowedNow.
    """
    with writing(settings) as session:
        for job_id in dict.fromkeys(numbers):
            _change_job(session, job_id, change, by)


def _change_job(session: Session, job_id: int, change: Change, by: audit.Person) -> None:
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
    """The number of jobs that a person may run again: a row with ``jobs`` for each ``state`` and ``rule``."""
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
    """Queue these jobs, all or none, or all jobs in these states (of :data:`STUCK`); returns how many.

    ``rule``: only jobs of this rule. ``since``: only jobs made since then. Of all in a state one that changes
    meanwhile is left out. Raises NotFound, NotAllowedNow.
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
    """A hash of the job's images: a restored job with another number has the same hash."""
    return hashlib.sha256(" ".join(sorted(job.source_uids)).encode()).hexdigest()


def forget_machine(settings: Settings, machine: str, by: audit.Person = audit.COMMAND_LINE) -> int:
    """Forget the lost processes of a removed machine; returns how many.

    Raises NotFound if no process of this machine is lost.
    """
    with writing(settings) as session:
        forgotten = monitoring.forget_machine(session, machine)
        if not forgotten:
            raise NotFound(f"no lost process is of a machine called {machine!r}")
        audit.note(session, by, AuditAction.MACHINE_REMOVED, machine=machine, processes=forgotten)
    return forgotten


class Receiver(ServiceRequest):
    """The receiver: the name of a configured peer."""

    peer: str = Field(max_length=64, pattern=PRINTABLE)


def send_again(
    settings: Settings,
    numbers: Sequence[int] = (),
    *,
    dead: bool = False,
    destination: str = "",
    by: audit.Person = audit.COMMAND_LINE,
) -> int:
    """Send again these given-up deliveries, or all that are ``dead`` (to one destination). Returns how many.

    Raises NotFound, NotAllowedNow.
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
    """Discard these deliveries, or all that are ``dead`` (to one destination). Returns how many.

    ``because`` is shown with them but never logged: a person may have written a name. Raises NotFound,
    NotAllowedNow, FaultyInput.
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
    """A row in the audit for each study; its decision names the results by UID, and their destinations."""
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
    """Studies of a peer from one day to another; ``rule``: the only one that may take them."""

    peer: str
    first: date
    last: date
    modalities: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")], ...] = ()
    rule: str = ""
    per_minute: Annotated[float, Field(ge=0, le=600)] = 0

    @property
    def questions(self) -> int:
        """The number of queries to the peer: one for each day and modality."""
        return max((self.last - self.first).days + 1, 0) * max(len(self.modalities), 1)


def request_fetches(
    settings: Settings,
    request: FetchRequest,
    by: audit.Person = audit.COMMAND_LINE,
) -> Row:
    """Query a peer for studies, and queue the fetch of those that the node does not have.

    Returns how many were ``found``, are ``here``, were fetched or given up ``before``, did not fit the
    question (``strays``), are ``wanted``; and the ``first`` number of these.

    Raises NotFound, FaultyInput, Unavailable;
    fetches that were queued before the error remain.
    """
    from dicom_node.deliver import scu
    from dicom_node.studies import fetch

    peer = _queried(settings, request.peer)
    if request.rule and settings.rule(request.rule) is None:
        raise NotFound(
            f"no rule is called {request.rule!r}; "
            + did_you_mean(request.rule, [rule.name for rule in settings.rules], "configured")
        )
    if not 0 <= (request.last - request.first).days <= LONGEST_RANGE:
        raise FaultyInput("the last day lies before the first, or 30 years after it")
    archive = scu.open_archive(peer, settings)
    with open_database(settings) as database:
        asked = fetch.ask(
            database,
            archive,
            peer.name,
            fetch.questions(request.first, request.last, request.modalities),
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
    """Fetch given-up and cancelled studies of a peer again, or cancel those that wait, also of a peer that is
    not configured any more. Returns how many. Raises NotFound, FaultyInput.
    """
    from dicom_node.studies import fetch

    if change == "again":
        _queried(settings, name)
    with writing(settings) as session:
        number = {"again": fetch.ask_again, "cancel": fetch.cancel}[change](session, name)
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
    """Studies of the last days that should have a result according to the rules, and have none.

    ``fetch_them``: fetch the studies that never arrived, or arrived incomplete. Raises NotFound,
    Unavailable.
    """
    from dicom_node.studies import fetch

    peer = _queried(settings, name)
    with open_database(settings) as database:
        found = fetch.missing(database, settings, peer, days)
        fetched = [one for one in found if one.fetchable] if fetch_them else []
        if fetched:
            with database.write() as session:
                for one in fetched:
                    fetch.fetch_missing(session, peer.name, one)
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
    """How many studies of each peer were fetched, are on their way, or were given up or cancelled."""
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
    """Requested studies, the newest first; ``before``: only those with a lower number."""
    return [
        {
            "fetch": row.id,
            **columns(row, "peer", "study_instance_uid", "rule", "state", "reason", "attempts"),
            **columns(row, "objects", "asked_at", "started_at", "ended_at"),
        }
        for row in fetches.listed(session, peer, states, limit, before)
    ]


def _queried(settings: Settings, name: str) -> PeerSettings:
    """The peer, which may be asked, for a person who sees all studies. Raises NotFound, FaultyInput."""
    peer = settings.peer(name)
    if sight.SENDERS.get():  # it would fetch again what is here, and list what is hidden
        raise FaultyInput("studies of a peer are of all senders, and this user sees some only")
    if "query" not in peer.may:
        raise FaultyInput(f'peer {name} may not be asked for studies: add "query" to its may')
    return peer


def notifiers(settings: Settings) -> list[View]:
    """The notification settings, without addresses of webhooks and tokens."""
    return [row for notifier in every("notifiers") for row in notifier.configured(settings)]


def list_notifications(
    session: Session,
    *,
    states: Iterable[NotificationState] = (),
    limit: int | None = None,
    before: int | None = None,
) -> list[View]:
    """Sent and waiting notifications, the newest first; ``before``: older than this number.

    Without subject and text.
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


def test_notifier(settings: Settings, name: str, by: audit.Person = audit.COMMAND_LINE) -> View:
    """Send a test message at once; returns ``ok`` and ``text``. Raises NotFound."""
    rows = {row["name"]: (row["kind"], one) for one in every("notifiers") for row in one.configured(settings)}
    if name not in rows:
        raise NotFound(f"no notification is called {name!r}; {did_you_mean(name, rows, 'configured')}")
    kind, notifier = rows[name]
    is_sent, text = notifier.send_test(settings, name)
    with writing(settings) as session:
        audit.note(session, by, AuditAction.NOTIFIER_TESTED, notification=name, ok=int(is_sent))
    return {"name": name, "kind": kind, "ok": is_sent, "text": text or "sent"}


def notify_again(settings: Settings, numbers: Sequence[int], by: audit.Person = audit.COMMAND_LINE) -> None:
    """Send given-up notifications again: all of these or none. Raises NotFound, NotAllowedNow."""
    with writing(settings) as session:
        for number in numbers:
            row = existing(
                session, Notification, number, f"no notification has the number {number}", lock=True
            )
            if row.state is not NotificationState.FAILED:
                raise NotAllowedNow(f"notification {number} is {row.state}: only a failed one is sent again")
            row.state, row.next_at, row.refusals = NotificationState.PENDING, utc_now(), 0
        audit.note(session, by, AuditAction.NOTIFIED_AGAIN, notifications=list(numbers))
