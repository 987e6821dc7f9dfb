"""Detection of changes that a list on a page would show."""

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.base.lifecycle import JobState
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import EventRow, Job
from dicom_node.people import users

_MAY_BE_LATE = 5000  # events that others may commit while one transaction lasts; some 0.3 ms to count

AWAY = "away"
"""In place of that text while the database does not answer."""


def change_mark(database: Database) -> str:
    """Return a text that differs from the last one after each new event and each step of a running job; AWAY
    if the database does not answer.
    """
    try:
        with database.read() as session:
            return _mark(session)
    except SQLAlchemyError:
        return AWAY


def session_lasts(database: Database, token: str, idle_minutes: float) -> bool:
    """Return whether the session with this token is valid, without counting as activity of the user; True if
    the database does not answer.
    """
    try:
        return users.user_of_session(database, token, idle_minutes, counts=False) is not None
    except SQLAlchemyError:
        return True


def _mark(session: Session) -> str:
    """Compute the text of :func:`change_mark`, only from columns that have an index, because it is read every
    second.

    An event gets its number before its commit, so events with lower numbers may appear after the newest: the
    last 5,000 are counted. A restored database uses numbers again, but with other times.
    """
    newest = session.execute(select(EventRow.id, EventRow.at).order_by(EventRow.id.desc()).limit(1)).first()
    number, at = newest or (0, "")
    late = session.scalar(select(func.count()).where(EventRow.id > number - _MAY_BE_LATE))
    done = session.scalar(select(func.sum(Job.share_done)).where(Job.state == JobState.RUNNING)) or 0.0
    return f"{number}-{at}-{late}-{done:.2f}".replace(" ", "T")
