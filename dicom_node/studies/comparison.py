"""Received objects compared with the stored versions of them: by their bytes, and by the pixels that they
decode to.
"""

import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy.orm import Session

from ai_pipeline.errors import disk_fault
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotInSpool, StoreAway
from dicom_node.base.files import Files
from dicom_node.base.store import (
    intake,
)
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    ReceivedObject,
)
from dicom_node.receive.inspection import Inspector
from dicom_node.receive.spool import (
    Spool,
    same_object,
)
from dicom_node.studies.judgement import Arrived


class Comparison:
    """Compares received objects with stored ones, and notes the outcome in them."""

    def __init__(self, spool: Spool, settings: Settings, inspector: Inspector) -> None:
        """Prepare to compare the files of ``spool``; ``inspector`` compares images."""
        self._spool, self._files, self._inspector = spool, Files(settings), inspector

    def compare_ahead(
        self, database: Database, item: Arrived, batch: Sequence[Arrived] = (), again: Inspector | None = None
    ) -> None:
        """Compare the object with earlier versions of it, and note the outcome in ``item``, before the
        database is locked for writing.

        ``batch``: objects that are to be indexed before it. ``again``: the inspector of a second try, None at
        the first. Raises ReaderLost at the first try.
        """
        uid, pixels = item.found.sop_instance_uid, item.found.pixels_sha256
        with database.read() as session, suppress(StoreAway):  # it waits: indexing says so
            self.stored_copy(session, item)
            former = intake.instance(session, uid)
            known = [(former.path, former.pixels_sha256)] if former else []
            for one in batch:
                if one.found.sop_instance_uid == uid and not one.found.fault:
                    known.append(
                        (
                            self._files.relative(self._spool.place(one.path, one.found.study_instance_uid)),
                            one.found.pixels_sha256,
                        )
                    )
            for path, sha256 in known if not item.found.fault else ():
                if sha256 != pixels:
                    item.same_image[path] = None  # where one does not decode or is purged
                    with suppress(NotInSpool):
                        first, inspector = self._where(session, path, item), again or self._inspector
                        item.same_image[path] = inspector.same_image(first, item.path, again=bool(again))

    def stored_copy(self, session: Session, item: Arrived) -> ReceivedObject | None:
        """Return the first received object whose file has the same bytes; None if there is none."""
        if not item.arrival.calling_ae:  # a stray file, not written by the listener
            return None
        return next(
            (
                row
                for row in intake.stored_copies(session, item.found.sop_instance_uid, limit=20)
                if self._is_copy(session, row.path, item)
            ),
            None,
        )

    def _is_copy(self, session: Session, kept: str, item: Arrived) -> bool:
        """Return whether the object ``item`` is the same (:func:`same_object`) as that in the indexed file
        ``kept``. Raises StoreAway if the disk does not read it now.
        """
        if kept not in item.copies:
            try:
                item.copies[kept] = same_object(self._where(session, kept, item), item.path)
            except (OSError, struct.error, NotInSpool) as error:
                if fault := disk_fault(error):
                    raise StoreAway(fault) from error
                item.copies[kept] = False  # gone or truncated: then this one is stored
        return item.copies[kept]

    def _where(self, session: Session, kept: str, item: Arrived) -> Path:
        """Return the present path of an indexed file; a file of the same batch is not moved yet."""
        on_its_way = item.path.with_name(Path(kept).name)
        return on_its_way if on_its_way.is_file() else self._files.here(session, kept)
