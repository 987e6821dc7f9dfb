"""The Storage service (PS3.4 B): a C-STORE from its command to Success.

The fragments of a data set are written to the spool as they arrive, so an object of any size needs the memory
of one PDU. Success is answered when the object is durable; its content is inspected later, by the node.
"""

from datetime import UTC, datetime

from dicom_node.base.errors import SpoolError, SpoolFull
from dicom_node.base.events import STORE_REFUSED
from dicom_node.receive import limits, statuses
from dicom_node.receive.listener_events import ListenerEvents
from dicom_node.receive.messages import (
    SUCCEEDED,
    Answer,
    Command,
    ProtocolViolation,
)
from dicom_node.receive.policy import PolicyFile, shown_uid
from dicom_node.receive.requests import AcceptedAssociation, Request
from dicom_node.receive.spool import (
    Arrival,
    IncomingObject,
    Spool,
    WaitingObjects,
)


class StoreRequest(Request):
    """A C-STORE request that is being received; once ``refusal`` is set, further bytes are discarded.

    An object larger than ``largest`` is read to its end, so that the refusal can be sent as an answer.
    """

    incoming: IncomingObject | None = None
    refusal: Answer | None = None
    size = 0

    def refuse(self, status: statuses.Status, comment: str) -> None:
        """Refuse the object with ``status`` and Error Comment ``comment``, and delete its bytes."""
        self.refusal = Answer(status, comment)
        self.abandon()

    def write(self, data: memoryview | bytes) -> None:
        """Store one fragment of the data set. Raises ProtocolViolation if the data set is so long that it
        seems endless.
        """
        self.size += len(data)
        if self.size > max(limits.DISCARDED, self.largest):
            raise ProtocolViolation("data set without end")
        if self.incoming is not None and self.size > self.largest:
            self.refuse(statuses.TOO_LARGE, "larger than listener.maximum_object_mib")
        elif self.incoming is not None:
            try:
                self.incoming.write(data)
            except SpoolError as error:
                self.refuse(statuses.OUT_OF_RESOURCES, _comment(error))

    def abandon(self) -> None:
        """Delete the bytes written so far, because the association ended or the object is refused."""
        if self.incoming is not None:
            self.incoming.abandon()
            self.incoming = None


class StorageService:
    """Stores the objects that associations bring. Thread-safe."""

    def __init__(self, policy: PolicyFile, spool: Spool, events: ListenerEvents) -> None:
        """Store objects in ``spool``, within the limits of ``policy``; ``events``: of refusals."""
        self._policy, self._events = policy, events
        self._spool, self._waiting = spool, WaitingObjects(spool.incoming)

    def begin(
        self, accepted: AcceptedAssociation, command: Command, abstract_syntax: str, syntax: str
    ) -> StoreRequest:
        """Begin to receive an object: open a file in the spool, or refuse the object with the reason."""
        policy = self._policy.current()
        request = StoreRequest(command, abstract_syntax, syntax, policy.maximum_object_mib * 2**20)
        unclear, full = statuses.CANNOT_UNDERSTAND, statuses.OUT_OF_RESOURCES
        has_room = self._waiting.has_room(
            accepted.permission.peer, policy.waiting_objects, policy.waiting_mib
        )
        for wrong, status, why in (
            (not accepted.permission.may_send, statuses.NOT_AUTHORISED, "this AE title may not send here"),
            (
                command.sop_class_uid != abstract_syntax,
                statuses.SOP_CLASS_NOT_SUPPORTED,
                "not the class of the presentation context",
            ),
            (not command.names_an_instance, unclear, "no valid Affected SOP Instance UID"),
            (not command.has_data_set, unclear, "no data set"),
            # Without the beginning of its association a study could seem complete.
            (not self._events.record(), full, "the journal cannot be written"),
            (not has_room, full, "too many objects of this sender wait to be indexed"),
        ):
            if wrong:
                request.refuse(status, why)
                return request
        proposal = accepted.proposal
        arrival = Arrival(
            association=accepted.association,
            calling_ae=proposal.calling_ae,
            called_ae=proposal.called_ae,
            address=proposal.address,
            priority=command.priority,
            received_at=datetime.now(UTC),
        )
        try:
            request.incoming = self._spool.open(
                arrival, abstract_syntax, command.sop_instance_uid, syntax, accepted.permission.peer
            )
        except SpoolError as error:
            request.refuse(full, _comment(error))
        return request

    def finish(self, accepted: AcceptedAssociation, request: StoreRequest) -> Answer:
        """Make a completely received object durable, and only then return Success; its content is inspected
        later.
        """
        command = request.command
        if request.incoming is not None and not request.size:
            request.refuse(statuses.CANNOT_UNDERSTAND, "empty data set")
        elif request.incoming is not None:
            try:
                request.incoming.commit()
            except SpoolError as error:
                request.refuse(statuses.OUT_OF_RESOURCES, _comment(error))
        if request.refusal is not None:
            accepted.refused += 1
            self._events.record_if_few(
                accepted,
                STORE_REFUSED,
                status=f"{request.refusal.status.code:04X}",
                reason=request.refusal.comment,
                sop_class_uid=shown_uid(command.sop_class_uid),
                sop_instance_uid=shown_uid(command.sop_instance_uid),
            )
            return request.refusal
        accepted.stored += 1
        self._waiting.add(accepted.permission.peer, request.size)
        return SUCCEEDED


def _comment(error: SpoolError) -> str:
    """Return the Error Comment (0000,0902) for a failure of the spool."""
    return "out of disk space" if isinstance(error, SpoolFull) else "the spool cannot be written"
