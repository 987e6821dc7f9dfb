"""Deletion of received objects once all results of their study are confirmed, never before.

The readings of their burned-in annotation are deleted with them, the files of results later.
"""

import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.errors import StoreAway
from dicom_node.events import FILES_PURGED
from dicom_node.object_store.files import Files
from dicom_node.store import burned_in, intake, results
from dicom_node.store.database import Database
from dicom_node.store.transitions import record, utc_now

_BATCH = 100  # studies in one transaction: it holds up other writers for some 50 ms


def purge(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete received objects of studies that ended ``spool.keep_days`` ago; returns how many files.

    Quarantined studies, and studies with a result that is not confirmed, are left alone. The rows are
    committed first; a file that a crash leaves behind is deleted when spool and index are compared.
    """
    before = (now or utc_now()) - timedelta(days=settings.spool.keep_days)
    total, files = 0, Files(settings)
    while True:
        with database.write() as session:
            studies = intake.lock_purgeable(session, before, _BATCH)
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
            rows = results.lock_outdated(session, before, _BATCH)
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
    """Mark their objects as purged and forget their readings; returns the paths of the files."""
    paths = [path for study_id in studies for path in intake.mark_purged(session, study_id)]
    for study_id in studies:
        burned_in.forget_readings(session, study_id)
        burned_in.end_reviews(session, study_id)
    return paths
