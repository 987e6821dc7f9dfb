"""Run a program under its supervisor (:mod:`ai_pipeline.programs.supervisor`), and raise an error if it
fails.

The folders that a program gets: copies of the images, a place to write, a place to work.

They lie in a folder of their own under ``TMPDIR``, which only the node's user can read, and are deleted after
the run.
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from ai_pipeline.contract import Progress
from ai_pipeline.errors import ProgramFailed, ProgramStopped
from ai_pipeline.programs.layout import ProgramInput, make_read_only
from ai_pipeline.programs.output import ProgramOutput, hand_on, read_output
from ai_pipeline.programs.supervisor import descendants

_STEP_SECONDS = 0.2  # how often progress is reported, by which a job is cancelled
_END_SECONDS = 60.0  # the supervisor ends everything in less; removing a container may take half of it
_KILL_SECONDS = 10.0

_LIMITS = {
    "time": "took longer than its {seconds:g} s",
    "memory": "took more than its {memory_mib} MiB of memory",
    "processes": "started more processes than it may",
    "output": "wrote more than it may",
}


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """How to run a program. ``folder``: its working directory; ``output``: the folder that it may write.

    ``memory_mib``: limit for all its processes together, 0 for none; ``stack_mib``: stack of each of its
    threads, 0 for the usual one. ``offline``: the program must not start if it cannot be cut off the network.
    ``needed``: files and folders besides those that it must find even where they are temporary. ``cleanup``:
    command to run if the program had to be killed.
    """

    command: list[str]
    folder: str
    output: str
    environment: dict[str, str]
    seconds: float
    memory_mib: int = 0
    stack_mib: int = 0
    offline: bool = False
    needed: list[str] = field(default_factory=list)
    cleanup: list[str] = field(default_factory=list)


def run_program(run: ProgramRun, report: Progress) -> None:
    """Run the program and return when it has succeeded; no process of it is left, also after an error.

    Raises ProgramFailed, ProgramStopped when it exceeded a limit, and any error that ``report`` raises.
    """
    with Printed() as printed:
        try:
            _run_supervised(run, report, printed)
        except ProgramFailed as error:
            error.printed = printed.text()
            raise


def _run_supervised(run: ProgramRun, report: Progress, printed: "Printed") -> None:
    """Run the program under its supervisor; ``printed`` takes what it prints. Raises as
    :func:`run_program`.
    """
    # -I: modules come neither from the working folder, nor PYTHONPATH, nor the user's own packages.
    supervisor = [sys.executable, "-I", "-m", "ai_pipeline.programs.supervisor"]
    began = time.monotonic()
    with subprocess.Popen(
        supervisor,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=run.folder,
        env={"PATH": os.defpath},
        start_new_session=True,
        pass_fds=[printed.end],
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                described = asdict(run) | {"printed": printed.end}
                process.stdin.write(json.dumps(described).encode() + b"\n")
                process.stdin.flush()
            while _goes_on(process) and time.monotonic() - began < run.seconds + _END_SECONDS:
                report(min(0.99, (time.monotonic() - began) / run.seconds), "the program runs")
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # the supervisor ends the program, if it runs
            end = time.monotonic() + _END_SECONDS
            while _goes_on(process) and time.monotonic() < end:
                pass
            _end_with_all(process)
        os.set_blocking(process.stdout.fileno(), False)  # what is left of a program may keep it open
        answer = process.stdout.read() or b""
    _judge(run, answer)


class Printed:
    """A context manager that takes what a program prints, and keeps the end of it in memory. ``end``:
    descriptor for its standard output.
    """

    _MOST = 16_384  # bytes that are kept

    def __init__(self) -> None:
        """Open the pipe and read from it until its last writer has gone."""
        self._reads, self.end = os.pipe()
        self._tail = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Printed":
        """Return this object."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close our end; what is left of a program may keep the other one open."""
        self._close()

    def text(self) -> str:
        """The last that was printed, after the program has ended; bytes that are no UTF-8 as "�"."""
        self._close()
        self._reader.join(1.0)
        return self._tail.decode("utf-8", "replace")

    def _close(self) -> None:
        """Close the end to which programs write, once."""
        if self.end >= 0:
            os.close(self.end)
            self.end = -1

    def _read(self) -> None:
        """Read until the last writer has gone."""
        with open(self._reads, "rb", buffering=0) as reads:  # noqa: PTH123  (a descriptor)
            while some := reads.read(65_536):
                self._tail = (self._tail + some)[-self._MOST :]


def _goes_on(process: subprocess.Popen[bytes]) -> bool:
    """Wait a moment for the supervisor, ``process``; returns False if it has ended, or if the program has
    stopped it (SIGSTOP).
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STEP_SECONDS)
    if process.poll() is not None:
        return False
    return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None


def _end_with_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a supervisor and all processes below it; these first, as orphans stay below it only while it
    lives.
    """
    end = time.monotonic() + _KILL_SECONDS
    while process.poll() is None and (left := _living_below(process.pid)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    process.kill()
    process.wait()


def _living_below(supervisor: int) -> list[int]:
    """The running descendants of the supervisor, without those that have ended and whose status it has not
    read yet.
    """
    living = []
    for pid in descendants(supervisor):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z":
                living.append(pid)
    return living


@lru_cache(maxsize=1)
def can_leave_network() -> bool:
    """Whether a process of this user can cut itself off the network; tried in a child process."""
    code = "from ai_pipeline.programs.supervisor import leave_network; raise SystemExit(not leave_network())"
    return subprocess.run([sys.executable, "-I", "-c", code], check=False).returncode == 0


def _judge(run: ProgramRun, answer: bytes) -> None:
    """Raise ProgramFailed unless the program succeeded, by the supervisor's ``answer`` (JSON)."""
    try:
        ended = json.loads(answer)["ended"]
    except (ValueError, KeyError, TypeError):
        raise ProgramFailed("the program was lost with the process that watches it, or stopped it") from None
    if ended in _LIMITS:
        raise ProgramStopped(f"the program {_LIMITS[ended].format(**asdict(run))}")
    if ended == "network":
        raise ProgramFailed("this machine cannot take the network from a program: see docs/programs.md")
    if ended == "start":
        raise ProgramFailed("the program cannot be started")
    if ended != 0:
        raise ProgramFailed(f"the program ended with {ended}")


_PREFIX, _LOCK = "ai-pipeline-images-", "lock"
_YOUNG_SECONDS = 60.0
"""Age from which a folder whose lock is free is abandoned (seconds)."""


@dataclass(slots=True)
class Exchange:
    """The temporary folders through which a program gets images and returns results. ``work``: its working
    folder.
    """

    name: str
    input: Path
    output: Path
    work: Path
    _output: int
    """Descriptor of ``output``: a program may put another folder under its name."""

    def answer(self) -> ProgramOutput:
        """What the program left in ``output``. Raises ProgramFailed."""
        return read_output(self._output)

    def hand_on(self, given: ProgramInput, number: int) -> bytes | None:
        """Make what the program left the input of the next one, the program ``number`` of the rule, whose
        output folder is new; returns the bytes of ``result.json``, None without one. Raises ProgramFailed,
        OSError.
        """
        source, target = (self.work.parent / f"{name}{number}" for name in ("input", "output"))
        for path in (source, target):
            path.mkdir(mode=0o700)
        result = hand_on(self._output, source)
        given.write_task(source)
        make_read_only(source)
        os.close(self._output)
        self.input, self.output, self._output = source, target, _opened(target)
        return result

    def close(self) -> None:
        """Close the descriptor of ``output``."""
        os.close(self._output)


def _opened(folder: Path) -> int:
    """The descriptor of a folder of ours."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


@contextmanager
def exchange(given: ProgramInput) -> Iterator[Exchange]:
    """A context manager that copies the images into new folders, and deletes these at the end. Raises
    PixelError, ProgramFailed and OSError.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # for this user alone
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            made = [folder / name for name in ("input", "output", "work")]
            for path in made:
                path.mkdir(mode=0o700)
            source, target, work = made
            given.write(source)
            with contextlib.closing(
                Exchange(secrets.token_hex(8), source, target, work, _opened(target))
            ) as folders:
                yield folders
        finally:
            _remove(folder)


def remove_abandoned() -> None:
    """Delete the temporary folders of killed processes, whose locks are free."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.stat(follow_symlinks=False)
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG_SECONDS:
                continue
            with (folder / _LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)


def _remove(folder: Path) -> None:
    """Delete a folder with folders of any mode and depth in it."""
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf", "--one-file-system"]):
        subprocess.run([*command, "--", str(folder)], stderr=subprocess.DEVNULL, check=False)
