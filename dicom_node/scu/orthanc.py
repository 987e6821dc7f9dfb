"""Orthanc by its REST API. The only module that imports orthanc-rest-client (GPL-3.0).

An upload that Orthanc answers with ``AlreadyStored`` proves nothing about the bytes that it holds, so
confirmation fetches the stored file and compares it.
"""

import hashlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import requests
from apiron import Timeout
from orthanc_rest_client import Orthanc
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from requests.auth import HTTPBasicAuth
from urllib3.util.retry import Retry

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.scu.destination import Check, Confirmation, Outgoing, Presence, SendReport, SendStatus
from dicom_node.scu.http import (
    CONNECT_SECONDS,
    FAULTY_ANSWER,
    UNREADABLE,
    HttpDestination,
    problem,
    unanswered,
)

_OTHER_HEADER_BYTES = 2**20  # more than another file meta information or Implicit VR makes of our file
_UPLOADED = {
    "Success": SendReport(SendStatus.STORED, "Success", "stored"),
    "AlreadyStored": SendReport(SendStatus.VERIFY, "AlreadyStored", "Orthanc has this UID already"),
    "Failure": SendReport(SendStatus.RETRY, "Failure", "Orthanc did not store it"),
    "FilteredOut": SendReport(SendStatus.REFUSED, "FilteredOut", "a filter of this Orthanc rejects it"),
}


class OrthancDestination(HttpDestination):
    """An Orthanc at a URL such as http://host:8042."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        super().__init__(peer, settings)
        self._client = _client(peer)
        # Retries belong to the outbox, which counts and shows them.
        self._call: dict[str, Any] = {
            "timeout_spec": Timeout(CONNECT_SECONDS, settings.outbox.answer_seconds),
            "retry_spec": Retry(0),
            "session": self._session,
        }

    def test(self) -> list[Check]:
        """Test whether Orthanc answers and accepts our credentials."""
        try:
            with self._connections.within(self._outbox.answer_seconds):
                system = self._client.get_system(**self._call)
            text = f"Orthanc {system.get('Version', '')}, AE title {system.get('DicomAet', '')}"
        except requests.RequestException as error:
            return [Check("REST", False, problem(error, self._connections).text)]
        except FAULTY_ANSWER:
            return [Check("REST", False, UNREADABLE.text)]
        return [Check("REST", True, text)]

    def _store(self, item: Outgoing) -> SendReport:
        try:
            with self._within(item), item.path.open("rb") as file:
                answer = self._client.add_instance(file, **self._call)
        except requests.RequestException as error:
            return problem(error, self._connections)
        return _UPLOADED.get(answer.get("Status"), UNREADABLE)

    def _delete(self, item: Outgoing) -> None:
        with self._within(item):
            for identifier in self._found(item):
                if self._is_same(identifier, item):
                    self._client.delete_instance(identifier, **self._call)

    def _found(self, item: Outgoing) -> list[str]:
        """Orthanc's identifiers of the objects of this UID."""
        query = {
            "Level": "Instance",
            "CaseSensitive": True,
            "Query": {"SOPInstanceUID": item.sop_instance_uid},
        }
        return list(self._client.find(query, **self._call))

    def _look(self, item: Outgoing) -> Confirmation:
        try:
            with self._within(item):
                found = self._found(item)
                if not found:
                    return Confirmation(Presence.NOT_FOUND, "Orthanc does not have it")
                if any(self._is_same(identifier, item) for identifier in found):
                    return Confirmation(Presence.FOUND)
        except requests.RequestException as error:
            return unanswered(problem(error, self._connections))
        return Confirmation(Presence.DIFFERENT, "Orthanc holds another object under this UID")

    def _is_same(self, identifier: str, item: Outgoing) -> bool:
        """The same file; or, when it came another way (C-STORE writes its own header), the same data set."""
        digest = hashlib.sha256()
        try:
            for chunk in self._file(identifier, item):
                digest.update(chunk)
            if digest.hexdigest() == item.sha256:
                return True
            stored = b"".join(self._file(identifier, item))
            return _values(dcmread(BytesIO(stored))) == _values(dcmread(item.path))
        except (_TooLong, InvalidDicomError):
            return False

    def _file(self, identifier: str, item: Outgoing) -> Iterator[bytes]:
        """The stored file. Raises _TooLong where it is longer than any form of ours, and hangs up."""
        left = item.path.stat().st_size + _OTHER_HEADER_BYTES
        for chunk in self._client.get_instance_file(identifier, **self._call):
            left -= len(chunk)
            if left < 0:
                self._connections.cut()
                raise _TooLong
            yield chunk


class _TooLong(Exception):
    """The destination sends more than it can have."""


def _values(ds: Dataset) -> dict[BaseTag, object]:
    """Values without VRs: an object that came as Implicit VR cannot tell OB from OW."""
    return {element.tag: element.value for element in ds}


def _client(peer: PeerSettings) -> Orthanc:
    """A client of its own server: the library keeps the server's address in classes that all clients share,
    so that of two Orthancs the last one opened would get everything."""
    auth = HTTPBasicAuth(peer.username, peer.password.get_secret_value()) if peer.username else None
    client = Orthanc(peer.url, auth=auth, warn_insecure=False)
    for room in ("instances", "server"):
        shared = getattr(client, room)
        setattr(client, room, type(shared)(shared.__name__, (shared,), {"domain": peer.url}))
    return client
