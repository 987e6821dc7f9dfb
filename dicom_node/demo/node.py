"""The node of the demonstration, in a separate process, and the modalities that send to it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_node.demo import verbs
from dicom_node.demo.pacs import AE_TITLE, EmbeddedPacs, free_port
from dicom_node.errors import DemoFailed

QUIET_SECONDS = 1.0
NODE_AE_TITLE = "AINODE"

_READY = "[6002]"  # events.NODE_READY, as the log shows it
_READY_SECONDS = 180.0  # the first start compiles and warms up models
_STOP_SECONDS = 40.0

_CONFIG = """\
# Written by `dicom-node demo`: a node, a PACS that holds the studies, two modalities.
[node]
ae_title = "{ae_title}"
data_dir = "{data_dir}"
[listener]
host = "127.0.0.1"
port = {port}
[spool]
minimum_free_mib = 100
[assembly]
quiet_seconds = {quiet}
quiet_seconds_us = {quiet}

[[peers]]
name = "pacs"
ae_title = "{pacs_ae}"
host = "127.0.0.1"
port = {pacs_port}
may = ["send", "receive"]
results = ["sr", "gsps", "sc", "summary", "heatmap", "cleaned"]
burned_in_boxes = true
[[peers]]
name = "us1"
ae_title = "US1"
[[peers]]
name = "xray1"
ae_title = "XRAY1"

[[rules]]
name = "ultrasound"
when = {{ modality = "US" }}
max_study_age_days = 0
pipeline = "ultrasound"
send_to = ["pacs"]
[[rules]]
name = "chest"
when = {{ modality = ["CR", "DX"] }}
max_study_age_days = 0
pipeline = "chest_xray"
options = {{ heatmaps = true }}
send_to = ["pacs"]
"""

_MODALITY = """\
# Written by `dicom-node demo`: a modality that sends to the PACS and to the node.
[node]
ae_title = "{calling}"
data_dir = "{data_dir}"

[[peers]]
name = "pacs"
ae_title = "{pacs_ae}"
host = "127.0.0.1"
port = {pacs_port}
[[peers]]
name = "node"
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {port}
"""


class DemoNode:
    """A process of ``dicom-node serve`` with a folder of its own."""

    def __init__(self, folder: Path, pacs: EmbeddedPacs) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = folder / "node.log"
        self.config = folder / "node.toml"
        self._folder = folder.resolve()
        self._ports = {"port": self.port, "pacs_port": pacs.port}
        self._write(self.config, _CONFIG, data_dir=self._folder / "var", quiet=QUIET_SECONDS)
        self._process = self._start()

    def modality(self, calling_ae: str) -> Path:
        """The configuration of a modality with this AE title; it knows the peers ``pacs`` and ``node``."""
        config = self._folder / f"{calling_ae.lower()}.toml"
        self._write(config, _MODALITY, data_dir=self._folder / calling_ae.lower(), calling=calling_ae)
        return config

    def wait_until_ready(self) -> None:
        """Wait until the node can receive objects and run jobs. Raises DemoFailed."""
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end:
            if _READY in self._log_text():
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise DemoFailed(f"the node does not become ready; {self.log} ends:\n{self._last_lines()}")

    def fail_if_ended(self) -> None:
        """Raise DemoFailed if the node's process has ended."""
        if self._process.poll() is not None:
            raise DemoFailed(f"the node has ended; {self.log} ends:\n{self._last_lines()}")

    def stop(self) -> None:
        """Send SIGTERM; kill the node with its children if it does not end."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _write(self, file: Path, text: str, **values: object) -> None:
        filled = text.format(ae_title=NODE_AE_TITLE, pacs_ae=AE_TITLE, **self._ports, **values)
        file.write_text(filled, encoding="utf-8")

    def _start(self) -> subprocess.Popen[bytes]:
        command = [*verbs.PROGRAM, "serve", "--config", str(self.config)]
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            # A group of its own: Ctrl-C reaches the demonstration, which then stops the node in order.
            return subprocess.Popen(command, stderr=log, stdout=log, start_new_session=True)

    def _log_text(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace")

    def _last_lines(self) -> str:
        return "\n".join(self._log_text().splitlines()[-12:])


@contextmanager
def running(folder: Path, pacs: EmbeddedPacs) -> Iterator[DemoNode]:
    """Start a node, wait until it is ready, and stop it at the end of the scope in any case."""
    node = DemoNode(folder, pacs)
    try:
        node.wait_until_ready()
        yield node
    finally:
        node.stop()
