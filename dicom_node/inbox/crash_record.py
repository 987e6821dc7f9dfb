"""The file that is open is noted on disk: after the node died, its next start knows which one it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_LENGTH = 300  # bytes: a number and a file name


class CrashRecord:
    """The note. It survives the process, not a power failure, which no object causes."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deaths, _, name = os.pread(self._file, _LENGTH, 0).decode("utf-8", "replace").strip().partition(" ")
        self._suspect, self._deaths = name, int(deaths) + 1 if deaths.isdecimal() else 0

    def count(self, name: str) -> int:
        """How many times in a row the node died while this file was open."""
        return self._deaths if name == self._suspect else 0

    @contextlib.contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Note the file while it is open."""
        self._write(f"{self.count(name)} {name}")
        try:
            yield
        finally:
            self._write("")

    def _write(self, text: str) -> None:
        os.pwrite(self._file, text.encode("utf-8", "replace")[:_LENGTH].ljust(_LENGTH), 0)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            os.close(self._file)
