"""``dicom-node demo``: the whole way on a machine without Orthanc, twice, and stopped in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread, examples

from dicom_node.demo import pacs, run


@pytest.fixture
def without_orthanc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacs, "orthanc_program", lambda: None)


def test_a_second_run_of_the_demonstration_makes_nothing_twice(
    tmp_path: Path, without_orthanc: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_POLL_SECONDS", 4.0)  # each look is a process that imports for a second
    own, out = tmp_path / "own", tmp_path / "out"
    own.mkdir()
    shutil.copy(examples.get_path("rgb_color"), own)
    said: list[str] = []

    def perform() -> run.DemoResult:
        [shown] = run.run(out, data=None, own=own, fresh=False, offline=True, say=said.append)
        return shown

    first = perform()
    assert first.state == "delivered", first
    assert any("embedded storage SCP" in line for line in said)
    assert {item.kind for item in first.results} == {"sr", "summary", "gsps", "sc", "cleaned"}
    found = {(finding["finding"], finding["decision"]) for finding in first.findings}
    assert found == {("Burned-in annotation to remove", "present")}
    assert first.seconds_to_pacs is not None
    assert first.seconds_to_pacs >= first.quiet_seconds
    held = held_by_pacs(out)
    source = dcmread(examples.get_path("rgb_color"))
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
    folder = out / ".site" / "embedded" / "pacs" / "objects"
    return Counter(str(dcmread(path).SOPInstanceUID) for path in folder.glob("*.dcm"))


def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    # A suite that was started in the background ignores SIGINT, and so would its children.
    heed = ("env", "--default-signal=INT")
    demo = subprocess.Popen(
        [
            *heed,
            sys.executable,
            "-u",
            "-m",
            "dicom_node",
            "demo",
            "--offline",
            "--out",
            str(tmp_path / "out"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    children: list[psutil.Process] = []
    for line in demo.stdout:
        if line.startswith("Node:"):
            children = psutil.Process(demo.pid).children(recursive=True)
            break
    assert len(children) >= 3, "node, listener, worker (and an Orthanc)"
    os.kill(demo.pid, signal.SIGINT)
    assert demo.wait(60) == 130
    demo.stdout.close()
    end = time.monotonic() + 60
    while time.monotonic() < end and any(child.is_running() for child in children):
        time.sleep(0.1)
    assert [child for child in children if child.is_running()] == []
