"""Requests to cancel claimed work items: they are recorded here, and the performer ends the items."""

import threading
import time
from contextlib import closing
from typing import Final

from dicom_connectors.worklist.events import UpsEvents
from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.errors import PeerUnreachable
from dicom_node.base.events import WORKITEM_STOPPED
from dicom_node.base.store import requested
from dicom_node.base.store.database import Database
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.studies.fetch import closed_at

_AGAIN_SECONDS: Final = 60.0
"""Until a manager without a channel, or whose channel ended, is tried again."""


class Cancellations:
    """Keeps an event channel to one manager (UPS-RS) open while the node has claimed items of the manager.

    Several nodes of a site may have a channel: a request is recorded once.
    """

    def __init__(self, database: Database, settings: Settings, peer: PeerSettings) -> None:
        self._database, self._settings, self._peer = database, settings, peer
        self._not_before = 0.0

    def run_once(self, stop: threading.Event) -> None:
        """Subscribe and listen until no item is claimed, the channel ends, or ``stop`` is set."""
        if time.monotonic() < self._not_before or not self._claimed():
            return
        self._not_before = time.monotonic() + _AGAIN_SECONDS
        events, subscribed = UpsEvents(self._peer, self._settings), set[str]()

        def goes_on() -> bool:
            claimed = self._claimed()
            for uid in claimed - subscribed:
                events.subscribe(uid)  # one that is refused is not asked again on this channel
            subscribed.update(claimed)
            return bool(claimed) and not stop.is_set()

        with closing(events), closed_at(stop, events):
            try:
                for uid in events.listen(goes_on):
                    self._note(uid)
                self._not_before = 0.0
            except PeerUnreachable:
                return

    def _claimed(self) -> set[str]:
        with self._database.read() as session:
            return requested.claimed_items(session, self._peer.name)

    def _note(self, uid: str) -> None:
        with self._database.write() as session:
            for row in requested.items_to_cancel(session, self._peer.name, uid):
                row.cancel_asked, row.next_at = True, utc_now()
                study = row.study_instance_uid
                record(session, WORKITEM_STOPPED, peer=self._peer.name, study=study, workitem=uid)
