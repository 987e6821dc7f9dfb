"""The start of a child process of the node; :mod:`dicom_node.processes` is the parent's side."""

import os
import resource
import select
import stat
import sys
import threading
from collections.abc import Callable, Iterator

from dicom_node.config.settings import Settings
from dicom_node.errors import ExitCode
from dicom_node.signals import ALIVE_SECONDS, show_life

NICENESS = 5
"""Niceness of processes that compute: beside others that want the same core they get a quarter of it."""


def _lines() -> Iterator[bytes]:
    """Lines of standard input. Not sys.stdin itself: its lock would trouble the interpreter's end.

    While none comes, report to the node that this process lives.
    """
    stdin, read = sys.stdin.fileno(), b""
    while True:
        while b"\n" not in read:
            if select.select([stdin], [], [], ALIVE_SECONDS)[0]:
                if not (some := os.read(stdin, 65536)):
                    return
                read += some
            show_life()
        line, _, read = read.partition(b"\n")
        yield line


_LINES = _lines()


def given_settings() -> Settings:
    """The settings in the first line of standard input."""
    if not (line := next(_LINES, b"")):
        raise SystemExit(int(ExitCode.USAGE))
    return Settings.model_validate_json(line)


def watch_parent(stop: Callable[[], object]) -> None:
    """Call ``stop`` when standard input closes: it is a pipe from the node, which closes however the node
    dies.

    Until then, report to the node that this process is alive.
    """
    if not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        return

    def watch() -> None:
        try:
            for _ in _LINES:
                pass
        finally:
            stop()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def give_way() -> None:
    """Lower the priority of this process: senders wait for answers of the listener, a study can wait."""
    os.nice(NICENESS)


def limit_memory(mib: int) -> None:
    """Limit the memory of this process, so that a hostile image makes an allocation fail, not the machine.

    RLIMIT_DATA counts memory that is written to (heap and private mappings, Linux 4.7): 0.6 GiB in a warm
    worker. RLIMIT_AS would count 1.4 GiB there, mostly memory that inference libraries reserve and never use.
    """
    if mib:
        resource.setrlimit(resource.RLIMIT_DATA, (mib * 2**20, mib * 2**20))
