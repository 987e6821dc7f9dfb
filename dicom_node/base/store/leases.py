"""Named leases, each held by one process at a time."""

import time
from datetime import timedelta

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Lease, has_come
from dicom_node.base.store.transitions import utc_now

_LEAST_PAUSE = 5.0  # seconds before a lease that somebody else holds is asked for again


def acquire(database: Database, name: str, owner: str, seconds: float) -> bool:
    """Take or renew the lease for ``seconds`` from now; returns False if another owner holds it."""
    with database.write() as session:
        return take(session, name, owner, seconds)


def take(session: Session, name: str, owner: str, seconds: float) -> bool:
    """As :func:`acquire`, in the caller's transaction: until its end nobody else takes the lease."""
    now, length = utc_now(), timedelta(seconds=seconds)
    until = now + length
    taken = session.execute(
        update(Lease)
        .where(Lease.name == name, or_(Lease.owner == owner, has_come(Lease.until, now, length)))
        .values(owner=owner, until=until)
    )
    if getattr(taken, "rowcount", 0):
        return True
    try:
        with session.begin_nested():
            session.execute(insert(Lease).values(name=name, owner=owner, until=until))
    except IntegrityError:  # there is one, and somebody else holds it
        return False
    return True


def is_ours(session: Session, name: str, owner: str) -> bool:
    """Whether nobody else took the lease since the owner did; until the transaction ends nobody does."""
    mine = select(Lease.owner).where(Lease.name == name).with_for_update()
    return session.scalar(mine) == owner


def pass_on(session: Session, name: str, owner: str, to: str) -> None:
    """Give the owner's lease to another owner: the former one works no more under it."""
    session.execute(update(Lease).where(Lease.name == name, Lease.owner == owner).values(owner=to))


class KeptLease:
    """A lease that a loop checks repeatedly; it is renewed only when ``spare`` of its seconds have passed, by
    default half of them.
    """

    def __init__(
        self, database: Database, name: str, owner: str, seconds: float, spare: float | None = None
    ) -> None:
        self._database, self._name, self._owner, self._seconds = database, name, owner, seconds
        self._spare = seconds / 2 if spare is None else spare
        self._held = False
        self._ask_at = 0.0

    def keep(self) -> bool:
        """Take or renew the lease where that is due; returns whether it is ours for at least ``seconds``
        less ``spare`` from now on.
        """
        now = time.monotonic()
        if now >= self._ask_at:
            self._held = acquire(self._database, self._name, self._owner, self._seconds)
            self._ask_at = now + min(self._spare, _LEAST_PAUSE if not self._held else self._seconds)
        return self._held


def release(database: Database, name: str, owner: str) -> None:
    """Release the lease, so that the next owner need not wait until it ends."""
    with database.write() as session:
        session.execute(delete(Lease).where(Lease.name == name, Lease.owner == owner))
