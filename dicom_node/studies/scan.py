"""Indexing of the spool into the database, also after a crash: each acknowledged object is indexed once.

The rows are committed first and the file is moved after: if the node dies in between, the next scan finds the
row and completes the move. Nothing received is overwritten.

The listener's journal → association rows and events: an open association keeps its studies open.

Upkeep of the spool: deletion of what was delivered, and comparison of its files with the index.

Received objects are deleted once all results of their study are confirmed, never before; the files of results
later. Rows are committed before their file is moved, and marked as purged before it is deleted. So a file
outside ``incoming`` without a row means a lost database, and a row without its file a lost disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path

from sqlalchemy import delete, select, update
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NodeError, SpoolError, StoreAway
from dicom_node.base.files import Files, one_indexer, waiting_paths
from dicom_node.base.kinds import AssociationOutcome
from dicom_node.base.store import burned_in, fetches, intake, requested, results, steps
from dicom_node.base.store.changes import stamp
from dicom_node.base.store.database import Database, batches
from dicom_node.base.store.tables import Association, Cursor
from dicom_node.base.store.transitions import append, record, utc_now
from dicom_node.receive.inspection import Inspected, Inspector, ReaderLost, unread
from dicom_node.receive.spool import (
    Arrival,
    Spool,
    Turns,
    has_no_writer,
    journal_folders,
    marked,
    read_arrival,
    read_journal,
    remove_read,
)
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
            if folder not in self._journals:
                self._journals[folder] = JournalIngest(self._database, folder)
            self._journals[folder].run_once()
        pending = self._spool.pending()
        self._oldest = tuple({marked(path.name): path for path in reversed(pending)}.values())
        ready = [path for path, again in self._again.items() if again.done()]
        put_off = list(self._unreadable.items())
        self._unreadable = {path: until for path, until in put_off if until > time.monotonic()}
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
        unread = (path for path in self._unreadable if path.name > since)
        self.behind = frozenset(marked(path.name) for path in (*files, *self._again, *unread))
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
                found = again.inspect(path, charset, again=True)
            else:
                self._inspector.start()  # before it is noted: a node killed now did not die of this object
                with self._crashes.noted(path.name):
                    found = self._inspector.inspect(path, charset)
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


_ENDS = {
    events.ASSOCIATION_RELEASED: AssociationOutcome.RELEASED,
    events.ASSOCIATION_ABORTED: AssociationOutcome.ABORTED,
}


class JournalIngest:
    """Stores journal lines in the database, each once: the read position moves in the same transaction."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        with database.read() as session:
            known = session.execute(select(Cursor.name, Cursor.offset)).all()
        # Listeners of other machines have folders of their own.
        self._cursor = {name: offset for name, offset in known if (folder / name).exists()}
        self._gone: set[str] = set()

    def run_once(self) -> int:
        """Ingest the lines appended since the last run; returns their number."""
        # First: a listener that starts now holds the lock before its file is there. The files are called
        # time-listener-number.
        names = (path.stem for path in sorted(self._folder.glob("*.jsonl")))
        listeners = [name.split("-", 1)[-1].rsplit("-", 1)[0] for name in names]
        writes = set() if has_no_writer(self._folder) else {*listeners[-1:]}
        gone, total = {*listeners} - writes, 0
        while lines := read_journal(self._folder, self._cursor):
            moved = {name: offset for name, offset, _ in lines}
            with self._database.write() as session:
                for _, _, event in lines:
                    _ingest(session, event)
                for name, offset in moved.items():
                    session.merge(Cursor(name=name, offset=offset))
            self._cursor |= moved
            total += len(lines)
        if gone != self._gone:  # an association that hangs must not hold its studies open
            with self._database.write() as session:
                intake.lose_associations(session, gone, utc_now())
            self._gone = gone
        if len(self._cursor) > 1:  # files of former listeners, or full ones
            remove_read(self._folder, self._cursor)
            if removed := {name for name in self._cursor if not (self._folder / name).exists()}:
                with self._database.write() as session:
                    session.execute(delete(Cursor).where(Cursor.name.in_(removed)))
                self._cursor = {name: at for name, at in self._cursor.items() if name not in removed}
        return total


def _ingest(session: Session, event: events.Event) -> None:
    """Events about many objects are stored with numbers in place of UIDs."""
    fields = event.fields
    if event.type is events.COMMITMENT_REPORTED:
        named = {name: str(fields[name]) for name in ("transaction", "calling")}
        committed, failed = fields["committed"], fields["failed"]
        intake.keep_report(session, *named.values(), committed, failed, event.at)
        record(session, event.type, **named, committed=len(committed), failed=len(failed))
    elif event.type is events.COMMITMENT_ASKED:  # by a peer
        named = {name: str(fields[name]) for name in ("peer", "calling", "transaction")}
        refusal = requested.keep(session, *named.values(), fields["objects"], event.at)
        kind = events.COMMITMENT_ASK_REFUSED if refusal else event.type
        record(session, kind, **named, objects=len(fields["objects"]), reason=refusal)
    elif event.type is events.STEP_REPORTED:
        steps.keep(session, fields, event.at)
        known = fetches.here(session, fields["studies"])
        names = ("step", "status", "calling", "peer", "association")
        shown = {name: fields[name] for name in names} | {"objects": len(fields["objects"])}
        for uid in fields["studies"]:
            study = known.get(uid)
            record(session, event.type, study.id if study else None, study=uid, **shown)
    else:
        append(session, event)
        _keep_association(session, event)


def _keep_association(session: Session, event: events.Event) -> None:
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


_STUDIES = 100  # studies in one transaction: it holds up other writers for some 50 ms


def purge(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete received objects of studies that ended ``spool.keep_days`` ago; returns how many files.

    Quarantined studies, and studies with a result that is not confirmed, are left alone. The rows are
    committed first; a file that a crash leaves behind is deleted when spool and index are compared.
    """
    before = (now or utc_now()) - timedelta(days=settings.spool.keep_days)
    total, files = 0, Files(settings)
    while True:
        with database.write() as session:
            studies = intake.lock_purgeable(session, before, _STUDIES)
            paths = _mark(session, studies)
        _delete(files, paths)
        total += len(paths)
        if not studies:
            break
    if total:
        with database.write() as session:
            record(session, events.FILES_PURGED, objects=total)
    return total


def purge_results(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete files of results that are older than ``spool.result_days`` (0: none); returns how many.

    Their rows stay, locked while the files are deleted, so that no process sends one meanwhile. A file is
    deleted before its row says so: after a crash the row is found again the next time.
    """
    if not settings.spool.result_days:
        return 0
    before = (now or utc_now()) - timedelta(days=settings.spool.result_days)
    total, files = 0, Files(settings)
    while True:
        with database.write() as session:
            rows = results.lock_outdated(session, before, _STUDIES)
            files.delete(*(row.path for row in rows))
            for row in rows:
                row.purged = True
            if rows:
                record(session, events.FILES_PURGED, results=len(rows))
        if not rows:
            return total
        total += len(rows)


def purge_now(
    database: Database, settings: Settings, study_ids: Sequence[int], also: Callable[[Session, int], None]
) -> list[int]:
    """Delete the received objects of these studies if that is allowed, regardless of their age.

    ``also`` writes in the same transaction, for each of them. Returns the studies whose objects were deleted.
    """
    with database.write() as session:
        latest = utc_now() + timedelta(days=1)
        studies = intake.lock_purgeable(session, latest, len(study_ids), study_ids)
        paths = _mark(session, studies)
        for study_id in studies:
            also(session, study_id)
        if paths:
            record(session, events.FILES_PURGED, objects=len(paths))
    _delete(Files(settings), paths)
    return studies


def _delete(files: Files, paths: Sequence[str]) -> None:
    """What an object store that is away keeps goes when it is compared with the index."""
    with contextlib.suppress(StoreAway):
        files.delete(*paths)


def _mark(session: Session, studies: Sequence[int]) -> list[str]:
    """Mark their objects as purged and end their reviews; returns the paths of the files."""
    paths = [path for study_id in studies for path in intake.mark_purged(session, study_id)]
    for study_id in studies:
        burned_in.end_reviews(session, study_id)
    return paths


@dataclass(frozen=True, slots=True)
class Difference:
    """The differences between spool and index.

    ``unknown``: files without a row, in order of arrival. ``left_over``: files that still exist after the
    purge of their study. ``missing``: the number of rows whose file does not exist.
    """

    unknown: Sequence[Path]
    left_over: Sequence[Path]
    missing: int

    def __str__(self) -> str:
        parts = []
        if self.unknown:
            parts.append(f"objects unknown to the database: {len(self.unknown)} (dicom-node spool reindex)")
        if self.missing:
            parts.append(f"objects of the database without a file: {self.missing} (restore or send again)")
        return "; ".join(parts)


def compare(database: Database, spool: Spool, files: Files) -> Difference:
    """Compare files with rows, and rows with files; takes some 20 s for a million objects."""
    unknown, left_over = [], []
    in_store = set(files.stored("spool"))
    fetched = (files.data_dir / key for key in in_store if key.endswith(".dcm"))  # where it lies then
    only_there = (path for path in fetched if not path.is_file())
    for batch in batches(chain(spool.stored(), only_there)):
        with database.read() as session:
            purged = intake.indexed(session, [path.stem for path in batch])
        unknown += [path for path in batch if path.stem not in purged]
        left_over += [path for path in batch if purged.get(path.stem)]
    with database.read() as session:
        # Maybe elsewhere: on the way from another machine.
        there = in_store | waiting_paths(session)
    paths = (files.data_dir / path for path in _indexed(database) if path not in there)
    # at its place, or still on the way to it
    missing = sum(not (one.is_file() or spool.is_pending(one.name) or one.is_file()) for one in paths)
    return Difference(sorted(unknown, key=lambda path: path.name), left_over, missing)


def reconcile(database: Database, spool: Spool, files: Files) -> None:
    """Delete files that are left over from a purge; record event 2030 for other differences.

    Files that were never indexed are never deleted here: ``reindex`` puts them back, and their study is
    purged in time.
    """
    try:
        found = compare(database, spool, files)
    except StoreAway:  # the handover logs it; tried again tomorrow
        return
    for path in found.left_over:
        files.delete(files.relative(path))
    if text := str(found):
        with database.write() as session:
            record(
                session, events.SPOOL_DIFFERS, unknown=len(found.unknown), missing=found.missing, remedy=text
            )


def reindex(database: Database, spool: Spool, files: Files, progress: Callable[[int, int], None]) -> int:
    """Move files without a row back to ``incoming``; returns how many.

    The node indexes them like any other, now or when it starts. ``progress`` is called with (done, all). May
    be interrupted and run again. Raises SpoolError.
    """
    unknown = compare(database, spool, files).unknown
    for done, path in enumerate(unknown, 1):
        files.fetch_unknown(path)
        spool.put_back(path)
        progress(done, len(unknown))
    if unknown:
        with database.write() as session:
            record(session, events.OBJECTS_REINDEXED, objects=len(unknown))
    return len(unknown)


def _indexed(database: Database) -> Iterator[str]:
    """The paths of all received objects that were not purged."""
    last = 0
    while True:
        with database.read() as session:
            rows = intake.paths_after(session, last, 500)
        if not rows:
            return
        last = rows[-1][0]
        yield from (path for _, path in rows)
