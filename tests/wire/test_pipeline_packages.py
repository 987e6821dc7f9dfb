"""A package and a command of somebody else on the wire: C-STORE → node → results in a PACS."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.uid import ImplicitVRLittleEndian

from tests import wheels
from tests.modality import ultrasound
from tests.node_lab import Node, rule, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port

COMMAND = 'command = ["{python}", "{program}", "{{input}}", "{{output}}"], model = "speckles", version = "3"'
PROGRAM = """
import json, sys
from pathlib import Path
from pydicom import dcmread
code = {"value": "SPECKLE", "scheme": "99OURS", "meaning": "Speckle"}
box = {"type": "box", "points": [[20, 40], [90, 120]]}
findings = [
    {"source_uid": str(dcmread(file).SOPInstanceUID), "label": "Speckle", "code": code, "decision": "present",
     "probability": 0.75, "regions": [box]}
    for file in Path(sys.argv[1]).iterdir()
]
Path(sys.argv[2], "findings.json").write_text(json.dumps({"findings": findings}))
Path(sys.argv[2], "report.dcm").write_bytes(next(Path(sys.argv[1]).iterdir()).read_bytes())
"""


def held(pacs: Pacs) -> list[Dataset]:
    """What the PACS has received."""
    return [
        read_dataset(DicomBytesIO(data), pacs.syntaxes[uid] == ImplicitVRLittleEndian, True)
        for uid, data in pacs.stored.items()
    ]


def told(report: Dataset) -> str:
    """Every text and every meaning in a report."""
    texts: list[str] = []
    report.walk(lambda _, one: texts.append(str(one.value)) if one.VR in {"UT", "LO"} else None)
    return "\n".join(texts)


def test_findings_of_a_package_and_of_a_program_reach_the_pacs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = wheels.build(wheels.EXAMPLE, tmp_path / "wheel")
    wheels.install(wheel, tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    pacs = Pacs(free_port())
    image = ultrasound("packages")
    options = COMMAND.format(python=sys.executable, program=program)
    rules = rule("bright", options="limit = 0") + rule("command", options=options)
    config = site_config(pacs.port, rules, ("sr", "gsps", "sc"))
    with run_pacs(pacs), running(Node(tmp_path / "node", config)) as node:
        assert store(node.port, [image], "US1") == [0x0000]
        node.wait_for(["delivered", "failed"])
        assert {job["state"] for job in node.cli("jobs", "list")} == {"succeeded"}
    results = held(pacs)
    reports = {str(ds.SeriesDescription).rpartition(" ")[2]: ds for ds in results if ds.Modality == "SR"}
    assert reports.keys() == {"bright", "command"}
    for ds in results:
        assert (ds.PatientID, ds.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
        assert "AI" in ds.SeriesDescription and "not for diagnostic use" in ds.SeriesDescription
        assert ds.SOPInstanceUID != image.SOPInstanceUID
    assert "Suspected: bright image" in told(reports["bright"])
    text = told(reports["command"])
    assert "Suspected: speckle" in text and "model speckles version 3" in text
    assert "AI score of Speckle" in text, "nobody has calibrated it: no per cent"
    assert "another file (1 of them DICOM), of which none is taken" in text
    assert len({str(ds.SOPInstanceUID) for ds in results}) == len(results) == 6
