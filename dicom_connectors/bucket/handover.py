"""One machine of a site and its object store: what it uploads and keeps, and that all have one site key.

An object is acknowledged when it is synced here. Its row records that it waits, so a node that is killed
during an upload starts the upload again. Local copies of what the store has are limited to
``object_store.local_mib``.
"""

import logging
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from dicom_connectors.bucket.settings import BucketPart
from dicom_node.base import sitekey
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import typed_section
from dicom_node.base.errors import ConfigProblem, ConfigurationError, NotInSpool, StoreAway
from dicom_node.base.events import STORE_AWAY, STORE_BACK
from dicom_node.base.files import WAITS, Bucket, bucket_of, sha256_of
from dicom_node.base.lifecycle import DEIDENTIFIED_FOLDER
from dicom_node.base.runner import NEVER
from dicom_node.base.store.database import Database, batches
from dicom_node.base.store.tables import ReceivedObject, Result
from dicom_node.base.store.transitions import record
from dicom_node.receive.spool import Spool

_LOGGER = logging.getLogger(__name__)
_AT_ONCE = 4  # uploads side by side
_BATCH = 64  # objects in one transaction
_FOLDERS = ("spool/objects", "spool/quarantine", "results", DEIDENTIFIED_FOLDER)
_IN_USE_SECONDS = 900.0  # a job may have a file open for so long
_TRIM_SECONDS = 60.0
_KEY = "keys/site-key.check"


class HandOver:
    """Service that uploads received objects from this machine's spool to the bucket, the oldest first."""

    def __init__(self, database: Database, settings: Settings, bucket: Bucket) -> None:
        self._database, self._bucket = database, bucket
        self._data_dir, self._machine = settings.node.data_dir, socket.gethostname()[:64]
        self._adopted = False
        self._damaged: set[int] = set()  # logged once
        self._away_since: float | None = None

    def run_once(self, stop: threading.Event = NEVER) -> int:
        """Upload all files of this machine that wait for it; return how many were uploaded.

        It stops early if ``stop`` is set or the bucket stops answering. An event is stored when the bucket
        stops answering, and when it answers again.
        """
        done = after = 0
        try:
            self._queue_older_files()
            while not stop.is_set() and (batch := self._waiting(after)):
                after = batch[-1].id
                done += self._upload([row for row in batch if (self._data_dir / row.path).is_file()])
        except StoreAway as away:
            if self._away_since is None:
                self._away_since = time.monotonic()
                with self._database.write() as session:
                    record(session, STORE_AWAY, machine=self._machine, reason=str(away))
            return done
        if self._away_since is not None:  # it is back, or nothing waits here any more
            seconds, self._away_since = round(time.monotonic() - self._away_since), None
            with self._database.write() as session:
                record(session, STORE_BACK, machine=self._machine, seconds=seconds)
        return done

    def _queue_older_files(self) -> None:
        """Queue the files that were stored before a bucket was configured; later calls do nothing."""
        for batch in () if self._adopted else batches(Spool(self._data_dir / "spool", 0).stored()):
            unknown = ReceivedObject.spool_name.in_([file.stem for file in batch])
            with self._database.write() as session:
                queued = update(ReceivedObject).where(unknown, ReceivedObject.sha256.is_(None))
                session.execute(queued.values(sha256=""))
        self._adopted = True

    def _waiting(self, after: int) -> Sequence[Any]:
        """Return the next received objects that wait for upload, with row numbers above ``after``, in their
        order.

        Each row has ``id``, ``path`` and ``bytes``; its file may be on another machine.
        """
        chosen = select(ReceivedObject.id, ReceivedObject.path, ReceivedObject.bytes).where(WAITS)
        with self._database.read() as session:
            further = chosen.where(ReceivedObject.id > after).order_by(ReceivedObject.id)
            return session.execute(further.limit(_BATCH)).all()

    def _upload(self, batch: Sequence[Any]) -> int:
        """Upload the files of these rows in parallel, and store their hashes; return how many were uploaded.

        Raises StoreAway if the bucket did not answer for one of them.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tried = list(pool.map(self._put, batch))
        puts = zip(batch, tried, strict=True)
        hashes = [{"id": row.id, "sha256": put} for row, put in puts if isinstance(put, str)]
        if hashes:
            numbers = [one["id"] for one in hashes]
            gone = select(ReceivedObject.path).where(ReceivedObject.id.in_(numbers), ReceivedObject.purged)
            with self._database.write() as session:
                session.execute(update(ReceivedObject), hashes)
                purged = session.scalars(gone).all()
            if purged:  # while it was on its way
                self._bucket.delete(*purged)
        if away := next((answer for answer in tried if isinstance(answer, StoreAway)), None):
            raise away
        return len(hashes)

    def _put(self, row: Any) -> str | StoreAway | None:
        """Upload the file of one row, and return its SHA-256.

        Returns the StoreAway error if the bucket does not answer, and None if the file is missing or damaged.
        """
        file = self._data_dir / row.path
        try:
            sha256 = sha256_of(file)
            if file.stat().st_size != row.bytes:
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


class LocalCopies:
    """Service that deletes local copies of files in the bucket when they take more than
    ``object_store.local_mib``.
    """

    def __init__(self, database: Database, settings: Settings, bucket: Bucket) -> None:
        self._database, self._bucket = database, bucket
        self._data_dir = settings.node.data_dir
        self._most = typed_section(settings, BucketPart).object_store.local_mib * 2**20
        self._next = 0.0

    def run_once(self, _: threading.Event) -> None:
        """Delete surplus copies, at most once a minute."""
        if time.monotonic() >= self._next:
            self.trim()
            self._next = time.monotonic() + _TRIM_SECONDS

    def trim(self, in_use_seconds: float = _IN_USE_SECONDS) -> int:
        """Delete copies of files that the node has purged and, above the limit on size, the copies that were
        unused longest; return how many were deleted.

        Files used in the last ``in_use_seconds`` stay.
        """
        found = sorted(self._files())
        total, done = sum(size for _, size, _ in found), 0
        with suppress(StoreAway):
            for batch in batches(one for one in found if one[0] < time.time() - in_use_seconds):
                names = [file.stem for _, _, file in batch]
                received = select(ReceivedObject.spool_name).where(ReceivedObject.purged)
                built = select(Result.sop_instance_uid).where(Result.purged)
                with self._database.read() as session:
                    purged = {
                        *session.scalars(received.where(ReceivedObject.spool_name.in_(names))),
                        *session.scalars(built.where(Result.sop_instance_uid.in_(names))),
                    }
                for _, size, file in batch:
                    key, is_too_much = str(file.relative_to(self._data_dir)), total > self._most
                    # Asked for at the moment of its deletion: nothing goes that the store does not show.
                    if file.stem in purged or (is_too_much and self._bucket.size(key) == size):
                        file.unlink(missing_ok=True)
                        total, done = total - size, done + 1
        return done

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield (time of last use in seconds since 1970, size in bytes, path) for each local DICOM file."""
        for folder in _FOLDERS:
            for file in (self._data_dir / folder).rglob("[!.]*.dcm"):
                with suppress(FileNotFoundError):
                    about = file.stat()
                    yield about.st_mtime, about.st_size, file


def oldest_waiting(session: Session) -> tuple[int, datetime | None]:
    """Return how many objects of the whole site wait for upload, and when the oldest was received (None: none
    waits).
    """
    count, since = session.execute(
        select(func.count(), func.min(ReceivedObject.received_at)).where(WAITS)
    ).one()
    return count, since


def refuse_another_key(settings: Settings) -> None:
    """Compare this machine's site key, which is created if missing, with the one that the site's first
    machine put in the bucket.

    Raises ConfigurationError if they differ, because one patient would then get several pseudonyms. Nothing
    is compared without a bucket, or if it does not answer.
    """
    key, bucket = sitekey.load_or_create(settings.node.data_dir), bucket_of(settings)
    if bucket is None:
        return
    with tempfile.TemporaryDirectory() as folder, suppress(StoreAway):
        ours = Path(folder, "ours")
        ours.write_bytes(key.derive("dicom-node: which site key is it"))
        try:
            theirs = bucket.get(_KEY, Path(folder, "theirs"))
        except NotInSpool:
            bucket.put_first(_KEY, ours)
            return
        if theirs != sha256_of(ours):
            file = str(sitekey.path_of(settings.node.data_dir))
            why = "differs from the key of the site's other machines: copy theirs, or pseudonyms will differ"
            raise ConfigurationError([ConfigProblem(file, "site key", "", why)])
