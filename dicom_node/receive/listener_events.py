"""The events of a listener on their way to its journal.

On a full disk they wait in memory. Of what a peer can repeat at will only the first are written.
"""

import logging
import threading
import time

from dicom_node.base import events
from dicom_node.receive import limits
from dicom_node.receive.journal import JournalWriter
from dicom_node.receive.policy import Entrance, Failure
from dicom_node.receive.requests import MINUTE, AcceptedAssociation

_LOGGER = logging.getLogger(__name__)


class ListenerEvents:
    """Writes the events of one listener to its journal. Thread-safe."""

    def __init__(self, journal: JournalWriter, listener_id: str, entrance: Entrance) -> None:
        """Write events of the listener ``listener_id`` to ``journal``; ``entrance`` counts failures."""
        self.listener_id = listener_id
        self._journal, self._entrance = journal, entrance
        self._lock = threading.Lock()
        self._unwritten: list[events.Event] = []
        self._complained_at = float("-inf")

    @property
    def is_congested(self) -> bool:
        """Whether too many events wait to be written for further associations."""
        return len(self._unwritten) > limits.EVENTS_WAITING // 2  # half: several come at once

    def record(self, *new: events.Event) -> bool:
        """Write events to the journal; return whether all events are written.

        On a full disk they stay in memory, up to a limit, and are written later.
        """
        with self._lock:
            self._unwritten = [*self._unwritten, *new][: limits.EVENTS_WAITING]
            try:
                while self._unwritten:
                    self._journal.append(self._unwritten[0])
                    del self._unwritten[0]
            except OSError as error:
                if time.monotonic() - self._complained_at > MINUTE:  # each sender tries again and again
                    self._complained_at = time.monotonic()
                    _LOGGER.error("the journal cannot be written: %s", error.strerror)
            return not self._unwritten

    def record_if_few(
        self, accepted: AcceptedAssociation, event_type: events.EventType, **fields: events.FieldValue
    ) -> None:
        """Write an event to the journal, unless the association has caused too many events: a peer could
        cause a thousand a second.
        """
        accepted.repeatable += 1
        if accepted.repeatable <= (
            limits.LISTED_OF_A_SENDER if accepted.permission.may_send else limits.LISTED_OF_ONE_ASSOCIATION
        ):
            self.record(self.of_association(event_type, accepted, **fields))

    def list_or_count(
        self, failure: Failure, caller: str, event_type: events.EventType, **fields: events.FieldValue
    ) -> None:
        """Record an event of this type for a ``failure`` of the network address ``caller``; if there were too
        many in this minute, only count the failure.
        """
        if self._entrance.count_listed(caller):
            self.record(events.happened(event_type, listener=self.listener_id, **fields))
        else:
            self._entrance.fail(caller, failure)

    def keep_up(self) -> None:
        """Write the events that wait in memory to the journal, and an event with the counts of failed
        connections.
        """
        for address, counts in self._entrance.due():
            self.record(
                events.happened(
                    events.CONNECTIONS_FAILED,
                    listener=self.listener_id,
                    address=address,
                    **{str(failure): number for failure, number in counts.items()},
                )
            )
        self.record()

    def of_association(
        self, event_type: events.EventType, accepted: AcceptedAssociation, **fields: events.FieldValue
    ) -> events.Event:
        """Log and return an event about an association, with identifier, AE titles, address and peer."""
        return events.happened(
            event_type,
            association=accepted.association,
            listener=self.listener_id,
            calling=accepted.proposal.calling_ae,
            called=accepted.proposal.called_ae,
            address=accepted.proposal.address,
            peer=accepted.permission.peer,
            **fields,
        )
