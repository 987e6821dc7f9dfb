"""The delivery worker: finds due deliveries, and works for each destination in a separate thread.

A PACS that is down or slow delays only its own deliveries. No state is in memory: another delivery worker, or
this one after kill -9, continues from the table.

The work for one destination: claim due deliveries of one study, send, query, record the answers. One process
of a site at a time does it, under a lease for this destination, which is renewed while the work lasts, but no
longer than it can last at most; if the process is killed or hangs, another one takes over when the lease has
ended. No transaction is open while the node waits for the network.

Storage commitment (PS3.4 Annex J): a request is stored before it is sent, and a report before it is answered:
a kill in between loses nothing, and a report may come first, hours late or twice.

Peers request storage commitment, too. The node stores no object for good, so it commits to none itself: an
instance is reported as committed when an archive that rules forward to has confirmed the very bytes that the
peer sent last. A report is decided once, stored, and sent until the peer accepts it: a kill or a lost answer
costs only a second, identical report.
"""

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from pydicom.uid import generate_uid
from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.base.config.loading import is_behind
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom import dimse_n
from dicom_node.base.errors import NotInSpool, StoreAway
from dicom_node.base.events import (
    COMMITMENT_ANSWER_GIVEN_UP,
    COMMITMENT_ANSWERED,
    COMMITMENT_DECIDED,
    COMMITMENT_ENTERED,
    COMMITMENT_REQUESTED,
    COMMITMENT_SET_ASIDE,
    COMMITMENT_UNKNOWN,
    DELIVERY_DEAD,
    DELIVERY_OVERDUE,
    DELIVERY_STARTED,
    DESTINATION_HUNG,
    EventType,
)
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import CommitmentState, DeliveryState, RequestedState, ResultKind, StudyState
from dicom_node.base.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.base.runner import Lane, outlast, wait_before_retry
from dicom_node.base.store import deliveries, intake, requested
from dicom_node.base.store.database import SHORTEST, Database
from dicom_node.base.store.tables import Commitment, Delivery, RequestedCommitment, WaitingReport
from dicom_node.base.store.transitions import (
    acquire_lease,
    lock_lease,
    move,
    pass_lease_on,
    record,
    release_lease,
    settle_studies,
    take_lease,
    try_move,
    utc_now,
)
from dicom_node.deliver import outbox, scu

_REPORTS: Final = 20
_KEEP: Final = timedelta(days=90)  # longer than any report is waited for: late ones are still understood


def enter_reports(database: Database, settings: Settings) -> int:
    """Process the storage commitment reports that peers sent and that wait in the database; returns how many.

    Each report is processed once, in a transaction of its own, so that a faulty or waiting report does not
    hold up others. Several processes may do this at once.
    """
    with database.read() as session:
        waiting = session.scalars(select(WaitingReport.id).order_by(WaitingReport.id).limit(_REPORTS)).all()
    entered = 0
    for number in waiting:
        chosen = select(WaitingReport).where(WaitingReport.id == number)
        with database.write() as session:
            report = session.scalar(chosen.with_for_update(skip_locked=True))
            if report is None:
                continue
            calling, transaction = report.calling_ae, report.transaction_uid
            try:
                with session.begin_nested():
                    _apply_report(session, settings, report)
            except (OperationalError, InterfaceError):  # the database is away, or two waited for each other
                raise
            except Exception as error:  # noqa: BLE001  (no report may keep others, and deliveries, from their turn)
                reason = type(error).__name__  # without its text, which quotes what was to be written
                record(session, COMMITMENT_SET_ASIDE, transaction=transaction, calling=calling, reason=reason)
            session.delete(report)
        entered += 1
    return entered


def give_up_requests(database: Database, settings: Settings) -> None:
    """Give up commitment requests of peers that may no longer make any, and delete old requests of both
    sides.

    No report is expected any more for a request that is so old.
    """
    peers = [peer.name for peer in settings.peers if peer.commit_after]
    with database.write() as session:
        for row in session.scalars(
            select(RequestedCommitment)
            .where(requested.UNFINISHED, RequestedCommitment.peer.not_in(peers))
            .limit(_ANSWERS_AT_ONCE)
        ).all():
            try_move(
                session,
                row,
                COMMITMENT_ANSWER_GIVEN_UP,
                reason="the peer is not configured with commit_after any more",
            )
        session.execute(delete(Commitment).where(Commitment.asked_at < utc_now() - _KEEP))
        session.execute(delete(RequestedCommitment).where(RequestedCommitment.asked_at < utc_now() - _KEEP))


def _apply_report(session: Session, settings: Settings, report: WaitingReport) -> None:
    """Apply one storage commitment report to the deliveries that it names; a report of an unknown request is
    recorded.
    """
    commitment = _locked_request(session, report.transaction_uid)
    asked = commitment.destination if commitment is not None else None
    peer = next((one for one in settings.peers if one.name == asked), None)
    titles = {title.strip() for title in peer.reporting_titles} if peer is not None else ()
    if commitment is None or peer is None or report.calling_ae.strip() not in titles:
        record(session, COMMITMENT_UNKNOWN, calling=report.calling_ae, transaction=report.transaction_uid)
        return
    if commitment.state is not CommitmentState.REPORTED:  # a second report may name what the first did not
        move(session, commitment, COMMITMENT_ENTERED)
    moves = outbox.Moves(session, peer, settings.outbox, utc_now())
    failed = dict(line.split(" ", 1) for line in report.failed)
    committed = {uid: sop_class for uid, _, sop_class in (line.partition(" ") for line in report.committed)}
    rows = deliveries.of_numbers(session, commitment.deliveries)
    for row in rows:
        uid, sop_class = row.item.sop_instance_uid, row.item.sop_class_uid
        if uid in failed:
            moves.not_committed(row, report.transaction_uid, int(failed[uid], 16))
        elif committed.get(uid) == sop_class:
            moves.committed(row)
    deliveries.discard_withdrawn(session, rows)
    settle_studies(session, [row.item.study_id for row in rows])


def _locked_request(session: Session, transaction_uid: str) -> Commitment | None:
    """The commitment request with this Transaction UID, locked; None if there is none."""
    return session.scalar(
        select(Commitment).where(Commitment.transaction_uid == transaction_uid).with_for_update()
    )


_ANSWERS_AT_ONCE: Final = 20
_CALL_SECONDS: Final = 150.0  # an association made and released, at its slowest
INDEXED_AFTER: Final = timedelta(minutes=5)
"""An object that a peer sent before it asked is in the index by then; until then it may be unknown."""


class CommitmentAnswers(Lane[RequestedCommitment]):
    """Decides on the storage commitment requests that one peer sent to this node, and reports to that peer.

    All state is in the database.
    """

    table, is_one_peer = RequestedCommitment, True

    def __init__(
        self,
        database: Database,
        settings: Settings,
        peer: PeerSettings,
        owner: str,
        open_reporter: Callable[[PeerSettings, Settings], scu.CommitmentPeer] = scu.open_commitment,
    ) -> None:
        """Prepare for one peer. ``owner``: the process, under which its lease is taken."""
        super().__init__(
            database,
            settings,
            f"commitment to {peer.name}",
            owner,
            settings.outbox.answer_seconds + _CALL_SECONDS,
        )
        self._peer, self._open = peer, open_reporter
        self._limit = timedelta(hours=peer.commit_hours)
        forwarded_to = {name for rule in settings.rules for name in rule.forward}
        self._archives = forwarded_to & {one.name for one in settings.peers if one.confirm != "none"}

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """SQL conditions for requests that are undecided, or whose report the peer has not accepted yet."""
        return RequestedCommitment.peer == self._peer.name, requested.UNFINISHED

    def _uncommitted_objects(
        self, session: Session, row: RequestedCommitment, now: datetime
    ) -> list[str] | None:
        """The objects of the request that are not committed, each as "UID reason" (the reason a DIMSE code in
        hexadecimal).

        None while one of them may still be committed. No object is committed while a newer version of it may
        wait to be indexed.
        """
        title = self._peer.ae_title
        asked = dict(line.split(" ", 1) for line in row.objects)
        uids = list(asked)
        sent = requested.sent_by(session, title, uids)
        classes = requested.classes(session, uids)
        is_behind = requested.awaits_index(session, title, row.asked_at, now - INDEXED_AFTER)
        archived = set() if is_behind else requested.archived(session, title, uids, self._archives)
        left_out = requested.left_out(session, uids)
        age, failed, waits = now - row.asked_at, [], False
        for uid, sop_class in asked.items():
            reason = None
            if uid not in sent:
                reason = dimse_n.NO_SUCH_OBJECT if age >= min(INDEXED_AFTER, self._limit) else None
            elif classes.get(uid, sop_class) != sop_class:
                reason = dimse_n.CLASS_CONFLICT
            elif uid in archived:
                continue
            elif age >= self._limit or uid in left_out:
                reason = dimse_n.PROCESSING_FAILURE
            waits = waits or reason is None
            failed.append(f"{uid} {reason or 0:04X}")
        return None if waits else failed

    def work(self, row: RequestedCommitment, _: threading.Event) -> Outcome:
        """Decide on the request if that is possible, or report a decision made before to the peer once."""
        if row.state is RequestedState.WAITING:
            now = utc_now()
            with self._database.write() as session:
                found = self._uncommitted_objects(session, row, now)
                session.add(row)
                if found is None:
                    wait = max((now - row.asked_at) / 10, timedelta(seconds=1))
                    row.next_at = now + min(wait, timedelta(seconds=60))
                else:
                    try_move(session, row, COMMITMENT_DECIDED, failed=found, decided_at=now)
            return NotYet()
        objects = dict(line.split(" ", 1) for line in row.objects)
        failed = {uid: int(code, 16) for uid, code in (line.split(" ") for line in row.failed)}
        event_type = dimse_n.SOME_FAILED if failed else dimse_n.ALL_COMMITTED
        with closing(self._open(self._peer, self._settings)) as reporter:
            reason = reporter.report(
                dimse_n.commitment_report(row.transaction_uid, objects, failed), event_type
            )
        if not reason:
            return Done()
        is_over = row.decided_at is not None and utc_now() - row.decided_at >= self._limit
        return Failed(reason) if is_over else Retry(reason)

    def move(self, session: Session, row: RequestedCommitment, outcome: Outcome) -> None:
        """Mark the request as answered or given up; any other outcome does not change its state."""
        if isinstance(outcome, Done):
            try_move(session, row, COMMITMENT_ANSWERED)
        elif isinstance(outcome, Failed):
            try_move(session, row, COMMITMENT_ANSWER_GIVEN_UP)


_STOP_SECONDS = 20.0  # that objects being sent may take when the node stops; then they are sent later
_WRITING_SECONDS = 5.0  # a call that was cut off returns at once, and its result is written
_CALLS_SECONDS = 240.0  # two associations made and released for an object, at their slowest
_NUMBERS = itertools.count()  # of routes: two of one process are two owners, and a restart counts anew
_TURN = 4  # of so many claims one is of what has waited longest: STAT studies cannot hold up others for ever
_BATCH = 32  # objects of one study on one association
_LOGGER = logging.getLogger(__name__)

OpenDestination = Callable[[PeerSettings, Settings], scu.Destination]


class DeliveryWorker:
    """Delivers results. Any number of delivery workers, in any number of processes, may share one database.

    ``owner``: the process, under a name that it has after a restart, too, so that it goes on at once after a
    kill; "" for a new name. ``lease_seconds``: after this time without renewal another worker sends a dead
    worker's deliveries. ``open_destination``: makes the client of a peer.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        open_destination: OpenDestination = scu.open_destination,
        lease_seconds: float = 15.0,
        owner: str = "",
    ) -> None:
        """Prepare a route to each peer that may receive; the parameters are explained at the class."""
        self._database, self._settings, self._open = database, settings, open_destination
        self._threads: dict[str, threading.Thread] = {}
        self._lease_seconds, self._owner = lease_seconds, owner or uuid.uuid4().hex
        self._routes = {peer.name: self._route(peer) for peer in settings.peers if "receive" in peer.may}

    def _route(self, peer: PeerSettings) -> "Route":
        """Make a new route to this peer, with an owner's name of its own."""
        owner = f"{self._owner[:56]}/{next(_NUMBERS)}"
        return Route(self._database, self._settings, peer, owner, self._lease_seconds, self._open)

    def run_once(self) -> int:
        """Send and confirm due deliveries, one study per destination, in this thread; returns how many."""
        enter_reports(self._database, self._settings)
        try:
            return sum(self._routes[destination].run_once() for destination in self._due_destinations())
        finally:
            self._release_leases()

    def _due_destinations(self) -> list[str]:
        """The names of configured destinations with due deliveries.

        Deliveries to unknown names are given up, unless the peers in the database are newer than the settings
        read here.
        """
        with self._database.read() as session:
            due = deliveries.due_destinations(
                session, utc_now(), [route.owner for route in self._routes.values()]
            )
        unknown = [name for name in due if name not in self._routes]
        if unknown and not is_behind(self._settings):
            give_up_unknown(self._database, unknown)
        return [name for name in due if name in self._routes]

    def run_forever(self, stop: threading.Event) -> None:
        """Deliver until ``stop`` is set, then finish objects being sent for at most 20 seconds."""
        # Make waiting deliveries due: peers that were away before the restart may be back.
        with self._recording_outages(), self._database.write() as session:
            deliveries.hurry(session, utc_now())
        changes, pause = self._database.changes, SHORTEST
        while not stop.is_set():
            seen = changes.count
            found = False
            with self._recording_outages():  # the loop outlives a database that is away for a while
                found = self._dispatch(stop)
            pause = changes.pause(pause, found=found)
            changes.wait(seen, min(pause, self._lease_seconds / 3), stop)
        # Wait for what is being sent, cut off what takes too long, hand back what is still held then.
        _join(self._threads.values(), _STOP_SECONDS)
        for route in self._routes.values():
            route.hang_up()
        _join(self._threads.values(), _WRITING_SECONDS)
        with self._recording_outages():
            self._release_leases()

    def _release_leases(self) -> None:
        """Release the leases of all routes, so that another worker may send at once."""
        for route in self._routes.values():
            route.release_its_lease()

    def _dispatch(self, stop: threading.Event) -> bool:
        """Start a thread for each destination with due deliveries that has none; returns whether any delivery
        is due.
        """
        with self._recording_outages():
            enter_reports(self._database, self._settings)
        with self._database.read() as session:
            stopped = [one for one in self._routes.values() if deliveries.any_stopped(session, one.sending)]
        for one in self._routes.values():
            one.renew()
            if one in stopped:
                one.cut_off()
        due = self._due_destinations()
        for destination in due:
            running, route = self._threads.get(destination), self._routes[destination]
            if running is not None and running.is_alive():
                if time.monotonic() < route.overdue_at:
                    continue
                route = self._replace_route(route)
            thread = self._threads[destination] = threading.Thread(
                target=self._work_in_thread,
                args=(route, stop),
                name=f"to {destination}",
                daemon=True,
            )
            thread.start()
        return bool(due)

    def _replace_route(self, overdue: "Route") -> "Route":
        """Replace a route that takes too long by a new route, to which its lease is passed; returns the new
        one.
        """
        overdue.hang_up()
        route = self._routes[overdue.peer.name] = self._route(overdue.peer)
        with self._database.write() as session:
            pass_lease_on(session, deliveries.lane(route.peer.name), overdue.owner, route.owner)
            record(session, DELIVERY_OVERDUE, destination=route.peer.name)
        return route

    def _work_in_thread(self, route: "Route", stop: threading.Event) -> None:
        """Deliver on ``route`` until nothing is due, or until it is replaced and another thread delivers."""

        def deliver() -> None:
            """Make rounds of delivery until nothing is due."""
            with self._recording_outages():
                while not stop.is_set() and self._routes[route.peer.name] is route and route.run_once():
                    pass

        def say(event: EventType, **fields: Any) -> None:
            """Record an event with these fields, in a transaction of its own."""
            with self._recording_outages(), self._database.write() as session:
                record(session, event, **fields)

        outlast(deliver, f"to {route.peer.name}", stop, say)

    @contextmanager
    def _recording_outages(self) -> Iterator[None]:
        """Context manager: a database error inside is recorded as an outage and not raised; the work goes on
        later.
        """
        try:
            yield
        except SQLAlchemyError as error:
            self._database.outage.note_error(error)


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Wait for all these threads, ``seconds`` at most in total."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))


class Route:
    """Delivery to one peer, one round at a time: a round sends and confirms due deliveries of one study.

    ``owner``: the name under which the peer's lease is taken; a round is made only with the lease, which
    lasts ``lease_seconds`` after each renewal.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        peer: PeerSettings,
        owner: str,
        lease_seconds: float,
        open_destination: OpenDestination,
    ) -> None:
        """Prepare delivery to ``peer``; ``open_destination``: makes the client of a peer."""
        self._database, self._settings, self.peer = database, settings, peer
        self._files, self._folder = Files(settings), settings.node.data_dir.resolve()
        self.owner, self._lease_seconds, self._open = owner, lease_seconds, open_destination
        self._lease, self._renew_at = deliveries.lane(peer.name), float("inf")
        self._calls: list[scu.Destination | scu.CommitmentPeer] = []
        self._claims = 0
        self._stopping = False
        self.sending: Sequence[int] = ()
        """The numbers of the deliveries that the round under way sends."""
        self.overdue_at = float("inf")
        """When (monotonic seconds) the round under way must have ended."""

    def hang_up(self) -> None:
        """End the round under way and begin no other; any thread may call it.

        Answers that have come are still recorded, as long as nobody else has the lease.
        """
        self._stopping = True
        self.cut_off()

    def cut_off(self) -> None:
        """End the calls of the round under way; any thread may call it.

        What was not sent is tried again later, unless it was withdrawn.
        """
        for call in self._calls:
            call.close()

    def renew(self) -> None:
        """Renew the lease if that is due, while a round is under way that has not taken too long."""
        if self._renew_at <= time.monotonic() < self.overdue_at < float("inf"):
            self._renew_at = time.monotonic() + self._lease_seconds / 3
            acquire_lease(self._database, self._lease, self.owner, self._lease_seconds)

    def release_its_lease(self) -> None:
        """Release the lease, so that another process may deliver to this peer at once."""
        if self._renew_at < float("inf"):
            release_lease(self._database, self._lease, self.owner)
            self._renew_at = float("inf")

    def run_once(self) -> int:
        """Send and confirm the due deliveries of one study; returns how many."""
        to_send, to_ask = self._claim()
        batch = [*to_send, *to_ask]
        if not batch:
            return 0
        # How long sending and asking for these can take at most.
        limits, self.sending = self._settings.outbox, [one.delivery for one in to_send]
        sending = sum(limits.seconds_for(one.bytes) for one in batch)
        calls = len(batch) + (self.peer.confirm == "commitment")
        self.overdue_at = time.monotonic() + 2 * sending + calls * (limits.answer_seconds + _CALLS_SECONDS)
        try:
            self._work(to_send, to_ask)
        finally:
            self.overdue_at, self._calls, self.sending = float("inf"), [], ()
        return len(batch)

    def _work(self, to_send: Sequence[scu.Outgoing], to_ask: Sequence[scu.Outgoing]) -> None:
        """Send the deliveries ``to_send``, query the peer about ``to_ask``, and record what came of both."""
        try:
            to_send, to_ask = self._fetch_files(to_send), self._fetch_files(to_ask)
        except StoreAway as away:
            unsent = scu.SendReport(scu.SendStatus.UNREACHABLE, "", str(away))
            self._enter_reports(dict.fromkeys(to_send, unsent))
            unknown = scu.Confirmation(scu.Presence.UNKNOWN, str(away))
            self._enter_confirmations(dict.fromkeys(to_ask, unknown))
            return
        destination = self._open(self.peer, self._settings)
        self._register_client(destination)
        to_query = [*self._send(destination, to_send), *to_ask]
        if self.peer.confirm == "commitment" and to_query and not self._stopping:
            to_query = self._request_commitment({one.delivery: one for one in to_query})
        if to_query:
            try:
                answers = destination.confirm(to_query)
            except Exception as error:  # noqa: BLE001 - the thread must live on, the delivery keeps the reason
                answers = [scu.Confirmation(scu.Presence.UNKNOWN, _log_defect(error))] * len(to_query)
            self._enter_confirmations(dict(zip(to_query, answers, strict=True)))

    def _request_commitment(self, objects: Mapping[int, scu.Outgoing]) -> list[scu.Outgoing]:
        """Request storage commitment for deliveries that have no request under way; ``objects``: their
        objects, by number of the delivery.

        Returns the objects about which the peer must be queried instead, because no report came or it accepts
        no request.
        """
        transaction = generate_uid()
        wanted, to_query = self._store_request(transaction, objects)
        if wanted:
            requestor = scu.open_commitment(self.peer, self._settings)
            self._register_client(requestor)
            answer = requestor.ask(transaction, [objects[number] for number in wanted], self._store_report)
            with self._recording_answers(wanted, DeliveryState.UNCONFIRMED) as (session, moves, rows):
                request = _locked_request(session, transaction)
                if isinstance(answer, Done) and request and request.state is CommitmentState.ASKED:
                    move(session, request, COMMITMENT_REQUESTED)
                for row in rows.values():
                    if isinstance(answer, Done):
                        moves.await_report(row)
                    elif isinstance(answer, Retry):
                        moves.query_again(row, answer.why)
                    else:
                        row.transaction_uid = ""
                        to_query += moves.commitment_missing(row, answer.why)
        return [objects[number] for number in to_query]

    def _store_request(
        self, transaction: str, objects: Mapping[int, scu.Outgoing]
    ) -> tuple[list[int], list[int]]:
        """Store a request for storage commitment before it is sent; returns (deliveries that it covers,
        deliveries about which the peer must be queried instead), by number.

        ``transaction``: its Transaction UID. ``objects``: by number of the delivery.
        """
        wanted, to_query = [], []
        with self._recording_answers(objects, DeliveryState.UNCONFIRMED) as (session, moves, rows):
            for row in rows.values():
                before = select(Commitment.state).where(Commitment.transaction_uid == row.transaction_uid)
                if row.sent_at is None:
                    to_query.append(row.id)
                elif moves.commitment_is_overdue(row):
                    to_query += moves.commitment_missing(row, "no storage commitment report came")
                # In a request that reached the destination; a kill may have stopped one that was asked.
                elif session.scalar(before) in (CommitmentState.ACCEPTED, CommitmentState.REPORTED):
                    moves.await_report(row)
                else:
                    wanted.append(row.id)
                    row.transaction_uid = transaction
            if wanted:
                about = {"destination": self.peer.name, "deliveries": wanted, "asked_at": utc_now()}
                session.add(Commitment(transaction_uid=transaction, **about))
        return wanted, to_query

    def _store_report(self, report: dimse_n.CommitmentReport) -> None:
        """Store a storage commitment report that came on the association of the request."""
        with self._database.write() as session:
            intake.keep_report(
                session,
                report.transaction_uid,
                self.peer.reporting_titles[-1],
                report.committed,
                report.failed,
                utc_now(),
            )

    def _register_client(self, client: scu.Destination | scu.CommitmentPeer) -> None:
        """Register a client of the peer, so that its calls are ended when the node stops."""
        self._calls.append(client)
        if self._stopping:
            client.close()

    def _fetch_files(self, batch: Sequence[scu.Outgoing]) -> list[scu.Outgoing]:
        """Fetch the files of a batch from the object store to this machine; returns the batch with all Study
        Instance UIDs.

        A file that is lost or damaged is not fetched, and its object is refused before it is sent. Raises
        StoreAway.
        """
        fetched = []
        for one in batch:
            for item in (one, *one.former):
                with suppress(NotInSpool), self._database.read() as session:
                    self._files.here(session, str(item.path.relative_to(self._folder)))
            fetched.append(
                replace(one, study_instance_uid=one.study_instance_uid or outbox.study_of(one.path))
            )
        return fetched

    def _send(self, destination: scu.Destination, batch: Sequence[scu.Outgoing]) -> list[scu.Outgoing]:
        """Send the objects that may be sent to this peer (``outbox.fault``); returns those that it accepted
        and that are not confirmed yet.
        """
        faults = {one: outbox.fault(one, self.peer) for one in batch}
        whole = [one for one in batch if not faults[one]]
        try:
            sent = destination.send(whole) if whole else []
        except Exception as error:  # noqa: BLE001 - the thread must live on, the delivery keeps the reason
            # A defect of ours in a destination is a failed try like any other.
            sent = [scu.SendReport(scu.SendStatus.RETRY, "", _log_defect(error))] * len(whole)
        # An original's file may be on its way to its place: it is tried again.
        faulty = {
            one: scu.SendReport(scu.SendStatus.REFUSED if one.is_original else scu.SendStatus.FAULTY, "", why)
            for one, why in faults.items()
            if why
        }
        return self._enter_reports(faulty | dict(zip(whole, sent, strict=True)))

    def _claim(self) -> tuple[list[scu.Outgoing], list[scu.Outgoing]]:
        """Take the peer's lease and claim the due deliveries of one study; returns (objects to send, objects
        to query).

        Both are empty if nothing is due or another process has the lease.
        """
        now = utc_now()
        to_send, to_ask = [], []
        self._claims += 1
        with self._database.write() as session:
            study = deliveries.due_study(session, self.peer.name, now, by_waiting=self._claims % _TURN == 0)
            if study is None or self._stopping:
                return [], []
            # Before any delivery is locked: who has the lease locks it first, too.
            if not take_lease(session, self._lease, self.owner, self._lease_seconds):
                return [], []
            self._renew_at = time.monotonic() + self._lease_seconds / 3
            moves = self._moves(session)
            due = deliveries.due_batch(session, self.peer.name, study, now, _BATCH)
            for delivery in due:
                if delivery.state is DeliveryState.SENDING:
                    moves.sender_lost(delivery)
            deliveries.discard_withdrawn(session, due)
            for delivery in due:
                quarantined = delivery.item.study.state is StudyState.QUARANTINED
                # A note that takes results back goes all the same.
                is_note = delivery.result is not None and delivery.result.kind is ResultKind.REJECTION
                if delivery.state is DeliveryState.PENDING and quarantined and not is_note:
                    deliveries.withdraw(session, delivery, "the study is in quarantine")
                elif delivery.state is DeliveryState.PENDING and deliveries.is_outdated(session, delivery):
                    deliveries.withdraw(session, delivery, "a newer version replaces it")
                elif delivery.state is DeliveryState.PENDING:
                    move(session, delivery, DELIVERY_STARTED, attempts=delivery.attempts + 1)
                    to_send.append(self._outgoing_with_former(session, delivery))
                elif delivery.state is DeliveryState.UNCONFIRMED:
                    to_ask.append(self._outgoing_with_former(session, delivery))
        return to_send, to_ask

    @contextmanager
    def _recording_answers(
        self, numbers: Collection[int], state: DeliveryState
    ) -> Iterator[tuple[Session, outbox.Moves, Mapping[int, Delivery]]]:
        """Context manager: a transaction in which the peer's answers about deliveries are recorded.

        Gives (session, object that changes states, deliveries by number). The deliveries are those of
        ``numbers`` that are in ``state``; none if another owner has the lease. At the end the state of their
        studies is derived.
        """
        with self._database.write() as session:
            mine = numbers if lock_lease(session, self._lease, self.owner) else ()
            rows = {row.id: row for row in deliveries.of_numbers(session, mine) if row.state is state}
            yield session, self._moves(session), rows
            deliveries.discard_withdrawn(session, rows.values())
            settle_studies(session, (row.item.study_id for row in rows.values()))

    def _enter_reports(self, reports: Mapping[scu.Outgoing, scu.SendReport]) -> list[scu.Outgoing]:
        """Record the outcome of sending; returns the objects that the peer acknowledged but has not
        confirmed.
        """
        if not reports:
            return []
        numbers = [one.delivery for one in reports]
        with self._recording_answers(numbers, DeliveryState.SENDING) as (session, moves, rows):
            narrowed = []
            for one, report in reports.items():
                row = rows.get(one.delivery)
                if row is None or row.attempts != one.attempts:  # this round is sending it no more
                    continue
                if report.status is scu.SendStatus.NARROWED:
                    narrowed.append((row, report))
                else:
                    moves.sent(row, report)
            # Whether the peer gets, or has got, any other result of the study.
            takes_others = bool(narrowed) and any(
                other.state not in (DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.DISCARDED)
                for other in deliveries.others_of_study(
                    session, narrowed[0][0].item.study_id, self.peer.name, but=[row.id for row, _ in narrowed]
                )
            )
            for row, report in narrowed:
                moves.narrowed(row, report, takes_others=takes_others)
            statuses = {report.status for report in reports.values()}
            attempts = max(one.attempts for one in reports)
            answered = statuses & {scu.SendStatus.STORED, scu.SendStatus.WARNED, scu.SendStatus.VERIFY}
            if statuses & {scu.SendStatus.UNREACHABLE, scu.SendStatus.HUNG} and not answered:
                # What else waits for the peer waits as long.
                until = utc_now() + wait_before_retry(attempts, self._settings.outbox)
                session.execute(
                    update(Delivery)
                    .where(
                        Delivery.destination == self.peer.name,
                        Delivery.state == DeliveryState.PENDING,
                        Delivery.next_at < until,
                    )
                    .values(next_at=until)
                )
            elif attempts > 1 and answered:
                deliveries.hurry(session, utc_now(), self.peer.name)
            if scu.SendStatus.HUNG in statuses:
                self._record_hung(session, list(reports), "send")
            acknowledged = [id for id, row in rows.items() if row.state is DeliveryState.UNCONFIRMED]
        return [one for one in reports if one.delivery in acknowledged]

    def _enter_confirmations(self, answers: Mapping[scu.Outgoing, scu.Confirmation]) -> None:
        """Record the peer's answers to the queries about these deliveries."""
        by_number = {one.delivery: answer for one, answer in answers.items()}
        with self._recording_answers(by_number, DeliveryState.UNCONFIRMED) as (session, moves, rows):
            for number, row in rows.items():
                moves.query_answered(row, by_number[number])
            if any(answer.presence is scu.Presence.HUNG for answer in answers.values()):
                self._record_hung(session, list(answers), "query")

    def _moves(self, session: Session) -> outbox.Moves:
        """An object that changes the state of deliveries to this peer, within the transaction of
        ``session``.
        """
        return outbox.Moves(session, self.peer, self._settings.outbox, utc_now())

    def _outgoing_with_former(self, session: Session, delivery: Delivery) -> scu.Outgoing:
        """The object of a claimed delivery, as it is sent, with the former versions that the peer may
        have.
        """
        result = delivery.result
        revises = result is not None and (result.supersedes or result.kind is ResultKind.REJECTION)
        former = deliveries.former_of(session, result, self.peer.name) if result and revises else []
        return replace(self._outgoing(delivery), former=tuple(map(self._outgoing, former)))

    def _outgoing(self, delivery: Delivery) -> scu.Outgoing:
        """The object of a delivery, as it is sent."""
        item, result = delivery.item, delivery.result
        return scu.Outgoing(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            # Of a de-identified result it is read from its file.
            study_instance_uid="" if result and result.deidentified else item.study.study_instance_uid or "",
            series_instance_uid=item.series_instance_uid,
            path=self._folder / item.path,
            sha256=result.sha256 if result else "",
            study=item.study_id,
            rule=result.job.rule if result else "",
            delivery=delivery.id,
            attempts=delivery.attempts,
            bytes=item.bytes,
            pseudonym_domain=result.pseudonym_domain if result else "",
            is_original=result is None,
        )

    def _record_hung(self, session: Session, batch: Sequence[scu.Outgoing], doing: str) -> None:
        """Record the event that the peer hung at these objects; ``doing``: "send" or "query"."""
        record(
            session,
            DESTINATION_HUNG,
            batch[0].study,
            destination=self.peer.name,
            doing=doing,
            objects=len(batch),
        )


def _log_defect(error: Exception) -> str:
    """Log an unexpected exception without its text; returns its type in words, as the reason for a failed
    try.
    """
    _LOGGER.error("defect while delivering", exc_info=error)
    return f"defect of the node: {type(error).__name__}"


def give_up_unknown(database: Database, destinations: Sequence[str]) -> None:
    """Give up due deliveries to peers that are no longer configured; of each, those of one study per call."""
    now = utc_now()
    for destination in destinations:
        with database.write() as session:
            study = deliveries.due_study(session, destination, now)
            batch = deliveries.due_batch(session, destination, study or 0, now, _BATCH)
            for delivery in batch:
                try_move(
                    session,
                    delivery,
                    DELIVERY_DEAD,
                    reason="no peer of this name may receive: configure it, then retry",
                    transaction_uid="",
                )
            deliveries.discard_withdrawn(session, batch)
            settle_studies(session, (delivery.item.study_id for delivery in batch))
