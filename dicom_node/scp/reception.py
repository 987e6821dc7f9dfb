"""What all associations of a listener share: policy, spool, journal, and who is here.

The seam between the network and the disk: an association hands over what came and gets a status back;
how bytes reach the spool, and how the association waits for them, may change on either side.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dicom_node.errors import SpoolError, SpoolFull
from dicom_node.events import (
    ASSOCIATION_ABORTED,
    ASSOCIATION_ACCEPTED,
    ASSOCIATION_REJECTED,
    ASSOCIATION_RELEASED,
    ECHOED,
    STORE_REFUSED,
    TLS_FAILED,
    Event,
    EventType,
    happened,
)
from dicom_node.inbox.journal import JournalWriter
from dicom_node.inbox.spool import IncomingObject, Spool
from dicom_node.model.spooled import Arrival
from dicom_node.scp import statuses
from dicom_node.scp.command import StoreCommand
from dicom_node.scp.policy import Permission, PolicyFile, Proposal
from dicom_node.scp.statuses import Rejection, Status

_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True)
class Visit:
    """One accepted association. ``association`` is our own identifier of it, unique for ever."""

    association: str
    proposal: Proposal
    permission: Permission
    stored: int = 0
    """Objects acknowledged with Success."""


@dataclass(slots=True)
class StoreRequest:
    """One C-STORE on its way in. ``refusal`` is set as soon as it is known; the bytes then go nowhere."""

    context_id: int
    command: StoreCommand
    incoming: IncomingObject | None = None
    refusal: Status | None = None
    comment: str = ""
    size: int = 0
    _closed: bool = field(default=False, init=False)

    def refuse(self, status: Status, comment: str) -> None:
        """Answer so, whatever else comes of this object; nothing of it stays."""
        self.refusal, self.comment = status, comment
        self.abandon()

    def write(self, data: memoryview | bytes) -> None:
        """Take one fragment of the data set."""
        self.size += len(data)
        if self.incoming is None:
            return
        try:
            self.incoming.write(data)
        except SpoolError as error:
            self.refuse(statuses.OUT_OF_RESOURCES, _comment(error))

    def abandon(self) -> None:
        """The association ended, or the object is refused: leave nothing."""
        if self.incoming is not None:
            self.incoming.abandon()
            self.incoming = None


class Reception:
    """Shared by the threads of all associations of one listener."""

    def __init__(self, policy: PolicyFile, spool: Spool, journal: JournalWriter, listener_id: str) -> None:
        self.policy = policy
        self._spool = spool
        self._journal = journal
        self._listener_id = listener_id
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._unwritten: list[Event] = []

    def enter(self, proposal: Proposal) -> Visit | Rejection:
        """Accept or reject an association; either is journalled before the peer hears of it."""
        policy = self.policy.current()
        verdict = policy.decide(proposal)
        if isinstance(verdict, Permission):
            with self._lock:
                if policy.has_room(verdict, self._open):
                    self._open[verdict.peer] += 1
                else:
                    verdict = statuses.LOCAL_LIMIT_EXCEEDED
        if isinstance(verdict, Rejection):
            return self._reject(proposal, verdict)
        visit = Visit(f"{self._listener_id}-{next(self._numbers)}", proposal, verdict)
        try:
            # Before the first object can be acknowledged: else its study could look quiet (truth 3).
            self._journal.append(self._event(ASSOCIATION_ACCEPTED, visit))
        except OSError:
            self._leave_room(visit)
            return self._reject(proposal, statuses.TEMPORARY_CONGESTION)
        return visit

    def leave(self, visit: Visit, *, released: bool) -> None:
        """The association ended, after its last object."""
        outcome = ("released", ASSOCIATION_RELEASED) if released else ("aborted", ASSOCIATION_ABORTED)
        self._leave_room(visit)
        self.record(self._event(outcome[1], visit, objects=visit.stored, outcome=outcome[0]))

    def open(self, visit: Visit, request: StoreRequest, context: tuple[str, str]) -> None:
        """Begin an object, or say why not; ``context`` is its abstract and its transfer syntax."""
        command = request.command
        if not visit.permission.may_send:
            request.refuse(statuses.NOT_AUTHORISED, "this AE title may not send here")
        elif command.sop_class_uid != context[0]:
            request.refuse(statuses.SOP_CLASS_NOT_SUPPORTED, "not the class of the presentation context")
        elif not command.names_an_instance:
            request.refuse(statuses.CANNOT_UNDERSTAND, "no valid Affected SOP Instance UID")
        elif not command.has_data_set:
            request.refuse(statuses.CANNOT_UNDERSTAND, "no data set")
        else:
            try:
                request.incoming = self._spool.open(
                    self._arrival(visit, command), command.sop_class_uid, command.sop_instance_uid, context[1]
                )
            except SpoolError as error:
                request.refuse(statuses.OUT_OF_RESOURCES, _comment(error))

    def finish(self, visit: Visit, request: StoreRequest) -> Status:
        """All bytes came: keep the object, and only then say Success."""
        if request.incoming is not None and not request.size:
            request.refuse(statuses.CANNOT_UNDERSTAND, "empty data set")
        if request.incoming is not None:
            try:
                request.incoming.commit()
            except SpoolError as error:
                request.refuse(statuses.OUT_OF_RESOURCES, _comment(error))
        if request.refusal is None:
            visit.stored += 1
            return statuses.SUCCESS
        self.record(
            self._event(
                STORE_REFUSED,
                visit,
                status=f"{request.refusal.code:04X}",
                reason=request.comment,
                sop_class_uid=request.command.sop_class_uid[:64],
                sop_instance_uid=request.command.sop_instance_uid[:64],
            )
        )
        return request.refusal

    def echoed(self, visit: Visit) -> None:
        """A C-ECHO was answered."""
        self.record(self._event(ECHOED, visit))

    def tls_failed(self, address: str, reason: str) -> None:
        """A peer could not agree on TLS with us."""
        self.record(happened(TLS_FAILED, listener=self._listener_id, address=address, reason=reason))

    def record(self, event: Event) -> None:
        """Journal an event; while the disk is full it waits for the next one."""
        with self._lock:
            self._unwritten.append(event)
            self._write_out()

    def write_out(self) -> None:
        """Journal what had to wait."""
        with self._lock:
            self._write_out()

    def _write_out(self) -> None:
        try:
            while self._unwritten:
                self._journal.append(self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            _LOGGER.error("the journal cannot be written: %s", error.strerror)

    def _reject(self, proposal: Proposal, rejection: Rejection) -> Rejection:
        event = happened(
            ASSOCIATION_REJECTED,
            listener=self._listener_id,
            calling=proposal.calling_ae,
            called=proposal.called_ae,
            address=proposal.address,
            result=rejection.result,
            source=rejection.source,
            reason=rejection.reason,
            meaning=rejection.meaning,
        )
        self.record(event)
        return rejection

    def _leave_room(self, visit: Visit) -> None:
        with self._lock:
            self._open[visit.permission.peer] -= 1

    def _event(self, event_type: EventType, visit: Visit, **fields: str | int) -> Event:
        return happened(
            event_type,
            association=visit.association,
            listener=self._listener_id,
            calling=visit.proposal.calling_ae,
            called=visit.proposal.called_ae,
            address=visit.proposal.address,
            peer=visit.permission.peer,
            **fields,
        )

    def _arrival(self, visit: Visit, command: StoreCommand) -> Arrival:
        return Arrival(
            association=visit.association,
            calling_ae=visit.proposal.calling_ae,
            called_ae=visit.proposal.called_ae,
            address=visit.proposal.address,
            priority=command.priority,
            received_at=datetime.now(UTC),
        )


def _comment(error: SpoolError) -> str:
    return "out of disk space" if isinstance(error, SpoolFull) else "the spool cannot be written"
