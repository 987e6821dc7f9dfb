"""One destination: claim what is due of one study, send it, query for it, write the answers to the ledger.

What is claimed is leased and the lease renewed while the work lasts, but not longer than it can last at most;
when this process is killed or hangs the lease runs out and another round takes over. No transaction is open
while the network is waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import NotInSpool, StoreAway
from dicom_node.events import DELIVERY_STARTED, DESTINATION_HUNG
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.object_store.files import Files
from dicom_node.outbox import last_check
from dicom_node.outbox.commitments import CommitmentRequests
from dicom_node.outbox.ledger import Ledger
from dicom_node.outbox.schedule import wait_before_retry
from dicom_node.scu import Confirmation, Destination, Outgoing, Presence, SendReport, SendStatus
from dicom_node.store import deliveries
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery
from dicom_node.store.transitions import move_delivery, record, settle_study, utc_now

OpenDestination = Callable[[PeerSettings, Settings], Destination]

_BATCH = 32  # objects of one study on one association
_CALLS_SECONDS = 240.0  # two associations made and released for an object, at their slowest
_STORED = frozenset({SendStatus.STORED, SendStatus.WARNED, SendStatus.VERIFY})
_AWAY = frozenset({SendStatus.UNREACHABLE, SendStatus.HUNG})
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """One leased delivery, free of the database session."""

    delivery: int
    attempts: int
    study: int
    bytes: int
    pseudonym_domain: str
    object: Outgoing


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
        self._database = database
        self._settings = settings
        self.peer = peer
        self._files, self._folder = Files(settings), settings.node.data_dir.resolve()
        self._owner = owner
        self._lease = timedelta(seconds=lease_seconds)
        self._open = open_destination
        self._destination: Destination | None = None
        self._requests = CommitmentRequests(database, settings, peer, owner)
        self._stopping = False
        self.overdue_at = float("inf")
        """When (monotonic seconds) the round under way must have ended."""

    def hang_up(self) -> None:
        """The node stops: end the round under way, from any thread. Answers it has got are still written."""
        self._stopping = True
        if self._destination is not None:
            self._destination.close()
        self._requests.hang_up()

    def run_once(self) -> int:
        """Send and confirm what is due of one study; returns how many deliveries were worked on."""
        to_send, to_ask = self._claim()
        held = [*to_send, *to_ask]
        if not held:
            return 0
        self.overdue_at = time.monotonic() + self._longest(held)
        try:
            with self._leases_renewed(held, self.overdue_at):
                self._work(to_send, to_ask)
        finally:
            self.overdue_at = float("inf")
        return len(held)

    def _work(self, to_send: Sequence[_Held], to_ask: Sequence[_Held]) -> None:
        try:
            to_send, to_ask = self._fetched(to_send), self._fetched(to_ask)
        except StoreAway as away:
            self._put_off(to_send, to_ask, str(away))
            return
        destination = self._destination = self._open(self.peer, self._settings)
        if self._stopping:
            destination.close()
        acknowledged = self._send(destination, to_send)
        self._ask(destination, self._not_committed([*acknowledged, *to_ask]))

    def _fetched(self, batch: Sequence[_Held]) -> list[_Held]:
        """The same with their files here; one that is lost or damaged does not pass the last check."""
        fetched = []
        for held in batch:
            path, study = held.object.path, held.object.study_instance_uid
            with suppress(NotInSpool), self._database.read() as session:
                self._files.here(session, str(path.relative_to(self._folder)))
            study = study or last_check.study_of(path)
            fetched.append(replace(held, object=replace(held.object, study_instance_uid=study)))
        return fetched

    def _put_off(self, to_send: Sequence[_Held], to_ask: Sequence[_Held], reason: str) -> None:
        """The object store is away: nothing was sent."""
        with self._database.write() as session:
            ledger = Ledger(session, self.peer, self._settings.outbox, utc_now())
            batch = [*to_send, *to_ask]
            rows = deliveries.held_by(session, self._owner, [held.delivery for held in batch])
            for held in batch:
                row = rows.get(held.delivery)
                if row is not None and row.state is DeliveryState.UNCONFIRMED:
                    ledger.asked(row, Confirmation(Presence.UNKNOWN, reason))
                elif row is not None and row.attempts == held.attempts:
                    ledger.sent(row, SendReport(SendStatus.UNREACHABLE, "", reason))
            ledger.discard_withdrawn(rows.values())
            _settle(session, batch)

    def _longest(self, batch: Sequence[_Held]) -> float:
        """How long sending and asking for these can take at most, seconds."""
        outbox = self._settings.outbox
        sending = sum(outbox.seconds_for(held.bytes) for held in batch)
        calls = len(batch) + (self.peer.confirm == "commitment")
        return 2 * sending + calls * (outbox.answer_seconds + _CALLS_SECONDS)

    def _claim(self) -> tuple[list[_Held], list[_Held]]:
        """Lease what is due of one study: what is to be sent, and what is to be asked for."""
        now = utc_now()
        to_send, to_ask = [], []
        with self._database.write() as session:
            ledger = Ledger(session, self.peer, self._settings.outbox, now)
            due = deliveries.due_batch(session, self.peer.name, now, _BATCH)
            for delivery in due:
                if delivery.state is DeliveryState.SENDING:
                    ledger.sender_lost(delivery)
            ledger.discard_withdrawn(due)
            for delivery in due:
                if delivery.state is DeliveryState.PENDING and _is_held_back(delivery):
                    ledger.withdraw(delivery)
                elif delivery.state is DeliveryState.PENDING:
                    self._start(session, delivery)
                    to_send.append(self._held(delivery))
                elif delivery.state is DeliveryState.UNCONFIRMED:
                    deliveries.hold(delivery, self._owner, now + self._lease)
                    to_ask.append(self._held(delivery))
        return to_send, to_ask

    def _start(self, session: Session, delivery: Delivery) -> None:
        move_delivery(
            session,
            delivery,
            DeliveryState.SENDING,
            DELIVERY_STARTED,
            attempts=delivery.attempts + 1,
            lease_owner=self._owner,
            lease_until=utc_now() + self._lease,
        )

    def _held(self, delivery: Delivery) -> _Held:
        result = delivery.result
        path = self._folder / result.path
        study = result.study.study_instance_uid or ""
        outgoing = Outgoing(
            sop_class_uid=result.sop_class_uid,
            sop_instance_uid=result.sop_instance_uid,
            study_instance_uid="" if result.deidentified else study,  # read from its file
            series_instance_uid=result.series_instance_uid,
            path=path,
            sha256=result.sha256,
        )
        return _Held(
            delivery.id, delivery.attempts, result.study_id, result.bytes, result.pseudonym_domain, outgoing
        )

    def _send(self, destination: Destination, batch: Sequence[_Held]) -> list[_Held]:
        """Send; returns those that the destination acknowledged and has not shown yet."""
        faults = {held.delivery: self._fault(held) for held in batch}
        whole = [held for held in batch if not faults[held.delivery]]
        reports = dict(zip(whole, _sent(destination, [held.object for held in whole]), strict=True))
        now = utc_now()
        with self._database.write() as session:
            ledger = Ledger(session, self.peer, self._settings.outbox, now)
            rows = deliveries.held_by(session, self._owner, [held.delivery for held in batch])
            narrowed = [held for held, report in reports.items() if report.status is SendStatus.NARROWED]
            for held in batch:
                row = rows.get(held.delivery)
                if row is None or row.attempts != held.attempts:
                    continue
                if held not in reports:
                    ledger.give_up(row, faults[held.delivery])
                elif held not in narrowed:
                    ledger.sent(row, reports[held])
            self._narrow(session, ledger, {held: reports[held] for held in narrowed}, rows)
            ledger.discard_withdrawn(rows.values())
            self._pace(session, reports)
            if any(report.status is SendStatus.HUNG for report in reports.values()):
                self._record_hung(session, batch, "send")
            _settle(session, batch)
        return [
            held
            for held in whole
            if held.delivery in rows and rows[held.delivery].state is DeliveryState.UNCONFIRMED
        ]

    def _fault(self, held: _Held) -> str:
        """Why this must not go to the peer: what the bytes say, and whose pseudonyms they bear."""
        if held.pseudonym_domain != (self.peer.pseudonym_domain or ""):
            return "it bears the pseudonyms of another domain: dicom-node studies rerun makes new objects"
        return last_check.fault(held.object, self.peer)

    def _narrow(
        self, session: Session, ledger: Ledger, narrowed: dict[_Held, SendReport], rows: dict[int, Delivery]
    ) -> None:
        if not narrowed:
            return
        study = next(iter(narrowed)).study
        ids = [held.delivery for held in narrowed]
        others = deliveries.others_of_study(session, study, self.peer.name, but=ids)
        takes_others = any(
            other.state not in (DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.DISCARDED)
            for other in others
        )
        for held, report in narrowed.items():
            if row := rows.get(held.delivery):
                # Results that are left out harm nobody; a rejection note that is left out must be known.
                is_note = row.result.kind is ResultKind.REJECTION
                ledger.narrowed(row, report, takes_others=takes_others and not is_note)

    def _pace(self, session: Session, reports: dict[_Held, SendReport]) -> None:
        """Postpone what waits for a peer that does not answer; make it due when the peer answers again."""
        if not reports:
            return
        attempts = max(held.attempts for held in reports)
        if all(report.status in _AWAY for report in reports.values()):
            until = utc_now() + wait_before_retry(attempts, self._settings.outbox)
            deliveries.postpone(session, self.peer.name, until)
        elif attempts > 1 and any(report.status in _STORED for report in reports.values()):
            deliveries.hurry(session, utc_now(), self.peer.name)

    def _not_committed(self, batch: Sequence[_Held]) -> Sequence[_Held]:
        """Those that are to be queried: all, but where the peer is asked for storage commitment."""
        if self.peer.confirm != "commitment" or not batch or self._stopping:
            return batch
        to_query = self._requests.ask({held.delivery: held.object for held in batch})
        return [held for held in batch if held.delivery in to_query]

    def _ask(self, destination: Destination, batch: Sequence[_Held]) -> None:
        if not batch:
            return
        answers = _asked(destination, [held.object for held in batch])
        with self._database.write() as session:
            ledger = Ledger(session, self.peer, self._settings.outbox, utc_now())
            rows = deliveries.held_by(session, self._owner, [held.delivery for held in batch])
            for held, answer in zip(batch, answers, strict=True):
                row = rows.get(held.delivery)
                if row is not None and row.state is DeliveryState.UNCONFIRMED:
                    ledger.asked(row, answer)
            ledger.discard_withdrawn(rows.values())
            if any(answer.presence is Presence.HUNG for answer in answers):
                self._record_hung(session, batch, "query")
            _settle(session, batch)

    def _record_hung(self, session: Session, batch: Sequence[_Held], doing: str) -> None:
        study = batch[0].study
        record(session, DESTINATION_HUNG, study, destination=self.peer.name, doing=doing, objects=len(batch))

    @contextmanager
    def _leases_renewed(self, batch: Sequence[_Held], end: float) -> Iterator[None]:
        """Renew the leases while the work lasts, until ``end`` (monotonic seconds)."""
        done = threading.Event()
        ids = [held.delivery for held in batch]

        def renew() -> None:
            while not done.wait(self._lease.total_seconds() / 3) and time.monotonic() < end:
                try:
                    with self._database.write() as session:
                        deliveries.renew(session, ids, self._owner, utc_now() + self._lease)
                except SQLAlchemyError as error:  # next time; the lease bears one miss
                    self._database.outage.noticed(error)

        renewing = threading.Thread(target=renew, name=f"lease of {self.peer.name}", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()


def give_up_all(database: Database, settings: Settings, destination: str) -> int:
    """Deliveries to a name that no longer stands in the configuration; returns how many were given up."""
    peer = PeerSettings(name=destination, ae_title="UNKNOWN")
    now = utc_now()
    with database.write() as session:
        ledger = Ledger(session, peer, settings.outbox, now)
        batch = deliveries.due_batch(session, destination, now, _BATCH)
        for delivery in batch:
            ledger.give_up(delivery, "no peer of this name may receive: configure it, then retry")
        for study in {delivery.result.study_id for delivery in batch}:
            settle_study(session, study)
    return len(batch)


def _is_held_back(delivery: Delivery) -> bool:
    """Whether it is a result of a study in quarantine; a note that takes results back goes all the same."""
    result = delivery.result
    return result.study.state is StudyState.QUARANTINED and result.kind is not ResultKind.REJECTION


def _settle(session: Session, batch: Sequence[_Held]) -> None:
    for study in {held.study for held in batch}:
        settle_study(session, study)


def _sent(destination: Destination, objects: Sequence[Outgoing]) -> list[SendReport]:
    """Send; an exception in a destination (a defect of ours) is a failed try like any other."""
    if not objects:
        return []
    try:
        return destination.send(objects)
    except Exception as error:  # noqa: BLE001 - the thread must live on, the delivery keeps the reason
        return [SendReport(SendStatus.RETRY, "", _defect(error))] * len(objects)


def _asked(destination: Destination, objects: Sequence[Outgoing]) -> list[Confirmation]:
    try:
        return destination.confirm(objects)
    except Exception as error:  # noqa: BLE001 - the thread must live on, the delivery keeps the reason
        return [Confirmation(Presence.UNKNOWN, _defect(error))] * len(objects)


def _defect(error: Exception) -> str:
    """Log where it happened (``logs`` leaves out the exception's text); returns its kind as the reason."""
    _LOGGER.error("defect while delivering", exc_info=error)
    return f"defect of the node: {type(error).__name__}"
