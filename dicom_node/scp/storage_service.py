"""The storage service that all associations of a listener share: policy, spool, journal, open associations.

It is the interface between the network and the disk: an association passes on what it received and gets a
status back. The way bytes reach the spool, and the way the association waits, may each change independently.
"""

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydicom.uid import UID

from dicom_node import events
from dicom_node.dicom import commitment, performed_step
from dicom_node.dicom.file_meta import read_sop_uids
from dicom_node.dicom.transfer_syntaxes import transfer_syntax
from dicom_node.errors import FaultyReport, SpoolError, SpoolFull
from dicom_node.inbox.header import Arrival
from dicom_node.inbox.journal import JournalWriter
from dicom_node.inbox.spool import IncomingObject, Spool, WaitingObjects
from dicom_node.scp import statuses
from dicom_node.scp.command import (
    N_ACTION_RQ,
    N_CREATE_RQ,
    N_EVENT_REPORT_RQ,
    N_SET_RQ,
    MalformedCommand,
    NormalizedAnswer,
    NormalizedCommand,
    StoreCommand,
    name_of,
)
from dicom_node.scp.connection import limits
from dicom_node.scp.connection.reactor import TOO_LATE
from dicom_node.scp.contexts import VERIFICATION, shown_uid
from dicom_node.scp.entrance import Entrance, Failure, Failures, network
from dicom_node.scp.performed_steps import PerformedSteps
from dicom_node.scp.policy import Permission, PolicyFile, Proposal

_LOGGER = logging.getLogger(__name__)
_MINUTE = 60.0


@dataclass(slots=True)
class AcceptedAssociation:
    """One accepted association. ``association`` is our own identifier of it, never used again."""

    association: str
    proposal: Proposal
    permission: Permission
    beginning: events.Event | None = None
    """What the journal lacks because the disk was full: until it has it, no object is acknowledged."""
    stored: int = 0
    """Objects acknowledged with Success."""
    repeatable: int = 0
    """Echoes answered, objects and reports refused: a peer can repeat these at will; few are journalled."""
    refused: int = 0
    """Objects not acknowledged with Success."""
    reports: int = 0
    """Storage commitment reports taken."""
    steps: int = 0
    """Reports on performed procedure steps taken."""

    @property
    def sender(self) -> str:
        """The sender of the objects: a peer's name, or a stranger's address."""
        return self.permission.peer or network(self.proposal.address)


@dataclass(slots=True)
class StoreRequest:
    """One C-STORE being received. Once ``refusal`` is set, further bytes are discarded."""

    context_id: int
    command: StoreCommand
    incoming: IncomingObject | None = None
    refusal: statuses.Status | None = None
    comment: str = ""
    size: int = 0
    largest: int = 0
    """Largest data set in bytes that is stored; one that is refused is read to its end, and answered."""
    head: bytearray = field(default_factory=bytearray)
    """The first bytes of the data set, at most ``limits.HEAD``."""
    transfer_syntax_uid: str = ""
    strict_instance_uids: bool = False

    def refuse(self, status: statuses.Status, comment: str) -> None:
        """Refuse the object with ``status``; none of its bytes are kept."""
        self.refusal, self.comment = status, comment
        self.abandon()

    def write(self, data: memoryview | bytes) -> None:
        """Store one fragment of the data set. Raises MalformedCommand if the data set does not seem to
        end.
        """
        self.size += len(data)
        if self.size > max(limits.DISCARDED, self.largest):
            raise MalformedCommand("data set without end")
        if self.incoming is None:
            return
        if len(self.head) < limits.HEAD:
            self.head += data[: limits.HEAD - len(self.head)]
        if self.size > self.largest:
            self.refuse(statuses.TOO_LARGE, "larger than listener.maximum_object_mib")
            return
        try:
            self.incoming.write(data)
        except SpoolError as error:
            self.refuse(statuses.OUT_OF_RESOURCES, _comment(error))

    def abandon(self) -> None:
        """Delete the bytes written so far: the association ended, or the object is refused."""
        if self.incoming is not None:
            self.incoming.abandon()
            self.incoming = None


@dataclass(slots=True)
class NormalizedRequest:
    """One DIMSE-N request being received."""

    context_id: int
    command: NormalizedCommand
    largest: int = 0
    """Bytes of its data set that are read."""
    data: bytearray = field(default_factory=bytearray)

    def write(self, data: memoryview | bytes) -> None:
        """Store one fragment of the data set. Raises MalformedCommand if the data set does not seem to
        end.
        """
        self.data += data
        if len(self.data) > self.largest:
            raise MalformedCommand(f"data set of {name_of(self.command.field)} beyond its largest length")

    def abandon(self) -> None:
        """Discard the request, because the association ended before the request was complete."""
        self.data.clear()


_Taker = Callable[[AcceptedAssociation, NormalizedRequest, UID], NormalizedAnswer]


class StorageService:
    """The service that the threads of all associations of one listener share."""

    def __init__(
        self,
        policy: PolicyFile,
        spool: Spool,
        waiting: WaitingObjects,
        journal: JournalWriter,
        steps: PerformedSteps,
        listener_id: str,
    ) -> None:
        self.policy = policy
        self._spool, self._waiting, self._journal, self._steps = spool, waiting, journal, steps
        self._listener_id = listener_id
        self.entrance = Entrance()
        self._failures = Failures()
        self._lock = threading.Lock()
        self._open, self._strangers = Counter[str](), Counter[str]()
        self._numbers = itertools.count(1)
        self._unwritten: list[events.Event] = []
        self._complained_at = float("-inf")
        self._asked, self._objects_asked = Counter[str](), Counter[str]()
        self._asked_since = time.monotonic()
        step = (2 * performed_step.MAXIMUM_BYTES, self._take_step, events.STEP_REFUSED)
        self._normalized: dict[tuple[str, int], tuple[int, _Taker, events.EventType]] = {
            (commitment.SOP_CLASS, N_EVENT_REPORT_RQ): (
                commitment.MAXIMUM_BYTES,
                self._take_report,
                events.COMMITMENT_REPORT_REFUSED,
            ),
            (commitment.SOP_CLASS, N_ACTION_RQ): (
                commitment.REQUEST_BYTES,
                self._take_request,
                events.COMMITMENT_ASK_REFUSED,
            ),
            (performed_step.SOP_CLASS, N_CREATE_RQ): step,
            (performed_step.SOP_CLASS, N_SET_RQ): step,
        }
        """By abstract syntax and command field: the bytes that are read, who takes them, the event if not."""

    def arrive(self, address: str) -> bool:
        """Count a new connection; returns False if it must be closed, because too many of its address
        wait.
        """
        if self.entrance.enter(address):
            return True
        self._failures.add(address, Failure.NO_PLACE)
        return False

    def give_up(self, address: str, reason: str) -> None:
        """Count a connection that ended without an association.

        ``reason``: "" if the peer ended it or was rejected.
        """
        self.entrance.leave(address)
        if reason:
            self._failures.add(address, Failure.TOO_LATE if reason == TOO_LATE else Failure.MALFORMED)

    def enter(self, proposal: Proposal) -> AcceptedAssociation | statuses.Rejection:
        """Accept or reject an association; the decision is in the journal before the peer is answered.

        On a full disk an association is accepted without a line in the journal, and its objects are refused.
        A rejected connection counts as waiting until it is closed.
        """
        policy = self.policy.current()
        verdict = policy.decide(proposal)
        if isinstance(verdict, Permission):
            if verdict.peer:
                self.entrance.know([proposal.address])
            elif not verdict.may_send and not self._failures.may_list(proposal.address):
                verdict = statuses.TEMPORARY_CONGESTION
        if isinstance(verdict, Permission):
            with self._lock:
                if policy.has_room(verdict, self._open, self._strangers[proposal.address]):
                    self._count(proposal, verdict, 1)
                else:
                    verdict = statuses.LOCAL_LIMIT_EXCEEDED
        if isinstance(verdict, statuses.Rejection):
            self._list_or_count(
                Failure.REJECTED,
                proposal.address,
                events.ASSOCIATION_REJECTED,
                calling=proposal.calling_ae,
                called=proposal.called_ae,
                address=proposal.address,
                result=verdict.result,
                source=verdict.source,
                reason=verdict.reason,
                meaning=verdict.meaning,
            )
            return verdict
        accepted = AcceptedAssociation(f"{self._listener_id}-{next(self._numbers)}", proposal, verdict)
        accepted.beginning = self._beginning(accepted)
        self._journal_beginning(accepted)
        self.entrance.leave(proposal.address)
        return accepted

    def leave(self, accepted: AcceptedAssociation, *, released: bool, reason: str) -> None:
        """End an association, after its last object; ``reason``: why it ended, if without A-RELEASE."""
        with self._lock:
            self._count(accepted.proposal, accepted.permission, -1)
        fields: dict[str, events.FieldValue] = {"objects": accepted.stored}
        if accepted.refused:
            fields["objects_refused"] = accepted.refused
        if released:
            self.record(self._event(events.ASSOCIATION_RELEASED, accepted, outcome="released", **fields))
        else:
            fields["reason"] = reason
            self.record(self._event(events.ASSOCIATION_ABORTED, accepted, outcome="aborted", **fields))

    def open(self, accepted: AcceptedAssociation, request: StoreRequest, context: tuple[str, str]) -> None:
        """Begin to store an object, or refuse it with the reason. ``context``: abstract and transfer
        syntax.
        """
        command, policy = request.command, self.policy.current()
        request.largest = policy.maximum_object_bytes
        request.transfer_syntax_uid = context[1]
        request.strict_instance_uids = policy.strict_instance_uids
        if not accepted.permission.may_send:
            request.refuse(statuses.NOT_AUTHORISED, "this AE title may not send here")
        elif command.sop_class_uid != context[0]:
            request.refuse(statuses.SOP_CLASS_NOT_SUPPORTED, "not the class of the presentation context")
        elif not command.names_an_instance:
            request.refuse(statuses.CANNOT_UNDERSTAND, "no valid Affected SOP Instance UID")
        elif not command.has_data_set:
            request.refuse(statuses.CANNOT_UNDERSTAND, "no data set")
        elif not self._journal_beginning(accepted):
            request.refuse(statuses.OUT_OF_RESOURCES, "the journal cannot be written")
        elif not self._waiting.has_room(accepted.sender, policy.waiting_objects, policy.waiting_bytes):
            request.refuse(statuses.OUT_OF_RESOURCES, "too many objects of this sender wait to be indexed")
        else:
            try:
                request.incoming = self._spool.open(
                    Arrival(
                        association=accepted.association,
                        calling_ae=accepted.proposal.calling_ae,
                        called_ae=accepted.proposal.called_ae,
                        address=accepted.proposal.address,
                        priority=command.priority,
                        received_at=datetime.now(UTC),
                    ),
                    command.sop_class_uid,
                    command.sop_instance_uid,
                    context[1],
                    accepted.sender,
                )
            except SpoolError as error:
                request.refuse(statuses.OUT_OF_RESOURCES, _comment(error))

    def finish(self, accepted: AcceptedAssociation, request: StoreRequest) -> statuses.Status:
        """Make a completely received object durable, and only then return Success."""
        if request.incoming is not None and not request.size:
            request.refuse(statuses.CANNOT_UNDERSTAND, "empty data set")
        instance_uid = self._compare(request)
        if request.incoming is not None:
            try:
                request.incoming.commit()
            except SpoolError as error:
                request.refuse(statuses.OUT_OF_RESOURCES, _comment(error))
        if request.refusal is None:
            accepted.stored += 1
            self._waiting.add(accepted.sender, request.size)
            if instance_uid != request.command.sop_instance_uid:
                self._journal_if_few(
                    accepted,
                    events.INSTANCE_UID_DIFFERS,
                    requested=shown_uid(request.command.sop_instance_uid),
                    sop_instance_uid=shown_uid(instance_uid),
                )
            return statuses.SUCCESS
        accepted.refused += 1
        self._journal_if_few(
            accepted,
            events.STORE_REFUSED,
            status=f"{request.refusal.code:04X}",
            reason=request.comment,
            sop_class_uid=shown_uid(request.command.sop_class_uid),
            sop_instance_uid=shown_uid(request.command.sop_instance_uid),
        )
        return request.refusal

    def _compare(self, request: StoreRequest) -> str:
        """Refuse a data set that does not match its request (PS3.4 B.2.3); returns its SOP Instance UID.

        What its first bytes do not show is taken to be as requested, and judged when it is inspected.
        """
        command = request.command
        syntax = transfer_syntax(request.transfer_syntax_uid)
        if request.incoming is None or syntax is None:
            return command.sop_instance_uid
        sop_class_uid, sop_instance_uid = read_sop_uids(request.head, syntax)
        if sop_class_uid not in ("", command.sop_class_uid):
            request.refuse(statuses.DATA_SET_MISMATCH, "the data set has another SOP Class UID")
        elif request.strict_instance_uids and sop_instance_uid not in ("", command.sop_instance_uid):
            request.refuse(statuses.DATA_SET_MISMATCH, "the data set has another SOP Instance UID")
        return sop_instance_uid or command.sop_instance_uid

    def open_normalized(self, request: NormalizedRequest, abstract_syntax: str) -> None:
        """Begin a DIMSE-N request. Raises MalformedCommand if its presentation context does not allow it."""
        field = request.command.field
        if (abstract_syntax, field) not in self._normalized:
            raise MalformedCommand(f"not served: {name_of(field)}")
        request.largest, _, _ = self._normalized[abstract_syntax, field]

    def take_normalized(
        self, accepted: AcceptedAssociation, request: NormalizedRequest, abstract_syntax: str, syntax: str
    ) -> NormalizedAnswer:
        """Make a completely received DIMSE-N request durable, and only then return Success."""
        _, take, refused = self._normalized[abstract_syntax, request.command.field]
        answer = take(accepted, request, UID(syntax))
        if answer.status is not statuses.SUCCESS:
            fields: dict[str, events.FieldValue] = {
                "status": f"{answer.status.code:04X}",
                "reason": answer.comment or answer.status.meaning,
            }
            if refused is events.STEP_REFUSED:
                fields["step"] = shown_uid(request.command.sop_instance_uid)
            self._journal_if_few(accepted, refused, **fields)
        return answer

    def _take_report(
        self, accepted: AcceptedAssociation, request: NormalizedRequest, syntax: UID
    ) -> NormalizedAnswer:
        """A storage commitment report."""
        if not accepted.permission.may_report:
            return NormalizedAnswer(statuses.NOT_AUTHORISED)
        if accepted.reports >= limits.REPORTS_OF_ONE_ASSOCIATION:
            return NormalizedAnswer(statuses.NOT_KEPT)
        try:
            report = commitment.read_report(bytes(request.data), syntax)
        except FaultyReport:
            return NormalizedAnswer(statuses.INFORMATION_UNREADABLE)
        answer = self._journal_unlogged(
            events.COMMITMENT_REPORTED,
            transaction=report.transaction_uid,
            calling=accepted.proposal.calling_ae,
            committed=report.committed_lines(),
            failed=report.failed_lines(),
        )
        accepted.reports += answer.status is statuses.SUCCESS
        return answer

    def _take_request(
        self, accepted: AcceptedAssociation, request: NormalizedRequest, syntax: UID
    ) -> NormalizedAnswer:
        """A request for storage commitment (PS3.7 10.1.4.1.10)."""
        command, peer = request.command, accepted.permission.peer
        for wrong, status in (
            (not accepted.permission.may_ask, statuses.NOT_AUTHORISED),
            (command.sop_class_uid != commitment.SOP_CLASS, statuses.NO_SUCH_CLASS),
            (command.sop_instance_uid != commitment.SOP_INSTANCE, statuses.NO_SUCH_PUSH_MODEL),
            (command.type_id != commitment.REQUEST, statuses.NO_SUCH_ACTION),
        ):
            if wrong:
                return NormalizedAnswer(status)
        try:
            if self._may_ask_now(peer, 0):
                self._spool.check_space()
                asked = commitment.read_request(bytes(request.data), syntax)
                if self._may_ask_now(peer, len(asked.objects)):
                    return self._journal_unlogged(
                        events.COMMITMENT_ASKED,
                        transaction=asked.transaction_uid,
                        calling=accepted.proposal.calling_ae,
                        peer=peer,
                        objects=asked.lines(),
                    )
        except SpoolError:
            return NormalizedAnswer(statuses.NOT_KEPT)
        except FaultyReport:
            return NormalizedAnswer(statuses.INFORMATION_UNREADABLE)
        return NormalizedAnswer(statuses.NOT_KEPT)

    def _may_ask_now(self, peer: str, objects: int) -> bool:
        """Whether the peer may ask for as many objects in this minute; they count from now on.

        0: whether it may ask at all, before its request is read.
        """
        with self._lock:
            if time.monotonic() - self._asked_since > _MINUTE:
                self._asked.clear()
                self._objects_asked.clear()
                self._asked_since = time.monotonic()
            if not objects:
                self._asked[peer] += 1
            within = self._objects_asked[peer] + objects <= limits.OBJECTS_ASKED_A_MINUTE
            if within:
                self._objects_asked[peer] += objects
            return within and self._asked[peer] <= limits.REQUESTS_A_MINUTE

    def _journal_unlogged(
        self, event_type: events.EventType, **fields: events.FieldValue
    ) -> NormalizedAnswer:
        """Success if it is durable. Not logged here: it names many objects. The index tells their number."""
        try:
            self._journal.append_durably(events.Event(event_type, datetime.now(UTC), fields))
        except OSError:
            return NormalizedAnswer(statuses.NOT_KEPT)
        return NormalizedAnswer(statuses.SUCCESS)

    def _take_step(
        self, accepted: AcceptedAssociation, request: NormalizedRequest, syntax: UID
    ) -> NormalizedAnswer:
        """An N-CREATE or N-SET of a performed procedure step."""
        if not accepted.permission.mpps:
            return NormalizedAnswer(statuses.NOT_AUTHORISED)
        if accepted.steps >= limits.STEP_REPORTS_OF_ONE_ASSOCIATION:
            return NormalizedAnswer(statuses.NOT_KEPT, "too many on one association")
        try:
            self._spool.check_space()
        except SpoolError as error:
            return NormalizedAnswer(statuses.NOT_KEPT, _comment(error))
        fields = {
            "association": accepted.association,
            "listener": self._listener_id,
            "calling": accepted.proposal.calling_ae,
            "peer": accepted.permission.peer,
        }
        answer = self._steps.take(
            request.command, bytes(request.data), syntax, accepted.permission.peer, fields
        )
        accepted.steps += answer.status is statuses.SUCCESS
        return answer

    def echo(self, accepted: AcceptedAssociation, abstract_syntax: str) -> statuses.Status:
        """The answer to a C-ECHO in a presentation context of this abstract syntax."""
        if abstract_syntax != VERIFICATION:
            return statuses.SOP_CLASS_NOT_SUPPORTED
        self._journal_if_few(accepted, events.ECHOED)
        return statuses.SUCCESS

    def tls_failed(self, address: str, reason: str) -> None:
        """Count a connection whose TLS handshake failed."""
        self._list_or_count(Failure.NO_TLS, address, events.TLS_FAILED, address=address, reason=reason)

    def _list_or_count(
        self, failure: Failure, caller: str, event_type: events.EventType, **fields: events.FieldValue
    ) -> None:
        """An event of its own for this failure of ``caller``, or one more of those counted in a minute."""
        if self._failures.may_list(caller):
            self.record(events.happened(event_type, listener=self._listener_id, **fields))
        else:
            self._failures.add(caller, failure)

    def record(self, event: events.Event) -> None:
        """Write an event to the journal; on a full disk keep it for later, unless too many are kept."""
        with self._lock:
            self._unwritten = [*self._unwritten, event][-limits.EVENTS_WAITING :]
            self._write_out()

    def write_out(self) -> None:
        """Write the kept events to the journal, and the counts of failed connections."""
        for address, counts in self._failures.due():
            self.record(
                events.happened(
                    events.CONNECTIONS_FAILED,
                    listener=self._listener_id,
                    address=address,
                    **{str(failure): number for failure, number in counts.items()},
                )
            )
        with self._lock:
            self._write_out()

    def _beginning(self, accepted: AcceptedAssociation) -> events.Event:
        """Its refused presentation contexts, of many only some, and their number.

        They are logged for debugging only: toolkits offer all they have.
        """
        event, refused = self._event(events.ASSOCIATION_ACCEPTED, accepted), accepted.proposal.refused
        if not refused:
            return event
        many = len(refused) > limits.REFUSED_CONTEXTS_NAMED
        fields = {
            "refused": list(refused[: limits.REFUSED_CONTEXTS_OF_MANY] if many else refused),
            "refused_count": len(refused),
        }
        _LOGGER.debug("association %s: presentation contexts refused: %s", accepted.association, fields)
        return replace(event, fields={**event.fields, **fields})

    def _journal_beginning(self, accepted: AcceptedAssociation) -> bool:
        """Before the first object can be acknowledged: else its study could seem complete."""
        if accepted.beginning is not None:
            try:
                self._journal.append(accepted.beginning)
                accepted.beginning = None
            except OSError as error:
                self._cannot_write(error)
        return accepted.beginning is None

    def _journal_if_few(
        self, accepted: AcceptedAssociation, event_type: events.EventType, **fields: events.FieldValue
    ) -> None:
        """Journal an event that a peer can cause a thousand times a second, within limits."""
        accepted.repeatable += 1
        event = self._event(event_type, accepted, **fields)
        sends = accepted.permission.may_send and event_type is events.STORE_REFUSED
        listed = limits.REFUSALS_OF_ONE_ASSOCIATION if sends else limits.LISTED_OF_ONE_ASSOCIATION
        if (accepted.refused if sends else accepted.repeatable) <= listed:
            self.record(event)

    def _write_out(self) -> None:
        try:
            while self._unwritten:
                self._journal.append(self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            self._cannot_write(error)

    def _cannot_write(self, error: OSError) -> None:
        """Once a minute: each sender tries again and again."""
        if time.monotonic() - self._complained_at > _MINUTE:
            self._complained_at = time.monotonic()
            _LOGGER.error("the journal cannot be written: %s", error.strerror)

    def _count(self, proposal: Proposal, permission: Permission, step: int) -> None:
        self._open[permission.peer] += step
        if not permission.peer:
            self._strangers[proposal.address] += step
            if not self._strangers[proposal.address]:
                del self._strangers[proposal.address]

    def _event(
        self, event_type: events.EventType, accepted: AcceptedAssociation, **fields: events.FieldValue
    ) -> events.Event:
        return events.happened(
            event_type,
            association=accepted.association,
            listener=self._listener_id,
            calling=accepted.proposal.calling_ae,
            called=accepted.proposal.called_ae,
            address=accepted.proposal.address,
            peer=accepted.permission.peer,
            **fields,
        )


def _comment(error: SpoolError) -> str:
    return "out of disk space" if isinstance(error, SpoolFull) else "the spool cannot be written"
