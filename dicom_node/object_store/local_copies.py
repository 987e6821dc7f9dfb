"""Local copies of files of the object store, limited to ``object_store.local_mib``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dicom_node.config.settings import Settings
from dicom_node.errors import StoreAway
from dicom_node.model.deidentified import DEIDENTIFIED_FOLDER
from dicom_node.object_store import rows as stored_rows
from dicom_node.object_store.bucket import Bucket
from dicom_node.store.database import Database

_FOLDERS = ("spool/objects", "spool/quarantine", "results", DEIDENTIFIED_FOLDER)
_IN_USE_SECONDS = 900.0  # a job may have a file open for so long
_BATCH = 500


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
            for batch in (free[at : at + _BATCH] for at in range(0, len(free), _BATCH)):
                purged = self._purged([file for _, _, file in batch])
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

    def _purged(self, files: Sequence[Path]) -> set[str]:
        received = [file.stem for file in files if (self._data_dir / "spool") in file.parents]
        built = [file.stem for file in files if (self._data_dir / "spool") not in file.parents]
        with self._database.read() as session:
            return stored_rows.purged(session, received, built)
