"""Storage commitment (PS3.4 J) at the listener: reports on objects that the node sent, and requests about
objects that it received.
"""

from pydicom.uid import UID

from dicom_node.base import events
from dicom_node.base.dicom import dimse_n
from dicom_node.receive import limits, statuses
from dicom_node.receive.journal import JournalWriter
from dicom_node.receive.messages import SUCCEEDED, Answer
from dicom_node.receive.requests import AcceptedAssociation, Request, RequestRates


class CommitmentService:
    """Writes storage commitment reports and requests to the journal, from which the node reads them.
    Thread-safe.
    """

    def __init__(self, journal: JournalWriter, rates: RequestRates) -> None:
        """Write to ``journal``; ``rates`` limits the objects that a peer may ask for."""
        self._journal, self._rates = journal, rates

    def store_report(self, accepted: AcceptedAssociation, request: Request) -> Answer:
        """Store a storage commitment report (N-EVENT-REPORT) and return the answer. Raises FaultyObject,
        OSError.
        """
        if not accepted.permission.may_report:
            return Answer(statuses.NOT_AUTHORISED)
        report = dimse_n.read_commitment_report(bytes(request.data), UID(request.syntax))
        self._journal.append_durably(
            events.COMMITMENT_REPORTED,
            {
                "transaction": report.transaction_uid,
                "calling": accepted.proposal.calling_ae,
                "committed": report.committed,
                "failed": report.failed,
            },
        )
        return SUCCEEDED

    def store_request(self, accepted: AcceptedAssociation, request: Request) -> Answer:
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
        transaction, objects = dimse_n.read_commitment_request(bytes(request.data), UID(request.syntax))
        if not self._rates.count(peer, "objects", len(objects), limits.OBJECTS_ASKED_A_MINUTE):
            return Answer(statuses.NOT_KEPT)
        self._journal.append_durably(
            events.COMMITMENT_ASKED,
            {
                "peer": peer,
                "calling": accepted.proposal.calling_ae,
                "transaction": transaction,
                "objects": objects,
            },
        )
        return SUCCEEDED
