"""Files of received objects and built results, by the paths in their rows.

With an object store, ``node.data_dir`` has the files that are not uploaded yet, and copies of files of the
bucket under the same paths.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session, aliased

from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import every
from dicom_node.base.errors import NotInSpool, StorageError, StoreAway
from dicom_node.base.store.tables import Instance, ReceivedObject, Result, Study

WAITS = (ReceivedObject.sha256 == "") & ReceivedObject.purged.is_(False)
"""SQL: a received object that only the disk of one machine has."""
INCOMING = Path("spool", "incoming")
"""Where acknowledged objects lie until they are indexed, below the data folder."""
_INDEXING = 0x4449434F4D  # number of the lock of who indexes ("DICOM")


class Bucket(Protocol):
    """The interface of an object store: stores, fetches and deletes whole files; many threads may use one. No
    half-written file is visible.

    All methods raise StoreAway if the store does not answer or refuses the request.
    """

    name: str
    """The address of the bucket, as people see it."""

    def put(self, key: str, file: Path) -> None:
        """Upload a file under a key that is used for no other content, and check its size in the bucket."""

    def put_first(self, key: str, file: Path) -> None:
        """Upload a file, read whole into memory, unless the key exists already. Raises StoreAway if the key
        has other bytes.
        """

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes; None if it does not exist."""

    def get(self, key: str, into: Path, sha256: str = "") -> str:
        """Fetch an object into the file ``into``, which is then either complete or absent; return its SHA-256
        as hex.

        ``sha256``: the hash to be verified; "": none. Raises NotInSpool if the bucket lacks the object, or
        its hash is another.
        """

    def delete(self, *keys: str) -> None:
        """Delete objects; missing objects are ignored."""

    def keys(self, under: str) -> Iterator[str]:
        """Yield all keys in the folder ``under``."""


def bucket_of(settings: Settings) -> Bucket | None:
    """Return the object store that these settings name; None without one. All callers of a process share
    one.
    """
    found: Iterator[Bucket | None] = (offer(settings) for offer in every("object_stores"))
    return next(filter(None, found), None)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a whole file, as hex. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class Files:
    """The files of received objects and results under ``node.data_dir``; paths in database rows are relative
    to it, and are also the keys in the object store.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the data folder and the object store, if any, that these settings name."""
        self.data_dir = settings.node.data_dir
        self.bucket = bucket_of(settings)

    def here(self, session: Session, path: str) -> Path:
        """Return the local file for the ``path`` of a row, fetched from the object store if this machine
        lacks it.

        Without an object store, only opening the file shows whether it exists. Raises StoreAway (the store
        does not answer, another machine has not uploaded the object yet, the file waits to be moved to its
        place, or the data folder is not mounted or fails), NotInSpool (lost or damaged).
        """
        file = self.data_dir / path
        try:
            if self.bucket is None:
                top = self.data_dir.joinpath(*PurePosixPath(path).parts[:-1][:1])
                if not top.is_dir():
                    raise StoreAway(f"disk: {top} is not there: is it mounted?")
                if not file.exists() and (self.data_dir / INCOMING / file.name).exists():
                    raise StoreAway("disk: a received object could not be moved to its place yet")
                return file
            with contextlib.suppress(FileNotFoundError):
                os.utime(file)  # in use: it is not cleared away
                return file
        except OSError as error:
            raise StoreAway.of_disk(error) from error
        sha256 = known_sha256(session, path)
        if sha256 is None:
            raise NotInSpool("an object is neither on this machine nor in the object store")
        if not sha256:
            raise StoreAway("another machine has not handed an object over to the object store yet")
        self.bucket.get(path, file, sha256)
        return file

    def if_here(self, session: Session, path: str) -> Path | None:
        """Return the file as :meth:`here` does; None if it is lost or cannot be fetched now."""
        with contextlib.suppress(StorageError):
            file = self.here(session, path)
            return file if file.is_file() else None
        return None

    def has(self, session: Session, path: str) -> bool:
        """Return whether the object store has the file at this ``path``, so that the local copy may be
        deleted.
        """
        return self.bucket is not None and bool(known_sha256(session, path))

    def built_before(self, path: str) -> Path | None:
        """Return the file of a result that was built earlier, even if its database row is lost; None if there
        is none. Raises StoreAway.
        """
        file = self.data_dir / path
        if self.bucket is None or (file.is_file() and self.bucket.size(path) is not None):
            return file if file.is_file() else None
        if file.is_file():  # of a time without a store
            self.bucket.put_first(path, file)
            return file
        with contextlib.suppress(NotInSpool):
            self.bucket.get(path, file)
            return file
        return None

    def keep(self, file: Path, path: str) -> None:
        """Move the file of a newly built result to ``path`` and upload it; call it before a database row
        names the path. Raises StoreAway.
        """
        if self.bucket is not None:
            self.bucket.put_first(path, file)
        file.replace(self.data_dir / path)

    def stored(self, folder: str) -> Iterator[str]:
        """Yield the paths below a folder in the object store; nothing without an object store. Raises
        StoreAway.
        """
        return iter(()) if self.bucket is None else self.bucket.keys(folder)

    def fetch_unknown(self, file: Path) -> None:
        """Fetch a file that the object store has but a restored database does not know; does nothing if it is
        here already.

        Raises StoreAway, NotInSpool.
        """
        if self.bucket is not None and not file.is_file():
            self.bucket.get(self.relative(file), file)

    def relative(self, file: Path) -> str:
        """Return the path of a file relative to the data folder, as rows have it. Raises ValueError for a
        file outside of it.
        """
        return str(file.relative_to(self.data_dir))

    def delete(self, *paths: str) -> None:
        """Delete the files at these paths here and in the object store, and folders that become empty.

        Raises StoreAway; then only the local files are deleted, as far as the disk lets it.
        """
        left: OSError | None = None
        for path in paths:
            file = self.data_dir / path
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                left = error
            with contextlib.suppress(OSError):  # not empty: a late object came
                file.parent.rmdir()
        if left is not None:
            raise StoreAway.of_disk(left) from left
        if self.bucket is not None and paths:
            self.bucket.delete(*paths)


def known_sha256(session: Session, path: str) -> str | None:
    """Return the SHA-256 of the file at ``path`` in the object store, from the database: "" while it waits
    for upload, None if it was never uploaded.
    """
    name = PurePosixPath(path)
    if name.parts[0] == "spool":
        return session.scalar(select(ReceivedObject.sha256).where(ReceivedObject.spool_name == name.stem))
    return session.scalar(select(Result.sha256).where(Result.sop_instance_uid == name.stem))


def waiting_paths(session: Session) -> set[str]:
    """Return the paths of all files that wait for upload to the object store."""
    return set(session.scalars(select(ReceivedObject.path).where(WAITS)))


def all_uploaded() -> ColumnElement[bool]:
    """SQL: whether the object store has the files of all objects of the study that are not superseded, so
    that any machine can read them.
    """
    file = aliased(ReceivedObject)
    there = exists().where(
        file.sop_instance_uid == Instance.sop_instance_uid, file.path == Instance.path, file.sha256 > ""
    )
    return ~exists().where(Instance.study_id == Study.id, Instance.purged.is_(False), ~there)


def lock_indexing(session: Session) -> None:
    """Prevent other machines of the site from indexing until this transaction ends.

    A machine that stops responding loses this right after two minutes. SQLite has a single writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.set_config("idle_in_transaction_session_timeout", "120s", True)))
        session.execute(select(func.pg_advisory_xact_lock(_INDEXING)))
