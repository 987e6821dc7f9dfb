"""Processes of the node: children started, watched, restarted and stopped; the nodes on a data folder.

A child prints one JSON line when it is ready and further ones as signs of life, and ends when its standard
input closes: so it never outlives a node that was killed. Signals come to a main loop as bytes in a pipe,
which it waits for among other things; workers (``jobs.worker``) use threading events instead, as their main
thread runs a job. Children that read what strangers send have an environment without secrets.
"""

import fcntl
import json
import logging
import os
import re
import resource
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from dicom_node.base.errors import ExitCode, Unavailable
from dicom_node.base.lifecycle import Role

ALIVE_SECONDS: Final = 5.0
"""How often a child process tells its node that it lives."""
_OF_PYTHON = re.compile(r"PATH|HOME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH|PYTHON\w+")


def signal_pipe() -> int:
    """Return the reading end of a pipe that gets one byte for each SIGTERM, SIGINT and SIGHUP; the signals
    have no other effect.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reader


def show_life(busy_seconds: float | None = None) -> None:
    """Tell the parent node that this process is alive, by one line on standard output.

    ``busy_seconds``: how long it may be silent from now on, because it computes; 0: it is idle again; None:
    unchanged.
    """
    busy = "" if busy_seconds is None else f', "busy_seconds": {busy_seconds:g}'
    with suppress(OSError):  # the node is gone: the end of standard input tells that
        os.write(1, f'\n{{"alive": true{busy}}}\n'.encode("ascii"))  # a line of its own, whatever was printed


def without_secrets() -> dict[str, str]:
    """Return the environment variables that a Python interpreter needs, without variables used in the
    configuration: for child processes that read untrusted data.
    """
    return {name: value for name, value in os.environ.items() if _OF_PYTHON.fullmatch(name)}


NICENESS = 5
"""Niceness of processes that compute: beside others that want the same core they get a quarter of it."""


def _lines() -> Iterator[bytes]:
    """Yield lines of standard input, read without ``sys.stdin``, whose lock can hang the end of the
    interpreter.

    While waiting for a line, tell the parent node regularly that this process is alive.
    """
    stdin, read = sys.stdin.fileno(), b""
    while True:
        while b"\n" not in read:
            if select.select([stdin], [], [], ALIVE_SECONDS)[0]:
                if not (some := os.read(stdin, 65536)):
                    return
                read += some
            show_life()
        line, _, read = read.partition(b"\n")
        yield line


_LINES = _lines()


def settings_line() -> bytes:
    """Return the first line of standard input: the settings as JSON. Exits the process if there is none."""
    if not (line := next(_LINES, b"")):
        raise SystemExit(int(ExitCode.USAGE))
    return line


def watch_parent(stop: Callable[[], object]) -> None:
    """Call ``stop`` when the parent node has ended, even by being killed: standard input, a pipe from it,
    closes then.

    Until then, tell the node regularly that this process is alive.
    """
    if not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        return

    def watch() -> None:
        """Read standard input to its end, then call ``stop``."""
        try:
            for _ in _LINES:
                pass
        finally:
            stop()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def lower_priority() -> None:
    """Lower the CPU priority of this process, because senders wait for the listener's answers and a study can
    wait.
    """
    os.nice(NICENESS)


def limit_memory(mib: int) -> None:
    """Limit the memory of this process to ``mib`` MiB (0: no limit), so that a hostile image makes an
    allocation fail, not the machine.

    RLIMIT_DATA counts memory that is written to (heap and private mappings, Linux 4.7): 0.6 GiB in a warm
    worker. RLIMIT_AS would count 1.4 GiB there, mostly memory that inference libraries reserve and never use.
    """
    if mib:
        resource.setrlimit(resource.RLIMIT_DATA, (mib * 2**20, mib * 2**20))


_LOGGER = logging.getLogger(__name__)
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds before a child that died is started again
_STARTING = 90.0  # seconds in which a process that imports and loads need not show life, on a busy machine
_MAXIMUM_NODES = 64  # of one role on one data folder
_MOST_MISSED = 12  # signs of life in a row: a process that shows none is ended and started again
_COMPUTES = 0.01  # share of a processor; a process that hangs gets less
_LEAST_COUNTED = 0.05  # of a missed sign of a process that computes
_MOST_PATIENCE = 64.0  # times the usual
_OURS = {"alive", "ready", "listening", "console", "cannot_start"}  # keys, of which a message has one
_STEADY = 60.0  # seconds after which a child counts as healthy and the wait starts anew


class Child:
    """A child process that the node keeps running, starting it again when it ends.

    ``command``: arguments of the Python interpreter. ``on_ready``: called with the message that the process
    prints when it is ready. ``on_death``: called with its exit status and the seconds until it is started
    again. ``input_text``: the first line of its standard input, "" for none. ``environment``: its environment
    variables; None: those of this process. ``on_silence``: called with its process id before it is ended
    because it showed no life. Output of a child that is being stopped is ignored.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        on_ready: Callable[[Mapping[str, Any]], None],
        on_death: Callable[[int, float], None],
        input_text: str = "",
        environment: Mapping[str, str] | None = None,
        on_silence: Callable[[int], object] | None = None,
    ) -> None:
        """Prepare the child process ``name``, which :meth:`start` starts; parameters as above."""
        self.name = name
        self._command = [sys.executable, "-P", *command]  # -P: nothing is imported from the working directory
        self._on_ready, self._on_death, self._on_silence = on_ready, on_death, on_silence
        self._patience = 1.0  # doubles each time when the process was ended for its silence
        self._given, self._environment = input_text, environment
        self._heard_at = time.monotonic()
        self._busy_seconds = 0.0  # for which it may be silent, as it says itself
        self._process: subprocess.Popen[str] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name=f"keep-{name}", daemon=True)

    def start(self) -> None:
        """Start the process and the thread that watches it."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """The process id, None while the process does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def silent_seconds(self) -> float:
        """Seconds since the process last printed anything; 0 for a while after its start."""
        return max(time.monotonic() - self._heard_at, 0.0)

    def hang_up(self) -> None:
        """Send SIGHUP to the process if it runs."""
        if self._process:
            self._process.send_signal(signal.SIGHUP)  # nothing to one that has ended

    def retire(self) -> None:
        """Send SIGHUP, let the process end in its own time, and do not start it again."""
        self._stopping.set()
        self.hang_up()

    def stop(self, grace_seconds: float) -> None:
        """Ask the process to end (SIGTERM and end of input); kill it after ``grace_seconds``."""
        self._stopping.set()
        if process := self._process:
            process.terminate()  # nothing to one that has ended
            try:
                process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                _LOGGER.warning("%s did not end in %.0f s and is killed", self.name, grace_seconds)
                process.kill()
        self._thread.join(grace_seconds + 5)

    def _keep_alive(self) -> None:
        """Run the process, and start it again when it ends, until the child is stopped or retired."""
        wait = _FIRST_WAIT
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                status = self._run_once()
            except OSError as error:  # no memory, no process to be had just now: the next time there may be
                _LOGGER.error("%s cannot be started: %s", self.name, error.strerror)
                status = os.EX_OSERR
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _STEADY:
                wait = _FIRST_WAIT
            self._on_death(status, wait)
            self._stopping.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _run_once(self) -> int:
        """Run the process until it ends; returns its exit status."""
        process = self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            bufsize=1,
            env=self._environment,
        )
        self._heard_at, self._busy_seconds = time.monotonic() + _STARTING, 0.0
        threading.Thread(target=self._end_if_silent, args=(process,), daemon=True).start()
        if self._given:
            assert process.stdin is not None
            with suppress(BrokenPipeError, ValueError):  # it died; its pipe is closed already
                process.stdin.write(self._given + "\n")
        with process:
            if self._stopping.is_set():  # asked to stop while it was being started
                process.terminate()
            assert process.stdout is not None
            for line in process.stdout:
                self._heard_at = max(self._heard_at, time.monotonic())  # it loads on after a first sign
                message = _message_in(line)
                self._busy_seconds = float(message.get("busy_seconds", self._busy_seconds))
                if self._stopping.is_set():
                    continue
                if message and "alive" not in message:
                    self._heard_at = time.monotonic()
                    self._on_ready(message)
            return process.wait()

    def _end_if_silent(self, process: subprocess.Popen[str]) -> None:
        """Kill the process if it gives no sign of life for too long, because it was suspended or hangs.

        Missed signs are counted, not seconds, because a suspended machine has missed none. A process that got
        some of a processor is slow, not dead: its signs count by the share that it got. One that is
        busy with a job gets the time that it announced. After each end it gets twice as long: a start may
        wait for a slow disk.
        """
        missed, heard_at, computed = 0, self._heard_at, 0.0
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(ALIVE_SECONDS)
                return
            if self._heard_at != heard_at or time.monotonic() < heard_at:
                missed, heard_at, computed = 0, self._heard_at, _processor_seconds(process.pid)
                continue
            missed += 1
            share = (_processor_seconds(process.pid) - computed) / (missed * ALIVE_SECONDS)
            counted = missed * (1.0 if share < _COMPUTES else min(max(share, _LEAST_COUNTED), 1.0))
            if counted > self._patience * max(_MOST_MISSED, self._busy_seconds / ALIVE_SECONDS):
                _LOGGER.error("%s shows no life for %.0f s: it is ended", self.name, self.silent_seconds)
                self._patience = min(2 * self._patience, _MOST_PATIENCE)
                if self._on_silence:
                    self._on_silence(process.pid)
                process.kill()
                return


def _processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used, of all its threads; 0 if that is unknown."""
    try:
        about = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    user, system = about.rpartition(")")[2].split()[11:13]  # proc(5): utime, stime
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _message_in(line: str) -> Mapping[str, Any]:
    """Return the JSON message in a line that a child process printed; empty for any other output, such as of
    a library.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):  # the second: a line of brackets alone
        return {}
    return message if isinstance(message, dict) and _OURS & message.keys() else {}


def console_program() -> str:
    """Return the module of the console's process, from the entry point ``dicom_node.console``; "" if none is
    installed.
    """
    return next((found.value for found in entry_points(group="dicom_node.console")), "")


@contextmanager
def lock_place(data_dir: Path, role: Role, files: Sequence[Path]) -> Iterator[str]:
    """Context manager: reserve a place on the data folder for one node while it runs; yields the name of the
    place.

    A node with all roles has the place "all". Nodes with one role take the first free place of their role
    ("worker-1", "worker-2"). ``files``: the configuration files, whose paths are written to the lock file
    after the process id. The kernel releases the lock when the process dies, on NFS too. Raises Unavailable.
    """
    many = role is not Role.ALL
    for place in [f"{role}-{n}" for n in range(1, _MAXIMUM_NODES + 1)] if many else [str(role)]:
        # Not for appending, which would heed no position.
        number = os.open(data_dir / f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with os.fdopen(number, "r+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            # In place, so that it needs no space on a full disk where it was written before.
            file.write("\n".join(map(str, (os.getpid(), *(path.absolute() for path in files)))).encode())
            file.truncate()
            yield place
            return
    whom = f"{_MAXIMUM_NODES} {role} nodes work" if many else "another node works"
    raise Unavailable(f"{whom} on {data_dir}: stop one, or set another node.data_dir")


def running(data_dir: Path) -> dict[str, int]:
    """Return the nodes of this machine that work on a data folder: place (``all``, ``worker-1``) -> process
    id.
    """
    found = {}
    for path in sorted(data_dir.glob("*.lock")):
        with suppress(OSError, ValueError):
            pid = int(path.read_text(encoding="utf-8").partition("\n")[0])
            # The folder may be shared: the process of this number may be a stranger on this machine.
            if path.resolve() in (file.readlink() for file in Path(f"/proc/{pid}/fd").iterdir()):
                found[path.stem] = pid
    return found


def files_of(data_dir: Path, place: str) -> set[Path]:
    """Return the configuration files of the running node at ``place`` of the data folder; empty for a node of
    an earlier version.
    """
    return {Path(line) for line in (data_dir / f"{place}.lock").read_text(encoding="utf-8").splitlines()[1:]}
