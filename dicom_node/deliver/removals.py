"""Deletion of withdrawn results at peers with ``withdraw = "delete"``, until each is gone.

An object that was sent may appear after it was looked for in vain, by an engine that forwards it or an index
that lags. So it is asked for until ``outbox.confirm_seconds`` after it was sent last, and again when the
outbox finds it later.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

from pydicom import dcmread
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import RemovalState
from dicom_node.base.outcomes import Done, Failed, Outcome, Retry
from dicom_node.base.runner import Lane
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, Original, Removal, Result, Withdrawal
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.deliver import scu

_SECONDS = 60.0  # that one deletion may take
_MAY_APPEAR = Retry("asked for until what was sent can appear no more")
_APPEARED = Retry(f"{_MAY_APPEAR.why}: it came after its withdrawal, and was deleted")


def queue_removal(session: Session, result: Result, peers: Sequence[PeerSettings]) -> None:
    """Queue the deletion of a withdrawn result at each peer that has or may have it and has ``withdraw =
    "delete"``.
    """
    deleting = {peer.name for peer in peers if peer.withdraw == "delete"}
    for delivery in result.deliveries:
        if delivery.destination in deleting and deliveries.may_be_there(delivery):
            session.add(Removal(id=delivery.id, next_at=utc_now()))


def withdraw_again(session: Session, delivery: Delivery, peer: PeerSettings) -> None:
    """Queue another deletion of a withdrawn result that its peer turned out to have (``delivery`` is
    confirmed); an event calls a person where the node can delete nothing and no rejection note is on its way.
    """
    removal = session.get(Removal, delivery.id)
    if peer.withdraw == "delete" and removal is None:
        session.add(Removal(id=delivery.id, next_at=utc_now(), reason=_MAY_APPEAR.why))
    elif removal is not None and removal.state is RemovalState.GONE:
        removal.state, removal.reason, removal.attempts = RemovalState.ASKED, _MAY_APPEAR.why, 0
        removal.next_at = utc_now()
    elif removal is None and not deliveries.note_is_under_way(session, delivery):
        record(
            session,
            events.RESULT_NOT_REMOVED,
            delivery.item.study_id,
            destination=delivery.destination,
            instance=delivery.item.sop_instance_uid,
            reason="it came after its withdrawal",
        )


class Removals(Lane[Removal]):
    """Deletes withdrawn results at peers that have ``withdraw = "delete"``; all state is in the database."""

    table = Removal

    def __init__(
        self,
        database: Database,
        settings: Settings,
        owner: str,
        open_remover: Callable[[PeerSettings, Settings], scu.Remover] = scu.open_remover,
    ) -> None:
        """Prepare with settings. ``owner``: the process, under which the lease is taken."""
        super().__init__(database, settings, "removals", owner, _SECONDS)
        self._open = open_remover

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """The SQL conditions for deletions that are neither done nor left to a person."""
        return (Removal.state == RemovalState.ASKED,)

    def work(self, row: Removal, _: threading.Event) -> Outcome:
        """Request the deletion of one object at its peer, and query whether the object is gone, and stays so
        for the time in which it could appear.
        """
        with self._database.read() as session:
            delivery = session.get_one(Delivery, row.id)
            peer = next((one for one in self._settings.peers if one.name == delivery.destination), None)
            if peer is None or peer.withdraw != "delete":
                return Failed('the peer is not configured with withdraw = "delete" any more')
            result = delivery.item
            sent_at = delivery.sent_at or session.get_one(Withdrawal, delivery.result_id).at
            path = Files(self._settings).if_here(session, result.path)
            if path is None or isinstance(result, Original):  # which nobody withdraws
                why = "its file is not here: it cannot be compared with the object there"
                return Failed(why) if result.purged else Retry(why)
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
        with closing(self._open(peer, self._settings)) as remover:
            outcome = remover.remove(item)
        was_missing = row.reason.startswith(_MAY_APPEAR.why)
        if outcome == scu.DELETED and was_missing:
            return _APPEARED
        may_appear = utc_now() < sent_at + timedelta(seconds=self._settings.outbox.confirm_seconds)
        if may_appear and (isinstance(outcome, Done) or outcome == scu.NO_STUDY_THERE):
            return _MAY_APPEAR
        if was_missing and isinstance(outcome, Retry):
            return replace(outcome, why=f"{_MAY_APPEAR.why}: {outcome.why}")
        return outcome

    def move(self, session: Session, row: Removal, outcome: Outcome) -> None:
        """Record the outcome of a try to delete: the deletion is done, or a person must do it; after a
        failure that may pass, its state does not change.
        """
        delivery = session.get_one(Delivery, row.id)
        about = {"destination": delivery.destination, "instance": delivery.item.sop_instance_uid}
        if outcome == _APPEARED:
            record(session, events.RESULT_APPEARED, delivery.item.study_id, **about)
        if isinstance(outcome, Retry):
            return
        row.ended_at = utc_now()
        if isinstance(outcome, Done):
            row.state = RemovalState.GONE
            record(session, events.RESULT_REMOVED, delivery.item.study_id, **about)
        else:
            row.state = RemovalState.BY_HAND
            record(session, events.RESULT_NOT_REMOVED, delivery.item.study_id, **about, reason=outcome.why)
