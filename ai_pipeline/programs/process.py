"""Run a program under its supervisor (:mod:`ai_pipeline.programs.supervisor`), and raise an error if it
fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from ai_pipeline.contract import Progress
from ai_pipeline.errors import ProgramFailed, ProgramStopped
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

    ``memory_mib``: limit for all its processes together, 0 for none. ``cleanup``: command to run if the
    program had to be killed. ``offline``: the program must not start if it cannot be cut off the network.
    """

    command: list[str]
    folder: str
    output: str
    environment: dict[str, str]
    seconds: float
    memory_mib: int = 0
    offline: bool = False
    cleanup: list[str] = field(default_factory=list)


def run_program(run: ProgramRun, report: Progress) -> None:
    """Run the program and return when it has succeeded; no process of it is left, also after an error.

    Raises ProgramFailed, ProgramStopped when it exceeded a limit, and any error that ``report`` raises.
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
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asdict(run)).encode() + b"\n")
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


def _goes_on(process: subprocess.Popen[bytes]) -> bool:
    """Wait a step. False when the supervisor has ended, or was stopped by what it watches (SIGSTOP)."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STEP_SECONDS)
    if process.poll() is not None:
        return False
    return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None


def _end_with_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a supervisor that has not ended, after all below it: while it lives, orphans stay below it."""
    end = time.monotonic() + _KILL_SECONDS
    while process.poll() is None and (left := _living_below(process.pid)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    process.kill()
    process.wait()


def _living_below(supervisor: int) -> list[int]:
    """The processes below a process, without ended ones whose status it has not read yet."""
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
