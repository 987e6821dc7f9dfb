"""Named leases that one process at a time holds, such as the right to run the timers."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, insert, or_, update
from sqlalchemy.exc import IntegrityError

from dicom_node.store.clock import has_come
from dicom_node.store.database import Database
from dicom_node.store.tables import Lease
from dicom_node.store.transitions import utc_now


def acquire(database: Database, name: str, owner: str, seconds: float) -> bool:
    """Take or renew the lease for ``seconds`` from now; False when another owner holds it."""
    now = utc_now()
    until = now + timedelta(seconds=seconds)
    with database.write() as session:
        taken = session.execute(
            update(Lease)
            .where(Lease.name == name, or_(Lease.owner == owner, has_come(Lease.until, now)))
            .values(owner=owner, until=until)
        )
        if getattr(taken, "rowcount", 0):
            return True
    try:
        with database.write() as session:
            session.execute(insert(Lease).values(name=name, owner=owner, until=until))
    except IntegrityError:  # there is one, and somebody else holds it
        return False
    return True


def release(database: Database, name: str, owner: str) -> None:
    """Give the lease back, so that the next owner need not wait until it ends."""
    with database.write() as session:
        session.execute(delete(Lease).where(Lease.name == name, Lease.owner == owner))
