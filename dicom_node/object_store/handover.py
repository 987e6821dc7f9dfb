"""One machine of a site and its object store: what it uploads and keeps, and that all have one site key.

Received objects are uploaded from this machine's disk, oldest first.

An object is acknowledged when it is synced here. Its row records that it waits, so a node that is killed
during an upload starts the upload again. Local copies of what the store has are limited to
``object_store.local_mib``.
"""

import contextlib
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from dicom_node import sitekey
from dicom_node.config.settings import Settings
from dicom_node.errors import ConfigProblem, ConfigurationError, NotInSpool, StoreAway
from dicom_node.events import STORE_AWAY, STORE_BACK
from dicom_node.model.deidentified import DEIDENTIFIED_FOLDER
from dicom_node.object_store import rows as stored_rows
from dicom_node.object_store.bucket import Bucket, bucket_of, sha256_of
from dicom_node.store.database import Database

_T = TypeVar("_T")
_LOGGER = logging.getLogger(__name__)
_AT_ONCE = 4  # uploads side by side
_BATCH = 32  # objects in one transaction
_PAGE = 500
_DATABASE_SECONDS = 5.0  # that a database gets to come back
_FOLDERS = ("spool/objects", "spool/quarantine", "results", DEIDENTIFIED_FOLDER)
_IN_USE_SECONDS = 900.0  # a job may have a file open for so long
_KEY = "keys/site-key.check"
_POLL_SECONDS, _LONGEST_PAUSE = 0.25, 30.0


class HandOver:
    """Uploads files from the spool of this machine to the object store.

    ``say`` records an event of the node. ``stored`` returns the indexed files, also files from before the
    object store was configured.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        bucket: Bucket,
        say: Callable[..., None],
        stored: Callable[[], Iterable[Path]] = tuple,
    ) -> None:
        self._database, self._bucket, self._say = database, bucket, say
        self._data_dir, self._machine = settings.node.data_dir, socket.gethostname()[:64]
        self._stored: Callable[[], Iterable[Path]] | None = stored
        self._damaged: set[int] = set()  # logged once
        self._away_since: float | None = None

    def run_forever(self, stop: threading.Event) -> None:
        """Upload until ``stop`` is set. While the store is unreachable, retry after ever longer pauses."""
        pause = _POLL_SECONDS
        while not stop.wait(pause):
            began = time.monotonic()
            try:
                self.adopt()
                done = self.run_once(stop)
            except SQLAlchemyError as error:
                self._database.outage.noticed(error)
                pause = _DATABASE_SECONDS
                continue
            except StoreAway as away:
                pause = min(max(2 * pause, 1.0), _LONGEST_PAUSE)
                if self._away_since is None:
                    self._away_since = time.monotonic()
                    self._say(STORE_AWAY, machine=self._machine, reason=str(away))
                continue
            if self._away_since is not None:  # it is back, or nothing waits here any more
                seconds = round(time.monotonic() - self._away_since)
                self._say(STORE_BACK, machine=self._machine, seconds=seconds)
                self._away_since = None
            # What other machines have not handed over is looked at each time, too.
            pause = max(_POLL_SECONDS, 10 * (time.monotonic() - began)) if not done else _POLL_SECONDS

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Upload all waiting files of this machine; returns the number of objects. Raises StoreAway."""
        done = 0
        for batch in _batches(self._waiting()):
            if stop is not None and stop.is_set():
                break
            done += self._hand_over(batch)
        return done

    def adopt(self) -> None:
        """Queue, once, the files that were stored before the object store was configured."""
        if self._stored is None:
            return
        for batch in _batches(self._stored(), _PAGE):
            with self._database.write() as session:
                stored_rows.expect(session, [file.stem for file in batch])
        self._stored = None

    def _waiting(self) -> Iterator[stored_rows.Waiting]:
        after = 0
        while True:
            with self._database.read() as session:
                rows = stored_rows.waiting(session, after, _PAGE)
            if not rows:
                return
            after = rows[-1].id
            yield from (row for row in rows if (self._data_dir / row.path).is_file())

    def _hand_over(self, batch: Sequence[stored_rows.Waiting]) -> int:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tried = list(pool.map(self._put, batch))
        hashes = {row.id: answer for row, answer in zip(batch, tried, strict=True) if isinstance(answer, str)}
        if hashes:
            with self._database.write() as session:
                gone = stored_rows.handed_over(session, hashes)
            if gone:  # purged while it was on its way
                self._bucket.delete(*gone)
        if away := next((answer for answer in tried if isinstance(answer, StoreAway)), None):
            raise away
        return len(hashes)

    def _put(self, row: stored_rows.Waiting) -> str | StoreAway | None:
        """The hash of what is in the store then; None for a file that is not what was acknowledged."""
        file = self._data_dir / row.path
        try:
            sha256, size = sha256_of(file), file.stat().st_size
            if size != row.bytes:
                raise OSError("it has another size")
            self._bucket.put(row.path, file)
        except StoreAway as away:
            return away
        except OSError:
            if row.id not in self._damaged and file.exists():
                self._damaged.add(row.id)
                _LOGGER.error("spooled file %s is damaged: not handed over to the object store", file.name)
            return None
        return sha256


def _batches(items: Iterable[_T], size: int = _BATCH) -> Iterator[list[_T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


class LocalCopies:
    """Local copies of files that the object store has; they may be deleted."""

    def __init__(self, database: Database, settings: Settings, bucket: Bucket) -> None:
        self._database, self._bucket = database, bucket
        self._data_dir = settings.node.data_dir
        self._most = bucket.local_mib * 2**20

    def trim(self, in_use_seconds: float = _IN_USE_SECONDS) -> int:
        """Delete copies of purged files; above the limit also the longest unused copies. Returns how many."""
        found = sorted(self._files())
        total, done = sum(size for _, size, _ in found), 0
        free = [one for one in found if one[0] < time.time() - in_use_seconds]
        with contextlib.suppress(StoreAway):
            for batch in _batches(free, _PAGE):
                received = [file.stem for _, _, file in batch if self._data_dir / "spool" in file.parents]
                built = [file.stem for _, _, file in batch if self._data_dir / "spool" not in file.parents]
                with self._database.read() as session:
                    purged = stored_rows.purged(session, received, built)
                for _, size, file in batch:
                    place = str(file.relative_to(self._data_dir))
                    # Asked for at the moment of its deletion: nothing goes that the store does not show.
                    if file.stem in purged or (total > self._most and self._bucket.size(place) == size):
                        file.unlink(missing_ok=True)
                        total, done = total - size, done + 1
        return done

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """When each was used last, its bytes, its path."""
        for folder in _FOLDERS:
            for file in (self._data_dir / folder).rglob("[!.]*.dcm"):
                with contextlib.suppress(FileNotFoundError):
                    about = file.stat()
                    yield about.st_mtime, about.st_size, file


def refuse_another_key(settings: Settings) -> None:
    """Read or make the site key, and compare it with the key of the site's first machine: machines without a
    common folder must share one, else a patient has several pseudonyms.

    The comparison uses a value derived from the key, which the first machine left in the bucket. Raises
    ConfigurationError if the values differ. An unreachable store is asked at the next start.
    """
    key, bucket = sitekey.load_or_create(settings.node.data_dir), bucket_of(settings)
    if bucket is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder, "ours")
        ours.write_bytes(key.derive("dicom-node: which site key is it"))
        try:
            theirs = bucket.get(_KEY, Path(folder, "theirs"))
        except NotInSpool:
            with contextlib.suppress(StoreAway):
                bucket.put_first(_KEY, ours)
            return
        except StoreAway:
            return
        if theirs != sha256_of(ours):
            problem = ConfigProblem(
                str(sitekey.path_of(settings.node.data_dir)),
                "site key",
                "",
                "differs from the key of the site's other machines: copy theirs, or pseudonyms will differ",
            )
            raise ConfigurationError([problem])
