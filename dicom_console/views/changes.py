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


def newest(database: Database) -> str:
    """A text that changes with each event and each step of a job; AWAY if the database does not answer."""
    try:
        with database.read() as session:
            return _mark(session)
    except SQLAlchemyError:
        return AWAY


def session_lasts(database: Database, token: str, idle_minutes: float) -> bool:
    """Whether the session with this token is still valid; this check does not keep the session alive."""
    try:
        return users.user_of_session(database, token, idle_minutes, counts=False) is not None
    except SQLAlchemyError:
        return True


def _mark(session: Session) -> str:
    """The text that :func:`newest` returns. It is read every few seconds, so all its columns have an index.

    Numbers of events are given before they are committed, so one may appear behind the newest: those of the
    last ones are counted. A number that is given again (a restored database) has another time.
    """
    newest = session.execute(select(EventRow.id, EventRow.at).order_by(EventRow.id.desc()).limit(1)).first()
    number, at = newest or (0, "")
    late = session.scalar(select(func.count()).where(EventRow.id > number - _MAY_BE_LATE))
    done = session.scalar(select(func.sum(Job.share_done)).where(Job.state == JobState.RUNNING)) or 0.0
    return f"{number}-{at}-{late}-{done:.2f}".replace(" ", "T")
