"""Peers that have been silent for longer than their settings allow."""

from datetime import timedelta

from sqlalchemy import func, select

from dicom_node import events
from dicom_node.config.settings import Settings
from dicom_node.store.database import Database
from dicom_node.store.tables import EventRow, ReceivedObject
from dicom_node.store.transitions import record, utc_now


def report_silence(database: Database, settings: Settings) -> None:
    """Record event 1010 for each such peer, once per silence."""
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
            since = EventRow.number == events.PEER_SILENT.number, EventRow.at > last
            reported = session.scalars(select(EventRow.fields).where(*since))
            if all(fields.get("peer") != peer.name for fields in reported):
                hours, since_when = peer.silent_hours, last.isoformat()
                record(session, events.PEER_SILENT, peer=peer.name, hours=hours, last=since_when)
