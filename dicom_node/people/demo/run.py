"""The demonstration: modalities send, the node analyses, and the PACS is queried for the results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from dicom_node.base.errors import ExitCode, Unavailable
from dicom_node.people.demo import inputs
from dicom_node.people.demo.inputs import DemoStudy
from dicom_node.people.demo.pacs import AE_TITLE, EmbeddedPacs

Say = Callable[[str], None]

NODE_AE_TITLE = "AINODE"
QUIET_SECONDS = 1.0
_PROGRAM = (sys.executable, "-P", "-m", "dicom_node")
_READY_SECONDS = 180.0  # the first start compiles and warms up models
_STUDY_SECONDS = 900.0  # a long cine on a slow machine
_POLL_SECONDS = 0.5

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


@dataclass(frozen=True, slots=True)
class Returned:
    """One object in the PACS. ``kind``: the kind of result, or "source"."""

    kind: str
    sop_instance_uid: str
    path: Path


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The outcome of the demonstration for one study; ``seconds_to_pacs`` includes ``quiet_seconds``."""

    study: DemoStudy
    folder: Path
    state: str
    reason: str
    objects: Sequence[Returned] = ()
    findings: list[dict[str, Any]] = field(default_factory=list)
    seconds_to_pacs: float | None = None
    quiet_seconds: float = QUIET_SECONDS
    known_before: bool = False
    refused: Sequence[str] = ()

    @property
    def results(self) -> list[Returned]:
        """The node's results that are in the PACS."""
        return [item for item in self.objects if item.kind != "source"]


def run(out: Path, *, own: Path | None, fresh: bool, offline: bool, say: Say) -> list[DemoResult]:
    """Run the demonstration in ``out`` and write ``summary.json``; returns one result per study.

    PACS and node keep their data in ``out``/.site, so that a second run shows that no result is made twice;
    ``fresh`` deletes their data first. ``offline``: no film is downloaded. Raises Unavailable, FaultyInput,
    PeerUnreachable.
    """
    site = out / ".site"
    if fresh:
        shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True, exist_ok=True)
    studies = inputs.own(own) if own else inputs.shipped(site / "input", offline=offline)
    pacs, shown, seen = EmbeddedPacs(site / "pacs"), [], Counter[str]()
    try:
        say(f"PACS: AE title {AE_TITLE}, port {pacs.port}")
        with _Node(site / "node", pacs) as node:
            say(f"Node: AE title {NODE_AE_TITLE}, port {node.port}, log {node.log}")
            for study in studies:
                name = "".join(letter for letter in study.modality.lower() if letter.isalnum()) or "ot"
                seen[name] += 1
                shown.append(_run_study(study, out / f"{name}-{seen[name]}", node, pacs, say))
    finally:
        pacs.stop()
    # Other programs use the keys (docs/reference/lists.md).
    rows = [
        {
            "modality": item.study.modality,
            "study_instance_uid": item.study.study_instance_uid,
            "origin": item.study.origin,
            "folder": item.folder.name,
            "state": item.state,
            "reason": item.reason,
            "findings": item.findings,
            "objects": [{"kind": r.kind, "sop_instance_uid": r.sop_instance_uid} for r in item.results],
            "seconds_to_pacs": item.seconds_to_pacs,
            "quiet_seconds": item.quiet_seconds,
            "known_before": item.known_before,
        }
        for item in shown
    ]
    (out / "summary.json").write_text(
        json.dumps({"studies": rows}, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
    return shown


class _Node:
    """A process of ``dicom-node serve`` with a folder of its own, and the commands that ask it, as a script
    would.
    """

    def __init__(self, folder: Path, pacs: EmbeddedPacs) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:  # finds one that is not in use
            self.port: int = probe.getsockname()[1]
        self.log = folder / "node.log"
        self._folder = folder.resolve()
        self._pacs_port = pacs.port
        self._config = self._write("node", _CONFIG, data_dir=self._folder / "var", quiet=QUIET_SECONDS)

    def __enter__(self) -> _Node:
        """Start the node and wait until it can receive objects and run jobs. Raises Unavailable."""
        with self.log.open("wb") as log:
            # A group of its own: Ctrl-C reaches the demonstration, which then stops the node in order.
            self._process = subprocess.Popen(
                [*_PROGRAM, "serve", "--config", str(self._config)],
                stderr=log,
                stdout=log,
                start_new_session=True,
            )
        end = time.monotonic() + _READY_SECONDS
        try:
            while "[6002]" not in self._log_text():  # events.NODE_READY
                self.fail_if_ended()
                if time.monotonic() > end:
                    raise Unavailable(f"the node does not become ready: see {self.log}")
                time.sleep(0.1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Send SIGTERM; kill the node with its children if it does not end."""
        self._process.terminate()
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def fail_if_ended(self) -> None:
        """Raise Unavailable if the node's process has ended."""
        if self._process.poll() is not None:
            last_lines = "\n".join(self._log_text().splitlines()[-12:])
            raise Unavailable(f"the node has ended; {self.log} ends:\n{last_lines}")

    def send(self, study: DemoStudy, peer: str) -> list[dict[str, Any]]:
        """Send a study from its modality to ``pacs`` or ``node``; returns the status of each file."""
        calling = study.calling_ae
        name = calling.lower()
        config = self._write(name, _MODALITY, data_dir=self._folder / name, calling=calling)
        return self.ask("send", peer, *map(str, study.files), config=config) or []

    def ask(self, *words: str, config: Path | None = None) -> Any:
        """What a command prints as JSON, None for what is not there. Raises Unavailable."""
        command = [*_PROGRAM, *words, "--json", "--config", str(config or self._config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == ExitCode.NOT_FOUND:
            return None
        if done.returncode not in (ExitCode.OK, ExitCode.FAILED):
            raise Unavailable(f"dicom-node {' '.join(words[:2])}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def _write(self, name: str, text: str, **values: object) -> Path:
        file = self._folder / f"{name}.toml"
        values |= {"ae_title": NODE_AE_TITLE, "port": self.port, "pacs_port": self._pacs_port}
        file.write_text(text.format(pacs_ae=AE_TITLE, **values), encoding="utf-8")
        return file

    def _log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def _run_study(study: DemoStudy, folder: Path, node: _Node, pacs: EmbeddedPacs, say: Say) -> DemoResult:
    say(f"{study.modality}: {len(study.files)} object(s) from {study.calling_ae}, {study.origin}")
    begun, uid = datetime.now(UTC), study.study_instance_uid
    node.send(study, "pacs")  # as on a real site: the modality sends to both
    sent = node.send(study, "node")
    stored = {item["sop_instance_uid"] for item in sent if item["stored"]}
    refused = [item["text"] for item in sent if not item["stored"]]
    if not stored:
        return DemoResult(study, folder, "refused", "; ".join(refused))
    view = _wait(uid, stored, begun, node)
    kinds = {item["sop_instance_uid"]: item["kind"] for item in view["results"]}
    findings = node.ask("studies", "findings", uid)
    # From the reception of the last new object to the confirmation of the last result, by the node's records:
    # so a second run, which sends the same objects again, tells the time of the first.
    rows = node.ask("outbox", "list", "--limit", "0", "--study", uid)
    confirmed = [datetime.fromisoformat(row["confirmed_at"]) for row in rows if row["confirmed_at"]]
    new = [item for item in view["received"] if item["outcome"] in ("new", "revision")]
    received = [datetime.fromisoformat(item["received_at"]) for item in new]
    took = (max(confirmed) - max(received)).total_seconds() if confirmed and received else None
    return DemoResult(
        study,
        folder,
        view["state"],
        view["reason"],
        _write_objects(folder, pacs.fetch(uid), kinds),
        [{key: row[key] for key in row.keys() - {"report_uid", "verdicts"}} for row in findings],
        None if took is None else round(took, 3),
        known_before=all(item["outcome"] == "duplicate" for item in _received_since(view, begun)),
        refused=refused,
    )


def _wait(uid: str, stored: set[str], begun: datetime, node: _Node) -> dict[str, Any]:
    """Until everything sent is indexed and the study stands in an end state. Raises Unavailable."""
    end = time.monotonic() + _STUDY_SECONDS
    while time.monotonic() < end:
        node.fail_if_ended()
        view: dict[str, Any] = node.ask("studies", "show", uid) or {"received": [], "state": ""}
        indexed = {item["sop_instance_uid"] for item in _received_since(view, begun)}
        # States in which nothing more happens to a study by itself.
        ended = ("delivered", "not_applicable", "quarantined", "failed", "cancelled")
        if stored <= indexed and view["state"] in ended:
            return view
        time.sleep(_POLL_SECONDS)
    raise Unavailable(f"a study takes longer than {_STUDY_SECONDS:.0f} s: see {node.log}")


def _received_since(view: dict[str, Any], begun: datetime) -> list[dict[str, Any]]:
    return [item for item in view["received"] if datetime.fromisoformat(item["received_at"]) >= begun]


def _write_objects(folder: Path, files: Sequence[Path], kinds: dict[str, str]) -> list[Returned]:
    """Copy objects of the PACS to ``folder``/pacs, with previews of the images beside.

    Sources first, then results by kind and number. Files of an earlier run are replaced.
    """
    shutil.rmtree(folder / "pacs", ignore_errors=True)
    for preview in folder.glob("[0-9][0-9]-*.png"):
        preview.unlink()
    (folder / "pacs").mkdir(parents=True)

    def place(ds: Dataset) -> tuple[bool, str, int, str]:
        kind = kinds.get(ds.SOPInstanceUID, "")
        return bool(kind), kind, int(ds.get("InstanceNumber") or 0), ds.SOPInstanceUID

    written = []
    headers = (dcmread(path, stop_before_pixels=True) for path in files)
    for number, header in enumerate(sorted(headers, key=place), start=1):
        kind = kinds.get(header.SOPInstanceUID, "source")
        target = folder / "pacs" / f"{number:02d}-{kind}.dcm"
        shutil.copy(header.filename, target)
        if header.get("Rows"):
            # The middle frame as a viewer shows it; nothing for pixels that cannot be decoded.
            with suppress(PixelError):
                image = open_dicom(target)
                Image.fromarray(image.display(image.header.frames // 2)).save(
                    folder / f"{number:02d}-{kind}.png"
                )
        written.append(Returned(kind, str(header.SOPInstanceUID), target))
    return written
