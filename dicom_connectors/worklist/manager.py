"""Clients of a worklist manager: search, claim, update, complete or cancel, by DIMSE as SCU of UPS Pull
(PS3.4 CC), or by UPS-RS (PS3.18 11); by UPS-RS work is requested of others, too."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, Final, Protocol

import requests
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import build_context

from dicom_connectors.worklist.workitem import CHANGE_STATE, PULL, PUSH, ProcedureStepState, change_of_state
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.dicom.web import read_dataset
from dicom_node.base.errors import Unavailable
from dicom_node.deliver.scu import Check, SendStatus
from dicom_node.deliver.scu.association import DimseCaller, NoAssociation
from dicom_node.deliver.scu.http import FAULTY_ANSWER, HttpCaller, NotWhole, paged, status_of

_LOGGER = logging.getLogger(__name__)

MOST_ITEMS: Final = 200
"""Work items of one search that are looked at."""


class ChangeStatus(StrEnum):
    """What became of a change to a work item, by the worklist manager's answer."""

    DONE = "done"
    CONFLICT = "conflict"  # the item's state, or the Transaction UID, is another: read it
    ABSENT = "absent"
    REFUSED = "refused"  # waiting does not cure it
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class ChangeAnswer:
    """A worklist manager's answer to one change.

    ``text``: the status in words, never text from the manager.
    """

    status: ChangeStatus
    text: str = ""


class WorklistManager(Protocol):
    """Interface of the clients of worklist managers (DIMSE and UPS-RS).

    For one thread; any thread may call ``close``.
    """

    def search(self) -> list[Dataset]:
        """Return the SCHEDULED work items, at most ``MOST_ITEMS``. Raises Unavailable."""

    def read(self, uid: str) -> Dataset | None:
        """Return all attributes of the work item ``uid``; None if it does not exist. Raises Unavailable."""

    def change_state(self, uid: str, transaction_uid: str, state: ProcedureStepState) -> ChangeAnswer:
        """Change the state of the work item ``uid``, to claim, complete or cancel it.

        ``transaction_uid``: the UID under which this node claims it.
        """

    def update(self, uid: str, transaction_uid: str, changes: Dataset) -> ChangeAnswer:
        """Replace attributes of the work item ``uid``, which is claimed under ``transaction_uid``."""

    def test(self) -> list[Check]:
        """Check whether the manager answers and lets the node in; this changes nothing."""

    def close(self) -> None:
        """Cut all calls under way; later calls fail as well."""


KEYS: Final = (
    "SOPClassUID", "SOPInstanceUID", "ProcedureStepState", "InputReadinessState",
    "ScheduledProcedureStepPriority", "ScheduledWorkitemCodeSequence", "ScheduledStationNameCodeSequence",
    "InputInformationSequence", "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate",
    "PatientSex",
)  # fmt: skip
"""What is asked of each work item (PS3.4 CC.2.8.1.3)."""
_NESTED: Final = (
    "CodeValue", "CodingSchemeDesignator", "CodeMeaning", "StudyInstanceUID", "DICOMRetrievalSequence",
    "RetrieveAETitle", "WADORSRetrievalSequence", "RetrieveURL",
)  # fmt: skip
"""What is read of the items in their sequences."""
OUTCOME: Final = (
    "SOPInstanceUID", "ProcedureStepState", "UnifiedProcedureStepPerformedProcedureSequence",
    "OutputInformationSequence", "ReferencedSOPSequence", "ReferencedSOPInstanceUID",
)  # fmt: skip
"""What its requester reads of a work item."""
CONFLICTS: Final = (0xC300, 0xC301, 0xC302, 0xC310)
"""Of PS3.4 Table CC.2.1-2 and CC.2.6-1: no longer to be changed, another Transaction UID, or state."""
ABSENT: Final = (0xC307, 0x0112)
_LATER = (0x0110, 0x0210, 0x0213)
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_FAULTY = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, NotImplementedError)


class DimseManager(DimseCaller):
    """Client of a worklist manager that is SCP of UPS Pull (DIMSE); each request has its own association."""

    def search(self) -> list[Dataset]:
        """Return the SCHEDULED work items, at most ``MOST_ITEMS``, by C-FIND. Raises Unavailable."""
        question = _search_identifier(ProcedureStepState=ProcedureStepState.SCHEDULED.value)
        code, found, text = self._request("send_c_find", question, PULL)
        if code != 0:
            raise Unavailable(f"{self._peer.name}: {text}")
        # The rest waits for the next search.
        return [_decoded(one) for one in found[:MOST_ITEMS]]

    def read(self, uid: str) -> Dataset | None:
        """Return the attributes of the work item ``uid``, by N-GET; None if the manager has no such item.

        Raises Unavailable.
        """
        tags = [Tag(tag_for_keyword(keyword) or 0) for keyword in KEYS]
        code, given, text = self._request("send_n_get", tags, PUSH, uid, meta_uid=PULL)
        if code in ABSENT:
            return None
        if not given or not _is_done(code):
            raise Unavailable(f"{self._peer.name}: {text}")
        return _decoded(given[0])

    def change_state(self, uid: str, transaction_uid: str, state: ProcedureStepState) -> ChangeAnswer:
        """Change the state of the work item ``uid``, by N-ACTION (Change UPS State)."""
        information = change_of_state(transaction_uid, state)
        code, _, text = self._request("send_n_action", information, CHANGE_STATE, PUSH, uid, meta_uid=PULL)
        return ChangeAnswer(_meaning(code), text)

    def update(self, uid: str, transaction_uid: str, changes: Dataset) -> ChangeAnswer:
        """Replace attributes of the work item ``uid``, by N-SET under the Transaction UID of its claim."""
        changes.TransactionUID = transaction_uid
        code, _, text = self._request("send_n_set", changes, PUSH, uid, meta_uid=PULL)
        return ChangeAnswer(_meaning(code), text)

    def test(self) -> list[Check]:
        """Check whether the manager accepts an association for UPS Pull; no query is sent."""
        with self.associate(_contexts()) as association:
            if isinstance(association, NoAssociation):
                return [Check("UPS Pull", False, association.text)]
        return [Check("UPS Pull", True, "accepted")]

    def _request(self, service: str, *request: Any, **options: Any) -> tuple[int | None, list[Dataset], str]:
        """Send one DIMSE request; return (status, None without an answer; data sets of the answer; status in
        words).

        ``service``: method of pynetdicom's association, such as "send_c_find", called with ``request`` and
        ``options``.
        """
        name = service.removeprefix("send_").replace("_", "-").upper()
        try:
            code, found, text = self.call(_contexts(), service, *request, **options)
        except _FAULTY:
            return None, [], f"{name}: an answer that cannot be decoded"
        return code, found, f"{name}: {text}"


def _is_done(code: int | None) -> bool:
    """Return whether a DIMSE status is success or a warning (PS3.7 Annex C, PS3.4 Table CC.2.1-2)."""
    return code is not None and (code in (0x0000, 0x0001, 0x0107, 0x0116) or code >> 12 == 0xB)


def _meaning(code: int | None) -> ChangeStatus:
    """Return what became of a change, by its DIMSE status (None: no answer came)."""
    if _is_done(code):
        return ChangeStatus.DONE
    if code is None or code in _LATER:
        return ChangeStatus.RETRY
    if code in CONFLICTS:
        return ChangeStatus.CONFLICT
    return ChangeStatus.ABSENT if code in ABSENT else ChangeStatus.REFUSED


def _contexts() -> list[Any]:
    """Return the presentation contexts for UPS Pull."""
    return [build_context(PULL, _SYNTAXES)]


def _search_identifier(**keys: str) -> Dataset:
    """Return the identifier of a C-FIND for work items, with these values of matching keys."""
    question = Dataset()
    for keyword in KEYS:
        setattr(question, keyword, [] if keyword.endswith("Sequence") else "")
    for keyword, value in keys.items():
        setattr(question, keyword, value)
    return question


def _decoded(dataset: Dataset) -> Dataset:
    """Return what the node needs of a data set, its texts decoded; only its UID if they cannot be decoded."""
    for tag in list(dataset.keys()):
        if keyword_for_tag(tag) not in (*KEYS, "SpecificCharacterSet"):
            del dataset[tag]
    uid = Dataset()
    with quiet_pydicom():
        try:
            uid.SOPInstanceUID = dataset.get("SOPInstanceUID", "")
            dataset.decode()
        except _FAULTY:
            return uid
    return dataset


_JSON = "application/dicom+json"
_CHANGED: Final = {  # managers give 400 or 409 for a wrong state and for a wrong Transaction UID
    400: ChangeStatus.CONFLICT,
    409: ChangeStatus.CONFLICT,
    404: ChangeStatus.ABSENT,
    410: ChangeStatus.ABSENT,
}


class UpsRsManager(HttpCaller):
    """Client of a worklist manager by UPS-RS (DICOMweb), at a base URL such as https://host/dicom-web."""

    def search(self) -> list[Dataset]:
        """Return the SCHEDULED work items, at most ``MOST_ITEMS`` (PS3.18 11.9). Raises Unavailable."""
        return self._answer(lambda: self._search(ProcedureStepState.SCHEDULED))

    def read(self, uid: str) -> Dataset | None:
        """Return the attributes of the work item ``uid`` (PS3.18 11.5); None if it does not exist.

        Raises Unavailable.
        """
        return self._answer(lambda: self._read(uid))

    def change_state(self, uid: str, transaction_uid: str, state: ProcedureStepState) -> ChangeAnswer:
        """Change the state of the work item ``uid`` (PS3.18 11.7)."""
        return self._change("PUT", f"/{uid}/state", change_of_state(transaction_uid, state))

    def update(self, uid: str, transaction_uid: str, changes: Dataset) -> ChangeAnswer:
        """Replace attributes of the work item ``uid`` (PS3.18 11.6).

        The Transaction UID is in the URL and in the data set.
        """
        changes.TransactionUID = transaction_uid
        return self._change("POST", f"/{uid}?{transaction_uid}", changes)

    def create(self, uid: str, item: Dataset) -> ChangeAnswer:
        """Create the work item ``uid`` (PS3.18 11.4); CONFLICT if there is one of this UID already."""
        return self._change("POST", f"?{uid}", item, {409: ChangeStatus.CONFLICT, 400: ChangeStatus.REFUSED})

    def request_cancellation(self, uid: str, reason: str) -> ChangeAnswer:
        """Request that whoever performs the work item ``uid`` cancels it (PS3.18 11.8)."""
        wanted = Dataset()
        wanted.ReasonForCancellation = reason
        return self._change("POST", f"/{uid}/cancelrequest", wanted)

    def read_outcome(self, uid: str) -> Dataset | None:
        """Return state and outputs of the work item ``uid`` (PS3.18 11.5); None if it does not exist.

        Raises Unavailable.
        """
        return self._answer(lambda: self._read(uid, OUTCOME))

    def test(self) -> list[Check]:
        """Check the manager by a search for a work item that cannot exist."""

        def ask() -> list[Check]:
            """Search for a UID that no work item has, and return one check that says that the search was
            answered.
            """
            self._search(ProcedureStepState.SCHEDULED, SOPInstanceUID=generate_uid())
            return [Check("UPS-RS", True, "search answered")]

        return self._checked("UPS-RS", ask)

    def _search(self, state: ProcedureStepState, **keys: str) -> list[Dataset]:
        """Return the work items in this state, with ``keys`` as further values that must match.

        Raises requests.RequestException.
        """
        wanted = {"ProcedureStepState": state.value, **keys, "includefield": "all"}

        def ask(**page: int | None) -> list[Any]:
            """Return a page of the work items in DICOM JSON."""
            return _rows(self._call("GET", "", params={**wanted, **page}))

        found: list[Dataset] = []
        try:
            for row in islice(paged(self._session, ask, MOST_ITEMS, MOST_ITEMS), MOST_ITEMS):
                found.append(_dataset(row))
        except NotWhole:  # what is done goes from its list: the rest comes later
            _LOGGER.warning("the work items of %s end early: it says that there are more", self._peer.name)
        return found

    def _read(self, uid: str, keywords: Collection[str] = (*KEYS, *_NESTED)) -> Dataset | None:
        """Return these attributes of a work item; None if it does not exist.

        Raises requests.RequestException.
        """
        try:
            rows = _rows(self._call("GET", f"/{uid}"))
        except requests.HTTPError as error:
            if status_of(error) in (404, 410):
                return None
            raise
        return _dataset(rows[0], keywords) if rows else None

    def _change(
        self,
        method: str,
        path: str,
        changes: Dataset,
        meanings: Mapping[int, ChangeStatus] = _CHANGED,
    ) -> ChangeAnswer:
        """Send a change as HTTP request to ``path`` below /workitems; return the manager's answer.

        ``meanings``: of HTTP statuses of this transaction.
        """
        try:
            with self._connections.within(self._outbox.answer_seconds):
                answer = self._call(method, path, json=[changes.to_json_dict()])
        except requests.RequestException as error:
            return self._failed_change(error, meanings)
        return ChangeAnswer(ChangeStatus.DONE, f"HTTP {answer.status_code}")

    def _failed_change(
        self, error: requests.RequestException, meanings: Mapping[int, ChangeStatus]
    ) -> ChangeAnswer:
        """Return what a failed change means (PS3.18 Tables 11.4.3-1, 11.6.3-1, 11.7.3-1 and 11.8.3-1)."""
        report, code = self._problem(error), status_of(error)
        if code is not None and code in meanings:
            return ChangeAnswer(meanings[code], f"HTTP {code}")
        refused = report.status is SendStatus.REFUSED
        text = f"{report.code} {report.text}".strip()
        return ChangeAnswer(ChangeStatus.REFUSED if refused else ChangeStatus.RETRY, text)

    def _call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send an HTTP request to ``path`` below /workitems; return the answer.

        Raises requests.RequestException.
        """
        headers = {"Accept": _JSON} | ({"Content-Type": _JSON} if "json" in options else {})
        url = f"{self._url}/workitems{path}"
        answer = self._session.request(method, url, headers=headers, timeout=self._timeout, **options)
        answer.raise_for_status()
        return answer


def _rows(answer: requests.Response) -> list[Any]:
    """Return the objects of an answer in DICOM JSON.

    Raises requests.JSONDecodeError or TypeError for an answer that is no list.
    """
    rows = answer.json() if answer.status_code != 204 and answer.content else []
    if isinstance(rows, dict):  # one item without its list, as some managers answer
        rows = [rows]
    if not isinstance(rows, list):
        raise TypeError("no list of work items")
    return rows


def _dataset(row: Any, keywords: Collection[str] = (*KEYS, *_NESTED)) -> Dataset:
    """Return these attributes of a work item in DICOM JSON; only its UID if some of them cannot be read."""
    try:
        dataset, unread = read_dataset(row, keywords)
        return read_dataset(row, ("SOPInstanceUID",))[0] if unread else dataset
    except FAULTY_ANSWER:
        return Dataset()
