"""Indexing of the spool into the database, also after a crash: each acknowledged object is indexed once.

The rows are committed first and the file is moved after: if the node dies in between, the next scan finds the
row and completes the move. Nothing received is overwritten.

The listener's journal → association rows and events: an open association keeps its studies open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path

from sqlalchemy import delete, select, update
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NodeError, SpoolError, StoreAway
from dicom_node.base.files import Files, one_indexer
from dicom_node.base.kinds import AssociationOutcome
from dicom_node.base.store import fetches, intake, requested
from dicom_node.base.store.database import Database, stamp
from dicom_node.base.store.tables import Association, Cursor
from dicom_node.base.store.transitions import append, record, utc_now
from dicom_node.receive.inspection import Arrival, Inspected, read_arrival
from dicom_node.receive.inspector import Inspector, ReaderLost, unread
from dicom_node.receive.spool import JournalReader, Spool, Turns, has_no_writer, journal_folders, marked
from dicom_node.studies.indexing import Arrived, Indexing

_LOGGER = logging.getLogger(__name__)
_BATCH = 32  # one commit (4 ms of fsync) for as many objects, while others still get their turn to write
_BATCH_SECONDS = 0.1  # of reading, so that slow objects of one peer do not keep the next peer's waiting
# Until a copy is compared again with an object that another machine has not handed over.
_STORE_SECONDS, _STORE_LONGEST_SECONDS = 0.5, 30.0
_AGAIN_SECONDS = 10.0  # until a file that the disk would not read is tried again
_LONGEST_WAIT = timedelta(minutes=10)  # for an unreadable file: a bad sector never gets better


_Placed = tuple[Path, Path | None]
"""A file and the place that its rows name: another file's where the same bytes are stored already."""


class Indexer:
    """Reads journals and spool into the database. One thread per data folder at a time runs it."""

    def __init__(
        self, database: Database, spool: Spool, settings: Settings, inspector: Inspector | None = None
    ) -> None:
        self._database = database
        self._spool = spool
        self._data_dir = settings.node.data_dir
        self._assumed = {peer.ae_title: peer.assume_charset for peer in settings.peers if "send" in peer.may}
        self._journals: dict[Path, JournalIngest] = {}
        self._inspector = inspector or Inspector()
        self._crashes = CrashRecord(spool.crash_record)
        # Second tries take minutes: they are made one after the other beside the indexing of other files.
        self._slow = self._inspector.fresh()
        self._pool = ThreadPoolExecutor(1, "second tries")
        self._again: dict[Path, Future[Arrived | None]] = {}
        self._turns = Turns()
        self._oldest: Sequence[Path] = ()  # that waits, of each sender
        self._files = Files(settings)
        self._indexing = Indexing(spool, settings, self._inspector)
        self.behind: frozenset[str] = frozenset()
        """Marks of senders of whom more waits than was indexed in the last round, or is to be tried again."""
        self._watched: Sequence[Path] = ()
        self._unreadable: dict[Path, float] = {}  # to when they are tried again, monotonic seconds

    def waiting(self) -> int:
        """The number of spooled files that wait to be indexed."""
        return len(self._spool.pending())

    def traces(self) -> Sequence[object]:
        """Values that change when a listener spools a file or writes a line; cheaper than a listing."""
        return [stamp(path) for path in self._watched]

    def run_once(self, seconds: float = float("inf")) -> int:
        """Read the journals, then index pending files, senders taking turns; returns the number of files.

        In this order: when an association is known to have ended, all its objects are pending or indexed. No
        further file is begun after ``seconds``, so that newly received files get their turn.
        """
        end = time.monotonic() + seconds
        folders = journal_folders(self._data_dir)
        self._watched = [
            self._spool.incoming,
            *folders,
            *(path for folder in folders for path in folder.glob("*.jsonl")),
        ]
        for folder in folders:
            self._journals.setdefault(folder, JournalIngest(self._database, folder)).run_once()
        pending = self._spool.pending()
        self._oldest = tuple({marked(path.name): path for path in reversed(pending)}.values())
        ready = [path for path, again in self._again.items() if again.done()]
        now = time.monotonic()
        for path in [path for path, until in list(self._unreadable.items()) if until <= now]:
            self._unreadable.pop(path)
        waiting = (path for path in pending if path not in self._again and path not in self._unreadable)
        files = chain(ready, self._turns.in_turn(waiting))
        done = 0
        while arrived := list(self._batch(files)):
            with self._database.write() as session:
                if self._files.bucket:  # machines that share a folder share its lock
                    one_indexer(session)
                placed = [placed for item in arrived if (placed := self._index_one(session, item))]
            for path, place in placed:  # the rows are committed
                try:
                    if place is None:
                        path.unlink(missing_ok=True)  # a copy of a stored one
                    else:
                        self._spool.settle(path, place)
                except (SpoolError, OSError) as error:  # it stays where it is, and the next scan moves it
                    _LOGGER.error("spooled file %s cannot be moved: %s", path.name, error)
                    self._unreadable[path] = time.monotonic() + _AGAIN_SECONDS
            done += len(placed)
            if time.monotonic() > end:
                break
        since = f"{datetime.now(UTC) - _LONGEST_WAIT:%Y%m%dT%H%M%S}"  # names begin with the time of arrival
        put_off = (path for path in self._unreadable if path.name > since)
        self.behind = frozenset(marked(path.name) for path in (*files, *self._again, *put_off))
        return done

    def forget_cursors(self) -> None:
        """Forget the read positions in the journals, and load them from the database again.

        Another process may have changed them.
        """
        self._journals.clear()

    def leave(self) -> None:
        """End as planned, though the disk may stall: no object is blamed for the end of this process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._slow.close()
        with contextlib.suppress(OSError):  # a full disk, where the record never took a block: it is empty
            self._crashes.clear()

    def _batch(self, files: Iterator[Path]) -> Iterator[Arrived]:
        """The next ones: as many as fit into one transaction, and no more after a while."""
        end, batch = time.monotonic() + _BATCH_SECONDS, list[Arrived]()
        for path in islice(files, _BATCH):
            begun, again = time.monotonic(), self._again.pop(path, None)
            item = again.result() if again else self._opened(path, batch)
            now = time.monotonic()
            if not again:
                self._turns.took(path, now - begun)
            if item:
                batch.append(item)
                yield item
            if now > end and batch:
                return

    def _opened(
        self, path: Path, batch: Sequence[Arrived] = (), again: Inspector | None = None
    ) -> Arrived | None:
        """The file as it is to be indexed after ``batch``; None where it is read again later."""
        try:
            item = self._read(path, again)
            self._indexing.compare_ahead(self._database, item, batch, again)
        except StoreAway:
            self._unreadable[path] = time.monotonic() + _STORE_SECONDS
        except ReaderLost as lost:
            _LOGGER.warning("spooled file %s is read once more, alone: %s", path.name, lost)
            self._again[path] = self._pool.submit(self._opened, path, again=self._slow)
        except OSError as error:
            _LOGGER.error("spooled file %s cannot be read: %s", path.name, error.strerror)
            self._unreadable[path] = time.monotonic() + _AGAIN_SECONDS
        else:
            return item
        return None

    def _read(self, path: Path, again: Inspector | None) -> Arrived:
        """Raises StoreAway, ReaderLost, OSError."""
        size = path.stat().st_size
        try:
            arrival = read_arrival(path)
        except (SpoolError, ValueError, TypeError, KeyError):
            # A file that was put into the folder by hand: without a sender.
            by_hand = Arrival("", "", "", "", 0, datetime.fromtimestamp(path.stat().st_mtime, UTC))
            return Arrived(path, by_hand, Inspected(fault="not written by our listener"), size)
        # Older objects of other senders that wait may be of the same study.
        others = [one for one in self._oldest if marked(one.name) != marked(path.name)]
        if arrival.senders and min([path, *others]) < path:
            raise StoreAway("nobody knows yet whose the study is")
        charset = self._assumed.get(arrival.calling_ae, "")
        try:
            if self._crashes.count(path.name) > 1:  # once may have another cause
                found = unread(path, "the node died twice while it was being read")
            elif again:
                found = again.inspect_again(path, charset)
            else:
                self._inspector.start()  # before it is noted: a node killed now did not die of this object
                with self._crashes.noted(path.name):
                    found = self._inspector.inspect_once(path, charset)
        except (OSError, ReaderLost):
            raise
        except Exception as error:  # noqa: BLE001  (anything may be in a received file; the next must go on)
            found = Inspected(fault=f"cannot be indexed ({type(error).__name__})")
        return Arrived(path, arrival, found, size)

    def _index_one(self, session: Session, item: Arrived) -> _Placed | None:
        """Write the rows of one file; None when another process writes them, or it is tried again later."""
        known = intake.received_object(session, item.spool_name)
        if known is not None:
            # Purged, and here again after a power failure: it has no place any more.
            return self._placed(session, item.path, None if known.purged else self._data_dir / known.path)
        try:
            with session.begin_nested():
                place = self._indexing.index(session, item)
        except StoreAway:
            waited = (datetime.now(UTC) - item.arrival.received_at).total_seconds()
            pause = min(max(waited / 2, _STORE_SECONDS), _STORE_LONGEST_SECONDS)
            self._unreadable[item.path] = time.monotonic() + pause
            return None
        except IntegrityError:
            _LOGGER.info("spooled file %s is indexed by another process", item.spool_name)
            return None
        except (NodeError, DataError) as error:  # a defect of ours; the other files are indexed all the same
            _LOGGER.error("spooled file %s is not indexed: %s", item.spool_name, type(error).__name__)
            self._unreadable[item.path] = time.monotonic() + _AGAIN_SECONDS
            return None
        return self._placed(session, item.path, place)

    def _placed(self, session: Session, path: Path, place: Path | None) -> _Placed:
        """A copy of what the object store has needs no file here."""
        is_copy = place is not None and place.name != path.name
        is_stored = is_copy and place and self._files.has(session, self._files.relative(place))
        return path, None if is_stored else place


_LENGTH = 300  # bytes: a number, a file name and a process
_THIS_PROCESS = secrets.token_hex(8)  # in a container each process of the node has the same number


class CrashRecord:
    """A file that names the spooled file being opened, so that a crash can be blamed on it.

    The record survives the process, not a power failure, which no object causes.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deaths, _, rest = os.pread(self._file, _LENGTH, 0).decode("utf-8", "replace").strip().partition(" ")
        self._suspect, _, process = rest.partition(" ")
        # This process lives: it reads on under another configuration.
        self._deaths = int(deaths) + (process != _THIS_PROCESS) if deaths.isdecimal() else 0

    def count(self, name: str) -> int:
        """How many times in a row the node died while this file was open."""
        return self._deaths if name == self._suspect else 0

    @contextlib.contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Record that the spooled file ``name`` is open in this scope, in case the node dies."""
        self._write(f"{self.count(name)} {name} {_THIS_PROCESS}")
        try:
            yield
        finally:
            self.clear()

    def clear(self) -> None:
        """Name no file: none is being opened, or the node stops as planned, whatever is open."""
        self._write("")

    def _write(self, text: str) -> None:
        os.pwrite(self._file, text.encode("utf-8", "replace")[:_LENGTH].ljust(_LENGTH), 0)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            os.close(self._file)


_LOOK_SECONDS = 2.0
_ENDS = {
    events.ASSOCIATION_RELEASED: AssociationOutcome.RELEASED,
    events.ASSOCIATION_ABORTED: AssociationOutcome.ABORTED,
}


class JournalIngest:
    """Stores journal lines in the database, each once: the read position moves in the same transaction."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._reader = JournalReader(folder)
        self._cursor: dict[str, int] | None = None
        self._look_at = 0.0
        self._gone: list[str] = []

    def run_once(self) -> int:
        """Ingest the lines appended since the last run; returns their number."""
        total, started = 0, self._cursor is None
        if self._cursor is None:  # listeners of other machines have folders of their own
            with self._database.read() as session:
                known = session.execute(select(Cursor.name, Cursor.offset)).all()
            self._cursor = {name: offset for name, offset in known if (self._folder / name).exists()}
        gone = [*self._ended_listeners()]  # before their last lines are read
        while lines := self._reader.read(self._cursor):
            moved = {line.file: line.offset for line in lines}
            with self._database.write() as session:
                for line in lines:
                    _ingest(session, line.event)
                for name, offset in moved.items():
                    session.merge(Cursor(name=name, offset=offset))
            self._cursor |= moved
            total += len(lines)
            started |= any(line.event.type is events.LISTENER_STARTED for line in lines)
        if started:  # one at a time writes here, the newest
            listeners = self._listeners()
            gone += [one for one in listeners if one != listeners[-1]]
        if gone:
            with self._database.write() as session:
                intake.lose_associations(session, set(gone), utc_now())
        if started or (total and len(self._cursor) > 1):  # files of former listeners, or full ones
            self._reader.remove_read(self._cursor)
            if removed := {name for name in self._cursor if not (self._folder / name).exists()}:
                with self._database.write() as session:
                    session.execute(delete(Cursor).where(Cursor.name.in_(removed)))
                self._cursor = {name: at for name, at in self._cursor.items() if name not in removed}
        return total

    def _listeners(self) -> list[str]:
        """Which wrote the journal files, whose names are time-listener-number."""
        names = (path.stem for path in sorted(self._folder.glob("*.jsonl")))
        return [name.split("-", 1)[-1].rsplit("-", 1)[0] for name in names]

    def _ended_listeners(self) -> list[str]:
        """Checked now and then, logged once: an association that hangs must not hold its studies open."""
        now = time.monotonic()
        if now < self._look_at:
            return []
        self._look_at = now + _LOOK_SECONDS
        listeners = self._listeners()  # first: one that starts now holds the lock before its file is there
        if listeners == self._gone or not has_no_writer(self._folder):
            return []
        self._gone = listeners
        return listeners


def _ingest(session: Session, event: events.Event) -> None:
    if event.type is events.COMMITMENT_REPORTED:
        # A storage commitment report goes to the outbox; the event has numbers instead of UIDs.
        transaction, calling = str(event.fields["transaction"]), str(event.fields["calling"])
        committed, failed = event.fields["committed"], event.fields["failed"]
        intake.keep_report(session, transaction, calling, committed, failed, event.at)
        record(
            session,
            events.COMMITMENT_REPORTED,
            transaction=transaction,
            calling=calling,
            committed=len(committed),
            failed=len(failed),
        )
        return
    if event.type is events.COMMITMENT_ASKED:  # by a peer; the same
        peer, calling, transaction = (str(event.fields[key]) for key in ("peer", "calling", "transaction"))
        objects = event.fields["objects"]
        refusal = requested.keep_request(session, peer, calling, transaction, objects, event.at)
        record(
            session,
            events.COMMITMENT_ASK_REFUSED if refusal else events.COMMITMENT_ASKED,
            peer=peer,
            calling=calling,
            transaction=transaction,
            objects=len(objects),
            reason=refusal,
        )
        return
    if event.type is events.STEP_REPORTED:
        # A report on a performed procedure step goes to its table; the events have numbers instead of
        # UIDs.
        fields = event.fields
        requested.keep_step(session, fields, event.at)
        known = fetches.here(session, fields["studies"])
        names = ("step", "status", "calling", "peer", "association")
        shown = {name: fields[name] for name in names} | {"objects": len(fields["objects"])}
        for uid in fields["studies"]:
            study = known.get(uid)
            record(session, event.type, study.id if study else None, study=uid, **shown)
        return
    append(session, event)
    association = str(event.fields.get("association", ""))
    if event.type is events.ASSOCIATION_ACCEPTED:
        fields, refused = event.fields, event.fields.get("refused") or []
        session.merge(
            Association(
                id=association,
                listener=str(fields.get("listener", "")),
                calling_ae=str(fields.get("calling", ""))[:16],
                called_ae=str(fields.get("called", ""))[:16],
                address=str(fields.get("address", "")),
                opened_at=event.at,
                closed_at=None,
                outcome=AssociationOutcome.OPEN,
                objects=0,
                refused=refused,
                refused_count=fields.get("refused_count") or len(refused),
                reason="",
            )
        )
        session.flush()
    elif event.type in _ENDS:
        session.execute(
            update(Association)
            .where(Association.id == association, Association.closed_at.is_(None))
            .values(
                closed_at=event.at,
                outcome=_ENDS[event.type],
                objects=int(event.fields.get("objects") or 0),
                reason=str(event.fields.get("reason") or ""),
            )
        )
    elif event.type is events.LISTENER_STOPPED:
        intake.lose_associations(session, [str(event.fields.get("listener"))], event.at)
