"""The processes that clean (:mod:`.worker`), each one task at a time; what is late or dies is replaced."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from ai_pipeline.errors import PipelineError
from ai_pipeline.serve.settings import PREFIX, ServeSettings
from ai_pipeline.serve.tasks import MOST_BYTES, Answer, Outcome, Task

_START_SECONDS = 180.0
_LOOK_SECONDS = 0.5
"""How often who waits for a process looks whether its caller still waits."""
COMMAND = ("-m", "ai_pipeline.serve.worker")


class CannotStart(PipelineError):
    """A cleaning process cannot start; the text says why."""


class CleaningProcess:
    """One process; for one thread at a time."""

    def __init__(self, settings: ServeSettings, command: Sequence[str] = COMMAND) -> None:
        """Prepare a process that :meth:`start` starts. ``command``: arguments of the Python interpreter."""
        self._settings = settings
        self._command = [sys.executable, "-P", *command]  # -P: nothing is imported from the working directory
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.lacks = ""
        """What this machine cannot take away from the process, in words."""

    @property
    def pid(self) -> int | None:
        """The process id; None if it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> socket.socket:
        """The socket to the process, which is started unless it runs. Raises CannotStart."""
        if self._control is not None and self.pid is not None:
            return self._control
        self.end()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # No setting of the service, of which one is a secret.
            environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a library's warning may quote a header
                env={"OMP_NUM_THREADS": "1", **environment, "TMPDIR": tempfile.gettempdir()},
                start_new_session=True,
            )
        control.settimeout(_START_SECONDS)
        try:
            control.send(self._settings.model_dump_json(exclude={"token"}).encode())
            said = json.loads(control.recv(MOST_BYTES) or b"{}")
        except OSError:
            said = {}
        if reason := said.get("cannot_start", "it ended while it started"):
            control.close()
            self.end()
            raise CannotStart(f"a cleaning process cannot start: {reason}")
        self.lacks = said["lacks"]
        self._control = control
        return control

    def answer(self, task: Task, source: int, target: int, seconds: float) -> Answer:
        """Have a task carried out on the open file ``source``; what is cleaned goes to ``target``. An answer
        that does not come within ``seconds`` ends the process.
        """
        try:
            control = self.start()
            control.settimeout(seconds)
            socket.send_fds(control, [task.packed()], [source, target])
            if message := control.recv(MOST_BYTES):
                return Answer.of(message)
        except TimeoutError:
            self.end()
            return Answer(Outcome.LATE, f"to clean it takes longer than {seconds:g} s")
        except CannotStart as error:
            return Answer(Outcome.FAILED, str(error))
        except (OSError, ValueError, TypeError):
            pass  # it is gone, or talks nonsense
        self.end()
        return Answer(Outcome.FAILED, "the process that cleans ended: it was killed, or lacks memory")

    def end(self) -> None:
        """End the process, if it runs."""
        control, process = self._control, self._process
        self._control = self._process = None
        if process is not None:
            process.kill()
            process.wait()
        if control is not None:  # then nobody waits any more for what it says
            control.close()


class CleaningProcesses:
    """As many processes as objects are cleaned at once."""

    def __init__(self, settings: ServeSettings, command: Sequence[str] = COMMAND) -> None:
        """Prepare the processes; ``command`` as in CleaningProcess."""
        self._seconds = settings.seconds
        self.all = [CleaningProcess(settings, command) for _ in range(settings.processes)]
        self._free: queue.SimpleQueue[CleaningProcess] = queue.SimpleQueue()
        for process in self.all:
            self._free.put(process)

    def start(self) -> str:
        """Start all processes; returns what this machine cannot take away from them. Raises CannotStart."""
        for process in self.all:
            process.start()
        return self.all[0].lacks

    def answer(self, task: Task, source: int, target: int, waits: Callable[[], bool]) -> Answer:
        """Have a task carried out by the next free process, unless the caller has stopped to wait (``waits``
        is asked now and then); other parameters as in CleaningProcess.answer.
        """
        due = time.monotonic() + self._seconds
        while True:
            if not waits():
                return Answer(Outcome.LATE, "the time of this request is over, or its caller is gone")
            try:
                process = self._free.get(timeout=min(_LOOK_SECONDS, max(0.0, due - time.monotonic())))
                break
            except queue.Empty:
                if time.monotonic() >= due:
                    text = f"no process was free for {self._seconds:g} s: try again later"
                    return Answer(Outcome.LATE, text)
        try:
            return process.answer(task, source, target, self._seconds)
        finally:
            self._free.put(process)

    def close(self) -> None:
        """End all processes, also in the middle of a task."""
        for process in self.all:
            process.end()
