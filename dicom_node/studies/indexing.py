"""The index of the spool: each acknowledged object becomes rows in the database.

Each is indexed once, also after a crash: the rows are committed first and the file is moved after. If the
node dies in between, the next scan finds the row and completes the move. Nothing received is overwritten.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path

from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NodeError, SpoolError, StoreAway
from dicom_node.base.files import Files, lock_indexing
from dicom_node.base.store import (
    intake,
)
from dicom_node.base.store.database import Database, stamp
from dicom_node.receive.inspection import Inspected, Inspector, ReaderLost, unread
from dicom_node.receive.journal import journal_folders
from dicom_node.receive.spool import Arrival, Spool, Turns, read_arrival, sender_in_name
from dicom_node.studies.comparison import Comparison
from dicom_node.studies.crashes import CrashRecord
from dicom_node.studies.journal import JournalIngest
from dicom_node.studies.judgement import Arrived
from dicom_node.studies.rows import ObjectRows

_LOGGER = logging.getLogger(__name__)
_BATCH = 32  # one commit (4 ms of fsync) for as many objects, while others still get their turn to write
_BATCH_SECONDS = 0.1  # of reading, so that slow objects of one peer do not keep the next peer's waiting
# Until a copy is compared again with an object that another machine has not handed over.
_STORE_SECONDS, _STORE_LONGEST_SECONDS = 0.5, 30.0
_QUIET_SECONDS = 600.0  # until the same is logged of other files
_AGAIN_SECONDS = 10.0  # until a file that the disk would not read is tried again
_LONGEST_WAIT = timedelta(minutes=10)  # for an unreadable file: a bad sector never gets better


_Placed = tuple[Path, Path | None]
"""A file and the place that its rows name: another file's where the same bytes are stored already."""


class Indexer:
    """Reads listeners' journals and spooled files into the database. One thread per data folder at a time
    runs it.
    """

    def __init__(
        self, database: Database, spool: Spool, settings: Settings, inspector: Inspector | None = None
    ) -> None:
        """Prepare to index the files of ``spool``. ``inspector``: None for a new one."""
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
        self._comparison = Comparison(spool, settings, self._inspector)
        self._rows = ObjectRows(spool, settings, self._comparison)
        self.behind: frozenset[str] = frozenset()
        """Marks of senders of whom more waits than was indexed in the last round, or is to be tried again."""
        self._watched: Sequence[Path] = ()
        self._quiet_until: dict[str, float] = {}  # by what is not logged again, monotonic seconds
        self._unreadable: dict[Path, float] = {}  # to when they are tried again, monotonic seconds

    def waiting(self) -> int:
        """Return the number of spooled files that wait to be indexed."""
        return len(self._spool.pending())

    def is_database_older(self) -> bool:
        """Return whether the database does not know the object that was indexed last: it was restored from a
        backup, or is another one. Raises OSError.
        """
        name = self._spool.last_indexed()
        if not name:
            return name is None  # of an earlier version, or a new node
        with self._database.read() as session:
            return intake.received_object(session, name) is None

    def change_marks(self) -> Sequence[object]:
        """Return values that change whenever a listener spools a file or writes to its journal; cheaper than
        listing the spool.
        """
        return [stamp(path) for path in self._watched]

    def run_once(self, seconds: float = float("inf")) -> int:
        """Read the journals, then index pending files, senders taking turns; return the number of files.

        In this order: when an association is known to have ended, all its objects are pending or indexed. No
        further file is begun after ``seconds``, so that the caller can look for new files.
        """
        end = time.monotonic() + seconds
        self._read_journals()
        files = self._files_in_turn()
        done = 0
        while arrived := list(self._batch(files)):
            with self._database.write() as session:
                if self._files.bucket:  # machines that share a folder share its lock
                    lock_indexing(session)
                found = [item.found for item in arrived]
                intake.lock_studies_of(
                    session,
                    {one.study_instance_uid for one in found},
                    {one.sop_instance_uid for one in found},
                )
                placed = [placed for item in arrived if (placed := self._index_one(session, item))]
            for path, place in placed:  # the rows are committed
                self._put_in_place(path, place)
            if placed:
                self._spool.note_indexed(placed[-1][0].stem)
            done += len(placed)
            if time.monotonic() > end:
                break
        since = f"{datetime.now(UTC) - _LONGEST_WAIT:%Y%m%dT%H%M%S}"  # names begin with the time of arrival
        unread = (path for path in self._unreadable if path.name > since)
        self.behind = frozenset(sender_in_name(path.name) for path in (*files, *self._again, *unread))
        return done

    def _read_journals(self) -> None:
        """Store what the listeners have journalled since the last round."""
        folders = journal_folders(self._data_dir)
        files = (path for folder in folders for path in folder.glob("*.jsonl"))
        self._watched = [self._spool.incoming, *folders, *files]
        for folder in folders:
            if folder not in self._journals:
                self._journals[folder] = JournalIngest(self._database, folder, self._spool)
            self._journals[folder].run_once()

    def _files_in_turn(self) -> Iterator[Path]:
        """Return the spooled files of this round: those read again by now, then the others, senders taking
        turns.
        """
        pending, now = self._spool.pending(), time.monotonic()
        self._oldest = tuple({sender_in_name(path.name): path for path in reversed(pending)}.values())
        ready = [path for path, again in self._again.items() if again.done()]
        self._unreadable = {path: until for path, until in [*self._unreadable.items()] if until > now}
        waiting = (path for path in pending if path not in self._again and path not in self._unreadable)
        return chain(ready, self._turns.in_turn(waiting))

    def _put_in_place(self, path: Path, place: Path | None) -> None:
        """Move an indexed file to its place, or delete it if it has none, being a copy of a stored one."""
        try:
            if place is None:
                path.unlink(missing_ok=True)
            else:
                self._spool.settle(path, place)
        except (SpoolError, OSError) as error:  # it stays where it is, and the next scan moves it
            self._postpone(path, f"cannot be moved ({type(error).__name__})")

    def _postpone(self, path: Path, why: str) -> None:
        """Try a spooled file again later; log the reason once a while, not for each file."""
        now = time.monotonic()
        self._unreadable[path] = now + _AGAIN_SECONDS
        if now >= self._quiet_until.get(why, 0.0):
            self._quiet_until[why] = now + _QUIET_SECONDS
            _LOGGER.error("spooled file %s, and maybe more, %s: tried again", path.name, why)

    def forget_cursors(self) -> None:
        """Forget the read positions in the journals, so that they are loaded from the database again.

        Another process may have changed them.
        """
        self._journals.clear()

    def leave(self) -> None:
        """End as planned: the file being read is then not suspected of having killed this process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._slow.close()
        with suppress(OSError):  # a full disk, where the record never took a block: it is empty
            self._crashes.clear()

    def _batch(self, files: Iterator[Path]) -> Iterator[Arrived]:
        """Read the next files to index, and yield what was read: as many as fit into one transaction and a
        limit of time.
        """
        end, batch = time.monotonic() + _BATCH_SECONDS, list[Arrived]()
        for path in islice(files, _BATCH):
            begun, again = time.monotonic(), self._again.pop(path, None)
            item = again.result() if again else self._read_and_compare(path, batch)
            now = time.monotonic()
            if not again:
                self._turns.took(path, now - begun)
            if item:
                batch.append(item)
                yield item
            if now > end and batch:
                return

    def _read_and_compare(
        self, path: Path, batch: Sequence[Arrived] = (), again: Inspector | None = None
    ) -> Arrived | None:
        """Read a file, and compare it with the stored versions of its object and with the files in ``batch``,
        which are indexed before it; None if it is to be tried again later.

        ``again``: the inspector of a second try, None at the first.
        """
        try:
            item = self._read(path, again)
            self._comparison.compare_ahead(self._database, item, batch, again)
        except StoreAway:
            self._unreadable[path] = time.monotonic() + _STORE_SECONDS
        except ReaderLost as lost:
            _LOGGER.warning("spooled file %s is read once more, alone: %s", path.name, lost)
            self._again[path] = self._pool.submit(self._read_and_compare, path, again=self._slow)
        except OSError as error:
            self._postpone(path, f"cannot be read ({error.strerror})")
        else:
            return item
        return None

    def _read(self, path: Path, again: Inspector | None) -> Arrived:
        """Read how a spooled file arrived and what its header says. Raises StoreAway, ReaderLost, OSError.

        ``again``: the inspector of a second try, None at the first.
        """
        size = path.stat().st_size
        try:
            arrival = read_arrival(path)
        except (SpoolError, ValueError, TypeError, KeyError):
            # A file that was put into the folder by hand: without a sender.
            by_hand = Arrival("", "", "", "", 0, datetime.fromtimestamp(path.stat().st_mtime, UTC))
            return Arrived(path, by_hand, Inspected(fault="not written by our listener"), size)
        # Older objects of other senders that wait may be of the same study.
        others = [one for one in self._oldest if sender_in_name(one.name) != sender_in_name(path.name)]
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
        """Write the rows of one file; return its path and new path, None if another process indexes it or it
        is tried again later.
        """
        known = intake.received_object(session, item.spool_name)
        if known is not None:
            # Purged, and here again after a power failure: it has no place any more.
            return self._placed(session, item.path, None if known.purged else self._data_dir / known.path)
        try:
            with session.begin_nested():
                place = self._rows.index(session, item)
            return self._placed(session, item.path, place)
        except StoreAway:
            waited = (datetime.now(UTC) - item.arrival.received_at).total_seconds()
            self._unreadable[item.path] = time.monotonic() + min(
                max(waited / 2, _STORE_SECONDS), _STORE_LONGEST_SECONDS
            )
        except IntegrityError:
            _LOGGER.info("spooled file %s is indexed by another process", item.spool_name)
        except (NodeError, DataError) as error:  # a defect of ours; the other files are indexed all the same
            self._postpone(item.path, f"cannot be indexed ({type(error).__name__})")
        return None

    def _placed(self, session: Session, path: Path, place: Path | None) -> _Placed:
        """Return the file and its new path; None as the path if the object store has a copy, so that no local
        file is needed.
        """
        is_copy = place is not None and place.name != path.name
        is_stored = is_copy and place and self._files.has(session, self._files.relative(place))
        return path, None if is_stored else place
