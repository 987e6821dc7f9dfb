"""Files of models are looked into by a process that can do nothing else."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from ai_pipeline.confinement import landlock, seccomp
from ai_pipeline.errors import CardError
from ai_pipeline.models.store import sandbox

# What a hostile checkpoint would try once its code runs. Each that succeeds is told in said.json.
ATTEMPTS = """
import ctypes, json, os, socket, subprocess, sys, time
from pathlib import Path

given = json.load(sys.stdin)
outside, parent = Path(given["outside"]), given["parent"]


def forks(count):
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)
    return True


def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1)
            for place in (outside / "daemon", Path("daemon")):
                place.write_text("alive")
        os._exit(0)
    return True


def unix():
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(given["socket"])
    return True


def tcp():
    with socket.create_connection(("127.0.0.1", given["port"]), timeout=3):
        return True


attempts = {
    "writes outside": lambda: (outside / "written").write_text("x"),
    "writes beside the checkpoint": lambda: Path(given["read"]).write_text("x"),
    "changes the interpreter": lambda: (Path(os.__file__).parent / "evil.py").write_text("x"),
    "writes to /var/tmp": lambda: Path("/var/tmp/ai-pipeline-test").write_text("x"),
    "reads home": lambda: (outside / "secret").read_text(),
    "lists home": lambda: list(outside.iterdir()),
    "reads shadow": lambda: Path("/etc/shadow").read_text(),
    "reads passwd": lambda: Path("/etc/passwd").read_text(),
    "empties a file": lambda: os.truncate(outside / "secret", 0),
    "opens a file to all": lambda: os.chmod(outside / "secret", 0o777),
    "unix socket": unix,
    "tcp": tcp,
    "daemon": daemon,
    "forks": lambda: forks(1000),
    "program": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "reads the parent's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes().index(b"="),
    "reads any environment": lambda: [Path(f"/proc/{n}/environ").read_bytes() for n in range(1, 40000)
                                      if n != os.getpid() and Path(f"/proc/{n}").exists()][0],
    "signals the parent": lambda: os.kill(parent, 0) or True,
    "its own environment": lambda: os.environ["SECRET_TOKEN"],
    "other namespaces": lambda: ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) == 0 or 1 / 0,
    "traces": lambda: ctypes.CDLL(None).ptrace(16, parent, 0, 0) == 0 or 1 / 0,
}
done = []
for name, attempt in attempts.items():
    try:
        attempt()
        done.append(name)
    except Exception:
        pass
Path("said.json").write_text(json.dumps({"done": done, "read": Path(given["read"]).read_text(),
                                         "folder": os.listdir(), "HOME": os.environ["HOME"]}))
"""


@pytest.fixture(params=[pytest.param("bubblewrap", marks=pytest.mark.debian("bubblewrap")), "landlock"])
def walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Bubblewrap, then Landlock as if there were no bubblewrap; skipped where the machine has neither."""
    if request.param == "landlock":
        monkeypatch.setattr(sandbox, "_bubblewrap", lambda: "")
    if sandbox.walls() != request.param:
        pytest.skip(f"this machine cannot confine by {request.param}")
    return str(request.param)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def run(code: str, scratch: Path, *reads: Path, request: str = "", seconds: int = 120) -> sandbox.Ended:
    script = scratch.parent / "script.py"
    script.write_text(code, encoding="utf-8")
    return sandbox.run(str(script), request, scratch, reads=[script, *reads], seconds=seconds, required=True)


def still_written(path: Path) -> bool:
    before = path.read_text()
    time.sleep(0.3)
    return path.read_text() != before


def test_nothing_that_a_hostile_checkpoint_tries_succeeds(
    walls: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "geheim")
    home, checkpoint = tmp_path / "home", tmp_path / "checkpoint.pt"
    home.mkdir()
    (home / "secret").write_text("geheim")
    (home / "secret").chmod(0o600)
    checkpoint.write_text("numbers")
    # The paths of sockets are short: not in pytest's folder.
    place = f"/tmp/ai-pipeline-test-{os.getpid()}.sock"
    given = {"outside": str(home), "parent": os.getpid(), "read": str(checkpoint), "socket": place}
    try:
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(place)
            unix.listen()
            given["port"] = tcp.getsockname()[1]
            ended = run(ATTEMPTS, scratch, checkpoint, request=json.dumps(given))
    finally:
        Path(place).unlink(missing_ok=True)
    assert ended == sandbox.Ended(0, "")
    said = json.loads((scratch / "said.json").read_text())
    assert (said["done"], said["HOME"]) == ([], str(scratch))
    assert said["read"] == checkpoint.read_text() == "numbers"
    time.sleep(1.5)
    assert [path.name for path in home.iterdir()] == ["secret"]
    assert (home / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in scratch.iterdir()] == ["said.json"]


@pytest.mark.debian("bubblewrap")
def test_bubblewrap_alone_ends_what_a_process_left_behind(scratch: Path) -> None:
    bubblewrap = sandbox._bubblewrap()
    if not bubblewrap:
        pytest.skip("bubblewrap cannot start here")
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    while True:\n"
        "        open('alive', 'w').write(str(time.monotonic()))\n"
        "while not os.path.exists('alive'): pass\n"
    )
    command = sandbox._bubblewrap_command(bubblewrap, sandbox._outermost(sandbox._interpreter()), scratch)
    subprocess.run([*command, sys.executable, "-I", "-c", code], check=True, timeout=60)

    assert not still_written(scratch / "alive")


def test_what_takes_too_long_is_ended_with_all_its_threads(walls: str, scratch: Path) -> None:
    code = (
        "import threading, time\n"
        "def write():\n"
        "    while True:\n"
        "        open('alive', 'w').write(str(time.monotonic()))\n"
        "threading.Thread(target=write).start()\n"
    )

    assert run(code, scratch, seconds=4).status is None
    assert not still_written(scratch / "alive")


def test_it_can_neither_take_all_memory_nor_fill_ours_with_complaints(walls: str, scratch: Path) -> None:
    code = (
        "import resource, sys\n"
        "try:\n"
        "    bytearray(32 << 30)\n"
        "except MemoryError:\n"
        "    print('memory', file=open('said', 'w'))\n"
        "for _ in range(200):\n"
        "    sys.stderr.write('x' * 100_000)\n"
        "print(file=sys.stderr)\n"
        "print('the reason\\x1b[0m', file=sys.stderr)\n"
        "sys.exit(65)\n"
    )

    ended = run(code, scratch)

    assert ended == sandbox.Ended(65, "the reason?[0m")
    assert (scratch / "said").read_text() == "memory\n"


@pytest.mark.parametrize(
    ("user", "version", "told"),
    [
        (0, landlock.LEAST, "root gets out"),
        (1000, landlock.LEAST - 1, "no Landlock"),
        (0, 0, "no Landlock"),
        (1000, landlock.LEAST, ""),  # enough
    ],
)
def test_without_walls_that_hold_nothing_foreign_is_run(
    monkeypatch: pytest.MonkeyPatch, user: int, version: int, told: str
) -> None:
    for module, name, value in (
        (sandbox, "_bubblewrap", ""),
        (os, "geteuid", user),
        (landlock, "version", version),
        (seccomp, "known", True),
    ):
        monkeypatch.setattr(module, name, partial(lambda value: value, value))
    with (
        pytest.raises(CardError, match=f"Debian package bubblewrap.*{told}")
        if told
        else contextlib.nullcontext()
    ):
        sandbox.require()
