"""Programs of pipelines that stop or kill what watches them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ai_pipeline.confinement import landlock
from tests.unit.ai_pipeline.phantoms import echo, write_dicom
from tests.waiting import wait_until

SECONDS = 2
GRACE = 12  # seconds that two busy cores may take to end it all
WORKER = """
import json, sys, time
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.pipelines import create

image, seconds, programs = sys.argv[1:]
options = {"model": "m", "version": "1", "seconds": float(seconds)}
for number in range(int(programs)):
    program = image.replace("image.dcm", f"program{number}.py")  # on no command line but its own
    began = time.monotonic()
    try:
        create("command").run(
            [open_dicom(image)], lambda *_: None, options | {"command": [sys.executable, program]}
        )
    except Exception as error:
        print(json.dumps([f"{type(error).__name__}: {error}", time.monotonic() - began]))
"""
WITHOUT_NAMESPACES = (
    "unshare", "--user", "--map-root-user", "sh", "-c",
    'echo 0 >/proc/sys/user/max_pid_namespaces && exec "$@"', "sh",
)  # fmt: skip
BEFORE = """
import os, signal, sys, time
from pathlib import Path

def above():
    pid = os.getpid()
    found = []
    for _ in range({generations}):
        try:
            pid = int(Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
        found.append(pid)
    return [one for one in found if one > 0]

def send(number, *pids):
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass

def daemon():
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    return True
"""
PROGRAMS = {
    "stops its parent": "send(signal.SIGSTOP, os.getppid())",
    "kills its parent": "send(signal.SIGKILL, os.getppid())",
    "stops its own group": "send(signal.SIGSTOP, 0)",
    "stops everybody above it": "send(signal.SIGSTOP, *above())",
    "stops all that it may": "send(signal.SIGSTOP, *above(), -1)",
    "leaves a daemon that stops everybody above": "all = above()\nif daemon(): send(signal.SIGSTOP, *all)",
    "leaves a daemon that kills everybody above": "all = above()\nif daemon(): send(signal.SIGKILL, *all)",
}  # fmt: skip


def living(words: str | Path, parent: int | None = None) -> list[int]:
    """The living processes with this word on their command line, below ``parent`` if one is given."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().split(b"\0")
            state, above, *_ = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if os.fsencode(words) in line and state != "Z" and parent in (None, int(above)):
            found.append(int(folder.name))
    return found


@contextmanager
def worker(
    folder: Path, *programs: str, before: tuple[str, ...] = (), seconds: int = SECONDS
) -> Iterator[subprocess.Popen[str]]:
    """A worker below a process that started it, which runs one program after the other; afterwards no
    process of either is left, whatever came.
    """
    image = write_dicom(folder / "image.dcm", echo()[None])
    scripts = [folder / f"program{number}.py" for number in range(len(programs))]
    for script, program in zip(scripts, programs, strict=True):
        # The program, what starts it, the supervisor, the worker, the worker's parent.
        script.write_text(BEFORE.format(generations=5) + program + "\ntime.sleep(600)\n")
    (folder / "worker.py").write_text(WORKER)
    words = [
        "import subprocess, sys; sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)",
        folder / "worker.py",
        image,
        seconds,
        len(programs),
    ]
    command = [*before, sys.executable, "-c", *map(str, words)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield started
    finally:
        for pid in [pid for path in (*scripts, folder / "worker.py") for pid in living(path)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.kill()
        started.wait()
        started.stdout.close()


@pytest.fixture(params=["namespaces", "no namespaces"])
def kernel(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What a worker is started by, so that the kernel gives its programs this."""
    if request.param == "namespaces":
        return ()
    if (
        shutil.which("unshare") is None
        or subprocess.run([*WITHOUT_NAMESPACES, "true"], check=False).returncode
    ):
        pytest.skip("needs a user namespace of which processes cannot have further ones")
    if landlock.version() < 6:
        pytest.skip("needs Landlock of Linux 6.12, without which a program stops whom its user may")
    return WITHOUT_NAMESPACES


def test_a_program_that_stops_what_watches_it_ends_at_its_limit(
    tmp_path: Path, kernel: tuple[str, ...]
) -> None:
    with worker(tmp_path, *PROGRAMS.values(), before=kernel) as started:
        told, _ = started.communicate(timeout=len(PROGRAMS) * (SECONDS + GRACE))
        for number, (name, line) in enumerate(zip(PROGRAMS, told.splitlines(), strict=True)):
            error, took = json.loads(line)
            assert error.startswith(("ProgramStopped: ", "ProgramFailed: ")), (name, error)
            assert took < SECONDS + GRACE, name
            assert living(tmp_path / f"program{number}.py") == [], name


def stop_its_supervisor(folder: Path, started: subprocess.Popen[str]) -> tuple[int, int]:
    """When the program and its daemon run: SIGSTOP. Returns worker and supervisor."""
    wait_until(lambda: len(living(folder / "program0.py")) > 1, 60, "the program and its daemon")
    [its_worker] = living(folder / "worker.py", started.pid)
    [supervisor] = living("ai_pipeline.programs.supervisor", its_worker)
    os.kill(supervisor, signal.SIGSTOP)
    return its_worker, supervisor


def test_a_supervisor_that_is_stopped_is_ended_with_all_below_it(tmp_path: Path) -> None:
    """As by another process of this user: the worker does not wait for the limit, and ends daemons too."""
    with worker(tmp_path, "daemon()", seconds=600) as started:
        _, supervisor = stop_its_supervisor(tmp_path, started)
        told, _ = started.communicate(timeout=GRACE)
        assert json.loads(told)[0].startswith(
            "ProgramFailed: the program was lost with the process that watches it"
        ), told
        assert living(tmp_path / "program0.py") == []
        assert not Path(f"/proc/{supervisor}").exists()


def test_nothing_is_left_of_a_worker_that_is_killed_while_its_supervisor_is_stopped(tmp_path: Path) -> None:
    with worker(tmp_path, "daemon()", seconds=600) as started:
        its_worker, _ = stop_its_supervisor(tmp_path, started)
        os.kill(its_worker, signal.SIGKILL)
        wait_until(lambda: living(tmp_path / "program0.py") == [], GRACE, "the end of the program")
