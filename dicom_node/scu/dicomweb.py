"""DICOMweb destination: STOW-RS to store, QIDO-RS to confirm (PS3.18 10.5, 10.6), by dicomweb-client."""

from __future__ import annotations

import contextlib
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.scu.destination import Check, Confirmation, Outgoing, Presence, SendReport, SendStatus, shown
from dicom_node.scu.http import (
    CONNECT_SECONDS,
    FAULTY_ANSWER,
    NO_STUDY,
    UNREADABLE,
    HttpDestination,
    problem,
    status_of,
    unanswered,
)
from dicom_node.scu.statuses import store_report

_SOP_CLASS, _SOP_INSTANCE = "00080016", "00080018"
_UNNAMED = SendReport(SendStatus.VERIFY, "HTTP 200", "the answer does not name the object")


class DicomwebDestination(HttpDestination):
    """A DICOMweb server at a base URL such as https://host/dicom-web."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        super().__init__(peer, settings)
        self._is_queried = peer.may_be_asked
        if peer.username:
            self._session.auth = (peer.username, peer.password.get_secret_value())
        # Study Instance UIDs come from modalities, and some write components with leading zeros.
        self._client = DICOMwebClient(
            peer.url.rstrip("/"),
            session=self._session,
            permissive_uid=True,
            timeout=(CONNECT_SECONDS, settings.outbox.answer_seconds),
        )
        # Retries belong to the outbox, which counts and shows them.
        self._client.set_http_retry_params(retry=False)

    def test(self) -> list[Check]:
        """Search for an object that cannot exist: tests whether the server answers and lets the node in."""
        try:
            with self._connections.within(self._outbox.answer_seconds):
                self._client.search_for_instances(search_filters={"SOPInstanceUID": generate_uid()})
        except requests.RequestException as error:
            if status_of(error) != 404:
                return [Check("QIDO-RS", False, problem(error, self._connections).text)]
        except FAULTY_ANSWER:
            return [Check("QIDO-RS", False, UNREADABLE.text)]
        return [Check("QIDO-RS", True, "search answered")]

    def _store(self, item: Outgoing) -> SendReport:
        try:
            with self._within(item):
                answer = self._client.store_instances([dcmread(item.path)])
        except requests.RequestException as error:
            return _refused(error) or problem(error, self._connections)
        report = _stored(answer, item.sop_instance_uid)
        return UNREADABLE if report is _UNNAMED and not self._is_queried else report

    def _delete(self, item: Outgoing) -> None:
        with self._connections.within(self._outbox.answer_seconds):
            self._client.delete_instance(
                item.study_instance_uid, item.series_instance_uid, item.sop_instance_uid
            )

    def _look(self, item: Outgoing) -> Confirmation:
        try:
            with self._connections.within(self._outbox.answer_seconds):
                answers = self._client.search_for_instances(
                    item.study_instance_uid,
                    item.series_instance_uid,
                    search_filters={"SOPInstanceUID": item.sop_instance_uid},
                )
        except requests.RequestException as error:
            if status_of(error) == 404:
                return NO_STUDY
            return unanswered(problem(error, self._connections))
        for answer in answers:
            if not (uid := _value(answer, _SOP_INSTANCE)):
                raise ValueError("an answer names no object")
            if uid == item.sop_instance_uid:
                return shown(item, _value(answer, _SOP_CLASS))
        return Confirmation(Presence.NOT_FOUND, "the destination does not show it")


def _stored(answer: Dataset, uid: str) -> SendReport:
    """Read the Store Instances Response (PS3.18 I.2) to one object: stored is what it names as stored."""
    for failed in answer.get("FailedSOPSequence") or ():
        return _failure(failed)
    for stored in answer.get("ReferencedSOPSequence") or ():
        if warning := stored.get("WarningReason"):
            return store_report(int(warning))
        if stored.get("ReferencedSOPInstanceUID") == uid:
            return SendReport(SendStatus.STORED, "HTTP 200", "stored")
    return _UNNAMED


def _refused(error: requests.RequestException) -> SendReport | None:
    """A 409 says in its body why each instance failed (PS3.18 10.5.3)."""
    if error.response is None or status_of(error) != 409:
        return None
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # any server's idea of a body
        for failed in Dataset.from_json(error.response.json()).get("FailedSOPSequence") or ():
            return _failure(failed)
    return None


def _failure(failed: Dataset) -> SendReport:
    reason = failed.get("FailureReason")
    if not reason:
        return SendReport(SendStatus.REFUSED, "HTTP 409", "refused without a reason")
    return store_report(int(reason))


def _value(answer: dict[str, Any], tag: str) -> str:
    values = answer.get(tag, {}).get("Value") or [""]
    return str(values[0])
