"""A program of another maker, from the C-STORE of a CT to its objects in a real Orthanc."""

import io
import json
import sys
from pathlib import Path

import highdicom
import pytest
from pydicom import dcmread

from dicom_node.base.dicom.header import items
from dicom_node.base.dicom.uids import is_own_result
from dicom_node.base.events import PROGRAM_ANSWERED
from tests import ct_lab
from tests.node_lab import Node, rule, running, site_config, store
from tests.validators import dciodvfy_errors
from tests.wire.orthanc_lab import start_orthanc


@pytest.mark.debian("orthanc", "dicom3tools")
@pytest.mark.timeout(600)
def test_a_report_and_a_mask_of_a_ct_arrive_once_valid_and_joined(tmp_path: Path) -> None:
    slices = ct_lab.ct_slices("wire", 6)
    script = ct_lab.program(tmp_path, ct_lab.segments_and_reports())
    command = json.dumps([sys.executable, str(script), "{input}", "{output}"])
    options = f'command = {command}, model = "lungs", version = "1.2", network = true'
    rules = rule("command", 'modality = "CT"', options, name="lungs")
    with start_orthanc(tmp_path / "orthanc") as orthanc:
        config = site_config(
            orthanc.dicom_port, rules, results=("sr", "seg"), senders=("CT1",), ae_title=orthanc.ae_title
        )
        with running(Node(tmp_path, config)) as node:
            assert store(node.port, slices, "CT1") == [0x0000] * len(slices)
            node.wait_for(["delivered"])
            node.cli("studies", "rerun", str(slices[0].StudyInstanceUID))
            node.wait_for(["delivered"])
            assert len(node.events(PROGRAM_ANSWERED.number)) == 2
        found = {}
        for uid in orthanc.instances():
            path = tmp_path / f"{len(found)}.dcm"
            path.write_bytes(orthanc.fetch(uid))
            assert dciodvfy_errors(path) == []
            found[str(dcmread(path).Modality)] = path
        assert len(orthanc.instances()) == 2, "the run again sent nothing twice"
    report, mask = dcmread(found["SR"]), highdicom.seg.segread(found["SEG"])
    assert mask.SOPInstanceUID in {item.get("ReferencedSOPInstanceUID") for item in items(report)}
    assert mask.get_volume().shape[:3] == (6, 128, 128)
    assert highdicom.sr.srread(io.BytesIO(found["SR"].read_bytes())).VerificationFlag == "UNVERIFIED"
    for made in (report, mask):
        assert is_own_result(made)
        assert (made.PatientID, made.StudyInstanceUID) == (slices[0].PatientID, slices[0].StudyInstanceUID)
