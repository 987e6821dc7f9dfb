"""A worklist manager by UPS-RS (PS3.18 11)."""

from typing import Any

import requests
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_connectors.worklist.manager import MOST_ITEMS, ChangeAnswer, ChangeStatus
from dicom_connectors.worklist.workitem import ProcedureStepState, change_of_state
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.deliver.scu import Check, SendStatus
from dicom_node.deliver.scu.http import FAULTY_ANSWER, HttpCaller, status_of

_JSON = "application/dicom+json"


class UpsRsManager(HttpCaller):
    """A worklist manager by UPS-RS at a base URL such as https://host/dicom-web."""

    def search(self) -> list[Dataset]:
        """Search for scheduled items: ``GET /workitems`` (PS3.18 11.9). Raises PeerUnreachable."""
        return self._answer(lambda: self._search(ProcedureStepState.SCHEDULED))

    def read(self, uid: str) -> Dataset | None:
        """Read an item: ``GET /workitems/{uid}`` (PS3.18 11.5). Raises PeerUnreachable."""
        return self._answer(lambda: self._read(uid))

    def change_state(self, uid: str, transaction_uid: str, state: ProcedureStepState) -> ChangeAnswer:
        """Change the state of an item: ``PUT /workitems/{uid}/state`` (PS3.18 11.7)."""
        return self._change("PUT", f"/{uid}/state", change_of_state(transaction_uid, state))

    def update(self, uid: str, transaction_uid: str, changes: Dataset) -> ChangeAnswer:
        """Update an item: ``POST /workitems/{uid}?{transaction-uid}`` (PS3.18 11.6).

        The Transaction UID is in the data set as well.
        """
        changes.TransactionUID = transaction_uid
        return self._change("POST", f"/{uid}?{transaction_uid}", changes)

    def test(self) -> list[Check]:
        """Test the manager: search for an item that cannot exist."""

        def ask() -> list[Check]:
            self._search(ProcedureStepState.SCHEDULED, SOPInstanceUID=generate_uid())
            return [Check("UPS-RS", True, "search answered")]

        return self._checked("UPS-RS", ask)

    def _search(self, state: ProcedureStepState, **keys: str) -> list[Dataset]:
        wanted = {"ProcedureStepState": state.value, **keys, "includefield": "all", "limit": str(MOST_ITEMS)}
        return _datasets(self._call("GET", "", params=wanted))[:MOST_ITEMS]

    def _read(self, uid: str) -> Dataset | None:
        try:
            found = _datasets(self._call("GET", f"/{uid}"))
        except requests.HTTPError as error:
            if status_of(error) in (404, 410):
                return None
            raise
        return found[0] if found else None

    def _change(self, method: str, path: str, changes: Dataset) -> ChangeAnswer:
        try:
            with self._connections.within(self._outbox.answer_seconds):
                answer = self._call(method, path, json=[changes.to_json_dict()])
        except requests.RequestException as error:
            return self._refusal(error)
        return ChangeAnswer(ChangeStatus.DONE, f"HTTP {answer.status_code}")

    def _refusal(self, error: requests.RequestException) -> ChangeAnswer:
        """The meaning of a failure (PS3.18 Tables 11.6.3-1 and 11.7.3-1)."""
        report, code = self._problem(error), status_of(error)
        if code in (400, 409):  # managers give either for a wrong state and for a wrong Transaction UID
            return ChangeAnswer(ChangeStatus.CONFLICT, f"HTTP {code}")
        if code in (404, 410):
            return ChangeAnswer(ChangeStatus.ABSENT, f"HTTP {code}")
        refused = report.status is SendStatus.REFUSED
        text = f"{report.code} {report.text}".strip()
        return ChangeAnswer(ChangeStatus.REFUSED if refused else ChangeStatus.RETRY, text)

    def _call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Raises requests.RequestException."""
        headers = {"Accept": _JSON} | ({"Content-Type": _JSON} if "json" in options else {})
        url = f"{self._url}/workitems{path}"
        answer = self._session.request(method, url, headers=headers, timeout=self._timeout, **options)
        answer.raise_for_status()
        return answer


def _datasets(answer: requests.Response) -> list[Dataset]:
    """The data sets of an answer in DICOM JSON; one that is faulty is left out.

    Raises requests.JSONDecodeError, TypeError for an answer that is no list.
    """
    rows = answer.json() if answer.status_code != 204 and answer.content else []
    if isinstance(rows, dict):  # one item without its list, as some managers answer
        rows = [rows]
    if not isinstance(rows, list):
        raise TypeError("no list of work items")
    return [found for row in rows[:MOST_ITEMS] if (found := _dataset(row)) is not None]


def _dataset(row: Any) -> Dataset | None:
    with quiet_pydicom():
        try:
            return Dataset.from_json(row)
        except FAULTY_ANSWER:
            return None
