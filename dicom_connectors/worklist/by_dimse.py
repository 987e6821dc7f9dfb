"""A worklist manager by DIMSE: SCU of UPS Pull (PS3.4 CC), with C-FIND, N-GET, N-SET and N-ACTION."""

from contextlib import suppress
from typing import Any, Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context

from dicom_connectors.worklist.manager import MOST_ITEMS, ChangeAnswer, ChangeStatus
from dicom_connectors.worklist.workitem import CHANGE_STATE, PULL, PUSH, ProcedureStepState, change_of_state
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.errors import PeerUnreachable
from dicom_node.deliver.scu import Check
from dicom_node.deliver.scu.dimse import DimseCaller, NoAssociation

KEYS: Final = (
    "SOPClassUID", "SOPInstanceUID", "ProcedureStepState", "InputReadinessState",
    "ScheduledProcedureStepPriority", "ScheduledWorkitemCodeSequence", "ScheduledStationNameCodeSequence",
    "InputInformationSequence", "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate",
    "PatientSex",
)  # fmt: skip
"""What is asked of each work item (PS3.4 CC.2.8.1.3)."""
CONFLICTS: Final = (0xC300, 0xC301, 0xC302, 0xC310)
"""Of PS3.4 Table CC.2.1-2 and CC.2.6-1: no longer to be changed, another Transaction UID, or state."""
ABSENT: Final = (0xC307, 0x0112)
_LATER = (0x0110, 0x0210, 0x0213)
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_FAULTY = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, NotImplementedError)


class DimseManager(DimseCaller):
    """A worklist manager that is the SCP of UPS Pull; an association for each request."""

    def search(self) -> list[Dataset]:
        """The scheduled items (C-FIND). Raises PeerUnreachable."""
        question = _question(ProcedureStepState=ProcedureStepState.SCHEDULED.value)
        code, found, text = self._request("send_c_find", question, PULL)
        if code != 0:
            raise PeerUnreachable(f"{self._peer.name}: {text}")
        # The rest waits for the next search.
        return [decoded for one in found[:MOST_ITEMS] if (decoded := _decoded(one)) is not None]

    def read(self, uid: str) -> Dataset | None:
        """All attributes of an item (N-GET); None if the manager has no such item. Raises PeerUnreachable."""
        tags = [Tag(tag_for_keyword(keyword) or 0) for keyword in KEYS]
        code, given, text = self._request("send_n_get", tags, PUSH, uid, meta_uid=PULL)
        if code in ABSENT:
            return None
        if not given or not _is_done(code):
            raise PeerUnreachable(f"{self._peer.name}: {text}")
        return _decoded(given[0])

    def change_state(self, uid: str, transaction_uid: str, state: ProcedureStepState) -> ChangeAnswer:
        """Change the state of an item (N-ACTION Change UPS State)."""
        information = change_of_state(transaction_uid, state)
        code, _, text = self._request("send_n_action", information, CHANGE_STATE, PUSH, uid, meta_uid=PULL)
        return ChangeAnswer(_meaning(code), text)

    def update(self, uid: str, transaction_uid: str, changes: Dataset) -> ChangeAnswer:
        """Replace attributes of an item (N-SET), under the Transaction UID of its claim."""
        changes.TransactionUID = transaction_uid
        code, _, text = self._request("send_n_set", changes, PUSH, uid, meta_uid=PULL)
        return ChangeAnswer(_meaning(code), text)

    def test(self) -> list[Check]:
        """Test whether UPS Pull is accepted; sends no query."""
        with self.associate(_contexts()) as association:
            if isinstance(association, NoAssociation):
                return [Check("UPS Pull", False, association.text)]
        return [Check("UPS Pull", True, "accepted")]

    def _request(self, service: str, *request: Any, **options: Any) -> tuple[int | None, list[Dataset], str]:
        """One request on an association of its own: its status, None without one, the answers, and the status
        in words.
        """
        seconds, code, given = self._settings.outbox.answer_seconds, None, list[Dataset]()
        with self.associate(_contexts()) as association:
            if isinstance(association, NoAssociation):
                return None, [], association.text
            with suppress(*_FAULTY):  # an answer that cannot be decoded
                send = getattr(association, service)
                code, _, given = self.request(association, seconds, send, *request, **options)
        name = service.removeprefix("send_").replace("_", "-").upper()
        return code, given, f"{name}: {'no answer' if code is None else f'status {code:04X}'}"


def _is_done(code: int | None) -> bool:
    """Success, or a warning (PS3.7 Annex C, PS3.4 Table CC.2.1-2)."""
    return code is not None and (code in (0x0000, 0x0001, 0x0107, 0x0116) or code >> 12 == 0xB)


def _meaning(code: int | None) -> ChangeStatus:
    if _is_done(code):
        return ChangeStatus.DONE
    if code is None or code in _LATER:
        return ChangeStatus.RETRY
    if code in CONFLICTS:
        return ChangeStatus.CONFLICT
    return ChangeStatus.ABSENT if code in ABSENT else ChangeStatus.REFUSED


def _contexts() -> list[Any]:
    return [build_context(PULL, _SYNTAXES)]


def _question(**keys: str) -> Dataset:
    question = Dataset()
    for keyword in KEYS:
        setattr(question, keyword, [] if keyword.endswith("Sequence") else "")
    for keyword, value in keys.items():
        setattr(question, keyword, value)
    return question


def _decoded(given: Dataset) -> Dataset | None:
    """With texts in its character set; None for one that cannot be decoded."""
    with quiet_pydicom():
        try:
            given.decode()
        except _FAULTY:
            return None
    return given
