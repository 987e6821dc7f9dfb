"""The spool compared with the database, and indexing of files that the database does not know."""

from __future__ import annotations

from collections.abc import Callable

from dicom_node.config.settings import Settings
from dicom_node.inbox.spool import Spool
from dicom_node.model.kinds import AuditAction
from dicom_node.object_store.files import Files
from dicom_node.services import audit, open_database
from dicom_node.studies import comparison


def compare(settings: Settings) -> str:
    """The differences between spool and index, and what to do; "" if there is none."""
    with open_database(settings) as database:
        return str(comparison.compare(database, _spool(settings), Files(settings)))


def reindex(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """Let the node index spooled objects that its database does not know; returns how many.

    ``progress`` is called with (done, all). Raises SpoolError.
    """
    with open_database(settings) as database:
        done = comparison.reindex(database, _spool(settings), Files(settings), progress)
        if done:
            with database.write() as session:
                audit.note(session, audit.COMMAND_LINE, AuditAction.SPOOL_REINDEXED, objects=done)
    return done


def _spool(settings: Settings) -> Spool:
    return Spool(settings.node.data_dir / "spool", minimum_free_bytes=0)
