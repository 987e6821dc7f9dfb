"""The retrieval of queued studies from peers into the spool.

One peer's studies are fetched one at a time, within its rate limit; all state is in the database. The start
of a retrieval is stored before the peer is asked, so that no kill makes the next one too early. Objects that
come on the node's own connection are spooled like objects of a C-STORE from the peer, and inspected like all
others.
"""

import itertools
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.elements import META_BYTES, is_uid
from dicom_node.base.errors import FaultyInput, SpoolError, SpoolFull
from dicom_node.base.events import (
    FETCH_DONE,
    FETCH_FAILED,
    FETCH_RETRIED,
    FETCH_STARTED,
)
from dicom_node.base.lifecycle import (
    OPEN_FETCHES,
    FetchState,
)
from dicom_node.base.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.base.runner import Lane
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Fetch
from dicom_node.base.store.transitions import try_move, utc_now
from dicom_node.deliver import scu
from dicom_node.receive.policy import accepted_classes, further_classes
from dicom_node.receive.spool import Arrival, Spool, WaitingObjects, check_accepted, read_meta

_S = scu.RetrieveStatus
ATTEMPTS = 3
"""Tries of a peer that answers; one that does not is tried for ever."""
ATTEMPTS_OF_KILLED = 10
"""Tries of a study at which the node ends each time."""
_WATCH_SECONDS = 0.2
_LOOK_SECONDS = 30.0  # between looks whether the next study is still wanted


class Fetcher(Lane[Fetch]):
    """Background work that retrieves requested studies from one peer; one node of a site at a time does
    it.
    """

    table = Fetch

    def __init__(self, database: Database, settings: Settings, peer: PeerSettings, owner: str) -> None:
        """Prepare the retrievals from ``peer``; ``owner`` is the process that asks for the lease."""
        seconds = peer.retrieve_seconds + 120  # for associations and the database
        super().__init__(database, settings, f"fetch from {peer.name}", owner, seconds)
        self._peer = peer
        self._spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        self._waiting = WaitingObjects(self._spool.incoming)

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """SQL conditions: retrievals from this peer that are queued, or that a process left unfinished when
        it ended.
        """
        return Fetch.state.in_(OPEN_FETCHES), Fetch.peer == self._peer.name

    def order(self) -> Sequence[Any]:
        """SQL order: retrievals left unfinished come first, then those that another study waits for."""
        return Fetch.state != FetchState.FETCHING, Fetch.urgent.desc(), Fetch.attempts, Fetch.id

    def work(self, row: Fetch, stop: threading.Event) -> Outcome:
        """Wait until the peer may be called, mark the study as being fetched, and retrieve it."""
        if row.state is FetchState.FETCHING:  # while we have the lease: whoever fetched it is gone
            with self._database.write() as session:
                session.add(row)
                reason = f"the node ended while it was fetched, try {row.attempts}"
                event = FETCH_RETRIED if row.attempts < ATTEMPTS_OF_KILLED else FETCH_FAILED
                try_move(session, row, event, reason=reason, next_at=utc_now())
            return NotYet()
        with self._database.read() as session:
            wait = self._pause(
                row,
                session.scalar(select(func.max(Fetch.started_at)).where(Fetch.peer == self._peer.name)),
                utc_now(),
            )
        try:
            self._spool.check_space()
        except SpoolError:  # nothing can be stored: a try would be lost
            wait = _LOOK_SECONDS
        if wait > 0:
            stop.wait(min(wait, _LOOK_SECONDS))
            return NotYet()
        with self._database.write() as session:
            session.add(row)
            if not try_move(session, row, FETCH_STARTED, started_at=utc_now(), attempts=row.attempts + 1):
                return NotYet()  # a person cancelled it
        archive = scu.open_archive(self._peer, self._settings)
        sink = RetrievalSink(self._spool, self._waiting, self._settings, self._peer, f"{ASSOCIATION}{row.id}")
        with closing_on_stop(stop, archive):
            found = archive.retrieve(row.study_instance_uid, sink)
        row.objects = found.objects
        status, why = found.status, found.text[:500]
        if status is not _S.RETRIEVED and stop.is_set():
            return Retry(why, after=timedelta())
        if status is _S.UNREACHABLE or (
            status not in (_S.RETRIEVED, _S.REFUSED, _S.ABSENT) and row.attempts < ATTEMPTS
        ):
            return Retry(why)
        return Done(why) if status in (_S.RETRIEVED, _S.INCOMPLETE) else Failed(why)

    def _pause(self, fetch: Fetch, last: datetime | None, now: datetime) -> float:
        """Return the seconds from ``now`` until this retrieval may start, by the limit of studies per minute.
        ``last``: when the last retrieval from the peer started, None for never.
        """
        pause = 60 / min(fetch.per_minute or self._peer.fetch_per_minute, self._peer.fetch_per_minute)
        return min((last - now).total_seconds() + pause, pause) if last is not None else 0.0

    def move(self, session: Session, row: Fetch, outcome: Outcome) -> None:
        """Record whether the study was fetched, could not be fetched, or is to be tried again."""
        if isinstance(outcome, Retry):
            try_move(session, row, FETCH_RETRIED)
        else:
            event = FETCH_DONE if isinstance(outcome, Done) else FETCH_FAILED
            try_move(session, row, event, ended_at=utc_now())


@contextmanager
def closing_on_stop(stop: threading.Event, called: Any) -> Iterator[None]:
    """Context manager: call ``called.close()`` (an archive or worklist manager) when another thread sets
    ``stop``, which ends its calls.
    """
    done = threading.Event()

    def watch() -> None:
        """Close ``called`` once ``stop`` is set, unless the scope has ended before."""
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


ASSOCIATION = "fetch-"
"""How the identifiers of such associations begin; the number of the fetch follows."""


class RetrievalSink:
    """Stores the objects that one retrieval brings (a ``scu.ObjectSink``). ``association``: the node's own
    identifier of it.
    """

    def __init__(
        self, spool: Spool, waiting: WaitingObjects, settings: Settings, peer: PeerSettings, association: str
    ) -> None:
        """Store objects from ``peer`` in ``spool``, within the limits of ``waiting``. ``association``:
        the node's own identifier of the retrieval.
        """
        self._spool, self._waiting, self._settings, self._peer = spool, waiting, settings, peer
        self._association = association
        self.sop_classes: Collection[str] = accepted_classes(further_classes(settings))
        self.largest_bytes = settings.listener.maximum_object_mib * 2**20
        """The size of the largest object that is accepted."""

    def take_object(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: Iterable[bytes]
    ) -> None:
        """Store an encoded data set with these UIDs in the spool. Raises FaultyInput, SpoolError."""
        if not is_uid(sop_instance_uid):
            raise FaultyInput("it has no valid SOP Instance UID")
        check_accepted(sop_class_uid, transfer_syntax_uid, self.sop_classes)
        if not self._waiting.has_room(
            self._peer.name, self._settings.spool.waiting_objects, self._settings.spool.waiting_mib
        ):
            raise SpoolFull("too many objects of this peer wait to be indexed")
        arrival = Arrival(
            self._association,
            self._peer.ae_title,
            self._settings.node.ae_title,
            self._peer.host,
            priority=0,  # medium, PS3.7 9.1.1
            received_at=datetime.now(UTC),
        )
        incoming = self._spool.open(
            arrival, sop_class_uid, sop_instance_uid, transfer_syntax_uid, self._peer.name
        )
        self._waiting.add(self._peer.name, incoming.take(data, self.largest_bytes))

    def take_file(self, pieces: Iterable[bytes]) -> None:
        """Store a Part 10 file in the spool. Raises FaultyInput, SpoolError."""
        rest = iter(pieces)
        start = b""
        while len(start) < META_BYTES and (piece := next(rest, b"")):
            start += piece
        meta = read_meta(start[:META_BYTES])
        self.take_object(
            meta.sop_class_uid,
            meta.sop_instance_uid,
            meta.transfer_syntax_uid,
            itertools.chain([start[meta.length :]], rest),
        )
