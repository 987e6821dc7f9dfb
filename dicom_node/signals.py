"""What processes of the node and their children need: signals as bytes in a pipe, for a main loop that waits
for them among other things; signs of life; an environment without secrets.

Workers (``jobs.worker``) use threading events instead: their main thread runs a job, and other threads wait.
"""

import os
import re
import signal
from contextlib import suppress
from typing import Final

ALIVE_SECONDS: Final = 5.0
"""How often a child process tells its node that it lives."""
_OF_PYTHON = re.compile(r"PATH|HOME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH|PYTHON\w+")


def signal_pipe() -> int:
    """A pipe that receives SIGTERM, SIGINT and SIGHUP as one byte each; the handlers themselves do
    nothing.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reader


def show_life(busy_seconds: float | None = None) -> None:
    """Tell the parent node that this process is alive: one line on standard output.

    ``busy_seconds``: from now on it may be silent for so long, because it computes; 0: it is idle again.
    """
    busy = "" if busy_seconds is None else f', "busy_seconds": {busy_seconds:g}'
    with suppress(OSError):  # the node is gone: the end of standard input tells that
        os.write(1, f'\n{{"alive": true{busy}}}\n'.encode("ascii"))  # a line of its own, whatever was printed


def without_secrets() -> dict[str, str]:
    """The environment variables that a Python interpreter needs, without the configuration's
    ``${NAME}``: for child processes that read data from strangers.
    """
    return {name: value for name, value in os.environ.items() if _OF_PYTHON.fullmatch(name)}
