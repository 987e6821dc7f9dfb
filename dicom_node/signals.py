"""Signals as bytes in a pipe, for a main loop that waits for them among other things.

Workers (``jobs.worker``) set events instead: their main thread is in a job, and other threads wait.
"""

from __future__ import annotations

import os
import signal


def signal_pipe() -> int:
    """A pipe that gets SIGTERM, SIGINT and SIGHUP as one byte each; the handlers themselves do nothing."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reader
