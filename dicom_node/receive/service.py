"""What all associations of a listener share: which are open, and who handles which request.

A command that is not supported ends the association before its data set is read. A request is answered by
the thread that has read its last byte: passing it to another thread would cost as much as the rest of the
work on a small object.
"""

import itertools
import threading
from dataclasses import asdict, replace
from pathlib import Path

from pydicom.uid import UID

from dicom_node.base import events
from dicom_node.base.dicom import dimse_n
from dicom_node.base.errors import FaultyObject, SpoolError
from dicom_node.receive import limits, statuses
from dicom_node.receive.commitment import CommitmentService
from dicom_node.receive.journal import JournalWriter
from dicom_node.receive.listener_events import ListenerEvents
from dicom_node.receive.messages import (
    C_ECHO_RQ,
    C_STORE_RQ,
    N_ACTION_RQ,
    N_CREATE_RQ,
    N_EVENT_REPORT_RQ,
    N_SET_RQ,
    SUCCEEDED,
    Answer,
    Command,
    Proposal,
    ProtocolViolation,
    name_of,
)
from dicom_node.receive.policy import (
    VERIFICATION,
    Entrance,
    Permission,
    PolicyFile,
    negotiate,
    shown_uid,
)
from dicom_node.receive.requests import AcceptedAssociation, Request, RequestRates
from dicom_node.receive.spool import Spool
from dicom_node.receive.steps import PerformedSteps
from dicom_node.receive.storing import StorageService, StoreRequest

# By abstract syntax and command field: the bytes that are read of a data set, and the event of a refusal.
_SERVED = {
    (VERIFICATION, C_ECHO_RQ): (0, events.ECHOED),
    (dimse_n.COMMITMENT_CLASS, N_EVENT_REPORT_RQ): (dimse_n.REPORT_BYTES, events.COMMITMENT_REPORT_REFUSED),
    (dimse_n.COMMITMENT_CLASS, N_ACTION_RQ): (dimse_n.REQUEST_BYTES, events.COMMITMENT_ASK_REFUSED),
    (dimse_n.STEP_CLASS, N_CREATE_RQ): (2 * dimse_n.STEP_BYTES, events.STEP_REFUSED),
    (dimse_n.STEP_CLASS, N_SET_RQ): (2 * dimse_n.STEP_BYTES, events.STEP_REFUSED),
}


class ListenerService:
    """Admits the associations of one listener, and handles their requests. Thread-safe."""

    def __init__(
        self, policy: PolicyFile, data_dir: Path, spool: Spool, journal: JournalWriter, listener_id: str
    ) -> None:
        """Prepare the service of the listener ``listener_id``, which writes to this spool and this
        journal.
        """
        self.policy, self.entrance = policy, Entrance()
        self.events = ListenerEvents(journal, listener_id, self.entrance)
        self._spool, self._rates = spool, RequestRates()
        self._storage = StorageService(policy, spool, self.events)
        self._commitment = CommitmentService(journal, self._rates)
        self._steps = PerformedSteps(data_dir, journal)
        self._lock = threading.Lock()
        self._open: list[AcceptedAssociation] = []
        self._numbers = itertools.count(1)

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
            if self.events.is_congested:
                verdict = statuses.TEMPORARY_CONGESTION
            elif verdict.peer:
                self.entrance.know([proposal.address])
            elif not verdict.may_send and not self.entrance.count_listed(proposal.address):
                verdict = statuses.TEMPORARY_CONGESTION
        if isinstance(verdict, Permission):
            supported, roles = policy.offer(verdict, proposal.roles)
            results, refused = negotiate(proposal.contexts, supported)
            accepted = AcceptedAssociation(
                f"{self.events.listener_id}-{next(self._numbers)}", proposal, verdict, results, roles
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
            self.events.list_or_count(
                "rejected",
                proposal.address,
                events.ASSOCIATION_REJECTED,
                calling=proposal.calling_ae,
                called=proposal.called_ae,
                address=proposal.address,
                **asdict(verdict),
            )
            return verdict
        shown = list(refused[: limits.REFUSED_CONTEXTS_NAMED])  # toolkits offer all they have
        fields = {"refused": shown, "refused_count": len(refused)} if refused else {}
        event = self.events.of_association(events.ASSOCIATION_ACCEPTED, accepted)
        self.events.record(replace(event, fields={**event.fields, **fields}))  # these are not in the log
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
        self.events.record(self.events.of_association(event, accepted, **fields))

    def begin(self, accepted: AcceptedAssociation, command: Command, context_id: int) -> Request:
        """Begin to receive a request whose command has arrived. Raises ProtocolViolation if its presentation
        context does not allow it.
        """
        result, syntax = accepted.results.get(context_id, (-1, ""))
        if result:
            raise ProtocolViolation("presentation context not accepted")
        abstract_syntax, _ = accepted.proposal.contexts[context_id]
        if command.field == C_STORE_RQ:
            return self._storage.begin(accepted, command, abstract_syntax, syntax)
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
            return self._storage.finish(accepted, request)
        if request.command.field == C_ECHO_RQ:
            if request.abstract_syntax != VERIFICATION:
                return Answer(statuses.SOP_CLASS_NOT_SUPPORTED)
            self.events.record_if_few(accepted, events.ECHOED)
            return SUCCEEDED
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
            self.events.record_if_few(accepted, refused, **fields)
        return answer

    def _finish_normalized(self, accepted: AcceptedAssociation, request: Request) -> Answer:
        """Make a completely received DIMSE-N request durable, and only then return Success.

        Raises SpoolError, FaultyObject, OSError.
        """
        permission = accepted.permission
        if not self._rates.count(permission.peer, "requests", 1, limits.REQUESTS_A_MINUTE):
            return Answer(statuses.NOT_KEPT, "too many in a minute")
        if request.command.field == N_EVENT_REPORT_RQ:
            return self._commitment.store_report(accepted, request)
        self._spool.check_space()
        if request.command.field == N_ACTION_RQ:
            return self._commitment.store_request(accepted, request)
        if not permission.mpps:
            return Answer(statuses.NOT_AUTHORISED)
        return self._steps.handle(
            request.command,
            bytes(request.data),
            UID(request.syntax),
            {
                "association": accepted.association,
                "listener": self.events.listener_id,
                "calling": accepted.proposal.calling_ae,
                "peer": permission.peer,
            },
        )
