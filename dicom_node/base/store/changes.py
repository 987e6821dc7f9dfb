"""Waiting until a process on any machine commits an event, without querying the database meanwhile.

PostgreSQL announces it (LISTEN, NOTIFY); for SQLite the times of its files are checked. If neither works, as
behind a transaction pooler, waits are short.
"""

import threading
import time
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

CHANNEL: Final = "dicom_node_event"
SHORTEST: Final = 0.05
"""Seconds between two looks for work, at least."""
_LONGEST, _LONGEST_UNHEARD = 5.0, 0.25  # while nothing happens; where nobody would say so
_STOP_SECONDS = 0.25
_LISTEN_SECONDS, _AWAY_SECONDS = 60.0, 1.0


class Changes:
    """Counts commits of events; any number of threads wait for the next one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heard = False
        self.count = 0
        """Read it before you look for work, and give it to :meth:`wait`."""

    def wait(self, seen: int, seconds: float, stop: threading.Event) -> None:
        """Wait for ``SHORTEST``, then until the count differs from ``seen``; at most ``seconds`` in all."""
        end = time.monotonic() + seconds
        stop.wait(min(SHORTEST, seconds))
        with self._changed:
            while self.count == seen and not stop.is_set() and (left := end - time.monotonic()) > 0:
                self._changed.wait(min(left, _STOP_SECONDS))

    def pause(self, before: float, *, found: bool) -> float:
        """The next pause of a loop that looks for work: the shortest if it ``found`` some, else a longer
        one.
        """
        return SHORTEST if found else min(1.2 * before, _LONGEST if self._heard else _LONGEST_UNHEARD)

    def announce(self) -> None:
        """Wake all threads that wait for a change: a process has committed one."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def follow(self, engine: Engine) -> None:
        """Start a thread that announces the commits of other processes, for the life of this process."""
        threading.Thread(
            target=self._watch if engine.dialect.name == "sqlite" else self._listen_for_ever,
            args=(engine,),
            name="changes",
            daemon=True,
        ).start()

    def _watch(self, engine: Engine) -> None:
        file = Path(engine.url.database or "")
        files, before = (file, file.with_name(f"{file.name}-wal")), [(0, 0)]
        while True:
            self._heard = True
            if (now := [stamp(one) for one in files]) != before:
                before = now
                self.announce()
            time.sleep(SHORTEST)

    def _listen_for_ever(self, engine: Engine) -> None:
        from psycopg import Error  # only there it is installed

        while True:
            try:
                self._listen(engine)
            except (SQLAlchemyError, Error):
                self._heard = False
            time.sleep(_AWAY_SECONDS)

    def _listen(self, engine: Engine) -> None:
        with engine.connect() as pooled:
            connection = pooled.connection.driver_connection
            assert connection is not None
            try:
                connection.autocommit = True
                connection.execute(f"LISTEN {CHANNEL}")
                self.announce()  # what was committed before
                with engine.begin() as other:  # a pooler may take LISTEN and pass on nothing
                    other.execute(text(f"NOTIFY {CHANNEL}"))
                while True:
                    for _ in connection.notifies(timeout=_LISTEN_SECONDS, stop_after=1):
                        self._heard = True
                        self.announce()
            finally:
                pooled.invalidate()  # it is not as the pool's others


def stamp(file: Path) -> tuple[int, int]:
    """Size and time of a file or folder, which change when it is written; zeros if it does not exist."""
    try:
        about = file.stat()
    except OSError:
        return 0, 0
    return about.st_size, about.st_mtime_ns
