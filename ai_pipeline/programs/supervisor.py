"""``python -I -m ai_pipeline.programs.supervisor``: one program under limits, ended with all that it started.

Standard input brings the run as one line of JSON and stays open while the caller waits; when it closes,
the program is ended. Standard output says how it ended: an exit status, or the word for a limit. What the
program prints is thrown away: it may name the patient.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ai_pipeline.programs.written import MOST_ENTRIES, entries

MOST_PROCESSES = 256
MOST_WRITTEN = 4 << 30
"""Bytes that a program may write."""
_STEP_SECONDS = 0.05
_LOOK_SECONDS = 0.5  # how often what it wrote is counted
_KILL_SECONDS = 10.0
_CLEANUP_SECONDS = 30.0
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # unshare(2)


def main() -> int:
    """Run one program and say how it ended."""
    line = b""
    while not line.endswith(b"\n"):
        if not (some := os.read(0, 65536)):
            return 0
        line += some
    run = json.loads(line)
    sys.stdout.write(json.dumps({"ended": _ended(run)}))
    return 0


def _ended(run: Mapping[str, Any]) -> int | str:
    # Orphans become our children: nothing that the program starts can outlive us unseen.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if run["offline"] and not leave_network():
        return "network"
    try:
        # Referenced to the end: a deleted Popen object would reap the exit status.
        program = subprocess.Popen(
            run["command"], cwd=run["folder"], env=run["environment"], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=lambda: _limit(run["memory_mib"]),  # noqa: PLW1509  (there is one thread)
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "start"
    ended: int | str = "lost"
    try:
        with contextlib.suppress(ChildProcessError):
            ended = _watched(program.pid, run)
    finally:
        _end_all()
        if run["cleanup"] and ended != 0:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    run["cleanup"], env=run["environment"], timeout=_CLEANUP_SECONDS, check=False,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
    return ended


def leave_network() -> bool:
    """Take the network from this process and its children, for good. Returns whether the kernel did so."""
    libc = ctypes.CDLL(None)
    return bool(libc.unshare(_NEW_NET) == 0 or libc.unshare(_NEW_USER | _NEW_NET) == 0)


def _limit(memory_mib: int) -> None:
    """Set limits in the program's own process, before it starts; each of its processes inherits them."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, MOST_WRITTEN)):
        resource.setrlimit(what, (most, most))
    if memory_mib:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = memory_mib << 20 if hard == resource.RLIM_INFINITY else min(memory_mib << 20, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _watched(program: int, run: Mapping[str, Any]) -> int | str:
    """Wait for the program's end, a limit, or the end of standard input; returns how it ended."""
    end, look = time.monotonic() + run["seconds"], 0.0
    while True:
        if (status := _reaped(program)) is not None:
            return status
        processes = list(_descendants())
        if run["memory_mib"] and sum(map(_memory_mib, processes)) > run["memory_mib"]:
            return "memory"
        if len(processes) > MOST_PROCESSES:
            return "processes"
        now = time.monotonic()
        if now > end:
            return "time"
        if now > look:
            look = now + _LOOK_SECONDS
            if _wrote_too_much(run["output"], run["folder"]):
                return "output"
        if select.select([0], [], [], _STEP_SECONDS)[0] and not os.read(0, 4096):
            return "abandoned"


def _reaped(program: int) -> int | None:
    """Take the ends of processes; the exit status when one is the program's. Raises ChildProcessError."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == program:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            return None


def _descendants() -> Iterator[int]:
    """Every process below this one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # man 5 proc: pid (name) state ppid …; the name may hold anything
            parent = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    waiting = [os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(), []):
            yield child
            waiting.append(child)


def _memory_mib(pid: int) -> float:
    """Anonymous memory of a process: resident pages that are not shared."""
    with contextlib.suppress(OSError, ValueError):
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(resident) - int(shared)) * _PAGE_MIB
    return 0.0


def _wrote_too_much(*folders: str) -> bool:
    sizes = []
    for folder in folders:
        for entry in entries(folder):
            with contextlib.suppress(OSError):
                sizes.append(entry.stat(follow_symlinks=False).st_size)
    return len(sizes) > MOST_ENTRIES or sum(sizes) > MOST_WRITTEN


def _end_all() -> None:
    """Kill what is left, again and again: a process that is killed may just have started another."""
    end = time.monotonic() + _KILL_SECONDS
    while (left := list(_descendants())) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            _reaped(program=-1)
        time.sleep(0.002)


if __name__ == "__main__":
    sys.exit(main())
