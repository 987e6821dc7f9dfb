"""The work for one destination: claim due deliveries of one study, send, query, record the answers.

Claimed deliveries are leased. The lease is renewed while the work lasts, but no longer than the work can last
at most; if this process is killed or hangs, the lease ends and another round takes over. No transaction is
open while the node waits for the network.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import NotInSpool, StoreAway
from dicom_node.object_store.files import Files
from dicom_node.outbox import last_check
from dicom_node.outbox.commitments import CommitmentRequests
from dicom_node.outbox.ledger import Leased, Ledger
from dicom_node.scu import Confirmation, Destination, Outgoing, Presence, SendReport, SendStatus
from dicom_node.store.database import Database

OpenDestination = Callable[[PeerSettings, Settings], Destination]

_CALLS_SECONDS = 240.0  # two associations made and released for an object, at their slowest
_LOGGER = logging.getLogger(__name__)


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
        self._lease_seconds = lease_seconds
        self._open = open_destination
        self._destination: Destination | None = None
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
        self.overdue_at = time.monotonic() + self._longest(batch)
        try:
            with self._leases_renewed(batch, self.overdue_at):
                self._work(to_send, to_ask)
        finally:
            self.overdue_at = float("inf")
        return len(batch)

    def _longest(self, batch: Sequence[Leased]) -> float:
        """How long sending and asking for these can take at most, seconds."""
        outbox = self._settings.outbox
        sending = sum(outbox.seconds_for(one.bytes) for one in batch)
        calls = len(batch) + (self.peer.confirm == "commitment")
        return 2 * sending + calls * (outbox.answer_seconds + _CALLS_SECONDS)

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
        acknowledged = self._send(destination, to_send)
        self._ask(destination, self._not_committed([*acknowledged, *to_ask]))

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

    def _send(self, destination: Destination, batch: Sequence[Leased]) -> list[Leased]:
        """Send; returns what the destination acknowledged and has not shown yet."""
        checked = {one: self._fault(one) for one in batch}
        faults = {one: fault for one, fault in checked.items() if fault}
        whole = [one for one in batch if one not in faults]
        if final := {one: fault for one, fault in faults.items() if not one.is_original}:
            self._ledger.give_up(final)
        if again := [one for one in faults if one.is_original]:  # its file may be on its way to its place
            reports = [SendReport(SendStatus.REFUSED, "", faults[one]) for one in again]
            self._ledger.enter_reports(dict(zip(again, reports, strict=True)))
        if not whole:
            return []
        reports = _sent(destination, [one.object for one in whole])
        return self._ledger.enter_reports(dict(zip(whole, reports, strict=True)))

    def _fault(self, one: Leased) -> str:
        if one.is_original:
            return last_check.fault_of_original(one.object, self.peer, one.bytes)
        return last_check.fault(one.object, self.peer, one.pseudonym_domain)

    def _not_committed(self, batch: Sequence[Leased]) -> Sequence[Leased]:
        """What the peer is to be queried for: all, unless it is asked for storage commitment."""
        if self.peer.confirm != "commitment" or not batch or self._stopping:
            return batch
        to_query = self._requests.ask({one.delivery: one.object for one in batch})
        return [one for one in batch if one.delivery in to_query]

    def _ask(self, destination: Destination, batch: Sequence[Leased]) -> None:
        if batch:
            answers = _asked(destination, [one.object for one in batch])
            self._ledger.enter_confirmations(dict(zip(batch, answers, strict=True)))


def _sent(destination: Destination, objects: Sequence[Outgoing]) -> list[SendReport]:
    """Send; an exception in a destination (a defect of ours) is a failed try like any other."""
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
