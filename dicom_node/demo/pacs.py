"""A PACS for the demonstration: a real Orthanc if installed, else a small storage SCP of our own.

Both accept objects from this machine only and store them in a separate folder.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_node.errors import DemoFailed

AE_TITLE = "PACS"
CALLING_AE_TITLES = ("AINODE", "US1", "XRAY1")

_MODALITY = {"Host": "127.0.0.1", "Port": 104, "AllowMove": False, "AllowGet": False}
_START_SECONDS = 30.0
_QUERY_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


class Pacs(Protocol):
    """The PACS of the demonstration: it receives results, and returns them on request."""

    name: str
    port: int

    def fetch(self, study_instance_uid: str) -> list[bytes]:
        """The Part 10 files of a study in the PACS."""
        ...

    def stop(self) -> None:
        """Stop the PACS; the objects stay in its folder."""
        ...


def start(folder: Path) -> Pacs:
    """Start a real Orthanc if it is installed, else the embedded SCP. Raises DemoFailed."""
    folder.mkdir(parents=True, exist_ok=True)
    program = orthanc_program()
    return OrthancPacs(program, folder) if program else EmbeddedPacs(folder)


def orthanc_program() -> str | None:
    """The path of the Orthanc program, None without one. Debian installs it outside of most users' PATH."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A TCP port of the loopback interface that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class OrthancPacs:
    """A real Orthanc in a separate process."""

    name = "Orthanc"

    def __init__(self, program: str, folder: Path) -> None:
        self.port, http = free_port(), free_port()
        self._url = f"http://127.0.0.1:{http}"
        storage = str((folder / "storage").resolve())
        config = {
            "Name": "Demonstration",
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "DicomAet": AE_TITLE,
            "DicomPort": self.port,
            "HttpPort": http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            # It listens for DICOM on every address: let in only the demonstration, on this machine.
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": {title: _MODALITY | {"AET": title} for title in CALLING_AE_TITLES},
            "Plugins": [],
        }
        path = folder / "orthanc.json"
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")
        with (folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, str(path)], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def fetch(self, study_instance_uid: str) -> list[bytes]:
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_instance_uid}}
        found = json.loads(self._call("/tools/find", json.dumps(query).encode()))
        return [self._call(f"/instances/{identifier}/file") for identifier in found]

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self._call("/system")
                return
            except OSError:
                time.sleep(0.1)
        raise DemoFailed("Orthanc does not start: see orthanc.log")

    def _call(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(self._url + path, body), timeout=30) as answer:
            data: bytes = answer.read()
            return data


class EmbeddedPacs:
    """A storage SCP that answers C-ECHO, C-STORE and C-FIND at IMAGE level (PS3.4 C.6.2.1)."""

    name = "embedded storage SCP (Orthanc is not installed)"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "objects"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._index = {path.stem: _keys(path) for path in sorted(self._folder.glob("*.dcm"))}
        self._ae = ae = AE(ae_title=AE_TITLE)
        ae.add_supported_context(Verification)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port: int = server.socket.getsockname()[1]

    def fetch(self, study_instance_uid: str) -> list[bytes]:
        with self._lock:
            uids = [
                uid for uid, keys in self._index.items() if keys["StudyInstanceUID"] == study_instance_uid
            ]
        return [(self._folder / f"{uid}.dcm").read_bytes() for uid in uids]

    def stop(self) -> None:
        self._ae.shutdown()

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if not re.fullmatch(r"[0-9.]{1,64}", uid):  # it names a file
            return 0xC000
        target = self._folder / f"{uid}.dcm"
        with self._lock:
            if uid not in self._index:  # the first copy stays, as in Orthanc
                target.write_bytes(event.encoded_dataset(include_meta=True))
                self._index[uid] = _keys(target)
        return 0x0000

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        wanted = {key: str(event.identifier.get(key) or "") for key in _QUERY_KEYS}
        with self._lock:
            held = list(self._index.values())
        for keys in held:
            if all(not value or value == keys[key] for key, value in wanted.items()):
                answer = Dataset()
                answer.QueryRetrieveLevel = "IMAGE"
                for key, value in keys.items():
                    setattr(answer, key, value)
                yield 0xFF00, answer
        yield 0x0000, None


def _keys(path: Path) -> dict[str, str]:
    header = dcmread(path, specific_tags=list(_QUERY_KEYS), stop_before_pixels=True)
    return {key: str(header.get(key) or "") for key in _QUERY_KEYS}
