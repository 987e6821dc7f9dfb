"""Deletion of files that are no longer needed.

Received objects are deleted once all results of their study are confirmed, never before; the files of results
later.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import StoreAway
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import (
    ReviewVerdict,
)
from dicom_node.base.sitekey import PatientNames
from dicom_node.base.store import (
    intake,
    results,
)
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    CleaningReview,
)
from dicom_node.base.store.transitions import (
    record,
    utc_now,
)

_STUDIES = 100  # studies in one transaction: it holds up other writers for some 50 ms


def purge(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete the received objects of studies that ended ``spool.keep_days`` ago; return the number of files.

    Quarantined studies, and studies with a result that is not confirmed, are left alone. The rows are
    committed first; a file that a crash leaves behind is deleted when spool and index are compared.
    """
    before = (now or utc_now()) - timedelta(days=settings.spool.keep_days)
    total, studies = 0, [0]
    while studies:
        studies, number = _purge(database, settings, before, _STUDIES)
        total += number
    return total


def purge_results(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete the files of results that are older than ``spool.result_days`` (0: never); return their number.

    Their rows stay, and are locked while the files are deleted, so that no process sends one meanwhile. A
    file is deleted before its row says so: after a crash the row is found again the next time.
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
    """Delete the received objects of these studies regardless of their age, if all results are delivered;
    return the studies whose objects were deleted.

    ``also`` writes in the same transaction, called for each of them.
    """
    tomorrow = utc_now() + timedelta(days=1)
    return _purge(database, settings, tomorrow, len(study_ids), study_ids, also)[0]


def erase_now(
    database: Database, settings: Settings, study_id: int, also: Callable[[Session, int], None]
) -> bool:
    """Delete the received objects and the built results of a study that is at rest, and the patient's name;
    returns False if the study is not at rest, and nothing was deleted.

    Its rows stay: the objects that were received, what became of them, and events. ``also`` writes in the
    same transaction; its last argument is the number of deleted files.
    """
    files = Files(settings)
    with database.write() as session:
        study = intake.lock_at_rest(session, utc_now() + timedelta(days=1), study_id)
        if study is None:
            return False
        built = results.files_to_erase(session, study_id)
        received = intake.mark_purged(session, study_id)
        PatientNames(settings.node.data_dir).enter(session, study, "")
        _end_reviews(session, study_id)
        record(session, events.FILES_PURGED, objects=len(received), results=len(built))
        also(session, len(received) + len(built))
        files.delete(*built)  # before the commit, as those of old results: after a crash it is done again
    with suppress(StoreAway):
        files.delete(*received)
    return True


def _end_reviews(session: Session, study_id: int) -> None:
    """End the reviews of cleaned images of a study whose files are deleted."""
    session.execute(
        update(CleaningReview)
        .where(CleaningReview.study_id == study_id, CleaningReview.verdict.is_(None))
        .values(verdict=ReviewVerdict.REPLACED, decided_at=utc_now())
    )


def _purge(
    database: Database,
    settings: Settings,
    before: datetime,
    most: int,
    among: Sequence[int] | None = None,
    also: Callable[[Session, int], None] | None = None,
) -> tuple[list[int], int]:
    """Mark objects of at most ``most`` purgeable studies as deleted, end their reviews, and delete the files;
    return the study ids and the number of files.

    Parameters as of ``intake.purgeable`` and ``purge_now``. Files that an unreachable object store keeps are
    deleted when it is compared with the index.
    """
    with database.write() as session:
        studies = intake.lock_purgeable(session, before, most, among)
        paths = [path for study_id in studies for path in intake.mark_purged(session, study_id)]
        for study_id in studies:
            _end_reviews(session, study_id)
            if also:
                also(session, study_id)
        if paths:
            record(session, events.FILES_PURGED, objects=len(paths))
    with suppress(StoreAway):
        Files(settings).delete(*paths)
    return studies, len(paths)
