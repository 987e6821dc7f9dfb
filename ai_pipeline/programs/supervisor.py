"""``python -I -m ai_pipeline.programs.supervisor``: run one program under limits, and end it with all its
processes.

The program's parent is a process in between. If the kernel allows it, that process is the first of a PID
namespace: no process in the namespace can name, stop or kill a process outside, nor the first one. Otherwise
Landlock keeps the program's signals among its own processes. Without both, the worker ends all processes
(:mod:`ai_pipeline.programs.process`).

Standard input brings the run as one line of JSON and stays open while the caller waits; when it closes, the
program is ended. Standard output says how it ended: an exit status, or the word for a limit. What the program
prints goes to the descriptor that the run names, never to ours: it may name the patient.
"""

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
from typing import Any, NoReturn

from ai_pipeline.confinement import die_with_parent, lower
from ai_pipeline.confinement.landlock import keep_signals_inside
from ai_pipeline.programs.memory import mount_own, shared_mib

MOST_PROCESSES = 256
MOST_WRITTEN = 4 << 30
"""Bytes that a program may write."""
_STEP_SECONDS = 0.05
_KILL_SECONDS = 10.0
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 1, 24, 36  # prctl(2)
_CAP_SYS_ADMIN = 21  # capabilities(7)
# unshare(2); System V shared memory of an IPC namespace vanishes with it.
_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_PID, _NEW_NET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000


def main() -> int:
    """Run the program that standard input describes, and print how it ended."""
    line = b""
    while not line.endswith(b"\n"):
        if not (some := os.read(0, 65536)):
            return 0
        line += some
    sys.stdout.write(json.dumps({"ended": _ended(json.loads(line))}))
    return 0


def _ended(run: Mapping[str, Any]) -> int | str:
    """Run the program; returns its exit status, or the word for the limit that ended it."""
    # Orphans become our children: nothing that the program starts can outlive us unseen.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if run["offline"] and not leave_network():
        return "network"
    # An engine of containers is no stranger, and makes namespaces of its own.
    foreign = not run["cleanup"]
    if foreign and (apart := _leave(_NEW_PID)):  # the next child is the first process of a namespace
        die_with_parent(os.getppid())  # also while this process is stopped; the namespace ends with it
    answer, report_to = os.pipe()
    first = os.fork()
    if not first:
        if foreign and apart:
            _leave_mounts(run)
        _run_first(run, report_to, keep_signals=foreign and not apart)
    os.close(report_to)
    ended: int | str = "lost"
    try:
        with contextlib.suppress(ChildProcessError):
            ended = _watched(first, run)
        if ended == 0:
            ended = json.loads(os.read(answer, 4096))
    finally:
        _end_all()
        if run["cleanup"] and ended != 0:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    run["cleanup"],
                    env=run["environment"],
                    timeout=30.0,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
    return ended


def _run_first(run: Mapping[str, Any], report_to: int, *, keep_signals: bool) -> NoReturn:
    """Start the program, collect the exit statuses of all its processes, and write to ``report_to``
    (descriptor) how it ended. ``keep_signals``: the program may signal no process but its own.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nothing, standard)
    ended: int | str | None = "start"
    # Referenced to the end: a deleted Popen object would reap the exit status.
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        program = subprocess.Popen(
            run["command"],
            cwd=run["folder"],
            env=run["environment"],
            stdin=subprocess.DEVNULL,
            stdout=run["printed"],
            stderr=run["printed"],
            start_new_session=True,
            preexec_fn=lambda: _limit(run, keep_signals=keep_signals),  # noqa: PLW1509  (there is one thread)
        )
        while (ended := _reaped(program.pid, 0)) is None:
            pass
    os.write(report_to, json.dumps(ended).encode())
    os._exit(0)


def _leave_mounts(run: Mapping[str, Any]) -> None:
    """Let ``/proc`` show this namespace alone, and give the program a ``/tmp`` of its own. In some containers
    the kernel refuses.
    """
    libc = ctypes.CDLL(None)
    # mount(2): MS_REC | MS_PRIVATE
    if not libc.unshare(_NEW_MOUNTS | _NEW_IPC) and not libc.mount(
        None, b"/", None, (0x4000 | 0x40000), None
    ):
        libc.mount(b"proc", b"/proc", b"proc", 0, None)
        if run["memory_mib"]:
            needed = (sys.prefix, run["folder"], run["output"], *run["command"], *run["needed"])
            mount_own(run["memory_mib"], needed)
        # What root starts has this capability again, by which it would unmount what counts.
        libc.prctl(_PR_CAPBSET_DROP, _CAP_SYS_ADMIN, 0, 0, 0)


def leave_network() -> bool:
    """Cut this process and its children off the network for good. Returns whether the kernel allowed it."""
    return _leave(_NEW_NET)


def _leave(namespace: int) -> bool:
    """Leave a namespace of the kernel (flag of unshare(2)); returns whether the kernel allowed it."""
    libc = ctypes.CDLL(None)
    return bool(libc.unshare(namespace) == 0 or libc.unshare(_NEW_USER | namespace) == 0)


def _limit(run: Mapping[str, Any], *, keep_signals: bool) -> None:
    """Set limits in the program's own process before it starts; all its processes inherit them."""
    if keep_signals:
        keep_signals_inside()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    memory = {resource.RLIMIT_DATA: run["memory_mib"] << 20} if run["memory_mib"] else {}
    if run["stack_mib"]:
        _, most = resource.getrlimit(resource.RLIMIT_STACK)
        wanted = run["stack_mib"] << 20
        stack = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_STACK, (stack, most))
    lower({resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: MOST_WRITTEN, **memory})


def _watched(first: int, run: Mapping[str, Any]) -> int | str:
    """Wait until the process ``first`` ends, a limit is exceeded, or standard input closes; returns its exit
    status or a word for the cause.
    """
    end, look = time.monotonic() + run["seconds"], 0.0
    while True:
        if (status := _reaped(first, os.WNOHANG)) is not None:
            return status if status == 0 else "lost"
        processes = [pid for pid in descendants(os.getpid()) if pid != first]
        if run["memory_mib"]:
            taken = sum(map(_memory_mib, processes)) + shared_mib(first, processes)
            if taken > run["memory_mib"]:
                return "memory"
        if len(processes) > MOST_PROCESSES:
            return "processes"
        now = time.monotonic()
        if now > end:
            return "time"
        if now > look:
            # how often what it wrote is counted
            look = now + 0.5
            if _wrote_too_much(run["output"], run["folder"]):
                return "output"
        if select.select([0], [], [], _STEP_SECONDS)[0] and not os.read(0, 4096):
            return "abandoned"


def _reaped(process: int, how: int) -> int | None:
    """Collect the exit statuses of ended processes; returns that of ``process`` if it is among them, else
    None. ``how``: options of waitpid(2). Raises ChildProcessError.
    """
    while True:
        pid, status = os.waitpid(-1, how)
        if pid == process:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            return None


def descendants(process: int) -> Iterator[int]:
    """All descendants of a process, including ended ones whose status was not read yet."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # man 5 proc: pid (name) state ppid …; the name may hold anything
            parent = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    waiting = [process]
    while waiting:
        for child in children.get(waiting.pop(), []):
            yield child
            waiting.append(child)


def _memory_mib(pid: int) -> float:
    """Anonymous memory of a process: resident pages that are not shared."""
    with contextlib.suppress(OSError, ValueError):
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(resident) - int(shared)) * (os.sysconf("SC_PAGE_SIZE") / 2**20)
    return 0.0


def _wrote_too_much(*folders: str) -> bool:
    """Whether the files below these folders are too many or too large."""
    sizes = []
    for folder in folders:
        for entry in entries(folder):
            with contextlib.suppress(OSError):
                sizes.append(entry.stat(follow_symlinks=False).st_size)
    return len(sizes) > MOST_ENTRIES or sum(sizes) > MOST_WRITTEN


def _end_all() -> None:
    """Kill all remaining processes, repeatedly, because a killed process may just have started another."""
    end = time.monotonic() + _KILL_SECONDS
    while (left := list(descendants(os.getpid()))) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            _reaped(-1, os.WNOHANG)
        time.sleep(0.002)


MOST_ENTRIES = 10_000
"""Files and folders that a program may write."""


def entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """All readable entries below ``folder``, up to one more than :data:`MOST_ENTRIES`."""
    waiting, count = [folder], 0
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as found:
            for entry in found:
                yield entry
                count += 1
                if count > MOST_ENTRIES:
                    return
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


if __name__ == "__main__":
    sys.exit(main())
