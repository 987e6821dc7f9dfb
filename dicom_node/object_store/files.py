"""Access to files of received objects and built results, by the paths in their rows.

With an object store, ``node.data_dir`` has the files that are not uploaded yet, and copies of files of the
bucket under the same paths.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.errors import NotInSpool, StorageError, StoreAway
from dicom_node.object_store import rows as stored_rows
from dicom_node.object_store.bucket import bucket_of


class Files:
    """Files under ``node.data_dir``; paths of rows are relative to it, and are the keys of the bucket."""

    def __init__(self, settings: Settings) -> None:
        self.data_dir = settings.node.data_dir
        self.bucket = bucket_of(settings)

    def here(self, session: Session, path: str) -> Path:
        """The local file for a row's ``path``, fetched if this machine does not have it.

        Without an object store, opening the file shows whether it exists. Raises StoreAway (the store does
        not answer, or another machine has not uploaded the object yet), NotInSpool (lost or damaged).
        """
        file = self.data_dir / path
        if self.bucket is None:
            return file
        with contextlib.suppress(FileNotFoundError):
            os.utime(file)  # in use: it is not cleared away
            return file
        sha256 = stored_rows.known_sha256(session, path)
        if sha256 is None:
            raise NotInSpool("an object is neither on this machine nor in the object store")
        if not sha256:
            raise StoreAway("another machine has not handed an object over to the object store yet")
        self.bucket.get(path, file, sha256)
        return file

    def if_here(self, session: Session, path: str) -> Path | None:
        """The file as :meth:`here` returns it; None if it is lost or cannot be fetched now."""
        with contextlib.suppress(StorageError):
            file = self.here(session, path)
            return file if file.is_file() else None
        return None

    def has(self, session: Session, path: str) -> bool:
        """Whether the object store has the file of this row, so that no local copy is needed."""
        return self.bucket is not None and bool(stored_rows.known_sha256(session, path))

    def built_before(self, path: str) -> Path | None:
        """The file of a result that was built before, even if its row is lost. Raises StoreAway."""
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
        """Upload a built result before a row of the database names it. Raises StoreAway."""
        if self.bucket is not None:
            self.bucket.put_first(path, file)
        file.replace(self.data_dir / path)

    def stored(self, folder: str) -> Iterator[str]:
        """The paths below a folder in the object store. Raises StoreAway."""
        return iter(()) if self.bucket is None else self.bucket.keys(folder)

    def fetch_unknown(self, file: Path) -> None:
        """Fetch a file that exists in the store and has no row in a restored database.

        Raises StoreAway, NotInSpool.
        """
        if self.bucket is not None and not file.is_file():
            self.bucket.get(self.relative(file), file)

    def relative(self, file: Path) -> str:
        """The path relative to the data folder, as in rows. Raises ValueError for a file outside the data
        folder.
        """
        return str(file.relative_to(self.data_dir))

    def delete(self, *paths: str) -> None:
        """Delete files, and folders that become empty. Raises StoreAway; then only the local files are
        deleted.
        """
        for path in paths:
            file = self.data_dir / path
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: a late object came
                file.parent.rmdir()
        if self.bucket is not None and paths:
            self.bucket.delete(*paths)
