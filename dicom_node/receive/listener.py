"""The listener process: ``python -m dicom_node.receive.listener --data-dir DIR [--place listener-N]``.

The process writes ``{"listening": [host, port]}`` to standard output when it accepts connections, else
``{"cannot_start": reason}``. It ends when standard input closes (the node died) or on SIGTERM, after giving
associations a few seconds. On SIGHUP it reads ``policy.json`` again if the file was replaced.

Each association has a thread (PS3.8 9.2: negotiation, messages, end), and all share one service: policy,
spool, journal, open associations. The fragments of a data set are written to the spool as they arrive, so an
object of any size needs the memory of one PDU. A command that is not supported ends the association before
its data set is read. A request is answered by the thread that has read its last byte: passing it to another
thread would cost as much as the rest of the work on a small object.

Of performed procedure steps (PS3.4 F.7) an accepted request is in the journal before it is in the step's
file, and in both before it is answered: after a kill in between, the modality has no answer, sends the
request again, and it is accepted again. The index learns of steps from the journal; the files serve the
listeners that share a data folder, which have no database.
"""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import logging
import os
import resource
import secrets
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydicom.uid import UID

from dicom_node.base import events, logs
from dicom_node.base.dicom import dimse_n
from dicom_node.base.durable import sync_folder
from dicom_node.base.errors import ExitCode, FaultyObject, FaultyStep, SpoolError, SpoolFull
from dicom_node.base.lifecycle import StepStatus
from dicom_node.base.processes import ALIVE_SECONDS, show_life, signal_pipe
from dicom_node.receive import limits, statuses
from dicom_node.receive.messages import (
    A_ABORT,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RQ,
    ABORTED_BY_PROVIDER,
    C_ECHO_RQ,
    C_STORE_RQ,
    MAXIMUM_PDU_BYTES,
    N_ACTION_RQ,
    N_CREATE_RQ,
    N_EVENT_REPORT_RQ,
    N_SET_RQ,
    P_DATA_TF,
    RELEASED,
    Answer,
    Command,
    DeadlineSocket,
    Proposal,
    ProtocolViolation,
    acceptance,
    encode_response,
    fragments,
    name_of,
    p_data_tf,
    read_command,
    read_request,
)
from dicom_node.receive.policy import (
    VERIFICATION,
    AEPolicy,
    Entrance,
    Failure,
    Permission,
    PolicyFile,
    addresses,
    negotiate,
    policy_path,
    shown_uid,
    with_tuples,
)
from dicom_node.receive.spool import (
    Arrival,
    IncomingObject,
    JournalWriter,
    Spool,
    WaitingObjects,
    journal_folder,
    listener_lock,
)

ENDED: Final = "Performed Procedure Step Object may no longer be updated"
"""Error Comment of an N-SET after the end (PS3.4 Table F.7.2-2)."""
KEPT_DAYS: Final = 30
"""How long a step is known after the last request about it, at least: a listener that starts forgets it."""
_STATUSES = {status.code: status for status in statuses.STEP_STATUSES}


@dataclass(frozen=True, slots=True)
class KnownStep:
    """An MPPS step (performed procedure step) with the changes of all accepted requests.

    ``number``: how many N-SET requests were accepted. ``studies``: Study Instance UIDs. ``objects``: SOP
    Instance UIDs. ``has``: keywords of the attributes required at the end of a step that have a value so far.
    """

    uid: str
    peer: str
    calling: str
    status: StepStatus
    number: int
    studies: tuple[str, ...]
    objects: tuple[str, ...] = ()
    has: tuple[str, ...] = ()


class PerformedSteps:
    """The MPPS steps (performed procedure steps) that modalities report, stored in the folder ``steps`` of
    the data folder. Thread-safe.

    Old steps, on which no modality reports any more, are deleted when a listener starts.
    """

    def __init__(self, data_dir: Path, journal: JournalWriter) -> None:
        """Use the folder ``steps`` of the data folder, deleting old steps; accepted requests are written to
        ``journal``.
        """
        self._folder, self._journal = data_dir / "steps", journal
        with contextlib.suppress(OSError):  # another listener did, or the next one does
            for path in self._folder.glob("*.json"):
                if path.stat().st_mtime < time.time() - KEPT_DAYS * 86400:
                    path.unlink()

    def handle(
        self,
        command: Command,
        encoded: bytes,
        transfer_syntax: UID,
        peer: str,
        fields: Mapping[str, events.FieldValue],
    ) -> Answer:
        """Handle an MPPS request (N-CREATE or N-SET) of ``peer`` and return the answer; the change is durable
        if the answer is Success.

        ``encoded``: the request's data set. ``fields``: the association, the calling AE and the peer, for the
        journal entry.
        """
        if command.sop_class_uid != dimse_n.STEP_CLASS:
            return Answer(statuses.NO_SUCH_CLASS)
        if not command.names_an_instance:
            return Answer(statuses.STEP_INSTANCE)
        try:
            is_new = command.field == N_CREATE_RQ
            read = dimse_n.read_step_creation if is_new else dimse_n.read_step_modification
            change = read(encoded, transfer_syntax)
            self._folder.mkdir(exist_ok=True)
            with (self._folder / "lock").open("a") as lock:  # for other processes and threads
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    step_file = json.loads(
                        self._path(command.sop_instance_uid).read_bytes(), object_hook=with_tuples
                    )
                    known = KnownStep(**{**step_file, "status": StepStatus(step_file["status"])})
                except FileNotFoundError:
                    known = None
                step = self._next(known, command, change, peer, fields)
                if isinstance(step, Answer):
                    return step
                # The whole step, so that each line of the journal can be read alone.
                self._journal.append_durably(
                    events.STEP_REPORTED,
                    {
                        **fields,
                        "step": step.uid,
                        "status": step.status.value,
                        "number": step.number,
                        "studies": list(step.studies),
                        "objects": list(step.objects),
                    },
                )
                self._write(step)
                return Answer(statuses.SUCCESS)
        except FaultyStep as error:
            missing = error.tags if error.code == dimse_n.MISSING else ()
            return Answer(_STATUSES[error.code], str(error), missing=missing)
        except (OSError, ValueError, LookupError, TypeError):  # the disk, or the file of another version
            return Answer(statuses.NOT_KEPT, "the step cannot be written")

    def _next(
        self,
        known: KnownStep | None,
        command: Command,
        change: dimse_n.StepChange,
        peer: str,
        fields: Mapping[str, events.FieldValue],
    ) -> KnownStep | Answer:
        """Return the step after a request on ``known`` (None: a new step), or the answer that refuses the
        request. Raises FaultyStep.
        """
        creates = command.field == N_CREATE_RQ
        if creates != (known is None):
            return Answer(statuses.STEP_KNOWN if creates else statuses.STEP_UNKNOWN)
        uid, calling, begun = command.sop_instance_uid, str(fields["calling"]), StepStatus.IN_PROGRESS
        before = known or KnownStep(uid, peer, calling, begun, number=-1, studies=change.studies)
        if before.peer != peer:
            return Answer(statuses.NOT_AUTHORISED, "the step is of another AE")
        if before.status is not StepStatus.IN_PROGRESS:
            return Answer(statuses.STEP_FAILURE, ENDED, error_id=0xA710)
        step = replace(
            before,
            status=change.status or before.status,
            number=before.number + 1,
            objects=before.objects if change.objects is None else change.objects,
            has=tuple(sorted({*before.has, *change.has})),
        )
        missing = [keyword for keyword in dimse_n.STEP_END if keyword not in step.has]
        if step.status is not StepStatus.IN_PROGRESS and missing:
            raise dimse_n.faulty_step(dimse_n.EMPTY, *missing)
        return step

    def _write(self, step: KnownStep) -> None:
        """Write the file of a step, durably, in place of its former file. Raises OSError."""
        path = self._path(step.uid)
        temporary = path.with_name(f".{path.name}")
        with temporary.open("wb") as file:
            file.write(json.dumps(asdict(step)).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(self._folder)

    def _path(self, uid: str) -> Path:
        """Return the path of the file of the step with this UID."""
        return self._folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.json"


_LOGGER = logging.getLogger(__name__)
_MINUTE = 60.0
_SUCCESS = Answer(statuses.SUCCESS)
# By abstract syntax and command field: the bytes that are read of a data set, and the event of a refusal.
_SERVED = {
    (VERIFICATION, C_ECHO_RQ): (0, events.ECHOED),
    (dimse_n.COMMITMENT_CLASS, N_EVENT_REPORT_RQ): (dimse_n.REPORT_BYTES, events.COMMITMENT_REPORT_REFUSED),
    (dimse_n.COMMITMENT_CLASS, N_ACTION_RQ): (dimse_n.REQUEST_BYTES, events.COMMITMENT_ASK_REFUSED),
    (dimse_n.STEP_CLASS, N_CREATE_RQ): (2 * dimse_n.STEP_BYTES, events.STEP_REFUSED),
    (dimse_n.STEP_CLASS, N_SET_RQ): (2 * dimse_n.STEP_BYTES, events.STEP_REFUSED),
}


@dataclass(slots=True, eq=False)
class AcceptedAssociation:
    """One accepted association. ``association``: the node's own identifier of it, never used again."""

    association: str
    proposal: Proposal
    permission: Permission
    results: dict[int, tuple[int, str]]
    """Presentation context id -> (result, transfer syntax)."""
    roles: dict[str, tuple[bool, bool]]
    """SOP Class UID -> whether the peer is SCU, whether it is SCP."""
    stored: int = 0
    """The number of objects acknowledged with Success."""
    repeatable: int = 0
    """The number of echoes answered and of requests refused; a peer can repeat these at will, so only the
    first ones are journalled.
    """
    refused: int = 0
    """The number of objects not acknowledged with Success."""


class Request:
    """A DIMSE request that is being received: its command, and the data set that follows."""

    def __init__(self, command: Command, abstract_syntax: str, syntax: str, largest: int) -> None:
        """Begin to receive the data set of ``command``. ``syntax``: its transfer syntax. ``largest``: its
        maximum length in bytes.
        """
        self.command, self.abstract_syntax, self.syntax = command, abstract_syntax, syntax
        self.largest = largest
        """Bytes of the data set that are taken."""
        self.data = bytearray()

    def write(self, data: memoryview | bytes) -> None:
        """Append one fragment of the data set. Raises ProtocolViolation if the data set is longer than
        allowed.
        """
        self.data += data
        if len(self.data) > self.largest:
            raise ProtocolViolation(f"data set of {name_of(self.command.field)} beyond its largest length")

    def abandon(self) -> None:
        """Discard the received bytes, because the association ended or the request is refused."""
        self.data.clear()


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
    """Handles the requests of all associations of one listener: accepts associations, stores objects, writes
    the journal. Thread-safe.
    """

    def __init__(
        self, policy: PolicyFile, data_dir: Path, spool: Spool, journal: JournalWriter, listener_id: str
    ) -> None:
        """Prepare the service of the listener ``listener_id``, which writes to this spool and this
        journal.
        """
        self.policy = policy
        self._spool, self._waiting = spool, WaitingObjects(spool.incoming)
        self._journal, self._steps = journal, PerformedSteps(data_dir, journal)
        self._listener_id = listener_id
        self.entrance = Entrance()
        self._lock = threading.Lock()
        self._open: list[AcceptedAssociation] = []
        self._numbers = itertools.count(1)
        self._unwritten: list[events.Event] = []
        self._complained_at = float("-inf")
        self._counted = Counter[tuple[str, str]]()
        self._minute = time.monotonic()

    def admit(self, proposal: Proposal) -> AcceptedAssociation | statuses.Rejection:
        """Accept or reject an association request; the decision is written to the journal before the peer is
        answered.

        If the disk is full, an association is accepted without a journal entry, and its objects are refused
        until the entry is written; if too many events wait to be written, associations are rejected
        temporarily.
        """
        policy = self.policy.current()
        verdict = policy.decide(proposal)
        if isinstance(verdict, Permission):
            if len(self._unwritten) > limits.EVENTS_WAITING // 2:  # half: several come at once
                verdict = statuses.TEMPORARY_CONGESTION
            elif verdict.peer:
                self.entrance.know([proposal.address])
            elif not verdict.may_send and not self.entrance.count_listed(proposal.address):
                verdict = statuses.TEMPORARY_CONGESTION
        if isinstance(verdict, Permission):
            supported, roles = policy.offer(verdict, proposal.roles)
            results, refused = negotiate(proposal.contexts, supported)
            accepted = AcceptedAssociation(
                f"{self._listener_id}-{next(self._numbers)}", proposal, verdict, results, roles
            )
            with self._lock:
                if policy.has_room(
                    verdict,
                    proposal.address,
                    [(one.permission.peer, one.proposal.address) for one in self._open],
                ):
                    self._open.append(accepted)
                else:
                    verdict = statuses.LOCAL_LIMIT_EXCEEDED
        if isinstance(verdict, statuses.Rejection):
            self.list_or_count(
                "rejected",
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
        shown = list(refused[: limits.REFUSED_CONTEXTS_NAMED])  # toolkits offer all they have
        fields = {"refused": shown, "refused_count": len(refused)} if refused else {}
        event = self._event(events.ASSOCIATION_ACCEPTED, accepted)
        self.record(replace(event, fields={**event.fields, **fields}))  # these are not in the log
        self.entrance.leave(proposal.address)
        return accepted

    def leave(self, accepted: AcceptedAssociation, *, released: bool, reason: str) -> None:
        """Note the end of an association, after its last object. ``released``: by A-RELEASE. ``reason``: why
        it ended otherwise.
        """
        with self._lock:
            self._open.remove(accepted)
        fields: dict[str, events.FieldValue] = {"objects": accepted.stored}
        if accepted.refused:
            fields["objects_refused"] = accepted.refused
        fields |= {"outcome": "released"} if released else {"outcome": "aborted", "reason": reason}
        event = events.ASSOCIATION_RELEASED if released else events.ASSOCIATION_ABORTED
        self.record(self._event(event, accepted, **fields))

    def begin(self, accepted: AcceptedAssociation, command: Command, context_id: int) -> Request:
        """Begin to receive a request whose command has arrived. Raises ProtocolViolation if its presentation
        context does not allow it.
        """
        result, syntax = accepted.results.get(context_id, (-1, ""))
        if result:
            raise ProtocolViolation("presentation context not accepted")
        abstract_syntax, _ = accepted.proposal.contexts[context_id]
        if command.field == C_STORE_RQ:
            return self._begin_to_store(accepted, command, abstract_syntax, syntax)
        # A C-ECHO is answered in any context; N-services only in their own.
        service = (VERIFICATION if command.field == C_ECHO_RQ else abstract_syntax, command.field)
        if service not in _SERVED:
            raise ProtocolViolation(f"not served: {name_of(command.field)}")
        return Request(command, abstract_syntax, syntax, _SERVED[service][0])

    def finish(self, accepted: AcceptedAssociation, request: Request) -> Answer:
        """Handle a completely received request and return the answer; its content is durable before the
        answer Success.
        """
        if isinstance(request, StoreRequest):
            return self._finish_store(accepted, request)
        if request.command.field == C_ECHO_RQ:
            if request.abstract_syntax != VERIFICATION:
                return Answer(statuses.SOP_CLASS_NOT_SUPPORTED)
            self._journal_if_few(accepted, events.ECHOED)
            return _SUCCESS
        try:
            answer = self._finish_normalized(accepted, request)
        except FaultyObject:
            answer = Answer(statuses.INFORMATION_UNREADABLE)
        except (SpoolError, OSError):
            answer = Answer(statuses.NOT_KEPT)
        if answer.status is not statuses.SUCCESS:
            _, refused = _SERVED[request.abstract_syntax, request.command.field]
            fields: dict[str, events.FieldValue] = {
                "status": f"{answer.status.code:04X}",
                "reason": answer.comment or answer.status.meaning,
            }
            if refused is events.STEP_REFUSED:
                fields["step"] = shown_uid(request.command.sop_instance_uid)
            self._journal_if_few(accepted, refused, **fields)
        return answer

    def _begin_to_store(
        self, accepted: AcceptedAssociation, command: Command, abstract_syntax: str, syntax: str
    ) -> StoreRequest:
        """Begin to receive an object: open a file in the spool, or refuse the object with the reason."""
        policy = self.policy.current()
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
            (not self.record(), full, "the journal cannot be written"),
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

    def _finish_store(self, accepted: AcceptedAssociation, request: StoreRequest) -> Answer:
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
            self._journal_if_few(
                accepted,
                events.STORE_REFUSED,
                status=f"{request.refusal.status.code:04X}",
                reason=request.refusal.comment,
                sop_class_uid=shown_uid(command.sop_class_uid),
                sop_instance_uid=shown_uid(command.sop_instance_uid),
            )
            return request.refusal
        accepted.stored += 1
        self._waiting.add(accepted.permission.peer, request.size)
        return _SUCCESS

    def _finish_normalized(self, accepted: AcceptedAssociation, request: Request) -> Answer:
        """Make a completely received DIMSE-N request durable, and only then return Success.

        Raises SpoolError, FaultyObject, OSError.
        """
        permission, syntax = accepted.permission, UID(request.syntax)
        if not self._count_in_minute(permission.peer, "requests", 1, limits.REQUESTS_A_MINUTE):
            return Answer(statuses.NOT_KEPT, "too many in a minute")
        if request.command.field == N_EVENT_REPORT_RQ:
            return self._store_commitment_report(accepted, request, syntax)
        self._spool.check_space()
        if request.command.field == N_ACTION_RQ:
            return self._store_commitment_request(accepted, request, syntax)
        if not permission.mpps:
            return Answer(statuses.NOT_AUTHORISED)
        return self._steps.handle(
            request.command,
            bytes(request.data),
            syntax,
            permission.peer,
            {
                "association": accepted.association,
                "listener": self._listener_id,
                "calling": accepted.proposal.calling_ae,
                "peer": permission.peer,
            },
        )

    def _store_commitment_report(
        self, accepted: AcceptedAssociation, request: Request, syntax: UID
    ) -> Answer:
        """Store a storage commitment report (N-EVENT-REPORT) and return the answer. Raises FaultyObject,
        OSError.
        """
        if not accepted.permission.may_report:
            return Answer(statuses.NOT_AUTHORISED)
        report = dimse_n.read_commitment_report(bytes(request.data), syntax)
        self._journal.append_durably(
            events.COMMITMENT_REPORTED,
            {
                "transaction": report.transaction_uid,
                "calling": accepted.proposal.calling_ae,
                "committed": report.committed,
                "failed": report.failed,
            },
        )
        return _SUCCESS

    def _store_commitment_request(
        self, accepted: AcceptedAssociation, request: Request, syntax: UID
    ) -> Answer:
        """Store a storage commitment request (N-ACTION, PS3.7 10.1.4.1.10) and return the answer. Raises
        FaultyObject, OSError.
        """
        command, peer = request.command, accepted.permission.peer
        for wrong, status in (
            (not accepted.permission.may_ask, statuses.NOT_AUTHORISED),
            (command.sop_class_uid != dimse_n.COMMITMENT_CLASS, statuses.NO_SUCH_CLASS),
            (command.sop_instance_uid != dimse_n.COMMITMENT_INSTANCE, statuses.NO_SUCH_PUSH_MODEL),
            (command.type_id != dimse_n.COMMITMENT_REQUEST, statuses.NO_SUCH_ACTION),
        ):
            if wrong:
                return Answer(status)
        transaction, objects = dimse_n.read_commitment_request(bytes(request.data), syntax)
        if not self._count_in_minute(peer, "objects", len(objects), limits.OBJECTS_ASKED_A_MINUTE):
            return Answer(statuses.NOT_KEPT)
        self._journal.append_durably(
            events.COMMITMENT_ASKED,
            {
                "transaction": transaction,
                "calling": accepted.proposal.calling_ae,
                "peer": peer,
                "objects": objects,
            },
        )
        return _SUCCESS

    def _count_in_minute(self, peer: str, what: str, number: int, most: int) -> bool:
        """Add ``number`` to what a peer has sent by DIMSE-N requests in this minute; return whether that is
        within the limit ``most``.

        ``what``: "requests", or "objects" for which storage commitment is requested.
        """
        with self._lock:
            if time.monotonic() - self._minute > _MINUTE:
                self._minute = time.monotonic()
                self._counted.clear()
            self._counted[peer, what] += number
            return self._counted[peer, what] <= most

    def list_or_count(
        self, failure: Failure, caller: str, event_type: events.EventType, **fields: events.FieldValue
    ) -> None:
        """Record an event of this type for a ``failure`` of the network address ``caller``; if there were too
        many in this minute, only count the failure.
        """
        if self.entrance.count_listed(caller):
            self.record(events.happened(event_type, listener=self._listener_id, **fields))
        else:
            self.entrance.fail(caller, failure)

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
                if time.monotonic() - self._complained_at > _MINUTE:  # each sender tries again and again
                    self._complained_at = time.monotonic()
                    _LOGGER.error("the journal cannot be written: %s", error.strerror)
            return not self._unwritten

    def keep_up(self) -> None:
        """Write the events that wait in memory to the journal, and an event with the counts of failed
        connections.
        """
        for address, counts in self.entrance.due():
            self.record(
                events.happened(
                    events.CONNECTIONS_FAILED,
                    listener=self._listener_id,
                    address=address,
                    **{str(failure): number for failure, number in counts.items()},
                )
            )
        self.record()

    def _journal_if_few(
        self, accepted: AcceptedAssociation, event_type: events.EventType, **fields: events.FieldValue
    ) -> None:
        """Write an event to the journal, unless the association has caused too many events: a peer could
        cause a thousand a second.
        """
        accepted.repeatable += 1
        if accepted.repeatable <= (
            limits.LISTED_OF_A_SENDER if accepted.permission.may_send else limits.LISTED_OF_ONE_ASSOCIATION
        ):
            self.record(self._event(event_type, accepted, **fields))

    def _event(
        self, event_type: events.EventType, accepted: AcceptedAssociation, **fields: events.FieldValue
    ) -> events.Event:
        """Log and return an event about an association, with identifier, AE titles, address and peer."""
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
    """Return the Error Comment (0000,0902) for a failure of the spool."""
    return "out of disk space" if isinstance(error, SpoolFull) else "the spool cannot be written"


_COMMAND, _LAST = 1, 2  # bits of the message control header, PS3.8 E.2


class Association:
    """Serves one connection: ``run`` is its thread; ``abort`` may be called by another thread."""

    def __init__(self, service: StorageService, connection: socket.socket, address: str) -> None:
        """Prepare to serve ``connection``, which came from ``address``."""
        self._service, self._address, self._limits = service, address, service.policy.current()
        self._socket = DeadlineSocket(
            connection, self._limits.acse_timeout_seconds, self._limits.network_timeout_seconds
        )
        self._buffer = memoryview(b"")
        self._late = "no association request within the time allowed"
        """Why the association ends if the deadline passes."""
        self._reason = ""
        self._failure: Failure | None = None
        self._stopping = self._released = False
        self._accepted: AcceptedAssociation | None = None
        self._command, self._context_id = bytearray(), 0
        self._request: Request | None = None
        self._tiny_fragments = 0

    def run(self) -> None:
        """Serve the connection, from the TLS handshake to the last event in the journal."""
        try:
            if accepted := self._negotiate():
                self._take_messages(accepted)
        except ProtocolViolation as error:
            self._end(str(error))
        except TimeoutError:
            self._end(self._late, "too_late")
        except OSError:
            if self._accepted is not None:
                self._end("the listener stopped" if self._stopping else "connection lost")
        except Exception as error:  # this association ends, and the listener must live on
            _LOGGER.error("association failed: %s", type(error).__name__, exc_info=error)
            self._end(f"failed here: {type(error).__name__}")
        finally:
            if self._request is not None:
                self._request.abandon()
            self._socket.close()
            if self._accepted is not None:
                self._service.leave(self._accepted, released=self._released, reason=self._reason)
            else:
                self._service.entrance.leave(self._address, self._failure)

    def abort(self) -> None:
        """Abort the association from another thread, because the listener stops."""
        self._stopping = True
        self._socket.interrupt()

    def _end(self, reason: str, failure: Failure = "malformed") -> None:
        """Abort the association (AA-1 and AA-8 of PS3.8 9.2.3) for ``reason``. ``failure``: the kind that is
        counted if no association was accepted yet.
        """
        self._reason, self._failure = reason, failure
        with contextlib.suppress(OSError):
            self._socket.send_seconds = 0.5  # that a peer has to read it
            self._socket.send(ABORTED_BY_PROVIDER)

    def _negotiate(self) -> AcceptedAssociation | None:
        """Receive an association request (PS3.8 7.1) and answer it; return None if it is rejected."""
        try:  # the handshake of TLS: not in the thread that accepts, which one silent peer would block
            self._socket.shake_hands()
        except OSError as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            self._service.list_or_count(
                "no_tls", self._address, events.TLS_FAILED, address=self._address, reason=str(reason)
            )
            return None
        kind, body = self._read_pdu()
        if kind != A_ASSOCIATE_RQ:
            raise ProtocolViolation("no association request")
        verdict = self._service.admit(read_request(body, self._address))
        if isinstance(verdict, statuses.Rejection):
            self._socket.send(
                # PS3.8 9.3.4
                struct.pack(">BxIxBBB", A_ASSOCIATE_RJ, 4, verdict.result, verdict.source, verdict.reason)
            )
            return None
        self._accepted = verdict
        self._socket.send(acceptance(body, verdict.results, verdict.roles, MAXIMUM_PDU_BYTES))
        return verdict

    def _take_messages(self, accepted: AcceptedAssociation) -> None:
        """Serve requests until the peer releases or aborts the association. Raises ProtocolViolation,
        OSError.
        """
        while True:
            kind, body = self._read_pdu()
            if kind == P_DATA_TF:
                for context_id, value in fragments(body):
                    self._take_fragment(accepted, context_id, value)
            elif kind == A_RELEASE_RQ:
                self._released = True
                self._socket.send(RELEASED)
                return
            elif kind == A_ABORT:
                self._reason = "aborted by the peer"
                return
            else:
                raise ProtocolViolation("a PDU that is not expected")

    def _read_pdu(self) -> tuple[int, memoryview]:
        """Read the next PDU and return its type and body; the body's buffer is overwritten by the next one.

        New memory for each would cost as much as reading it.
        """
        waits = self._accepted is not None and not self._context_id
        if waits:  # an association request has what is left since the connection
            self._late = "idle too long"
            self._socket.allow(self._limits.network_timeout_seconds)
        kind, length = struct.unpack(">BxI", self._socket.read(memoryview(bytearray(6))))
        if waits:
            self._late = "too slow: a message did not come within the time allowed"
            self._socket.allow(self._limits.network_timeout_seconds, limits.SLOWEST_BYTES_PER_SECOND)
        is_data = kind == P_DATA_TF and self._accepted is not None
        largest = limits.LARGEST_PDU if is_data else limits.LARGEST_REQUEST
        if not A_ASSOCIATE_RQ <= kind <= A_ABORT or length > largest:
            raise ProtocolViolation("no PDU, or one beyond its largest length")
        if len(self._buffer) < length:
            self._buffer = memoryview(bytearray(length))
        return kind, self._socket.read(self._buffer[:length])

    def _take_fragment(self, accepted: AcceptedAssociation, context_id: int, value: memoryview) -> None:
        """Process one fragment (PDV) of a message in the presentation context ``context_id`` (PS3.7 6.3,
        PS3.8 E).
        """
        if not value:
            raise ProtocolViolation("PDV without message control header")
        if len(value) <= limits.TINY_FRAGMENT:
            self._tiny_fragments += 1
            if self._tiny_fragments > limits.TINY_FRAGMENTS:
                raise ProtocolViolation("too many tiny fragments")
        if self._context_id not in (0, context_id):
            raise ProtocolViolation("a message in two presentation contexts")
        self._context_id = context_id
        is_last, request = bool(value[0] & _LAST), self._request
        if not value[0] & _COMMAND:
            if request is None:
                raise ProtocolViolation("data set without command")
            request.write(value[1:])
        elif request is not None:
            raise ProtocolViolation("command inside a data set")
        else:
            self._command += value[1:]
            if len(self._command) > limits.LARGEST_COMMAND:
                raise ProtocolViolation("command set beyond its largest length")
            if is_last:
                encoded, self._command = bytes(self._command), bytearray()
                command = read_command(encoded)
                self._request = request = self._service.begin(accepted, command, context_id)
                is_last = not command.has_data_set
        if is_last and request is not None:
            self._answer(accepted, context_id, request)
            self._request, self._context_id, self._tiny_fragments = None, 0, 0

    def _answer(self, accepted: AcceptedAssociation, context_id: int, request: Request) -> None:
        """Handle a completely received request, and send the response in fragments."""
        response = encode_response(request.command, self._service.finish(accepted, request))
        limit = accepted.proposal.maximum_length  # 6 bytes of it are the header of a PDV
        step = max(limit - 6, 1) if limit else len(response)
        for start in range(0, len(response), step):
            header = _COMMAND | _LAST if start + step >= len(response) else _COMMAND
            self._socket.send(p_data_tf(context_id, header, response[start : start + step]))


_LOCK_SECONDS = 15.0  # longer than a predecessor takes to end


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the listener process until SIGTERM or the end of standard input; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.receive", description="The node's listener.")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with policy.json")
    parser.add_argument("--place", default="", help="listener-2 and so on: a further one on this folder")
    given = parser.parse_args(arguments)
    try:
        policy = PolicyFile(policy_path(given.data_dir, given.place)).current()
        logs.configure(policy.log_level, "listener", as_json=policy.log_as_json)
        with _lock_place(listener_lock(given.data_dir, given.place)):
            _serve(Listener(given.data_dir, given.place))
    except (OSError, ValueError, SpoolError) as error:
        print(json.dumps({"cannot_start": str(error)}), flush=True)
        return ExitCode.UNAVAILABLE
    return ExitCode.OK


def _serve(listener: "Listener") -> None:
    """Run a listener until SIGTERM or the end of standard input."""
    # ^C goes to the whole group of processes: it is the node that says when to stop.
    signals = signal_pipe()
    # An association holds two files; a thousand of them are allowed.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    host, port = listener.start()
    print(json.dumps({"listening": [host, port]}), flush=True)
    told_at = time.monotonic()
    stdin = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([signals, stdin], [], [], 1)
        if signals in ready and signal.SIGTERM in os.read(signals, 64):
            break
        if stdin in ready and not os.read(stdin, 4096):  # the node closed it by dying
            break
        listener.keep_up()
        if time.monotonic() - told_at > ALIVE_SECONDS:  # after keep_up, which raises where nobody accepts
            show_life()
            told_at = time.monotonic()
    listener.stop(grace_seconds=5)


@contextlib.contextmanager
def _lock_place(path: Path) -> Iterator[None]:
    """Context manager: lock the file ``path``, because two listeners in one place would delete each other's
    half-written objects.

    Waits for a listener that is ending. Raises OSError.
    """
    with path.open("w") as lock:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OSError(f"another listener works on {path.parent}") from None
                time.sleep(0.05)
        yield


class Listener:
    """The DICOM listener (C-STORE, C-ECHO, storage commitment, MPPS) of one data folder.

    It reads ``policy.json`` in ``data_dir``, and writes below ``spool`` and ``journal``; a further listener
    on the same folder has its own files, named by its ``place`` such as "listener-2". It follows changes of
    the policy file, except of host and port.
    """

    def __init__(self, data_dir: Path, place: str = "") -> None:
        """Read the policy, delete leftovers and open the listening socket; :meth:`start` accepts connections.

        ``place``: the place name of a further listener, "" for the first. Raises OSError, ValueError,
        SpoolError.
        """
        self._policy_file = PolicyFile(policy_path(data_dir, place))
        policy = self._policy_file.current()
        self._listener_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        spool = Spool(data_dir / "spool", policy.minimum_free_mib * 2**20, place)
        self._leftovers = spool.remove_leftovers()
        journal = JournalWriter(journal_folder(data_dir, place), self._listener_id)
        self._service = StorageService(self._policy_file, data_dir, spool, journal, self._listener_id)
        self._tls = _ssl_context(policy.tls)
        self._applied = self._refused = policy
        self._associations: set[Association] = set()
        self._stopping = False
        self._socket = listen(policy)
        self._learn_addresses(policy)
        self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)

    def start(self) -> tuple[str, int]:
        """Start to accept connections; return host and port. The event that records it also ends associations
        left by former listeners.
        """
        host, port = self._socket.getsockname()[:2]
        self._service.record(
            events.happened(
                events.LISTENER_STARTED,
                listener=self._listener_id,
                host=host,
                port=port,
                leftovers=self._leftovers,
            )
        )
        self._thread.start()
        return host, port

    def keep_up(self) -> None:
        """Apply a changed policy file, and write delayed journal events; call it about once a second.

        Raises RuntimeError if the accepting thread has ended: the process must end and be started again.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the thread that accepts connections ended")
        policy = self._policy_file.current()
        if policy is not self._applied:  # read again: also where only certificates were replaced
            try:
                self._tls = _ssl_context(policy.tls)
                logging.getLogger().setLevel(policy.log_level.upper())
                self._learn_addresses(policy)
                self._applied = policy
            except OSError as error:  # certificates that change since the node checked them: tried again
                if policy is not self._refused:
                    _LOGGER.error(
                        "new certificates cannot be used, the previous ones stay in force: %s", error
                    )
                self._refused = policy
        self._service.keep_up()

    def stop(self, grace_seconds: float) -> None:
        """Accept no more connections, give associations ``grace_seconds`` to finish, and abort the rest."""
        self._stopping = True
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        self._socket.close()
        for seconds in (grace_seconds, 4.0):  # the abort of all: a successor waits 15 s for us
            end = time.monotonic() + seconds
            while self._associations and time.monotonic() < end:
                time.sleep(0.02)
            for association in list(self._associations):
                association.abort()
        self._service.record(events.happened(events.LISTENER_STOPPED, listener=self._listener_id))

    def _accept(self) -> None:
        """Accept connections until the listener stops; nothing in this thread waits for a peer."""
        while not self._stopping:
            try:
                connection, (address, *_) = self._socket.accept()
            except OSError:  # gone before we came, too many open files, or the listener stops
                time.sleep(0.01)
                continue
            if not self._service.entrance.enter(address):
                connection.close()
                continue
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    connection = self._tls.wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                association = Association(self._service, connection, address)
                threading.Thread(target=self._run, args=(association,), name=address, daemon=True).start()
            except (OSError, RuntimeError, MemoryError) as error:  # gone, or no thread can be started
                _LOGGER.error("connection closed: %s", type(error).__name__)
                self._service.entrance.leave(address)
                connection.close()

    def _run(self, association: Association) -> None:
        """Serve an association, and list it while it is open."""
        self._associations.add(association)
        try:
            association.run()
        finally:
            self._associations.discard(association)

    def _learn_addresses(self, policy: AEPolicy) -> None:
        """Look up the addresses of the peers and reserve connections for them, in a thread because the name
        service may be slow.
        """
        hosts = {peer.host for peer in policy.peers if peer.host}
        threading.Thread(
            target=lambda: self._service.entrance.know([one for host in hosts for one in addresses(host)]),
            daemon=True,
        ).start()


def listen(listener: AEPolicy) -> socket.socket:
    """Return a listening socket at the configured address. Raises OSError."""
    try:
        found = socket.getaddrinfo(
            listener.host or None, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return socket.create_server(
            address,
            family=family,
            backlog=128,  # that the system accepts for us
            reuse_port=listener.share_port,
            dualstack_ipv6=family == socket.AF_INET6,
        )
    except OSError as error:
        why = "in use by another program" if error.errno == errno.EADDRINUSE else error.strerror
        raise OSError(
            f"port {listener.port} of {listener.host}: {why} (listener.host, listener.port)"
        ) from None


def _ssl_context(tls: tuple[str, str, str] | None) -> ssl.SSLContext | None:
    """Return a server context for TLS 1.2 or newer by BCP 195 (PS3.15 B.12); None without TLS.

    ``tls``: paths of the certificate, its key, and the authorities of which clients need a certificate (""
    for none). Raises OSError.
    """
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate, private_key, trusted = tls
    context.load_cert_chain(certificate, private_key)
    if trusted:
        context.load_verify_locations(trusted)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


if __name__ == "__main__":
    sys.exit(main())
