"""One study through a whole department: other people's programs send, look, and fetch what the node made.

The modality is DCMTK or pynetdicom's ``storescu``, the PACS is Orthanc, and the workstations are DCMTK's
``findscu`` and ``getscu``, pynetdicom's applications, and ``dicomweb-client``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.modality import ultrasound
from tests.node_lab import ULTRASOUND, Node, running, site_config
from tests.ports import free_port
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, start_orthanc

pytestmark = pytest.mark.debian("orthanc", "orthanc-dicomweb", "dcmtk")

KINDS = {"sr": "SR", "gsps": "PR", "sc": "OT", "cleaned": "US", "seg": "SEG"}
"""The results that the rule asks for, and the modality of the series of each."""


@dataclass(frozen=True)
class Department:
    """An Orthanc that holds one study with its results, and what was sent."""

    pacs: Orthanc
    image: Dataset
    results: dict[str, str]

    @property
    def study(self) -> str:
        uid: str = self.image.StudyInstanceUID
        return uid


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    folder, image = tmp_path_factory.mktemp("department"), ultrasound("department")
    file = folder / "image.dcm"
    image.save_as(file, enforce_file_format=True)
    boxes = "burned_in_boxes = true"
    get = {"DicomAlwaysAllowGet": True}
    with start_orthanc(folder / "orthanc", ae_title="PACS", plugins=[DICOMWEB], config=get) as pacs:
        node = Node(
            folder, site_config(pacs.dicom_port, ULTRASOUND, tuple(KINDS), 0.5, of_pacs=boxes), free_port()
        )
        with running(node):
            for port, called in ((node.port, "AINODE"), (pacs.dicom_port, "PACS")):
                _run("storescu", "-aet", "US1", "-aec", called, "127.0.0.1", port, file)
            study = node.wait_for(["delivered"])[image.StudyInstanceUID]
        yield Department(pacs, image, {one["kind"]: one["sop_instance_uid"] for one in study["results"]})


def test_a_dcmtk_modality_sends_and_dcmtk_finds_a_series_of_each_result(department: Department) -> None:
    pacs = department.pacs
    keys = (
        "QueryRetrieveLevel=SERIES",
        f"StudyInstanceUID={department.study}",
        "Modality",
        "SeriesInstanceUID",
    )
    asked = [part for key in keys for part in ("-k", key)]
    said = _run("findscu", "-S", "-aec", "PACS", *asked, "127.0.0.1", pacs.dicom_port)
    assert set(department.results) == set(KINDS)
    for modality in KINDS.values():
        assert f"[{modality}" in said


def test_a_dcmtk_workstation_gets_the_whole_study_as_it_was_sent(
    department: Department, tmp_path: Path
) -> None:
    pacs = department.pacs
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={department.study}")
    _run("getscu", "-S", "-aec", "PACS", "-od", tmp_path, *keys, "127.0.0.1", pacs.dicom_port)
    _holds_all(department, [dcmread(path) for path in tmp_path.iterdir()])


def test_pynetdicoms_programs_send_and_get_it(department: Department, tmp_path: Path) -> None:
    pacs = department.pacs
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={department.study}")
    app = (sys.executable, "-m", "pynetdicom")
    _run(*app, "echoscu", "127.0.0.1", pacs.dicom_port, "-aec", "PACS")
    _run(*app, "getscu", "127.0.0.1", pacs.dicom_port, "-aec", "PACS", "-od", tmp_path, *keys)
    _holds_all(department, [dcmread(path) for path in tmp_path.iterdir()])


def test_a_dicomweb_workstation_finds_and_reads_every_result(department: Department) -> None:
    client = DICOMwebClient(f"{department.pacs.url}/dicom-web")
    found = client.search_for_instances(study_instance_uid=department.study)
    assert len(found) == len(KINDS) + 1
    _holds_all(department, client.retrieve_study(department.study))


def test_a_dicomweb_workstation_sees_the_cleaned_picture(department: Department) -> None:
    client = DICOMwebClient(f"{department.pacs.url}/dicom-web")
    uid = department.results["cleaned"]
    sent = dcmread(BytesIO(department.pacs.fetch(uid)))
    raw = (("application/octet-stream", ExplicitVRLittleEndian),)
    [frame] = client.retrieve_instance_frames(department.study, sent.SeriesInstanceUID, uid, [1], raw)
    assert np.array_equal(np.frombuffer(frame, np.uint8)[: sent.pixel_array.size], sent.pixel_array.ravel())


def test_highdicom_reads_the_report_that_came_over_dicomweb(department: Department) -> None:
    client = DICOMwebClient(f"{department.pacs.url}/dicom-web")
    uid = department.results["sr"]
    series = dcmread(BytesIO(department.pacs.fetch(uid))).SeriesInstanceUID
    data = BytesIO()
    client.retrieve_instance(department.study, series, uid).save_as(data, enforce_file_format=True)
    data.seek(0)
    report = srread(data)
    assert report.content.get_planar_roi_measurement_groups()


def _holds_all(department: Department, got: list[Dataset]) -> None:
    """All objects came, and each is the one that the PACS holds."""
    own = str(department.image.SOPInstanceUID)
    assert {str(one.SOPInstanceUID) for one in got} == {own, *department.results.values()}
    for one in got:
        held = dcmread(BytesIO(department.pacs.fetch(one.SOPInstanceUID)))
        assert held.to_json_dict() == Dataset(one).to_json_dict()


def _run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
