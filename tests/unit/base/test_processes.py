"""Children of the node: what they import and hear, and when they count as silent."""

import errno
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import pytest

from dicom_node.base import processes
from dicom_node.receive.inspection import Inspector
from tests import ROOT
from tests.unit.receive.objects import small_xray
from tests.waiting import wait_until


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


def test_the_process_that_reads_objects_imports_no_hostile_working_directory_and_has_no_password(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACS_PASSWORD", "hunter2")
    small_xray("one").save_as(tmp_path / "object.dcm", enforce_file_format=True)
    with closing(Inspector()) as inspector:
        inspector.start()
        assert inspector.inspect(tmp_path / "object.dcm").fault == ""
        variables = Path(f"/proc/{inspector._process.pid}/environ").read_bytes()
    assert not ran.exists()
    assert b"PATH=" in variables
    assert b"hunter2" not in variables


@contextmanager
def running_child(
    code: str, name: str = "worker-1", **more: Any
) -> Iterator[tuple[processes.Child, list[object]]]:
    """A child that runs this code, and what is heard of it: a line when ready, a status at an end."""
    heard: list[object] = []
    child = processes.Child(name, ["-c", code], heard.append, lambda *ended: heard.append(ended), **more)
    child.start()
    try:
        yield child, heard
    finally:
        child.stop(0.1)


@pytest.mark.parametrize(
    "code",
    [
        "import json, dicom_node.receive; print(json.dumps({'ready': True}), flush=True); input()",
        # A package of the site's own prints, in the worker that runs it.
        "import sys; print({'score': 0.9}); print('[1]\\n{\"busy_seconds\": \"x\"}'); sys.stdout.flush()\n"
        "sys.stdout.buffer.write(b'\\xff{\\n'); print('{\"ready\": true}', flush=True); input()",
    ],
)
def test_a_child_imports_no_hostile_working_directory_and_what_a_pipeline_prints_is_not_heard(
    ran: Path, code: str
) -> None:
    with running_child(code) as (_, heard):
        wait_until(lambda: heard, 60, "the child speaks or ends")
    assert heard == [{"ready": True}]
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
    code = (
        "import time; from dicom_node.base.processes import show_life\n"
        "print('{\"ready\": true}', flush=True)\nwhile True: show_life(); time.sleep(0.02)"
    )
    with running_child(code) as (child, heard):
        wait_until(lambda: heard, 60, "the child is ready")
        wait_until(lambda: child.silent_seconds < 0.1, 60, "it shows life")
        os.kill(child.pid, signal.SIGSTOP)
        wait_until(lambda: child.silent_seconds > 0.5, 60, "it is silent")
        os.kill(child.pid, signal.SIGCONT)
        wait_until(lambda: child.silent_seconds < 0.1, 60, "it shows life again")
    assert heard == [{"ready": True}]


def test_a_child_that_cannot_be_started_for_want_of_memory_is_started_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        subprocess,
        "Popen",
        Mock(side_effect=[OSError(errno.ENOMEM, "no memory"), DEFAULT], wraps=subprocess.Popen),
    )
    with running_child("print('{\"ready\": true}', flush=True); input()", "listener") as (_, heard):
        wait_until(lambda: {"ready": True} in heard, 60, "the child is ready")
    assert heard == [(os.EX_OSERR, 0.5), {"ready": True}]


def test_a_child_that_shows_life_and_loads_on_does_not_count_as_silent() -> None:
    code = (
        "import time; from dicom_node.base.processes import show_life; show_life(); time.sleep(1)\n"
        "print('{\"ready\": true}', flush=True); time.sleep(60)"
    )
    with running_child(code) as (child, heard):
        while not heard:
            assert child.silent_seconds < 5
            time.sleep(0.02)
        wait_until(lambda: child.silent_seconds > 0.1, 60, "what is ready has to show life")


@pytest.mark.parametrize("busy", [False, True])
def test_a_child_that_stands_still_is_started_again_unless_it_is_within_the_time_of_its_job(
    monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setattr(processes, "ALIVE_SECONDS", 0.1)
    code = (
        "import time; from dicom_node.base.processes import show_life\n"
        f"show_life(busy_seconds={60 * busy}); print('{{\"ready\": true}}', flush=True)\n"
        "while True: show_life(); time.sleep(0.02)"
    )
    with running_child(code) as (child, heard):
        wait_until(lambda: heard, 60, "the child is ready")
        os.kill(child.pid, signal.SIGSTOP)
        if busy:
            time.sleep(3)
            assert heard == [{"ready": True}]
        else:
            wait_until(lambda: len(heard) == 3, 60, "another process")
            assert heard == [{"ready": True}, (-signal.SIGKILL, 0.5), {"ready": True}]


SLOW_START = (
    "import time; end = time.process_time() + 0.5\n"
    "while time.process_time() < end: pass\n"
    "print('{\"ready\": true}', flush=True); input()"
)


def starve(child: processes.Child, share: float, over: threading.Event) -> None:
    """Let the child run for this share of the time only, by SIGSTOP and SIGCONT."""
    while not over.is_set():
        for number, seconds in ((signal.SIGSTOP, 0.2 * (1 - share)), (signal.SIGCONT, 0.2 * share)):
            if child.pid:
                os.kill(child.pid, number)
            time.sleep(seconds)


def test_a_child_that_starts_at_a_tenth_of_a_core_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ALIVE_SECONDS", 0.2)
    monkeypatch.setattr(processes, "_STARTING", 0.2)
    over = threading.Event()
    with running_child(SLOW_START) as (child, heard):
        thread = threading.Thread(target=starve, args=(child, 0.1, over))
        thread.start()
        wait_until(lambda: heard, 120, "the child is ready")
        over.set()
        thread.join()
    assert heard == [{"ready": True}]


def test_a_child_that_waits_for_a_slow_disk_gets_twice_the_time_at_each_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(processes, "_STARTING", 0.1)
    monkeypatch.setattr(processes, "_FIRST_WAIT", 0.0)
    code = "import time; time.sleep(4); print('{\"ready\": true}', flush=True); input()"
    silent = Mock()
    with running_child(code, on_silence=silent) as (child, heard):
        wait_until(lambda: {"ready": True} in heard, 120, "the child is ready")
        assert child.pid
    assert 0 < silent.call_count < 8
