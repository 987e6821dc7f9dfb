"""Requests for storage commitment (PS3.4 J.3.2), with a report on the same association; and our own
reports.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association

from dicom_node.dicom import commitment
from dicom_node.errors import FaultyReport
from dicom_node.scu.association import DimseCaller, NoAssociation
from dicom_node.scu.destination import Check, KeepReport, Outgoing, RequestAnswer, RequestStatus

_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_LOOK_SECONDS = 0.1
_ROLES = [build_role(commitment.SOP_CLASS, scp_role=True)]


class CommitmentRequestor(DimseCaller):
    """Requests storage commitment from one peer for objects that it acknowledged."""

    def ask(self, transaction_uid: str, objects: Sequence[Outgoing], keep: KeepReport) -> RequestAnswer:
        """Send a request, then wait ``commitment_wait_seconds`` for a report on the same association."""

        def on_report(event: Any) -> tuple[int, None]:
            return _take(event, keep), None

        handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
        with self.associate(_contexts(), service="commitment", handlers=handlers) as association:
            if isinstance(association, NoAssociation):
                status = RequestStatus.REFUSED if association.takes_nothing else RequestStatus.RETRY
                return RequestAnswer(status, f"storage commitment: {association.text}")
            uids = [(item.sop_class_uid, item.sop_instance_uid) for item in objects]
            answer = self._request(association, commitment.request(transaction_uid, uids))
            if answer.status is RequestStatus.ACCEPTED:
                self._await_report(association)
            return answer

    def _request(self, association: Association, information: Any) -> RequestAnswer:
        with self.waiting(association, self._settings.outbox.answer_seconds):
            try:
                status, _ = association.send_n_action(
                    information, commitment.REQUEST, commitment.SOP_CLASS, commitment.SOP_INSTANCE
                )
                code = status.get("Status")
            except RuntimeError:  # cut meanwhile
                code = None
            if code is None:
                association.abort()
        self.debug("N-ACTION", status=code)
        return _answer(code)

    def _await_report(self, association: Association) -> None:
        end = time.monotonic() + self._peer.commitment_wait_seconds
        while association.is_established and not self._connections.closed and time.monotonic() < end:
            if association.dimse.report_answered.wait(_LOOK_SECONDS):
                return


class CommitmentReporter(DimseCaller):
    """Reports to one peer on the objects in the peer's requests (PS3.4 J.3.3), as SCP on our own
    association.
    """

    def report(self, information: Dataset, event_type: int) -> str:
        """Send a report; returns "" if the peer accepted it, else why not."""
        with self.associate(_contexts(), service="commitment", roles=_ROLES) as association:
            if isinstance(association, NoAssociation):
                return association.text
            with self.waiting(association, self._settings.outbox.answer_seconds):
                try:
                    status, _ = association.send_n_event_report(
                        information, event_type, commitment.SOP_CLASS, commitment.SOP_INSTANCE
                    )
                    code = status.get("Status")
                except RuntimeError:  # cut meanwhile
                    code = None
                if code is None:
                    association.abort()
            self.debug("N-EVENT-REPORT", status=code)
        if code is None:
            return "association lost before the answer"
        return "" if code == 0 else f"status {code:04X}"

    def check(self) -> Check:
        """Check whether the peer accepts reports; sends none."""
        with self.associate(_contexts(), service="commitment", roles=_ROLES) as association:
            if isinstance(association, NoAssociation):
                return Check("commitment report", False, association.text)
            reversed_roles = any(context.as_scp for context in association.accepted_contexts)
        how = "roles reversed" if reversed_roles else "without role selection: sent all the same"
        return Check("commitment report", True, f"Storage Commitment Push Model accepted, {how}")


def check_commitment(caller: DimseCaller) -> Check:
    """Check whether the peer accepts requests for storage commitment; sends none."""
    with caller.associate(_contexts(), service="commitment") as association:
        if isinstance(association, NoAssociation):
            return Check("commitment", False, association.text)
    return Check("commitment", True, "Storage Commitment Push Model accepted")


def _contexts() -> list[Any]:
    return [build_context(commitment.SOP_CLASS, _SYNTAXES)]


def _answer(code: int | None) -> RequestAnswer:
    """The answer to an N-ACTION by its status (PS3.7 10.1.4.1.10)."""
    if code is None:
        return RequestAnswer(RequestStatus.RETRY, "storage commitment: association lost before the answer")
    if code == 0x0000 or code >> 12 == 0xB or code in (0x0001, 0x0107, 0x0116):
        return RequestAnswer(RequestStatus.ACCEPTED)
    waits = code in (0x0110, 0x0210, 0x0213)
    status = RequestStatus.RETRY if waits else RequestStatus.REFUSED
    return RequestAnswer(status, f"storage commitment refused: status {code:04X}")


def _take(event: Any, keep: KeepReport) -> int:
    """Answer an N-EVENT-REPORT; returns its status (PS3.7 10.1.1.1.8)."""
    try:
        encoded = event.request.EventInformation
        syntax = event.context.transfer_syntax
        report = commitment.read_report(encoded.getvalue() if encoded else b"", syntax)
    except FaultyReport:
        return 0x0115
    try:
        keep(report)
    except Exception:  # noqa: BLE001 - whatever went wrong, it is not kept: the peer is to report again
        return 0x0213
    return 0x0000
