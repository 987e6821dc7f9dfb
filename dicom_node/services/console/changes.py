"""Whether anything happened that a list would show."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.model.lifecycle import JobState
from dicom_node.services.console import sign_in
from dicom_node.store.database import Database
from dicom_node.store.tables import EventRow, Job


def newest(database: Database, former: str) -> str:
    """The mark of now; the ``former`` one while the database is away."""
    try:
        with database.read() as session:
            return _mark(session)
    except SQLAlchemyError:
        return former


def session_lasts(database: Database, token: str, idle_minutes: float) -> bool:
    """Whether who has the token is still signed in; asking does not keep the session alive."""
    try:
        return sign_in.user_of(database, token, idle_minutes, counts=False) is not None
    except SQLAlchemyError:
        return True


def _mark(session: Session) -> str:
    """Another word after each event, and while a job gets on: both columns have an index."""
    event = session.scalar(select(func.max(EventRow.id))) or 0
    done = session.scalar(select(func.sum(Job.share_done)).where(Job.state == JobState.RUNNING)) or 0.0
    return f"{event}-{done:.2f}"
