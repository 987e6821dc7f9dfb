"""Deletes withdrawn results at peers with ``withdraw = "delete"``; repeats until each is gone.

A kill between the deletion and its check costs one more query: a missing object counts as deleted.
"""

import threading
from collections.abc import Callable, Sequence

from pydicom import dcmread
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import scu
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.events import RESULT_NOT_REMOVED, RESULT_REMOVED
from dicom_node.model.kinds import RemovalState
from dicom_node.object_store.files import Files
from dicom_node.outbox.schedule import wait_before_retry
from dicom_node.store import deliveries
from dicom_node.store.database import Database
from dicom_node.store.leases import KeptLease
from dicom_node.store.tables import Delivery, Original, Removal, Result
from dicom_node.store.tables.base import has_come
from dicom_node.store.transitions import record, utc_now

_BATCH = 50
_LEASE_SECONDS = 120.0


def ask_to_remove(session: Session, result: Result, peers: Sequence[PeerSettings]) -> None:
    """Queue the deletion of a withdrawn result at each of these peers that has it or may have it."""
    deleting = {peer.name for peer in peers if peer.withdraw == "delete"}
    for delivery in result.deliveries:
        if delivery.destination in deleting and deliveries.may_be_there(delivery):
            session.add(Removal(delivery_id=delivery.id, next_at=utc_now()))


class Removals:
    """Deletes withdrawn results at peers under one configuration; all state is in the database."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        owner: str,
        open_remover: Callable[[PeerSettings, Settings], scu.Remover] = scu.open_remover,
    ) -> None:
        self._database, self._settings, self._open = database, settings, open_remover
        self._lease = KeptLease(database, "removals", owner, _LEASE_SECONDS)

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Request all deletions that are due, one after the other; returns how many."""
        if not self._lease.keep():
            return 0
        asked = 0
        chosen = select(Removal.delivery_id).where(
            Removal.state == RemovalState.ASKED, has_come(Removal.next_at, utc_now())
        )
        with self._database.read() as session:
            due = session.scalars(chosen.order_by(Removal.next_at).limit(_BATCH)).all()
        for number in due:
            if (stop is not None and stop.is_set()) or not self._lease.keep():
                break
            self._note(number, self._ask(number))
            asked += 1
        return asked

    def _ask(self, number: int) -> scu.RemovalAnswer:
        with self._database.read() as session:
            delivery = session.get_one(Delivery, number)
            peer = next((one for one in self._settings.peers if one.name == delivery.destination), None)
            if peer is None or peer.withdraw != "delete":
                return scu.RemovalAnswer(
                    False, 'the peer is not configured with withdraw = "delete" any more', for_good=True
                )
            result = delivery.item
            path = Files(self._settings).if_here(session, result.path)
            if path is None or isinstance(result, Original):  # which nobody withdraws
                return scu.RemovalAnswer(
                    False,
                    "its file is not here: it cannot be compared with the object there",
                    for_good=result.purged,
                )
            # With the UIDs that its file has: a de-identified object has its own.
            header = dcmread(
                path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"]
            )
            item = scu.Outgoing(
                sop_class_uid=result.sop_class_uid,
                sop_instance_uid=result.sop_instance_uid,
                study_instance_uid=str(header.StudyInstanceUID),
                series_instance_uid=str(header.SeriesInstanceUID),
                path=path,
                sha256=result.sha256,
            )
        remover = self._open(peer, self._settings)
        try:
            return remover.remove(item)
        finally:
            remover.close()

    def _note(self, number: int, answer: scu.RemovalAnswer) -> None:
        now = utc_now()
        with self._database.write() as session:
            row = session.get_one(Removal, number)
            delivery = session.get_one(Delivery, number)
            about = {"destination": delivery.destination, "instance": delivery.item.sop_instance_uid}
            row.attempts += 1
            row.reason = answer.text[:255]
            if answer.gone:
                row.state, row.ended_at = RemovalState.GONE, now
                record(session, RESULT_REMOVED, delivery.item.study_id, **about)
            elif answer.for_good:
                row.state, row.ended_at = RemovalState.BY_HAND, now
                record(session, RESULT_NOT_REMOVED, delivery.item.study_id, **about, reason=answer.text)
            else:
                row.next_at = now + wait_before_retry(row.attempts, self._settings.outbox)
