"""A real Orthanc for tests: own configuration, free ports of the loopback, storage in a test's folder."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_node.base.config.peer import PeerSettings
from tests.modality import part_10
from tests.ports import free_port
from tests.waiting import wait_until

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
needs_orthanc = pytest.mark.debian("orthanc", "orthanc-dicomweb", "dcmtk")
TAKING = {"may": ("receive",)}
TAKING_BACK = TAKING | {"withdraw": "delete"}
PIXELS = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)


class Orthanc:
    """One Orthanc on fixed ports; it can be stopped, killed and started again on the same storage."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ae_title: str = config["DicomAet"]
        self.dicom_port: int = config["DicomPort"]
        self.http_port: int = config["HttpPort"]
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.log = folder / "orthanc.log"
        users: Mapping[str, str] = config.get("RegisteredUsers", {})
        logins = [b64encode(f"{name}:{password}".encode()).decode() for name, password in users.items()]
        self._headers = {"Authorization": f"Basic {logins[0]}"} if logins else {}
        self._config = folder / "orthanc.json"
        self._config.write_text(json.dumps(config, indent=1), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 120) -> None:
        """Start it and wait until it answers."""
        program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
        assert program, "needs the Debian package orthanc"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "--verbose", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(
            lambda: self._answers() or self._died(),
            seconds,
            "Orthanc's first answer",
            progress=lambda: self.log.stat().st_size,
        )
        assert not self._died(), f"Orthanc ended:\n{self.log.read_text(errors='replace')[-2000:]}"

    def _answers(self) -> bool:
        try:
            self.get("/system")
        except OSError:
            return False
        return True

    def _died(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """kill -9: at once (a clean stop takes Orthanc 3.5 s)."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def reports(self) -> Counter[str]:
        """How many SRs it holds, by Study Instance UID."""
        named = {one["ID"]: one["MainDicomTags"]["StudyInstanceUID"] for one in self.get("/studies?expand")}
        found: Counter[str] = Counter()
        for series in self.get("/series?expand"):
            if series["MainDicomTags"].get("Modality") == "SR":
                found[named[series["ParentStudy"]]] += len(series["Instances"])
        return found

    def instances(self) -> list[str]:
        """SOP Instance UIDs of all that it holds; a UID stands twice when it holds two copies."""
        return sorted(item["MainDicomTags"]["SOPInstanceUID"] for item in self.get("/instances?expand"))

    def fetch(self, sop_instance_uid: str) -> bytes:
        """The stored Part 10 file. Raises LookupError when it holds no such object."""
        return self.call("GET", f"/instances/{self.id_of(sop_instance_uid)}/file")

    def id_of(self, sop_instance_uid: str) -> str:
        """Orthanc's own identifier of an instance. Raises LookupError."""
        for item in json.loads(self.call("POST", "/tools/lookup", sop_instance_uid.encode())):
            if item["Type"] == "Instance":
                identifier: str = item["ID"]
                return identifier
        raise LookupError(f"Orthanc holds no {sop_instance_uid}")

    def upload(self, data: bytes) -> dict[str, Any]:
        """Store an object by REST, as a person does with the web page."""
        answer: dict[str, Any] = json.loads(self.call("POST", "/instances", data))
        return answer

    def get(self, path: str) -> Any:
        """GET and read the JSON."""
        return json.loads(self.call("GET", path))

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One REST call. Raises urllib's errors."""
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, data=body, headers=self._headers, method=method),
            timeout=30,
        ) as answer:
            data: bytes = answer.read()
            return data


@contextmanager
def start_orthanc(
    folder: Path,
    *,
    ae_title: str = "ORTHANC",
    modalities: Mapping[str, Sequence[Any]] | None = None,
    lua: Sequence[Path] = (),
    plugins: Sequence[Path] = (),
    config: Mapping[str, Any] | None = None,
) -> Iterator[Orthanc]:
    """Run an Orthanc as long as the scope lasts.

    ``modalities``: Orthanc's DicomModalities, name -> (AE title, host, port). ``lua``: script files.
    ``plugins``: shared libraries, such as :data:`DICOMWEB`. ``config``: further keys of its configuration.
    """
    storage = str(folder / "storage")
    settings: dict[str, Any] = {
        "Name": ae_title,
        "StorageDirectory": storage,
        "IndexDirectory": storage,
        "HttpPort": free_port(),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": ae_title,
        "DicomPort": free_port(),
        "DicomCheckCalledAet": False,
        "DicomModalities": {name: list(entry) for name, entry in (modalities or {}).items()},
        "DicomAlwaysAllowFind": True,
        "LuaScripts": [str(script) for script in lua],
        "Plugins": [str(plugin) for plugin in plugins],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "Host": "127.0.0.1"},
        **(config or {}),
    }
    orthanc = Orthanc(folder, settings)
    try:
        orthanc.start()
        yield orthanc
    finally:
        orthanc.kill()


def stored(orthanc: Orthanc, image: Dataset, day: str = "") -> Dataset:
    """Uploaded as it is, or as of that day."""
    image.StudyDate = day or image.get("StudyDate", "")
    orthanc.upload(part_10(image))
    return image


def peer(orthanc: Orthanc, way: str, **settings: object) -> PeerSettings:
    """Asked or delivered to by this way, which is its name."""
    known = {
        "name": way,
        "ae_title": orthanc.ae_title,
        "host": "127.0.0.1",
        "port": orthanc.dicom_port,
        "may": ("send", "query"),
        "transport": way if way in ("orthanc", "dicomweb") else "dimse",
        "retrieve": "get" if way == "get" else "move",
        "url": orthanc.url + ("/dicom-web" if way == "dicomweb" else ""),
    }
    return PeerSettings.model_validate({**known, **settings})
