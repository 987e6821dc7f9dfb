"""Upkeep of the spool: deletion of what was delivered, and comparison of its files with the index.

Received objects are deleted once all results of their study are confirmed, never before; the files of results
later. Rows are committed before their file is moved, and marked as purged before it is deleted. So a file
outside ``incoming`` without a row means a lost database, and a row without its file a lost disk.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import StoreAway
from dicom_node.base.events import FILES_PURGED, OBJECTS_REINDEXED, SPOOL_DIFFERS
from dicom_node.base.files import Files, waiting_paths
from dicom_node.base.store import intake, results
from dicom_node.base.store.database import Database, batches
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.receive.spool import Spool

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
            record(session, FILES_PURGED, objects=total)
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
                record(session, FILES_PURGED, results=len(rows))
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
            record(session, FILES_PURGED, objects=len(paths))
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
        results.end_reviews(session, study_id)
    return paths


_ROWS = 500  # rows asked for at once


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
            parts.append(f"{_objects(len(self.unknown))} unknown to the database: dicom-node spool reindex")
        if self.missing:
            parts.append(f"{_objects(self.missing)} of the database without a file: restore or send again")
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
            record(session, SPOOL_DIFFERS, unknown=len(found.unknown), missing=found.missing, remedy=text)


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
            record(session, OBJECTS_REINDEXED, objects=len(unknown))
    return len(unknown)


def _objects(number: int) -> str:
    return f"{number} object{'s' if number != 1 else ''}"


def _indexed(database: Database) -> Iterator[str]:
    """The paths of all received objects that were not purged."""
    last = 0
    while True:
        with database.read() as session:
            rows = intake.paths_after(session, last, _ROWS)
        if not rows:
            return
        last = rows[-1][0]
        yield from (path for _, path in rows)
