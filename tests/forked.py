"""Programs of the node, started by fork: a process that has imported their modules waits for them.

``Forked`` is ``subprocess.Popen`` for ``python -m`` and a module of our packages or of these tests. The
waiting process forks twice, so that the program becomes a child of the caller, with its own streams, folder,
environment and session. Its command line is that of the waiting process, its name that of its module as far
as Linux keeps it. A node that was started so starts its own processes the same way. What ``PYTHONPATH`` names
is found too, but for modules that the waiting process has imported already.
"""

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

_ADOPT = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_PACKAGES = ("dicom_node", "dicom_connectors", "dicom_console", "ai_pipeline")
_LATER = ("__main__",)
_LARGEST = 2**17  # bytes of a request
_LIBRARY = ctypes.CDLL(None)


class Forked(subprocess.Popen[Any]):
    """A program of ours by fork; any other one as always."""

    waiting: ClassVar[socket.socket | None] = None
    lock: ClassVar[threading.Lock] = threading.Lock()

    def _execute_child(self, args: Sequence[str], *given: Any) -> None:  # type: ignore[override]
        (_, _, _, _, cwd, env, _, _, _, *pipes), rest = given[:15], given[15:]
        module, words = _module(args)
        environment = dict(os.environ if env is None else env)
        if not module:
            super()._execute_child(args, *given)  # type: ignore[misc]
            return
        stdin, _, _, stdout, _, stderr = pipes
        streams = [own if own != -1 else usual for usual, own in enumerate((stdin, stdout, stderr))]
        request = {
            "module": module,
            "words": words,
            "cwd": str(cwd or Path.cwd()),
            "environment": environment,
            "umask": rest[4] if rest[4] >= 0 else _umask(),
            "session": rest[5],
        }
        with self.lock:
            Forked.waiting = Forked.waiting or _started()
            _LIBRARY.prctl(_ADOPT, 1)
            socket.send_fds(Forked.waiting, [json.dumps(request).encode()], streams)
            self.pid = int(Forked.waiting.recv(_LARGEST))
            _LIBRARY.prctl(_ADOPT, 0)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run_forked(
    module: str, *words: object, seconds: float = 900, **how: Any
) -> subprocess.CompletedProcess[str]:
    """``python -m module words``, with what it printed; ``how``: as of ``subprocess.Popen``."""
    command = [sys.executable, "-m", module, *map(str, words)]
    pipe = subprocess.PIPE
    with Forked(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, **how) as process:
        try:
            printed = process.communicate(timeout=seconds)
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, *printed)


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    """This text in an interpreter of its own, with what it printed; it ends well."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def _module(args: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Module and arguments of a program of ours, which Python runs by ``-m``; "" for others and for the
    waiting process itself.
    """
    words = list(args)
    at = 2 if words[1:2] == ["-P"] else 1
    if words[0] != sys.executable or words[at : at + 1] != ["-m"] or words[at + 1] == "tests.forked":
        return "", ()
    module = words[at + 1]
    return (module if module.partition(".")[0] in (*_PACKAGES, "tests") else ""), words[at + 2 :]


def _umask() -> int:
    """That of this process, which can be read elsewhere only by setting another for a moment."""
    status = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)


def _started() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    waits = subprocess.Popen([sys.executable, "-m", "tests.forked"], stdin=theirs, start_new_session=True)
    theirs.close()
    atexit.register(waits.wait)  # the last that is registered is the first to be done
    atexit.register(ours.close)
    return ours


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request until the caller ends. Returns in the forked processes, with what to run."""
    while True:
        data, streams, _, _ = socket.recv_fds(requests, _LARGEST, 3)
        if not data:
            os._exit(0)
        read, write = os.pipe()
        if child := os.fork():
            os.waitpid(child, 0)  # then the program has the caller as its parent
            requests.send(os.read(read, 32))
            for number in (read, write, *streams):
                os.close(number)
            continue
        if program := os.fork():
            os.write(write, str(program).encode())
            os._exit(0)
        requests.close()
        for usual, own in enumerate(streams):
            os.dup2(own, usual)
        for number in (read, write, *streams):
            os.close(number)
        return json.loads(data)  # type: ignore[no-any-return]


def run(request: dict[str, Any]) -> None:
    """Be the program that a request names."""
    if request["session"]:
        os.setsid()
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if path := os.environ.get("PYTHONPATH"):
        _find_more(path)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    Path("/proc/self/comm").write_text(request["module"], "ascii")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    if request["module"] == "dicom_node":
        _let_children_be_forked()
    sys.argv = [request["module"], *request["words"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def _find_more(path: str) -> None:
    """What ``PYTHONPATH`` names, and the pipelines of other packages there."""
    pipelines = importlib.import_module("ai_pipeline.pipelines")
    sys.path[:0] = filter(None, path.split(os.pathsep))
    pipelines._INSTALLED = found = entry_points(group=pipelines.GROUP)
    pipelines.PIPELINES.update({one.name: one for one in found})


def _let_children_be_forked() -> None:
    """A process of this program's own waits, forked before there are threads."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        run(serve(theirs))
        raise SystemExit(0)
    theirs.close()
    Forked.waiting = ours
    subprocess.Popen = Forked  # type: ignore[misc]


def main() -> None:
    """Import everything of ours, then wait for requests on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for package in map(importlib.import_module, _PACKAGES):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(later in found.name for later in _LATER):
                importlib.import_module(found.name)
    sys.path.remove(str(Path.cwd()))  # -P: nothing is imported from the working directory
    requests = socket.socket(fileno=os.dup(0))
    gc.freeze()
    run(serve(requests))


if __name__ == "__main__":
    main()
