"""The files of the spool compared with the rows of the index.

Files are marked as purged before they are deleted. So a file outside ``incoming`` without a row means a lost
database, and a row without its file a lost disk.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dicom_node.base import events
from dicom_node.base.errors import StoreAway
from dicom_node.base.files import Files, waiting_paths
from dicom_node.base.store import (
    intake,
    views,
)
from dicom_node.base.store.database import Database, batches
from dicom_node.base.store.tables import (
    Association,
)
from dicom_node.base.store.transitions import (
    record,
)
from dicom_node.receive.journal import journal_folders, listeners_of
from dicom_node.receive.spool import Spool
from dicom_node.studies.lost_associations import end_lost_associations


@dataclass(frozen=True, slots=True)
class Difference:
    """The differences between the files of the spool and the index.

    ``unknown``: files without a row, in order of arrival. ``left_over``: files whose row says that they are
    deleted. ``missing``: the number of rows whose file does not exist.
    """

    unknown: Sequence[Path]
    left_over: Sequence[Path]
    missing: int

    def __str__(self) -> str:
        """Return the differences that a person should act on, with the remedies; "" if there are none."""
        parts = []
        if self.unknown:
            parts.append(f"objects unknown to the database: {len(self.unknown)} (dicom-node spool reindex)")
        if self.missing:
            parts.append(f"objects of the database without a file: {self.missing} (restore or send again)")
        return "; ".join(parts)


def compare(database: Database, spool: Spool, files: Files) -> Difference:
    """Compare the files of the spool with the rows of the index, both ways; takes some 20 s for a million
    objects. Raises StoreAway.
    """
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
    last = missing = 0
    while True:
        with database.read() as session:
            rows = intake.paths_after(session, last, 500)
        if not rows:
            break
        last = rows[-1][0]
        paths = (files.data_dir / path for _, path in rows if path not in there)
        # at its place, or still on the way to it
        missing += sum(not (one.is_file() or spool.is_pending(one.name) or one.is_file()) for one in paths)
    return Difference(sorted(unknown, key=lambda path: path.name), left_over, missing)


def reconcile(database: Database, spool: Spool, files: Files) -> None:
    """Delete files whose row says that they are deleted; record event 2030 for other differences between
    spool and index, and 2036 when there are none any more.

    Files that were never indexed are never deleted here: ``reindex`` puts them back.
    """
    try:
        found = compare(database, spool, files)
    except StoreAway:  # the handover logs it; tried again tomorrow
        return
    with suppress(StoreAway):  # the same
        files.delete(*map(files.relative, found.left_over))
    numbers = events.SPOOL_DIFFERS.number, events.SPOOL_AGREES.number
    with database.write() as session:
        if text := str(found):
            record(
                session, events.SPOOL_DIFFERS, unknown=len(found.unknown), missing=found.missing, remedy=text
            )
        elif any(one["number"] == numbers[0] for one in views.list_events(session, numbers=numbers, limit=1)):
            record(session, events.SPOOL_AGREES)


def reindex(database: Database, spool: Spool, files: Files) -> int:
    """Put unknown objects back as :func:`put_unknown_back` does; return their number.

    Associations that were open when the database was saved are closed: their listeners, and the journals with
    their ends, are gone, and their studies would wait.
    """
    writing = set().union(*(listeners_of(folder)[1] for folder in journal_folders(files.data_dir)))
    objects = put_unknown_back(database, spool, files)
    with database.write() as session:
        end_lost_associations(session, Association.listener.not_in(writing), spool)
    return objects


def put_unknown_back(database: Database, spool: Spool, files: Files) -> int:
    """Move files without a row back to ``incoming``, where the node indexes them like any other; return their
    number.

    May be interrupted and run again. Raises SpoolError, StoreAway.
    """
    unknown = compare(database, spool, files).unknown
    for path in unknown:
        files.fetch_unknown(path)
        spool.put_back(path)
    if unknown:
        with database.write() as session:
            record(session, events.OBJECTS_REINDEXED, objects=len(unknown))
    reconcile(database, spool, files)
    return len(unknown)
