"""The main job with real parts: others send, the node works, a real Orthanc holds what others read."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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

from dicom_node.demo import run
from dicom_node.store import views
from tests import wheels
from tests.example_lab import FILM
from tests.forked import Forked
from tests.modality import quick_ultrasound
from tests.node_lab import ULTRASOUND, Node, running, site_config, store, wait_until
from tests.ports import free_port
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, start_orthanc

pytestmark = [pytest.mark.debian("orthanc", "orthanc-dicomweb", "dcmtk"), pytest.mark.timeout(1800)]
RESULTS = ("sr", "gsps", "sc", "cleaned", "seg")
SR = "1.2.840.10008.5.1.4.1.1.88.34"
COLOUR_STATE = "1.2.840.10008.5.1.4.1.1.11.2"


@dataclass(frozen=True)
class Site:
    """A node with its PACS."""

    node: Node
    pacs: Orthanc

    def objects(self, study_uid: str) -> list[Dataset]:
        """What the PACS holds of a study."""
        held = (dcmread(BytesIO(self.pacs.fetch(uid))) for uid in self.pacs.instances())
        return [ds for ds in held if study_uid == ds.StudyInstanceUID]

    def send(self, images: Sequence[Dataset], calling: str = "MODALITY") -> dict[str, object]:
        """Store them, wait until all are in the index, and return the study's row at its end.

        Success says that an object is safe; the index learns of it a moment later, and a study that was
        delivered before stands there unchanged until then.
        """
        study_uid = images[0].StudyInstanceUID
        due = self.received(study_uid) + len(images)
        assert set(store(self.node.port, images, calling)) == {0x0000}
        wait_until(lambda: self.received(study_uid) == due, 120, f"{due} objects received")
        return self.end_of(study_uid)

    def received(self, study_uid: str) -> int:
        """How many objects the index has received for a study, repeated ones counted."""
        with self.node.reading() as session:
            known = any(row["study_instance_uid"] == study_uid for row in views.list_studies(session))
            return len(views.show_study(session, study_uid)["received"]) if known else 0

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
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    get = {"DicomAlwaysAllowGet": True}
    with start_orthanc(folder / "orthanc", ae_title="PACS", plugins=[DICOMWEB], config=get) as pacs:
        boxes = "burned_in_boxes = true"
        config = site_config(pacs.dicom_port, ULTRASOUND, RESULTS, senders=("MODALITY",), of_pacs=boxes)
        node = Node(folder / "node", config)
        with running(node):
            yield Site(node, pacs)


def test_what_comes_twice_or_back_starts_nothing_and_a_korean_name_comes_back_whole(site: Site) -> None:
    image = quick_ultrasound("twice")
    image.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"
    site.send([image])
    before, jobs = Counter(site.pacs.instances()), len(site.node.cli("jobs", "list"))
    assert site.send([image, image])["revision"] == 1
    results = site.objects(image.StudyInstanceUID)
    for ds in results:
        assert ds.PatientName == image.PatientName
        assert ds.PatientName.phonetic == image.PatientName.phonetic
    row = site.send(results, "PACS")
    assert (row["state"], row["revision"]) == ("delivered", 1)
    assert Counter(site.pacs.instances()) == before
    assert len(site.node.cli("jobs", "list")) == jobs


def test_a_late_image_makes_one_revision_whose_report_replaces_the_first(site: Site) -> None:
    first, late = quick_ultrasound("late", number=1), quick_ultrasound("late", number=2)
    site.send([first])
    before = {ds.SOPInstanceUID: ds for ds in site.objects(first.StudyInstanceUID)}
    row = site.send([late])
    assert (row["state"], row["revision"]) == ("delivered", 2)
    after = {ds.SOPInstanceUID: ds for ds in site.objects(first.StudyInstanceUID)}
    assert set(before) < set(after)
    [old] = [ds for ds in before.values() if ds.SOPClassUID == SR]
    [new] = [ds for uid, ds in after.items() if ds.SOPClassUID == SR and uid not in before]
    replaced = new.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert replaced.ReferencedSOPInstanceUID == old.SOPInstanceUID


KINDS = {"sr": "SR", "gsps": "PR", "sc": "OT", "cleaned": "US", "seg": "SEG"}


@dataclass(frozen=True)
class Department:
    """An Orthanc that holds one study with its results, and what was sent."""

    site: Site
    image: Dataset
    results: dict[str, str]

    @property
    def study(self) -> str:
        uid: str = self.image.StudyInstanceUID
        return uid

    @property
    def pacs(self) -> Orthanc:
        return self.site.pacs


@pytest.fixture(scope="module")
def department(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Department:
    image, file = quick_ultrasound("department"), tmp_path_factory.mktemp("department") / "image.dcm"
    image.save_as(file, enforce_file_format=True)
    for port, called in ((site.node.port, "AINODE"), (site.pacs.dicom_port, "PACS")):
        _run("storescu", "-aet", "MODALITY", "-aec", called, "127.0.0.1", port, file)
    study = site.end_of(image.StudyInstanceUID)
    assert study["state"] == "delivered", study
    results: list[dict[str, str]] = study["results"]  # type: ignore[assignment]
    return Department(site, image, {one["kind"]: one["sop_instance_uid"] for one in results})


def test_an_ultrasound_comes_back_as_report_overlay_picture_and_cleaned(department: Department) -> None:
    held = department.site.objects(department.study)
    assert {SR, COLOUR_STATE} <= {ds.SOPClassUID for ds in held}
    results = [ds for ds in held if ds.SOPInstanceUID in department.results.values()]
    assert len(results) == len(held) - 1
    cleaned = [ds for ds in results if "clean" in ds.SeriesDescription.lower() and ds.Modality != "SEG"]
    assert len(cleaned) == 1 and cleaned[0].BurnedInAnnotation == "NO"
    for ds in results:
        assert (ds.PatientID, ds.PatientName) == (department.image.PatientID, department.image.PatientName)
        assert "AI" in ds.SeriesDescription.split()


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
    assert set(department.results) >= set(KINDS)
    for modality in KINDS.values():
        assert f"[{modality}" in said


@pytest.mark.parametrize(
    "program", [("getscu", "-S"), (sys.executable, "-m", "pynetdicom", "getscu")], ids=["DCMTK", "pynetdicom"]
)
def test_a_workstation_gets_the_whole_study_as_it_was_sent(
    department: Department, tmp_path: Path, program: tuple[str, ...]
) -> None:
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={department.study}")
    _run(*program, *keys, "-aec", "PACS", "-od", tmp_path, "127.0.0.1", department.pacs.dicom_port)
    _holds_all(department, [dcmread(path) for path in tmp_path.iterdir()])


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
        [shown] = run.run(out, data=None, own=own, fresh=False, offline=True, say=lambda _line: None)
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
