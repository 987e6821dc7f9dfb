"""The delivery worker: finds due deliveries, and works for each destination in a separate thread.

A PACS that is down or slow delays only its own deliveries. No state is in memory: another delivery worker, or
this one after kill -9, continues from the table.

The work for one destination: claim due deliveries of one study, send, query, record the answers.
Claimed deliveries are leased. The lease is renewed while the work lasts, but no longer than the work can last
at most; if this process is killed or hangs, the lease ends and another round takes over. No transaction is
open while the node waits for the network.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node import scu
from dicom_node.config.entered import is_behind
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import NotInSpool, StoreAway
from dicom_node.events import DELIVERY_OVERDUE, DELIVERY_STARTED, DESTINATION_HUNG, THREAD_FAILED
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.object_store.files import Files
from dicom_node.outbox import last_check
from dicom_node.outbox.commitments import CommitmentRequests, enter_reports
from dicom_node.outbox.moves import Moves
from dicom_node.runner import wait_before_retry
from dicom_node.store import deliveries
from dicom_node.store.changes import SHORTEST
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery
from dicom_node.store.transitions import move_delivery, record, settle_studies, utc_now

_DATABASE_AWAY_SECONDS = 1.0
_STOP_SECONDS = 20.0  # that objects being sent may take when the node stops; then they are sent later
_WRITING_SECONDS = 5.0  # a call that was cut off returns at once, and its result is written
_FAILED_SECONDS, _LONGEST_PAUSE = 5.0, 300.0  # until a destination's thread that failed begins anew
_LOGGER = logging.getLogger(__name__)


class DeliveryWorker:
    """Delivers results. Any number of delivery workers, in any number of processes, may share one database.

    ``lease_seconds``: after this time without renewal another worker sends a dead worker's deliveries.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        open_destination: OpenDestination = scu.open_destination,
        lease_seconds: float = 15.0,
    ) -> None:
        self._database, self._settings, self._open = database, settings, open_destination
        self._threads: dict[str, threading.Thread] = {}
        self._owner = f"{socket.gethostname()[:32]}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._lease_seconds = lease_seconds
        self._routes = {peer.name: self._route(peer) for peer in settings.peers if "receive" in peer.may}

    def _route(self, peer: PeerSettings) -> Route:
        return Route(
            self._database,
            self._settings,
            peer,
            owner=self._owner,
            lease_seconds=self._lease_seconds,
            open_destination=self._open,
        )

    def run_once(self) -> int:
        """Send and confirm due deliveries, one study per destination, in this thread; returns how many."""
        enter_reports(self._database, self._settings)
        return sum(self._work(destination, self._routes.get(destination)) for destination in self._due())

    def _due(self) -> list[str]:
        """Destinations with something to do; those that were entered just now wait until they are known."""
        with self._database.read() as session:
            due = deliveries.due_destinations(session, utc_now())
        return [name for name in due if name in self._routes or not is_behind(self._settings)]

    def run_forever(self, stop: threading.Event) -> None:
        """Deliver until ``stop`` is set, then finish objects being sent for at most 20 seconds."""
        # Make waiting deliveries due: peers that were away before the restart may be back.
        with self._noticed(), self._database.write() as session:
            deliveries.hurry(session, utc_now())
        changes, pause, found = self._database.changes, SHORTEST, False
        while not stop.is_set():
            seen = changes.count
            try:
                found = self._dispatch(stop)
            except SQLAlchemyError as error:  # the loop outlives a database that is away for a while
                self._database.outage.noticed(error)
                stop.wait(_DATABASE_AWAY_SECONDS)
            pause = changes.pause(pause, found=found)
            changes.wait(seen, pause, stop)
        # Wait for what is being sent, cut off what takes too long, hand back what is still held then.
        _join(self._threads.values(), _STOP_SECONDS)
        for route in self._routes.values():
            route.hang_up()
        _join(self._threads.values(), _WRITING_SECONDS)
        with self._noticed(), self._database.write() as session:
            deliveries.hand_back(session, self._owner)

    def _dispatch(self, stop: threading.Event) -> bool:
        """Start the threads of destinations for which something is due; whether there are any."""
        with self._noticed():
            enter_reports(self._database, self._settings)
        due = self._due()
        for destination in due:
            running, route = self._threads.get(destination), self._routes.get(destination)
            if running is not None and running.is_alive():
                if route is None or time.monotonic() < route.overdue_at:
                    continue
                # Given up: another one in its place. Its leases end by themselves.
                route.hang_up()
                self._routes[destination] = route = self._route(route.peer)
                with self._database.write() as session:
                    record(session, DELIVERY_OVERDUE, destination=destination)
            thread = self._threads[destination] = threading.Thread(
                target=self._work_in_thread,
                args=(destination, route, stop),
                name=f"to {destination}",
                daemon=True,
            )
            thread.start()
        return bool(due)

    def _work_in_thread(self, destination: str, route: Route | None, stop: threading.Event) -> None:
        """Deliver until nothing is due, or ``route`` was abandoned: then another thread delivers.

        A defect gives an event; deliveries that met it are delayed.
        """
        pause = _FAILED_SECONDS
        while not stop.is_set() and self._routes.get(destination) is route:
            try:
                with self._noticed():
                    while self._work(destination, route) and not stop.is_set():
                        if self._routes.get(destination) is not route:
                            break
                return
            except Exception as error:  # whatever it was, other destinations go on
                # Where it happened goes to the log; neither it nor the event has the error's text.
                _LOGGER.error("defect while delivering", exc_info=error)
                with self._noticed(), self._database.write() as session:
                    record(session, THREAD_FAILED, thread=f"to {destination}", reason=type(error).__name__)
            stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _work(self, destination: str, route: Route | None) -> int:
        if route is None:
            return give_up_all(self._database, self._settings, destination)
        return route.run_once()

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        """Give one event when the database is away. Work goes on later; held deliveries when leases end."""
        try:
            yield
        except SQLAlchemyError as error:
            self._database.outage.noticed(error)


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Wait for all these threads, ``seconds`` at most in total."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))


OpenDestination = Callable[[PeerSettings, Settings], scu.Destination]

_CALLS_SECONDS = 240.0  # two associations made and released for an object, at their slowest


class Route:
    """Delivery to one peer. One round at a time; other processes may work for the same peer."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        peer: PeerSettings,
        *,
        owner: str,
        lease_seconds: float,
        open_destination: OpenDestination,
    ) -> None:
        self._database, self._settings, self.peer = database, settings, peer
        self._files, self._folder = Files(settings), settings.node.data_dir.resolve()
        self._lease_seconds, self._open = lease_seconds, open_destination
        self._destination: scu.Destination | None = None
        self._ledger = Ledger(database, settings, peer, owner, timedelta(seconds=lease_seconds))
        self._requests = CommitmentRequests(database, settings, peer, owner)
        self._stopping = False
        self.overdue_at = float("inf")
        """When (monotonic seconds) the round under way must have ended."""

    def hang_up(self) -> None:
        """End the round under way because the node stops; callable from any thread. Received answers are
        recorded.
        """
        self._stopping = True
        if self._destination is not None:
            self._destination.close()
        self._requests.hang_up()

    def run_once(self) -> int:
        """Send and confirm the due deliveries of one study; returns how many."""
        to_send, to_ask = self._ledger.claim()
        batch = [*to_send, *to_ask]
        if not batch:
            return 0
        # How long sending and asking for these can take at most.
        outbox = self._settings.outbox
        sending = sum(outbox.seconds_for(one.bytes) for one in batch)
        calls = len(batch) + (self.peer.confirm == "commitment")
        self.overdue_at = time.monotonic() + 2 * sending + calls * (outbox.answer_seconds + _CALLS_SECONDS)
        try:
            with self._leases_renewed(batch, self.overdue_at):
                self._work(to_send, to_ask)
        finally:
            self.overdue_at = float("inf")
        return len(batch)

    @contextmanager
    def _leases_renewed(self, batch: Sequence[Leased], end: float) -> Iterator[None]:
        """Renew the leases while the work lasts, until ``end`` (monotonic seconds)."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self._lease_seconds / 3) and time.monotonic() < end:
                try:
                    self._ledger.renew(batch)
                except SQLAlchemyError as error:  # next time; the lease bears one miss
                    self._database.outage.noticed(error)
                except Exception as error:  # noqa: BLE001  (no memory, say: the next renewal may succeed)
                    _LOGGER.warning("%s: no renewal: %s", self.peer.name, type(error).__name__)

        renewing = threading.Thread(target=renew, name=f"lease of {self.peer.name}", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()

    def _work(self, to_send: Sequence[Leased], to_ask: Sequence[Leased]) -> None:
        try:
            to_send, to_ask = self._fetched(to_send), self._fetched(to_ask)
        except StoreAway as away:
            self._ledger.put_off([*to_send, *to_ask], str(away))
            return
        destination = self._destination = self._open(self.peer, self._settings)
        if self._stopping:
            destination.close()
        to_query = [*self._send(destination, to_send), *to_ask]
        if self.peer.confirm == "commitment" and to_query and not self._stopping:
            uncommitted = self._requests.ask({one.delivery: one.object for one in to_query})
            to_query = [one for one in to_query if one.delivery in uncommitted]
        self._ask(destination, to_query)

    def _fetched(self, batch: Sequence[Leased]) -> list[Leased]:
        """Fetch the files of a batch to this machine. The last check refuses a lost or damaged file."""
        fetched = []
        for one in batch:
            for item in (one.object, *one.object.former):
                with suppress(NotInSpool), self._database.read() as session:
                    self._files.here(session, str(item.path.relative_to(self._folder)))
            study = one.object.study_instance_uid or last_check.study_of(one.object.path)
            fetched.append(replace(one, object=replace(one.object, study_instance_uid=study)))
        return fetched

    def _send(self, destination: scu.Destination, batch: Sequence[Leased]) -> list[Leased]:
        """Send; returns what the destination acknowledged and has not shown yet."""
        faults = {one: fault for one in batch if (fault := self._fault(one))}
        whole = [one for one in batch if one not in faults]
        if final := {one: fault for one, fault in faults.items() if not one.is_original}:
            self._ledger.give_up(final)
        if again := [one for one in faults if one.is_original]:  # its file may be on its way to its place
            self._ledger.enter_reports(
                {one: scu.SendReport(scu.SendStatus.REFUSED, "", faults[one]) for one in again}
            )
        if not whole:
            return []
        try:
            reports = destination.send([one.object for one in whole])
        except Exception as error:  # noqa: BLE001 - the thread must live on, the delivery keeps the reason
            # A defect of ours in a destination is a failed try like any other.
            reports = [scu.SendReport(scu.SendStatus.RETRY, "", _defect(error))] * len(whole)
        return self._ledger.enter_reports(dict(zip(whole, reports, strict=True)))

    def _fault(self, one: Leased) -> str:
        if one.is_original:
            return last_check.fault_of_original(one.object, self.peer, one.bytes)
        return last_check.fault(one.object, self.peer, one.pseudonym_domain)

    def _ask(self, destination: scu.Destination, batch: Sequence[Leased]) -> None:
        if not batch:
            return
        try:
            answers = destination.confirm([one.object for one in batch])
        except Exception as error:  # noqa: BLE001 - the thread must live on, the delivery keeps the reason
            answers = [scu.Confirmation(scu.Presence.UNKNOWN, _defect(error))] * len(batch)
        self._ledger.enter_confirmations(dict(zip(batch, answers, strict=True)))


def _defect(error: Exception) -> str:
    """Log where it happened (``logs`` leaves out the exception's text); returns its kind as the reason."""
    _LOGGER.error("defect while delivering", exc_info=error)
    return f"defect of the node: {type(error).__name__}"


_TURN = 4  # of so many claims one is of what has waited longest: STAT studies cannot hold up others for ever
_BATCH = 32  # objects of one study on one association


@dataclass(frozen=True, slots=True)
class Leased:
    """One leased delivery, usable without a database session."""

    delivery: int
    attempts: int
    study: int
    bytes: int
    pseudonym_domain: str
    object: scu.Outgoing
    is_original: bool = False
    """A received object, of whose file the hash is not known."""


class Ledger:
    """Leases and outcomes of deliveries to one peer; other processes may work for the same peer.

    ``owner``: the process that works on them. ``lease``: after this time without renewal another owner takes
    a delivery over.
    """

    def __init__(
        self, database: Database, settings: Settings, peer: PeerSettings, owner: str, lease: timedelta
    ) -> None:
        self._database, self._settings, self._peer = database, settings, peer
        self._owner, self._lease = owner, lease
        self._folder = settings.node.data_dir.resolve()
        self._claims = 0

    def claim(self) -> tuple[list[Leased], list[Leased]]:
        """Lease the due deliveries of one study; returns the deliveries to send, and those to query."""
        now = utc_now()
        to_send, to_ask = [], []
        with self._database.write() as session:
            moves = self._moves(session)
            self._claims += 1
            due = deliveries.due_batch(
                session, self._peer.name, now, _BATCH, by_waiting=self._claims % _TURN == 0
            )
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
                    deliveries.withdraw(session, delivery, "a newer version of the object replaces it")
                elif delivery.state is DeliveryState.PENDING:
                    move_delivery(
                        session,
                        delivery,
                        DELIVERY_STARTED,
                        attempts=delivery.attempts + 1,
                        lease_owner=self._owner,
                        lease_until=utc_now() + self._lease,
                    )
                    to_send.append(self._leased(session, delivery))
                elif delivery.state is DeliveryState.UNCONFIRMED:
                    deliveries.hold(delivery, self._owner, now + self._lease)
                    to_ask.append(self._leased(session, delivery))
        return to_send, to_ask

    def renew(self, batch: Sequence[Leased]) -> None:
        """Renew the leases: the owner is alive."""
        with self._database.write() as session:
            until = utc_now() + self._lease
            deliveries.renew(session, [one.delivery for one in batch], self._owner, until)

    def give_up(self, faults: Mapping[Leased, str]) -> None:
        """Give up deliveries that must not be sent to the peer. ``faults``: the reason for each."""
        with self._entering(list(faults)) as (_, moves, rows):
            for one, row in rows.items():
                if row.attempts == one.attempts:
                    moves.give_up(row, faults[one])

    def enter_reports(self, reports: Mapping[Leased, scu.SendReport]) -> list[Leased]:
        """Record the outcome of sending; returns deliveries that the peer acknowledged but has not
        confirmed.
        """
        narrowed = [one for one, report in reports.items() if report.status is scu.SendStatus.NARROWED]
        with self._entering(list(reports)) as (session, moves, rows):
            mine = {one: row for one, row in rows.items() if row.attempts == one.attempts}
            for one, row in mine.items():
                if one not in narrowed:
                    moves.sent(row, reports[one])
            # Whether the peer gets, or has got, any other result of the study.
            takes_others = bool(narrowed) and any(
                other.state not in (DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.DISCARDED)
                for other in deliveries.others_of_study(
                    session, narrowed[0].study, self._peer.name, but=[one.delivery for one in narrowed]
                )
            )
            for one in narrowed:
                if one in mine:
                    # Results that are left out harm nobody, but of a note or an original a person must know.
                    result = mine[one].result
                    may_lack = result is not None and result.kind is not ResultKind.REJECTION
                    moves.narrowed(mine[one], reports[one], takes_others=takes_others and may_lack)
            self._pace(session, reports)
            if any(report.status is scu.SendStatus.HUNG for report in reports.values()):
                self._record_hung(session, list(reports), "send")
        return [one for one, row in rows.items() if row.state is DeliveryState.UNCONFIRMED]

    def enter_confirmations(self, answers: Mapping[Leased, scu.Confirmation]) -> None:
        """Record the peer's answers to the queries about these deliveries."""
        with self._entering(list(answers)) as (session, moves, rows):
            for one, row in rows.items():
                if row.state is DeliveryState.UNCONFIRMED:
                    moves.asked(row, answers[one])
            if any(answer.presence is scu.Presence.HUNG for answer in answers.values()):
                self._record_hung(session, list(answers), "query")

    def put_off(self, batch: Sequence[Leased], reason: str) -> None:
        """Postpone these deliveries without sending or querying: the object store is unreachable."""
        with self._entering(batch) as (_, moves, rows):
            for one, row in rows.items():
                if row.state is DeliveryState.UNCONFIRMED:
                    moves.asked(row, scu.Confirmation(scu.Presence.UNKNOWN, reason))
                elif row.attempts == one.attempts:
                    moves.sent(row, scu.SendReport(scu.SendStatus.UNREACHABLE, "", reason))

    @contextmanager
    def _entering(
        self, batch: Sequence[Leased]
    ) -> Iterator[tuple[Session, Moves, Mapping[Leased, Delivery]]]:
        """A transaction with the rows of the batch that the owner still holds; then their studies follow."""
        with self._database.write() as session:
            moves = self._moves(session)
            held = deliveries.held_by(session, self._owner, [one.delivery for one in batch])
            yield session, moves, {one: held[one.delivery] for one in batch if one.delivery in held}
            deliveries.discard_withdrawn(session, held.values())
            settle_studies(session, (one.study for one in batch))

    def _moves(self, session: Session) -> Moves:
        return Moves(session, self._peer, self._settings.outbox, utc_now())

    def _leased(self, session: Session, delivery: Delivery) -> Leased:
        item, result = delivery.item, delivery.result
        domain = result.pseudonym_domain if result else ""
        outgoing = self._outgoing(delivery)
        if result is not None and (result.supersedes or result.kind is ResultKind.REJECTION):
            former = deliveries.former_of(session, result, self._peer.name)
            outgoing = replace(outgoing, former=tuple(map(self._outgoing, former)))
        return Leased(
            delivery.id, delivery.attempts, item.study_id, item.bytes, domain, outgoing, result is None
        )

    def _outgoing(self, delivery: Delivery) -> scu.Outgoing:
        item, result = delivery.item, delivery.result
        study = item.study.study_instance_uid or ""
        return scu.Outgoing(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            study_instance_uid="" if result and result.deidentified else study,  # read from its file
            series_instance_uid=item.series_instance_uid,
            path=self._folder / item.path,
            sha256=result.sha256 if result else "",
            study=item.study_id,
            rule=result.job.rule if result else "",
        )

    def _pace(self, session: Session, reports: Mapping[Leased, scu.SendReport]) -> None:
        """Postpone what waits for a peer that does not answer; make it due when the peer answers again."""
        attempts = max(one.attempts for one in reports)
        statuses = {report.status for report in reports.values()}
        if statuses <= {scu.SendStatus.UNREACHABLE, scu.SendStatus.HUNG}:
            wait = wait_before_retry(attempts, self._settings.outbox)
            deliveries.postpone(session, self._peer.name, utc_now() + wait)
        elif attempts > 1 and statuses & {
            scu.SendStatus.STORED,
            scu.SendStatus.WARNED,
            scu.SendStatus.VERIFY,
        }:
            deliveries.hurry(session, utc_now(), self._peer.name)

    def _record_hung(self, session: Session, batch: Sequence[Leased], doing: str) -> None:
        record(
            session,
            DESTINATION_HUNG,
            batch[0].study,
            destination=self._peer.name,
            doing=doing,
            objects=len(batch),
        )


def give_up_all(database: Database, settings: Settings, destination: str) -> int:
    """Give up deliveries to a name that is no longer in the configuration; returns how many."""
    peer = PeerSettings(name=destination, ae_title="UNKNOWN")
    now = utc_now()
    with database.write() as session:
        moves = Moves(session, peer, settings.outbox, now)
        batch = deliveries.due_batch(session, destination, now, _BATCH)
        for delivery in batch:
            moves.give_up(delivery, "no peer of this name may receive: configure it, then retry")
        settle_studies(session, (delivery.item.study_id for delivery in batch))
    return len(batch)
