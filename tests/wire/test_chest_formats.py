"""Chest X-rays in every form: from a real Orthanc to the node, and back with results that others can read."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import cv2
import highdicom as hd
import pytest
from pydicom import dcmread

from tests.chest_lab import CHESTS, write
from tests.node_lab import Node, rule, running, site_config
from tests.ports import free_port
from tests.validators import dciodvfy_errors
from tests.wire.orthanc_lab import Returned, objects_by_study, start_orthanc

pytestmark = [
    pytest.mark.debian("orthanc", "dcmtk", "dicom3tools"),
    pytest.mark.timeout(1800),
]

RULE = rule("chest_xray", 'modality = ["CR", "DX"]')
KINDS = ("sr", "gsps", "sc", "seg")
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Returned]:
    """One run of the node for all forms."""
    folder = tmp_path_factory.mktemp("chests")
    film = cv2.imread(str(data / "cxr_nih" / "images" / "00000032_037.jpg"), cv2.IMREAD_GRAYSCALE)
    assert film is not None
    # The pipeline takes 128 pixels and more, and one form leaves out a fifth of the rows.
    film = cv2.resize(film, (160, 160), interpolation=cv2.INTER_AREA)
    written = {kind: write(kind, film, folder) for kind in CHESTS}
    port = free_port()
    with start_orthanc(folder / "orthanc", modalities={"node": ("AINODE", "127.0.0.1", port)}) as pacs:
        config = site_config(pacs.dicom_port, RULE, KINDS, ae_title=pacs.ae_title)
        node = Node(folder / "node", config, port=port)
        with running(node):
            ids = [pacs.upload(path.read_bytes())["ID"] for path in written.values()]
            pacs.call("POST", "/modalities/node/store", json.dumps(ids).encode())
            ends = ("delivered", "not_applicable", "quarantined", "failed")
            rows = node.wait_for(ends, count=len(ids))
        held = objects_by_study(pacs)
    studies = {
        kind: dcmread(path, stop_before_pixels=True).StudyInstanceUID for kind, path in written.items()
    }
    return {
        kind: Returned(written[kind].read_bytes(), rows[study], held.get(study, {}))
        for kind, study in studies.items()
    }


@pytest.fixture(params=CHESTS)
def case(request: pytest.FixtureRequest, cases: dict[str, Returned]) -> Returned:
    found = cases[request.param]
    assert found.row["state"] == "delivered", found.row
    return found


def test_it_comes_back_with_a_report_that_highdicom_reads(case: Returned) -> None:
    source = case.source
    assert case.held[source.SOPInstanceUID] == case.file
    [report] = [ds for ds in case.results() if ds.Modality == "SR"]
    read = hd.sr.srread(io.BytesIO(case.held[report.SOPInstanceUID]))
    assert read.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    for ds in case.results():
        assert (ds.PatientName, ds.PatientID) == (source.PatientName, source.PatientID)


def test_validators_find_no_error(case: Returned, tmp_path: Path) -> None:
    path = tmp_path / "object.dcm"
    for ds in case.results():
        path.write_bytes(case.held[ds.SOPInstanceUID])
        assert dciodvfy_errors(path) == []
        if ds.SOPClassUID == PRESENTATION_STATE:
            checked = subprocess.run(
                ["dcmpschk", str(path)], capture_output=True, text=True, timeout=60, check=False
            )
            assert checked.returncode == 0 and "error" not in checked.stdout.lower(), checked.stdout
        if ds.Modality == "SEG":
            assert "PixelAspectRatio" not in ds
