"""Child processes of the node: started, watched, restarted, stopped.

A child says one JSON line on its standard output when it is ready, and ends when its standard input
closes: so it never outlives a node that was killed.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_LOGGER = logging.getLogger(__name__)
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds before a child that died is started again
_STEADY = 60.0  # seconds after which a child counts as healthy and the wait starts anew


class Child:
    """One process that the node keeps alive.

    ``command``: arguments of the Python interpreter. ``on_ready`` gets what it says when it is ready,
    ``on_death`` its exit status and the seconds until it is started again.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        on_ready: Callable[[Mapping[str, Any]], None],
        on_death: Callable[[int, float], None],
    ) -> None:
        self.name = name
        self._command = [sys.executable, *command]
        self._on_ready = on_ready
        self._on_death = on_death
        self._process: subprocess.Popen[str] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name=f"keep-{name}", daemon=True)

    def start(self) -> None:
        """Start the process and the thread that watches it."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def stop(self, grace_seconds: float) -> None:
        """Ask it to end (SIGTERM and end of input); after ``grace_seconds`` kill it."""
        self._stopping.set()
        process = self._process
        if process and process.poll() is None:
            process.terminate()
            try:
                process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                _LOGGER.warning("%s did not end in %.0f s and is killed", self.name, grace_seconds)
                process.kill()
        self._thread.join(grace_seconds + 5)

    def _keep_alive(self) -> None:
        wait = _FIRST_WAIT
        while not self._stopping.is_set():
            started = time.monotonic()
            status = self._run_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _STEADY:
                wait = _FIRST_WAIT
            self._on_death(status, wait)
            self._stopping.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _run_once(self) -> int:
        with subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as process:
            self._process = process
            if self._stopping.is_set():  # asked to stop while it was being started
                process.terminate()
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    self._on_ready(json.loads(line))
            return process.wait()
