"""Orthanc by its REST API. The only module that imports orthanc-rest-client (GPL-3.0).

An upload that Orthanc answers with ``AlreadyStored`` proves nothing about the bytes that it holds, so
confirmation fetches the stored file and compares it.
"""

import hashlib
from tempfile import TemporaryFile
from typing import Any

from apiron import Timeout
from orthanc_rest_client import Orthanc
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from urllib3.util.retry import Retry

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.deliver.scu import (
    Check,
    Confirmation,
    Outgoing,
    Presence,
    SendReport,
    SendStatus,
)
from dicom_node.deliver.scu.http import UNREADABLE, HttpDestination, NotWhole

_OTHER_HEADER_BYTES = 2**20  # more than another file meta information or Implicit VR makes of our file
_UPLOADED = {
    "Success": SendReport(SendStatus.STORED, "Success", "stored"),
    "AlreadyStored": SendReport(SendStatus.VERIFY, "AlreadyStored", "Orthanc has this UID already"),
    "Failure": SendReport(SendStatus.RETRY, "Failure", "Orthanc did not store it"),
    "FilteredOut": SendReport(SendStatus.REFUSED, "FilteredOut", "a filter of this Orthanc rejects it"),
}


class OrthancDestination(HttpDestination):
    """An Orthanc server as destination, by its REST API."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        super().__init__(peer, settings)
        self._client = _client(peer)
        # Retries belong to the outbox, which counts and shows them.
        self._call: dict[str, Any] = {
            "timeout_spec": Timeout(*self._timeout),
            "retry_spec": Retry(0),
            "session": self._session,
        }

    def test(self) -> list[Check]:
        """Check whether Orthanc answers and accepts the configured login."""

        def ask() -> list[Check]:
            """Read Orthanc's system information, and return one check with its version and AE title."""
            system = self._client.get_system(**self._call)
            text = f"Orthanc {system.get('Version', '')}, AE title {system.get('DicomAet', '')}"
            return [Check("REST", True, text)]

        return self._checked("REST", ask)

    def _store(self, item: Outgoing) -> SendReport:
        """Upload one object; return what became of it."""
        with item.path.open("rb") as file:
            answer = self._client.add_instance(file, **self._call)
        return _UPLOADED.get(answer.get("Status"), UNREADABLE)

    def _delete(self, item: Outgoing) -> None:
        """Delete this object from Orthanc, if what Orthanc stores under its UID is the same object."""
        for identifier in self._found(item):
            if self._is_same(identifier, item):
                self._client.delete_instance(identifier, **self._call)

    def _found(self, item: Outgoing) -> list[str]:
        """Return Orthanc's own identifiers of the objects with this object's SOP Instance UID."""
        query = {
            "Level": "Instance",
            "CaseSensitive": True,
            "Query": {"SOPInstanceUID": item.sop_instance_uid},
        }
        found = list(self._client.find(query, **self._call))
        if self._session.says_more and not found:
            raise NotWhole
        return found

    def _query(self, item: Outgoing) -> Confirmation:
        """Return whether Orthanc has this object, has another one under its UID, or has none."""
        found = self._found(item)
        if not found:
            return Confirmation(Presence.NOT_FOUND, "Orthanc does not have it")
        if any(self._is_same(identifier, item) for identifier in found):
            return Confirmation(Presence.FOUND)
        return Confirmation(Presence.DIFFERENT, "Orthanc holds another object under this UID")

    def _is_same(self, identifier: str, item: Outgoing) -> bool:
        """Return whether Orthanc's object ``identifier`` is the same file as ``item``, or has the same data
        set (C-STORE writes another file header).

        The download is cut off once it is longer than any form of the file.
        """
        digest, left = hashlib.sha256(), item.path.stat().st_size + _OTHER_HEADER_BYTES
        with TemporaryFile() as stored:
            for chunk in self._client.get_instance_file(identifier, **self._call):
                left -= stored.write(chunk)
                if left < 0:
                    self._connections.cut()
                    return False
                digest.update(chunk)
            if digest.hexdigest() == item.sha256:
                return True
            stored.seek(0)
            try:
                return _values(dcmread(stored)) == _values(dcmread(item.path))
            except InvalidDicomError:
                return False


def _values(ds: Dataset) -> dict[BaseTag, object]:
    """Return the values of a data set by tag, without their VRs, because Implicit VR does not tell OB from
    OW.
    """
    return {element.tag: element.value for element in ds}


def _client(peer: PeerSettings) -> Orthanc:
    """Return a client of the library for one Orthanc server.

    The library keeps the server's address in classes that all clients share, so each client gets classes of
    its own.
    """
    client = Orthanc(peer.url, warn_insecure=False)
    for room in ("instances", "server"):
        shared = getattr(client, room)
        setattr(client, room, type(shared)(shared.__name__, (shared,), {"domain": peer.url}))
    return client
