"""The main job with real parts: others send, the node works, a real Orthanc holds what others read."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
from dicomweb_client.api import DICOMwebClient
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.people.demo import run
from tests import wheels
from tests.example_lab import FILM
from tests.forked import Forked
from tests.modality import quick_ultrasound
from tests.node_lab import ULTRASOUND, Node, running, site_config, wait_until
from tests.ports import free_port
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, start_orthanc


RESULTS = ("sr", "gsps", "sc", "cleaned", "seg")


@dataclass(frozen=True)
class Ward:
    """A node with its PACS."""

    node: Node
    pacs: Orthanc

    def end_of(self, study_uid: str) -> dict[str, object]:
        """The study's row once it stands in an end state."""
        ends = ("delivered", "not_applicable", "quarantined", "failed")
        row: dict[str, object] = {}

        def ended() -> bool:
            row.update(self.node.studies().get(study_uid, {}))
            return row.get("state") in ends

        wait_until(
            ended, 300, f"end of study {study_uid}", 0.3, lambda: self.node.log.read_text()[-1500:], row.copy
        )
        return row


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    folder = tmp_path_factory.mktemp("site")
    get = {"DicomAlwaysAllowGet": True}
    with start_orthanc(folder / "orthanc", ae_title="PACS", plugins=[DICOMWEB], config=get) as pacs:
        boxes = "burned_in_boxes = true"
        config = site_config(pacs.dicom_port, ULTRASOUND, RESULTS, senders=("MODALITY",), of_pacs=boxes)
        node = Node(folder / "node", config)
        with running(node):
            yield Ward(node, pacs)


MODALITIES = {"sr": "SR", "gsps": "PR", "sc": "OT", "cleaned": "US", "seg": "SEG"}


@dataclass(frozen=True)
class Department:
    """An Orthanc that holds one study with its results, and what was sent."""

    ward: Ward
    image: Dataset
    results: dict[str, str]

    @property
    def study(self) -> str:
        uid: str = self.image.StudyInstanceUID
        return uid

    @property
    def pacs(self) -> Orthanc:
        return self.ward.pacs


@pytest.fixture(scope="module")
def department(ward: Ward, tmp_path_factory: pytest.TempPathFactory) -> Department:
    image, file = quick_ultrasound("department"), tmp_path_factory.mktemp("department") / "image.dcm"
    image.save_as(file, enforce_file_format=True)
    for port, called in ((ward.node.port, "AINODE"), (ward.pacs.dicom_port, "PACS")):
        _run("storescu", "-aet", "MODALITY", "-aec", called, "127.0.0.1", port, file)
    study = ward.end_of(image.StudyInstanceUID)
    assert study["state"] == "delivered", study
    results: list[dict[str, str]] = study["results"]  # type: ignore[assignment]
    return Department(ward, image, {one["kind"]: one["sop_instance_uid"] for one in results})


@pytest.mark.debian("orthanc", "orthanc-dicomweb", "dcmtk")
@pytest.mark.timeout(1800)
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
    assert set(department.results) >= set(MODALITIES)
    for modality in MODALITIES.values():
        assert f"[{modality}" in said


@pytest.mark.debian("orthanc", "orthanc-dicomweb", "dcmtk")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "program", [("getscu", "-S"), (sys.executable, "-m", "pynetdicom", "getscu")], ids=["DCMTK", "pynetdicom"]
)
def test_a_workstation_gets_the_whole_study_as_it_was_sent(
    department: Department, tmp_path: Path, program: tuple[str, ...]
) -> None:
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={department.study}")
    _run(*program, *keys, "-aec", "PACS", "-od", tmp_path, "127.0.0.1", department.pacs.dicom_port)
    _holds_all(department, [dcmread(path) for path in tmp_path.iterdir()])


@pytest.mark.debian("orthanc", "orthanc-dicomweb", "dcmtk")
@pytest.mark.timeout(1800)
def test_a_dicomweb_workstation_finds_and_reads_every_result(department: Department) -> None:
    """It sees the cleaned picture, pixel for pixel; highdicom reads the report that came."""
    client = DICOMwebClient(f"{department.pacs.url}/dicom-web")
    found = client.search_for_instances(study_instance_uid=department.study)
    assert len(found) == len(department.results) + 1
    got, report = client.retrieve_study(department.study), BytesIO()
    _holds_all(department, got)
    [sr] = [one for one in got if one.SOPInstanceUID == department.results["sr"]]
    sr.save_as(report, enforce_file_format=True)
    assert srread(BytesIO(report.getvalue())).content.get_planar_roi_measurement_groups()
    uid = department.results["cleaned"]
    sent = dcmread(BytesIO(department.pacs.fetch(uid)))
    raw = (("application/octet-stream", ExplicitVRLittleEndian),)
    [frame] = client.retrieve_instance_frames(department.study, sent.SeriesInstanceUID, uid, [1], raw)
    assert np.array_equal(np.frombuffer(frame, np.uint8)[: sent.pixel_array.size], sent.pixel_array.ravel())


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


@pytest.mark.debian("orthanc", "orthanc-dicomweb", "dcmtk")
@pytest.mark.timeout(1800)
def test_a_second_run_of_the_demonstration_makes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_POLL_SECONDS", 1.0)
    monkeypatch.setattr(subprocess, "Popen", Forked)
    chest = '[[rules]]\nname = "chest"'  # whose networks would be loaded twice
    monkeypatch.setattr(run, "_CONFIG", run._CONFIG.partition(chest)[0])
    own, out, source = tmp_path / "own", tmp_path / "out", quick_ultrasound("demonstrated")
    own.mkdir()
    source.save_as(own / "image.dcm", enforce_file_format=True)

    def perform() -> run.DemoResult:
        [shown] = run.run(out, own=own, fresh=False, offline=True, say=lambda _line: None)
        return shown

    first = perform()
    assert first.state == "delivered", first
    assert {item.kind for item in first.results} == {"sr", "summary", "gsps", "sc", "cleaned"}
    found = {(finding["finding"], finding["decision"]) for finding in first.findings}
    assert found == {("Burned-in annotation to remove", "present")}
    assert first.seconds_to_pacs is not None
    assert first.seconds_to_pacs >= first.quiet_seconds
    held = held_by_pacs(out)
    assert set(held.values()) == {1}
    assert str(source.SOPInstanceUID) in held

    second = perform()
    assert second.known_before
    assert held_by_pacs(out) == held
    assert [item.sop_instance_uid for item in second.objects] == [
        item.sop_instance_uid for item in first.objects
    ]
    [told] = json.loads((out / "summary.json").read_text(encoding="utf-8"))["studies"]
    assert told["study_instance_uid"] == str(source.StudyInstanceUID)
    assert told["modality"] == "US"
    assert told["seconds_to_pacs"] == first.seconds_to_pacs
    assert {item["kind"] for item in told["objects"]} == {"sr", "summary", "gsps", "sc", "cleaned"}
    assert len(list((out / "us-1" / "pacs").glob("*.dcm"))) == 6
    assert len(list((out / "us-1").glob("*.png"))) == 4, "source, summary, annotated, cleaned"


def held_by_pacs(out: Path) -> Counter[str]:
    folder = out / ".site" / "pacs" / "objects"
    return Counter(str(dcmread(path).SOPInstanceUID) for path in folder.glob("*.dcm"))


@pytest.mark.debian("orthanc", "orthanc-dicomweb", "dcmtk")
@pytest.mark.timeout(1800)
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dicom_node", "demo", "--offline", "--out", str(tmp_path / "out")]
    demo = Forked(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert demo.stdout is not None
    assert any(line.startswith("Node:") for line in demo.stdout)
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) >= 3, "node, listener, worker"
    os.kill(demo.pid, signal.SIGINT)
    assert demo.wait(60) == 130
    demo.stdout.close()
    assert psutil.wait_procs(children, 60)[1] == []


EXAMPLES = wheels.ROOT / "examples"


@contextmanager
def receiver(folder: Path, port: int) -> Iterator[Callable[[], str]]:
    """``receive.py`` as a process; gives what it has printed."""
    with (folder / "receiver.log").open("w+b") as log:
        command = [sys.executable, EXAMPLES / "receive.py", folder / "received", "--port", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        printed = (folder / "receiver.log").read_text
        try:
            wait_until(lambda: "until Ctrl-C" in printed(encoding="utf-8"), 120, "the receiver")
            yield lambda: printed(encoding="utf-8")
        finally:
            process.kill()
            process.wait()


@pytest.mark.debian("orthanc", "orthanc-dicomweb", "dcmtk")
@pytest.mark.timeout(1800)
def test_the_film_goes_through_the_node_and_comes_back_as_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the README of the examples says: send.py, a node with the example's pipeline, receive.py."""
    wheels.install(wheels.build(wheels.EXAMPLE, tmp_path / "wheel"), tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    _, head, site = (EXAMPLES / "node.toml").read_text(encoding="utf-8").partition("[assembly]")
    assert head and "port = 11113" in site
    port = free_port()
    site = f"{head}{site}[spool]\nminimum_free_mib = 0\n".replace("11113", str(port))
    with receiver(tmp_path, port) as printed, running(Node(tmp_path / "node", site)) as node:
        assert _run(sys.executable, EXAMPLES / "send.py", FILM, "--port", node.port) == f"0000 {FILM}\n"
        node.wait_for(["delivered", "failed"])
        readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
        shown = readme.partition("prints what came back:\n\n```\n")[2].partition("```")[0]
        assert shown.startswith("SR AI findings") and shown in printed()
    [report] = [one for one in map(dcmread, (tmp_path / "received").iterdir()) if one.Modality == "SR"]
    assert report.StudyInstanceUID == dcmread(FILM).StudyInstanceUID
