"""The delivery worker: finds due deliveries, and works for each destination in a separate thread.

A PACS that is down or slow delays only its own deliveries. No state is in memory: another delivery worker, or
this one after kill -9, continues from the table.

The work for one destination: claim due deliveries of one study, send, query, record the answers. One process
of a site at a time does it, under a lease for this destination, which is renewed while the work lasts, but
no longer than it can last at most; if the process is killed or hangs, another one takes over when the lease
has ended. No transaction is open while the node waits for the network.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.base.config.loading import is_behind
from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.errors import NotInSpool, StoreAway
from dicom_node.base.events import DELIVERY_OVERDUE, DELIVERY_STARTED, DESTINATION_HUNG, EventType
from dicom_node.base.files import Files
from dicom_node.base.kinds import ResultKind
from dicom_node.base.lifecycle import DeliveryState, StudyState
from dicom_node.base.runner import outlast, wait_before_retry
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import SHORTEST, Database
from dicom_node.base.store.tables import Delivery
from dicom_node.base.store.transitions import (
    acquire_lease,
    is_lease_of,
    move_delivery,
    pass_lease_on,
    record,
    release_lease,
    settle_studies,
    take_lease,
    utc_now,
)
from dicom_node.deliver import outbox as last_check
from dicom_node.deliver import scu
from dicom_node.deliver.commitments import enter_reports, request_commitment
from dicom_node.deliver.outbox import Moves
from dicom_node.deliver.scu.interfaces import Confirmation, Presence, SendReport, SendStatus

_DATABASE_AWAY_SECONDS = 1.0
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
    kill. ``lease_seconds``: after this time without renewal another worker sends a dead worker's deliveries.
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
        self._database, self._settings, self._open = database, settings, open_destination
        self._threads: dict[str, threading.Thread] = {}
        self._lease_seconds, self._owner = lease_seconds, owner or uuid.uuid4().hex
        self._routes = {peer.name: self._route(peer) for peer in settings.peers if "receive" in peer.may}

    def _route(self, peer: PeerSettings) -> Route:
        owner = f"{self._owner[:56]}/{next(_NUMBERS)}"
        return Route(self._database, self._settings, peer, owner, self._lease_seconds, self._open)

    def run_once(self) -> int:
        """Send and confirm due deliveries, one study per destination, in this thread; returns how many."""
        enter_reports(self._database, self._settings)
        try:
            return sum(self._routes[destination].run_once() for destination in self._due())
        finally:
            self._hand_back()

    def _due(self) -> list[str]:
        """Destinations with something to do. What goes to unknown ones is given up, unless they were entered
        just now.
        """
        owners = [route.owner for route in self._routes.values()]
        with self._database.read() as session:
            due = deliveries.due_destinations(session, utc_now(), owners)
        unknown = [name for name in due if name not in self._routes]
        if unknown and not is_behind(self._settings):
            give_up_others(self._database, self._settings, unknown)
        return [name for name in due if name in self._routes]

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
            changes.wait(seen, min(pause, self._lease_seconds / 3), stop)
        # Wait for what is being sent, cut off what takes too long, hand back what is still held then.
        _join(self._threads.values(), _STOP_SECONDS)
        for route in self._routes.values():
            route.hang_up()
        _join(self._threads.values(), _WRITING_SECONDS)
        with self._noticed():
            self._hand_back()

    def _hand_back(self) -> None:
        """Another worker may send at once; what is still being sent counts as lost."""
        for route in self._routes.values():
            route.hand_back()

    def _dispatch(self, stop: threading.Event) -> bool:
        """Start the threads of destinations for which something is due; whether there are any."""
        with self._noticed():
            enter_reports(self._database, self._settings)
        for one in self._routes.values():
            one.renew()
        due = self._due()
        for destination in due:
            running, route = self._threads.get(destination), self._routes[destination]
            if running is not None and running.is_alive():
                if time.monotonic() < route.overdue_at:
                    continue
                route = self._successor(route)
            thread = self._threads[destination] = threading.Thread(
                target=self._work_in_thread,
                args=(route, stop),
                name=f"to {destination}",
                daemon=True,
            )
            thread.start()
        return bool(due)

    def _successor(self, overdue: Route) -> Route:
        """The route that gets the lease of one that is given up."""
        overdue.hang_up()
        route = self._routes[overdue.peer.name] = self._route(overdue.peer)
        with self._database.write() as session:
            pass_lease_on(session, deliveries.lane(route.peer.name), overdue.owner, route.owner)
            record(session, DELIVERY_OVERDUE, destination=route.peer.name)
        return route

    def _work_in_thread(self, route: Route, stop: threading.Event) -> None:
        """Deliver until nothing is due, or ``route`` was abandoned: then another thread delivers."""

        def deliver() -> None:
            with self._noticed():
                while not stop.is_set() and self._routes[route.peer.name] is route and route.run_once():
                    pass

        def say(event: EventType, **fields: Any) -> None:
            with self._noticed(), self._database.write() as session:
                record(session, event, **fields)

        outlast(deliver, f"to {route.peer.name}", stop, say)

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        """Give one event when the database is away. Work goes on later."""
        try:
            yield
        except SQLAlchemyError as error:
            self._database.outage.noticed(error)


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    """Wait for all these threads, ``seconds`` at most in total."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))


class Route:
    """Delivery to one peer, one round at a time.

    ``owner``: of the lease that a round is made under, for ``lease_seconds`` after each renewal.
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
        self._database, self._settings, self.peer = database, settings, peer
        self._files, self._folder = Files(settings), settings.node.data_dir.resolve()
        self.owner, self._lease_seconds, self._open = owner, lease_seconds, open_destination
        self._lease, self._renew_at = deliveries.lane(peer.name), float("inf")
        self._calls: list[scu.Destination | scu.CommitmentUser] = []
        self._claims = 0
        self._stopping = False
        self.overdue_at = float("inf")
        """When (monotonic seconds) the round under way must have ended."""

    def hang_up(self) -> None:
        """End the round under way, and begin no other; callable from any thread. Received answers are
        recorded, as long as nobody else has the lease.
        """
        self._stopping = True
        for call in self._calls:
            call.close()

    def renew(self) -> None:
        """Renew the lease where that is due and a round is under way that may still last."""
        if self._renew_at <= time.monotonic() < self.overdue_at < float("inf"):
            self._renew_at = time.monotonic() + self._lease_seconds / 3
            acquire_lease(self._database, self._lease, self.owner, self._lease_seconds)

    def hand_back(self) -> None:
        """Let go of the lease."""
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
        outbox = self._settings.outbox
        sending = sum(outbox.seconds_for(one.bytes) for one in batch)
        calls = len(batch) + (self.peer.confirm == "commitment")
        self.overdue_at = time.monotonic() + 2 * sending + calls * (outbox.answer_seconds + _CALLS_SECONDS)
        try:
            self._work(to_send, to_ask)
        finally:
            self.overdue_at, self._calls = float("inf"), []
        return len(batch)

    def _work(self, to_send: Sequence[scu.Outgoing], to_ask: Sequence[scu.Outgoing]) -> None:
        try:
            to_send, to_ask = self._fetched(to_send), self._fetched(to_ask)
        except StoreAway as away:
            self._put_off([*to_send, *to_ask], str(away))
            return
        destination = self._open(self.peer, self._settings)
        self._opened(destination)
        to_query = [*self._send(destination, to_send), *to_ask]
        if self.peer.confirm == "commitment" and to_query and not self._stopping:
            objects = {one.delivery: one for one in to_query}
            uncommitted = request_commitment(self._settings, self.peer, self._entering, self._opened, objects)
            to_query = [one for one in to_query if one.delivery in uncommitted]
        if to_query:
            try:
                answers = destination.confirm(to_query)
            except Exception as error:  # noqa: BLE001 - the thread must live on, the delivery keeps the reason
                answers = [Confirmation(Presence.UNKNOWN, _defect(error))] * len(to_query)
            self._enter_confirmations(dict(zip(to_query, answers, strict=True)))

    def _opened(self, client: scu.Destination | scu.CommitmentUser) -> None:
        """Have its calls ended when the node stops."""
        self._calls.append(client)
        if self._stopping:
            client.close()

    def _fetched(self, batch: Sequence[scu.Outgoing]) -> list[scu.Outgoing]:
        """Fetch the files of a batch to this machine. The last check refuses a lost or damaged file."""
        fetched = []
        for one in batch:
            for item in (one, *one.former):
                with suppress(NotInSpool), self._database.read() as session:
                    self._files.here(session, str(item.path.relative_to(self._folder)))
            study = one.study_instance_uid or last_check.study_of(one.path)
            fetched.append(replace(one, study_instance_uid=study))
        return fetched

    def _send(self, destination: scu.Destination, batch: Sequence[scu.Outgoing]) -> list[scu.Outgoing]:
        """Send what passes the last check; returns what the destination took and has not shown yet."""
        checked = {one: last_check.fault(one, self.peer) for one in batch}
        faults = {one: fault for one, fault in checked.items() if fault}
        if faults:
            self._enter_faults(faults)
        whole = [one for one in batch if one not in faults]
        if not whole:
            return []
        try:
            reports = destination.send(whole)
        except Exception as error:  # noqa: BLE001 - the thread must live on, the delivery keeps the reason
            # A defect of ours in a destination is a failed try like any other.
            reports = [SendReport(SendStatus.RETRY, "", _defect(error))] * len(whole)
        return self._enter_reports(dict(zip(whole, reports, strict=True)))

    def _claim(self) -> tuple[list[scu.Outgoing], list[scu.Outgoing]]:
        """Begin the due deliveries of one study; returns the deliveries to send, and those to query."""
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
                    deliveries.withdraw(session, delivery, "a newer version of the object replaces it")
                elif delivery.state is DeliveryState.PENDING:
                    move_delivery(session, delivery, DELIVERY_STARTED, attempts=delivery.attempts + 1)
                    to_send.append(self._claimed(session, delivery))
                elif delivery.state is DeliveryState.UNCONFIRMED:
                    to_ask.append(self._claimed(session, delivery))
        return to_send, to_ask

    @contextmanager
    def _entering(self, numbers: Collection[int]) -> Iterator[tuple[Session, Moves, Mapping[int, Delivery]]]:
        """A transaction with these deliveries, or none if somebody else has the lease; then their studies
        follow.
        """
        with self._database.write() as session:
            mine = numbers if is_lease_of(session, self._lease, self.owner) else ()
            rows = deliveries.of_numbers(session, mine)
            yield session, self._moves(session), rows
            deliveries.discard_withdrawn(session, rows.values())
            settle_studies(session, (row.item.study_id for row in rows.values()))

    def _enter_faults(self, faults: Mapping[scu.Outgoing, str]) -> None:
        """Give up what must not be sent to the peer; an original's file may be on its way to its place."""
        with self._entering([one.delivery for one in faults]) as (_, moves, rows):
            for one, row in _being_sent(faults, rows):
                if one.is_original:
                    moves.sent(row, SendReport(SendStatus.REFUSED, "", faults[one]))
                else:
                    moves.give_up(row, faults[one])

    def _enter_reports(self, reports: Mapping[scu.Outgoing, SendReport]) -> list[scu.Outgoing]:
        """Record the outcome of sending; returns deliveries that the peer acknowledged but has not
        confirmed.
        """
        narrowed = [one for one, report in reports.items() if report.status is SendStatus.NARROWED]
        with self._entering([one.delivery for one in reports]) as (session, moves, rows):
            mine = dict(_being_sent(reports, rows))
            for one, row in mine.items():
                if one not in narrowed:
                    moves.sent(row, reports[one])
            # Whether the peer gets, or has got, any other result of the study.
            takes_others = bool(narrowed) and any(
                other.state not in (DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.DISCARDED)
                for other in deliveries.others_of_study(
                    session, narrowed[0].study, self.peer.name, but=[one.delivery for one in narrowed]
                )
            )
            for one in narrowed:
                if one in mine:
                    # Results that are left out harm nobody, but of a note or an original a person must know.
                    result = mine[one].result
                    may_lack = result is not None and result.kind is not ResultKind.REJECTION
                    moves.narrowed(mine[one], reports[one], takes_others=takes_others and may_lack)
            statuses = {report.status for report in reports.values()}
            attempts = max(one.attempts for one in reports)
            if statuses <= {SendStatus.UNREACHABLE, SendStatus.HUNG}:  # so is what waits for the peer
                wait = wait_before_retry(attempts, self._settings.outbox)
                deliveries.postpone(session, self.peer.name, utc_now() + wait)
            elif attempts > 1 and statuses & {SendStatus.STORED, SendStatus.WARNED, SendStatus.VERIFY}:
                deliveries.hurry(session, utc_now(), self.peer.name)
            if SendStatus.HUNG in statuses:
                self._record_hung(session, list(reports), "send")
        return [
            one
            for one in reports
            if one.delivery in rows and rows[one.delivery].state is DeliveryState.UNCONFIRMED
        ]

    def _enter_confirmations(self, answers: Mapping[scu.Outgoing, Confirmation]) -> None:
        """Record the peer's answers to the queries about these deliveries."""
        with self._entering([one.delivery for one in answers]) as (session, moves, rows):
            for one, answer in answers.items():
                row = rows.get(one.delivery)
                if row is not None and row.state is DeliveryState.UNCONFIRMED:
                    moves.asked(row, answer)
            if any(answer.presence is Presence.HUNG for answer in answers.values()):
                self._record_hung(session, list(answers), "query")

    def _put_off(self, batch: Sequence[scu.Outgoing], reason: str) -> None:
        """Postpone these deliveries without sending or querying: the object store is unreachable."""
        with self._entering([one.delivery for one in batch]) as (_, moves, rows):
            for _one, row in _being_sent(batch, rows):
                moves.sent(row, SendReport(SendStatus.UNREACHABLE, "", reason))
            for row in rows.values():
                if row.state is DeliveryState.UNCONFIRMED:
                    moves.asked(row, Confirmation(Presence.UNKNOWN, reason))

    def _moves(self, session: Session) -> Moves:
        return Moves(session, self.peer, self._settings.outbox, utc_now())

    def _claimed(self, session: Session, delivery: Delivery) -> scu.Outgoing:
        result, outgoing = delivery.result, self._outgoing(delivery)
        if result is None or not (result.supersedes or result.kind is ResultKind.REJECTION):
            return outgoing
        former = deliveries.former_of(session, result, self.peer.name)
        return replace(outgoing, former=tuple(map(self._outgoing, former)))

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
            delivery=delivery.id,
            attempts=delivery.attempts,
            bytes=item.bytes,
            pseudonym_domain=result.pseudonym_domain if result else "",
            is_original=result is None,
        )

    def _record_hung(self, session: Session, batch: Sequence[scu.Outgoing], doing: str) -> None:
        study, count = batch[0].study, len(batch)
        record(session, DESTINATION_HUNG, study, destination=self.peer.name, doing=doing, objects=count)


def _being_sent(
    batch: Iterable[scu.Outgoing], rows: Mapping[int, Delivery]
) -> Iterator[tuple[scu.Outgoing, Delivery]]:
    """Those that this round is sending still, with their rows."""
    for one in batch:
        row = rows.get(one.delivery)
        if row is not None and (row.state, row.attempts) == (DeliveryState.SENDING, one.attempts):
            yield one, row


def _defect(error: Exception) -> str:
    """Log where it happened (``logs`` leaves out the exception's text); returns its kind as the reason."""
    _LOGGER.error("defect while delivering", exc_info=error)
    return f"defect of the node: {type(error).__name__}"


def give_up_others(database: Database, settings: Settings, destinations: Sequence[str]) -> None:
    """Give up what is due to names that are no longer in the configuration, one study each."""
    now = utc_now()
    for destination in destinations:
        peer = PeerSettings(name=destination, ae_title="UNKNOWN")
        with database.write() as session:
            moves = Moves(session, peer, settings.outbox, now)
            study = deliveries.due_study(session, destination, now)
            batch = deliveries.due_batch(session, destination, study or 0, now, _BATCH)
            for delivery in batch:
                moves.give_up(delivery, "no peer of this name may receive: configure it, then retry")
            settle_studies(session, (delivery.item.study_id for delivery in batch))
