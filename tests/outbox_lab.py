"""An outbox for tests: real tables, real Part 10 files, any peers."""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmwrite
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

from dicom_node.base.config.settings import NodeSettings, OutboxSettings, PeerSettings, Settings
from dicom_node.base.kinds import RejectionReason, ResultKind
from dicom_node.base.lifecycle import JobState, StudyState
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, EventRow, Job, Result, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.deliver.scu import Outgoing
from dicom_node.people.studies import withdraw_results
from tests.modality import data_set, set_pixels
from tests.rows import Stored
from tests.waiting import wait_until

SOP_CLASSES = {
    ResultKind.SR: Comprehensive3DSRStorage,
    ResultKind.GSPS: GrayscaleSoftcopyPresentationStateStorage,
    ResultKind.SC: SecondaryCaptureImageStorage,
}
THREE_FACES = (ResultKind.SR, ResultKind.GSPS, ResultKind.SC)


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
