"""Associations whose listener has ended without a word of them: it was killed, or its machine failed."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from dicom_node.base.errors import SpoolError
from dicom_node.base.events import ASSOCIATION_LOST
from dicom_node.base.lifecycle import AssociationOutcome
from dicom_node.base.store import intake
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.receive.spool import Spool, read_arrival


def end_lost_associations(session: Session, of: ColumnElement[bool], spool: Spool) -> None:
    """End the open associations that fulfil the condition ``of``, each with an event and the number of its
    objects that were acknowledged: those that are indexed, and those that wait in the spool.
    """
    lost = intake.open_associations(session, of)
    waiting = _waiting(session, spool, {row.id for row in lost}) if lost else {}
    for row in lost:
        number, last = intake.brought(session, row.id)
        arrivals = waiting.get(row.id, [])
        known = max([row.opened_at, *arrivals, *([last] if last else [])])
        now = utc_now()
        row.closed_at, row.outcome, row.objects = now, AssociationOutcome.LOST, number + len(arrivals)
        row.reason = (
            f"its listener ended without a stop, between {known:%Y-%m-%d %H:%M:%S} and {now:%H:%M:%S} UTC"
        )
        record(
            session,
            ASSOCIATION_LOST,
            association=row.id,
            calling=row.calling_ae,
            called=row.called_ae,
            address=row.address,
            listener=row.listener,
            objects=row.objects,
            outcome=row.outcome.value,
            reason=row.reason,
        )
    session.flush()


def _waiting(session: Session, spool: Spool, associations: Collection[str]) -> dict[str, list[datetime]]:
    """Return when the objects of these associations came that wait in the spool without a row."""
    found: dict[str, list[datetime]] = defaultdict(list)
    pending = {path.stem: path for path in spool.pending()}
    for name in pending.keys() - intake.indexed(session, pending.keys()).keys():
        try:
            arrival = read_arrival(pending[name])
        except (SpoolError, OSError, ValueError, TypeError, KeyError):  # indexing says what is wrong with it
            continue
        if arrival.association in associations:
            found[arrival.association].append(arrival.received_at)
    return found
