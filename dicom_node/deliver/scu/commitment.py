"""Storage commitment, as SCU of requests and SCP of reports (PS3.4 Annex J)."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_role, evt

from dicom_node.base.dicom import dimse_n
from dicom_node.base.errors import FaultyObject
from dicom_node.base.outcomes import Done, Failed, Outcome, Retry
from dicom_node.deliver.scu import Check, Outgoing
from dicom_node.deliver.scu.association import DimseCaller, NoAssociation, contexts

REPORT_SECONDS = 1.0
"""How long the association of a request stays open for the report; later ones come to our listener."""
_ROLES = [build_role(dimse_n.COMMITMENT_CLASS, scp_role=True)]


class StorageCommitment(DimseCaller):
    """The client that requests storage commitment from one peer by DIMSE (PS3.4 Annex J), or reports to it.

    For one thread.
    """

    def ask(
        self,
        transaction_uid: str,
        objects: Sequence[Outgoing],
        keep: Callable[[dimse_n.CommitmentReport], None],
    ) -> Outcome:
        """Request storage commitment by N-ACTION, then wait ``REPORT_SECONDS`` for a report on the same
        association.

        ``keep``: makes a report durable, or raises. Returns Done if the peer accepted the request, Failed if
        it does not offer storage commitment, Retry if waiting may help.
        """
        handlers = [(evt.EVT_N_EVENT_REPORT, _handle_event_report, [keep])]
        with self.associate(
            contexts(dimse_n.COMMITMENT_CLASS), service="commitment", handlers=handlers
        ) as association:
            if isinstance(association, NoAssociation):
                why = f"storage commitment: {association.text}"
                return Failed(why) if association.takes_nothing else Retry(why)
            uids = [(item.sop_class_uid, item.sop_instance_uid) for item in objects]
            code, _, _ = self.request(
                association,
                self._settings.outbox.answer_seconds,
                association.send_n_action,
                dimse_n.commitment_request(transaction_uid, uids),
                dimse_n.COMMITMENT_REQUEST,
                dimse_n.COMMITMENT_CLASS,
                dimse_n.COMMITMENT_INSTANCE,
            )
            answer = _commitment_outcome(code)
            end = time.monotonic() + REPORT_SECONDS
            while isinstance(answer, Done) and time.monotonic() < end:
                if not association.is_established or self._connections.closed:
                    break
                if association.dimse.report_answered.wait(0.1):
                    break
            return answer

    def report(self, information: Dataset, event_type: int) -> str:
        """Send a storage commitment report by N-EVENT-REPORT; returns "" if the peer accepted it, else why
        not.

        ``information``: its Event Information; ``event_type``: its Event Type ID.
        """
        code, _, text = self.call(
            contexts(dimse_n.COMMITMENT_CLASS),
            "send_n_event_report",
            information,
            event_type,
            dimse_n.COMMITMENT_CLASS,
            dimse_n.COMMITMENT_INSTANCE,
            service="commitment",
            roles=_ROLES,
        )
        return "" if code == 0 else text

    def check(self) -> Check:
        """Test whether the peer accepts storage commitment reports; sends none."""
        return self.accepts("commitment report", "commitment", dimse_n.COMMITMENT_CLASS, _ROLES)


def _commitment_outcome(code: int | None) -> Outcome:
    """The outcome of a storage commitment request by the status of its N-ACTION (PS3.7 10.1.4.1.10); None: no
    answer.
    """
    if code is None:
        return Retry("storage commitment: association lost before the answer")
    if code == 0x0000 or code >> 12 == 0xB or code in (0x0001, 0x0107, 0x0116):
        return Done()
    why = f"storage commitment refused: status {code:04X}"
    return Retry(why) if code in (0x0110, 0x0210, 0x0213) else Failed(why)


def _handle_event_report(event: Any, keep: Callable[[dimse_n.CommitmentReport], None]) -> tuple[int, None]:
    """Handle an N-EVENT-REPORT: pass its storage commitment report to ``keep``.

    Returns (status for the answer by PS3.7 10.1.1.1.8, None for no Event Reply).
    """
    try:
        encoded = event.request.EventInformation
        report = dimse_n.read_commitment_report(
            encoded.getvalue() if encoded else b"", event.context.transfer_syntax
        )
    except FaultyObject:
        return 0x0115, None
    try:
        keep(report)
    except Exception:  # noqa: BLE001 - whatever went wrong, it is not kept: the peer is to report again
        return 0x0213, None
    return 0x0000, None
