"""Fetches studies from one peer, one at a time, within its rate limit. All state is in the database.

The start of a retrieval is stored before the peer is asked, so that no kill makes the next one too early.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy.orm import Session

from dicom_node import scu
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.events import FETCH_DONE, FETCH_FAILED, FETCH_RETRIED, FETCH_STARTED, EventType
from dicom_node.fetch.incoming import Incoming
from dicom_node.inbox.spool import Spool, WaitingObjects
from dicom_node.outbox.schedule import wait_before_retry
from dicom_node.scu import Retrieved, RetrieveStatus
from dicom_node.store import fetches, leases
from dicom_node.store.database import Database
from dicom_node.store.tables import Fetch
from dicom_node.store.transitions import move_fetch, utc_now

ATTEMPTS = 3
"""Tries of a peer that answers; one that does not is tried for ever."""
ATTEMPTS_OF_KILLED = 10
"""Tries of a study at which the node ends each time."""
_MARGIN_SECONDS = 120.0  # of the lease, above what a retrieval may take: associations, the database
_WATCH_SECONDS = 0.2
_LOOK_SECONDS = 30.0  # between looks whether the next study is still wanted


class _Closed(Protocol):
    def close(self) -> None: ...


class Fetcher:
    """Fetches from one peer. Several nodes may share a database; one at a time holds the peer's lease."""

    def __init__(self, database: Database, settings: Settings, peer: PeerSettings, owner: str) -> None:
        self._database, self._settings, self._peer, self._owner = database, settings, peer, owner
        self._lease = f"fetch {peer.name}"
        self._lease_seconds = peer.retrieve_seconds + _MARGIN_SECONDS
        self._spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        self._waiting = WaitingObjects(self._spool.incoming)

    def run_once(self, stop: threading.Event) -> int:
        """Fetch until nothing is due or ``stop`` is set; returns the number of studies that were tried."""
        tried = 0
        while not stop.is_set() and self._is_due():
            if not leases.acquire(self._database, self._lease, self._owner, self._lease_seconds):
                break
            self._take_over()
            if (fetch := self._start_next(stop)) is None:
                break
            self._finish(fetch, self._retrieve(fetch, stop), stopped=stop.is_set())
            tried += 1
        return tried

    def _is_due(self) -> bool:
        """Whether it is worth a writing transaction; also where a process ended while it fetched."""
        with self._database.read() as session:
            if fetches.next_due(session, self._peer.name, utc_now()):
                return True
            return bool(fetches.unfinished(session, self._peer.name))

    def _take_over(self) -> None:
        """Studies that are being fetched while we have the lease: whoever did it is gone."""
        with self._database.read() as session:
            if not fetches.unfinished(session, self._peer.name):
                return
        with self._database.write() as session:
            for row in fetches.unfinished(session, self._peer.name):
                reason = f"the node ended while it was fetched, try {row.attempts}"
                event = FETCH_RETRIED if row.attempts < ATTEMPTS_OF_KILLED else FETCH_FAILED
                move_fetch(session, row, event, reason=reason, next_at=utc_now())

    def _start_next(self, stop: threading.Event) -> Fetch | None:
        """Wait for the peer's turn, then write down that the next study is being fetched."""
        while not stop.is_set():
            now = utc_now()
            with self._database.read() as session:
                fetch = fetches.next_due(session, self._peer.name, now)
                if fetch is None:
                    return None
                wait = self._pause(fetch, fetches.last_start(session, self._peer.name), now)
                session.expunge(fetch)
            if wait > 0:
                stop.wait(min(wait, _LOOK_SECONDS))
                if not leases.acquire(self._database, self._lease, self._owner, self._lease_seconds):
                    return None
                continue
            with self._database.write() as session:
                row = self._unchanged(session, fetch)
                if row and move_fetch(
                    session, row, FETCH_STARTED, started_at=utc_now(), attempts=row.attempts + 1
                ):
                    return row
        return None

    def _unchanged(self, session: Session, fetch: Fetch) -> Fetch | None:
        """The row; None where another process or a person moved it meanwhile."""
        row = fetches.number(session, fetch.id)
        same = row is not None and (row.state, row.attempts) == (fetch.state, fetch.attempts)
        return row if same else None

    def _pause(self, fetch: Fetch, last: datetime | None, now: datetime) -> float:
        """Seconds until the peer may be asked again; a last start that lies ahead is of a clock put back."""
        rate = min(fetch.per_minute or self._peer.fetch_per_minute, self._peer.fetch_per_minute)
        if last is None:
            return 0.0
        return min((last - now).total_seconds() + 60 / rate, 60 / rate)

    def _retrieve(self, fetch: Fetch, stop: threading.Event) -> Retrieved:
        archive = scu.open_archive(self._peer, self._settings)
        sink = Incoming(self._spool, self._waiting, self._settings, self._peer, fetch.id)
        with closed_at(stop, archive):
            return archive.retrieve(fetch.study_instance_uid, sink)

    def _finish(self, fetch: Fetch, outcome: Retrieved, *, stopped: bool) -> None:
        event = self._judged(fetch, outcome, stopped)
        now = utc_now()
        values = {"reason": outcome.text[:500], "objects": outcome.objects}
        with self._database.write() as session:
            row = self._unchanged(session, fetch)
            if row is None:
                return
            if event is FETCH_RETRIED:
                wait = timedelta() if stopped else wait_before_retry(row.attempts, self._settings.outbox)
                move_fetch(session, row, event, **values, next_at=now + wait)
            else:
                move_fetch(session, row, event, **values, ended_at=now)

    def _judged(self, fetch: Fetch, outcome: Retrieved, stopped: bool) -> EventType:
        if outcome.status is RetrieveStatus.RETRIEVED:
            return FETCH_DONE
        if stopped or outcome.status is RetrieveStatus.UNREACHABLE:
            return FETCH_RETRIED
        if outcome.status in (RetrieveStatus.REFUSED, RetrieveStatus.ABSENT):
            return FETCH_FAILED
        if fetch.attempts < ATTEMPTS:
            return FETCH_RETRIED
        return FETCH_DONE if outcome.status is RetrieveStatus.INCOMPLETE else FETCH_FAILED


@contextmanager
def closed_at(stop: threading.Event, called: _Closed) -> Iterator[None]:
    """Close the calls of an archive or a worklist manager when another thread sets ``stop``."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if stop.wait(_WATCH_SECONDS):
                called.close()
                return

    watcher = threading.Thread(target=watch, name="fetch watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
