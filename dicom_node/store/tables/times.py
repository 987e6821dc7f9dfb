"""Times in the database, against a clock that somebody may set a day back.

No wait and no lease of ours is longer than an hour. A time further ahead was written by a clock that has been
put back since: to wait for it would hold a delivery, a job or a lease for as long as the clock was ahead.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, or_

LONGEST_WAIT = timedelta(hours=1)
LATEST = 2 * LONGEST_WAIT
"""A time further ahead than this was never meant: machines that share a database may disagree by minutes."""


DISAGREEMENT = timedelta(minutes=10)
"""So far apart the clocks of machines that share a database may be."""


def has_come(column: Any, now: datetime, longest: timedelta = LATEST - DISAGREEMENT) -> ColumnElement[bool]:
    """SQL: the column's time has come, or can never have been meant: nobody waits longer than ``longest``."""
    return or_(column <= now, column > now + longest + DISAGREEMENT)


def has_ended(until: datetime | None, now: datetime) -> bool:
    """The same of a lease that was read; one that is None has ended."""
    return until is None or not now <= until <= now + LATEST
