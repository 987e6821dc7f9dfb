"""The clock that quiet times are measured by. Times that are told to people are the machine's own."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_STARTED = datetime.now(UTC) - timedelta(seconds=time.monotonic())


def steady_now() -> datetime:
    """UTC as it was known when the process started, plus what has passed since.

    Whoever sets the machine's clock, a day on or a day back, moves no quiet time by it.
    """
    return _STARTED + timedelta(seconds=time.monotonic())
