"""The clock that quiet times are measured by. Times that people see are those of the machine's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

_STARTED = datetime.now(UTC) - timedelta(seconds=time.monotonic())


def steady_now() -> datetime:
    """UTC at the process's start plus monotonic time since: setting the clock moves no quiet time."""
    return _STARTED + timedelta(seconds=time.monotonic())
