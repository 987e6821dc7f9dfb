"""Child processes import nothing from the folder in which the node was started."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from dicom_node.config.sections import InspectionSettings
from dicom_node.inbox.inspector import Inspector
from dicom_node.jobs.worker.process import Worker
from dicom_node.processes import Child
from tests.unit.inbox.objects import small_xray
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that hostile modules in the working directory write when somebody imports them."""
    folder, written = tmp_path / "here", tmp_path / "ran"
    folder.mkdir()
    for name in ("json", "pydicom", "numpy", "dicom_node", "ai_pipeline", "sitecustomize"):
        code = f"with open({str(written)!r}, 'a') as file: file.write({name!r})\nraise SystemExit(9)\n"
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(folder)
    return written


def test_a_hostile_working_directory_is_not_imported_by_the_process_that_reads_objects(
    ran: Path, tmp_path: Path
) -> None:
    small_xray("one").save_as(tmp_path / "object.dcm", enforce_file_format=True)
    inspector = Inspector(InspectionSettings())
    try:
        inspector.start()
        inspected = inspector.inspect(tmp_path / "object.dcm")
    finally:
        inspector.close()

    assert not ran.exists()
    assert inspected.fault == ""


def test_the_process_that_reads_objects_has_no_password_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACS_PASSWORD", "hunter2")
    small_xray("one").save_as(tmp_path / "object.dcm", enforce_file_format=True)
    inspector = Inspector(InspectionSettings())
    try:
        inspector.start()
        assert inspector.inspect(tmp_path / "object.dcm").fault == ""
        process = inspector._process
        assert process is not None
        variables = Path(f"/proc/{process.pid}/environ").read_bytes()
    finally:
        inspector.close()
    assert b"PATH=" in variables and b"hunter2" not in variables


def test_a_hostile_working_directory_is_not_imported_by_the_nodes_other_children(ran: Path) -> None:
    heard: list[object] = []
    spoken = threading.Event()
    child = Child(
        "child",
        ["-c", "import json, dicom_node.scp; print(json.dumps({'ready': 1}), flush=True); input()"],
        lambda line: (heard.append(line), spoken.set())[0],
        lambda status, _wait: (heard.append(status), spoken.set())[0],
    )
    child.start()
    try:
        assert spoken.wait(60)
    finally:
        child.stop(10)

    assert heard == [{"ready": 1}]
    assert not ran.exists()


def test_every_interpreter_that_is_started_is_kept_from_the_working_directory() -> None:
    sources = [path for package in ("dicom_node", "ai_pipeline") for path in (ROOT / package).rglob("*.py")]
    starts = [
        found for path in sources for found in re.findall(r"sys\.executable,?\s*(\S*)", path.read_text())
    ]

    assert {'"-P",', '"-I",'} <= set(starts)
    assert all(found.startswith(")") for found in set(starts) - {'"-P",', '"-I",'})  # of Path(sys.executable)


def test_a_child_that_hangs_is_silent_though_its_process_is_there() -> None:
    """It shows life every few hundredths of a second here; the node is told of nothing else by that."""
    ready: list[object] = []
    code = (
        "import time; from dicom_node.signals import show_life\n"
        "print('{\"ready\": true}', flush=True)\nwhile True: show_life(); time.sleep(0.02)"
    )
    child = Child("worker-1", ["-c", code], ready.append, lambda *_: None)
    child.start()
    try:
        wait_until(lambda: ready, 60, "the child is ready")
        wait_until(lambda: child.silent_seconds < 0.1, 60, "it shows life")
        assert child.pid
        os.kill(child.pid, signal.SIGSTOP)
        wait_until(lambda: child.silent_seconds > 0.5, 60, "it is silent")
        assert child.pid
        os.kill(child.pid, signal.SIGCONT)
        wait_until(lambda: child.silent_seconds < 0.1, 60, "it shows life again")
    finally:
        child.stop(5)
    assert ready == [{"ready": True}]


def test_a_child_that_cannot_be_started_for_want_of_memory_is_started_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[object] = []
    real, failures = subprocess.Popen, iter([OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))])

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        for failure in failures:
            raise failure
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    code = "print('{\"ready\": true}', flush=True); input()"
    child = Child("listener", ["-c", code], heard.append, lambda *said: heard.append(said))
    child.start()
    try:
        wait_until(lambda: {"ready": True} in heard, 60, "the child is ready")
    finally:
        child.stop(5)
    assert heard == [(os.EX_OSERR, 0.5), {"ready": True}]


def test_what_a_pipeline_prints_is_not_heard_and_ends_no_watch() -> None:
    """Of a package of the site's own, in the worker that runs it."""
    heard: list[object] = []
    code = (
        "import sys; print({'score': 0.9}); print('[1]'); sys.stdout.flush()\n"
        "sys.stdout.buffer.write(b'\\xff{\\n'); print('{\"ready\": true}', flush=True); input()"
    )
    child = Child("worker-1", ["-c", code], heard.append, lambda *said: heard.append(said))
    child.start()
    try:
        wait_until(lambda: heard, 60, "the child is ready")
    finally:
        child.stop(5)
    assert heard == [{"ready": True}]


def test_a_worker_is_heard_after_what_a_pipeline_printed_without_an_end_of_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print("loading the model …", end="")
    Worker._report_ready(MagicMock(_owner="w", _pipelines={}))
    assert '{"ready": true, "owner": "w"}' in capsys.readouterr().out.splitlines()


def test_a_child_that_is_starting_does_not_count_as_silent() -> None:
    child = Child("worker-1", ["-c", "import time; time.sleep(60)"], lambda _: None, lambda *_: None)
    child.start()
    try:
        wait_until(lambda: child.pid, 60, "the child is started")
        time.sleep(0.3)
        assert child.silent_seconds == 0
    finally:
        child.stop(5)


def test_a_child_that_shows_life_and_loads_on_does_not_count_as_silent() -> None:
    heard: list[object] = []
    code = (
        "import time; from dicom_node.signals import show_life; show_life(); time.sleep(1)\n"
        "print('{\"ready\": true}', flush=True); time.sleep(60)"
    )
    child = Child("worker-1", ["-c", code], heard.append, lambda *_: None)
    child.start()
    try:
        while not heard:
            assert child.silent_seconds < 5
            time.sleep(0.02)
        wait_until(lambda: child.silent_seconds > 0.1, 60, "what is ready has to show life")
    finally:
        child.stop(0.1)


def test_a_child_is_given_further_lines_and_starts_anew_with_the_last_one() -> None:
    heard: list[dict[str, str]] = []
    code = "import json, sys\nfor line in sys.stdin: print(json.dumps({'given': line.strip()}), flush=True)"
    child = Child("worker-1", ["-c", code], heard.append, lambda *_: None, "first")
    child.start()
    try:
        wait_until(lambda: heard, 60, "the first line")
        child.give("second")
        wait_until(lambda: len(heard) == 2, 60, "the second line")
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        wait_until(lambda: len(heard) == 3, 60, "another process")
    finally:
        child.stop(5)
    assert [line["given"] for line in heard] == ["first", "second", "second"]


def test_a_child_that_is_to_end_is_heard_no_more() -> None:
    heard: list[object] = []
    code = (
        "import signal; signal.signal(signal.SIGHUP, lambda *_: print('{\"late\": 1}', flush=True))\n"
        "print('{\"ready\": 1}', flush=True); signal.pause()"
    )
    child = Child("worker-1", ["-c", code], heard.append, lambda *_: None)
    child.start()
    wait_until(lambda: heard, 60, "the child is ready")
    child.retire()
    wait_until(lambda: child.pid is None, 60, "its end")
    child.stop(5)
    assert heard == [{"ready": 1}]
