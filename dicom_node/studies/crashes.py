"""The record of the spooled file being read, by which an object that kills the node is found."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LENGTH = 300  # bytes: a number, a file name and a process
_THIS_PROCESS = secrets.token_hex(8)  # in a container each process of the node has the same number


class CrashRecord:
    """A file that names the spooled file being read, so that a crash can be attributed to it.

    The record survives the process, not a power failure, which no object causes.
    """

    def __init__(self, path: Path) -> None:
        """Open the record, and count a death of the node if a former process left a file name in it."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deaths, _, rest = os.pread(self._file, _LENGTH, 0).decode("utf-8", "replace").strip().partition(" ")
        self._suspect, _, process = rest.partition(" ")
        # This process lives: it reads on under another configuration.
        self._deaths = int(deaths) + (process != _THIS_PROCESS) if deaths.isdecimal() else 0

    def count(self, name: str) -> int:
        """Return how many times in a row the node died while it read the spooled file ``name``."""
        return self._deaths if name == self._suspect else 0

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Context manager: record that the spooled file ``name`` is being read, in case the node dies."""
        self._write(f"{self.count(name)} {name} {_THIS_PROCESS}")
        try:
            yield
        finally:
            self.clear()

    def clear(self) -> None:
        """Record that no file is being read, or that the node stops as planned."""
        self._write("")

    def _write(self, text: str) -> None:
        """Replace the content of the record."""
        os.pwrite(self._file, text.encode("utf-8", "replace")[:_LENGTH].ljust(_LENGTH), 0)

    def __del__(self) -> None:
        """Close the file."""
        with suppress(AttributeError):
            os.close(self._file)
