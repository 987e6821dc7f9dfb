"""Peers that have been silent for longer than their settings allow."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.events import NODE_STARTED, PEER_SILENT
from dicom_node.store.database import Database
from dicom_node.store.tables import EventRow, ReceivedObject
from dicom_node.store.transitions import record, utc_now


def report_silence(database: Database, settings: Settings) -> int:
    """Record event 1010 for each such peer, once per silence; returns the number of peers."""
    watched = [peer for peer in settings.peers if peer.silent_hours]
    if not watched:
        return 0
    with database.write() as session:
        return sum(_report(session, peer) for peer in watched)


def _report(session: Session, peer: PeerSettings) -> bool:
    last = session.scalar(
        select(func.max(ReceivedObject.received_at)).where(ReceivedObject.calling_ae == peer.ae_title)
    ) or session.scalar(select(func.min(EventRow.at)).where(EventRow.number == NODE_STARTED.number))
    if last is None or last > utc_now() - timedelta(hours=peer.silent_hours):
        return False
    reported = select(EventRow.fields).where(EventRow.number == PEER_SILENT.number, EventRow.at > last)
    if any(fields.get("peer") == peer.name for fields in session.scalars(reported)):
        return False
    record(session, PEER_SILENT, peer=peer.name, hours=peer.silent_hours, last=last.isoformat())
    return True
