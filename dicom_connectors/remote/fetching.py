"""Results that wait at a vendor's server: it is polled for objects of a study that it was not sent, which are
fetched (C-FIND and C-MOVE or C-GET, PS3.4 C; QIDO-RS and WADO-RS, PS3.18 10.4, 10.6).
"""

import threading
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select

from ai_pipeline.programs.output import MOST_OBJECTS
from dicom_connectors.remote.received import AnswerSink
from dicom_connectors.remote.settings import Vendor
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import StorageError, Unavailable
from dicom_node.base.store.awaited import AwaitedAnswer
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import ReceivedObject
from dicom_node.deliver import scu
from dicom_node.studies.fetch import closing_on_stop

_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(seconds=30)
_FINAL: Final = (scu.RetrieveStatus.REFUSED, scu.RetrieveStatus.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class Polled:
    """What came of one look. ``has_new``: there were objects that had not come yet; ``why``: what went wrong,
    "" for nothing; ``is_final``: another look would not change it.
    """

    has_new: bool
    why: str = ""
    is_final: bool = False


def pause(waited: timedelta) -> timedelta:
    """Return the time until the next look, after ``waited`` since the study was sent: a fifth of it."""
    return min(max(waited / 5, _SHORTEST), _LONGEST)


def look(
    database: Database,
    settings: Settings,
    vendor: Vendor,
    row: AwaitedAnswer,
    sent: Collection[str],
    stop: threading.Event,
) -> Polled:
    """List the objects of a study at the server, and fetch those that it was not ``sent`` (SOP Instance UIDs)
    and that have not come from it before, for whichever answer.
    """
    archive = scu.open_archive(vendor.peer, settings)
    with closing(archive), closing_on_stop(stop, archive):
        try:
            there = archive.objects(row.study_instance_uid)
            came = _came(database, vendor, [one.sop_instance_uid for one in there])
            wanted = [one for one in there if one.sop_instance_uid not in came.union(sent)]
            if not wanted:
                return Polled(False)
            if len(wanted) > MOST_OBJECTS:
                return Polled(True, f"it has more than {MOST_OBJECTS} objects of the study", True)
            found = archive.retrieve_objects(
                row.study_instance_uid, wanted, AnswerSink(settings, vendor.peer, row)
            )
        except (Unavailable, StorageError) as error:
            return Polled(False, str(error))
    if found.status is scu.RetrieveStatus.RETRIEVED:
        return Polled(True)
    return Polled(True, f"{vendor.peer.name}: {found.text}", found.status in _FINAL)


def is_time(row: AwaitedAnswer, now: datetime, quiet: timedelta) -> bool:
    """Return whether an answer of which nothing new is at the server is whole: quiet, and begun in time."""
    return row.last_at is not None and row.last_at <= row.limit_at and now >= row.last_at + quiet


def _came(database: Database, vendor: Vendor, uids: Collection[str]) -> set[str]:
    """Return which of these objects came from the server at any time."""
    named = sorted(uids)
    found = set[str]()
    with database.read() as session:
        for start in range(0, len(named), 1000):
            chosen = select(ReceivedObject.sop_instance_uid).where(
                ReceivedObject.calling_ae == vendor.peer.ae_title,
                ReceivedObject.sop_instance_uid.in_(named[start : start + 1000]),
            )
            found.update(filter(None, session.scalars(chosen)))
    return found
