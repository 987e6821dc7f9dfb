"""The demonstration: modalities send images, a node analyses them, a small PACS has the results."""

import html
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom import dcmread, examples
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ExitCode, FaultyInput, Unavailable
from dicom_node.base.lifecycle import END_STATES, ResultKind, StudyState
from dicom_node.base.store.views import View
from dicom_node.deliver.scu import Outgoing, SendReport, SendStatus
from dicom_node.deliver.scu.storage import send_files
from dicom_node.results.stated_report import read_report

Say = Callable[..., None]

QUIET_SECONDS = 1.0
_NODE, _PACS = "AINODE", "PACS"  # AE titles
# The node's program ends with the demonstration, even if that is killed or its terminal is closed.
_TIED = """
import sys
from ai_pipeline.confinement import die_with_parent
from dicom_node.serve.cli import main
die_with_parent(int(sys.argv.pop(1)))
main()
"""
_SHIPPED = "the demonstration"


# A real ultrasound that comes with pydicom (MIT); a chest that tests/drawn_chest.py has drawn.
_ULTRASOUND = "rgb_color"
DRAWN_FILM = Path(__file__).with_name("drawn-chest.dcm")

# Headings of the page: what was sent, by modality, and how it ended, by the study's state.
_STUDIES = {"US": "Ultrasound", "DX": "X-ray", "CR": "X-ray"}
_ENDS = {
    StudyState.DELIVERED: "the results are in the PACS",
    StudyState.NOT_APPLICABLE: "not analysed",
    StudyState.QUARANTINED: "not analysed, a person must look at it",
    StudyState.FAILED: "the analysis failed",
    StudyState.CANCELLED: "the analysis was cancelled",
}
_REFUSED = "the node did not accept it"

# Of each study the page shows the first of these sets that is there.
_SHOWN = (("source", "cleaned"), ("sc",), ("source",))
_CAPTIONS = {
    "source": "As the modality sent it.",
    "cleaned": "The node's copy in the PACS: names, dates and numbers of a person are removed.",
    "sc": "The node's result in the PACS, as a picture.",
}
_FIGURE = """<figure><img src="{file}" alt=""><figcaption>{caption}</figcaption></figure>
"""
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>DICOM AI node: what came back</title>
<style>
body {{ font: 1rem/1.4 sans-serif; max-width: 64rem; margin: 1rem auto; padding: 0 1rem; }}
main {{ display: flex; flex-wrap: wrap; gap: 0 2rem; }}
section {{ flex: 1 1 20rem; }}
figure {{ margin: 0 0 .5rem; }}
img {{ width: 100%; }}
</style>
<h1>What the PACS has now</h1>
<p><strong>Not for diagnostic use.</strong> {origin}</p>
<main>
{studies}
</main>
<h2>Next</h2>
<p>Your own files: <code>dicom-node demo --input FOLDER</code></p>
<p>Your own modality and PACS: docs/start/first-study.md</p>
</html>
"""


_CONFIG = """\
# Written by `dicom-node demo`: a node, a PACS that holds the studies, two modalities.
[node]
ae_title = "AINODE"
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
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
may = ["send", "receive"]
results = ["sr", "gsps", "sc", "summary", "heatmap", "cleaned"]
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


def run(out: Path, *, own: Path | None, fresh: bool, say: Say) -> list[View]:
    """Run the demonstration in ``out``, write ``summary.json`` and a page; returns the summary's ``studies``.

    ``own``: a folder with files to send; None: the shipped ones. ``say``: prints a line. PACS and node keep
    their data in ``out``/.site, so that a second run shows that no result is made twice; ``fresh`` deletes
    their data first. Raises Unavailable, FaultyInput, and OSError where ``out`` cannot be written.
    """
    site = out / ".site"
    if fresh:
        shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True, exist_ok=True)
    studies = by_study(path for path in (sorted(own.rglob("*")) if own else shipped()) if path.is_file())
    if not studies:
        raise FaultyInput(f"{own} holds no DICOM file (Part 10) with a Study Instance UID")
    pacs, rows, seen = EmbeddedPacs(site / "pacs"), [], Counter[str]()
    node = _Node(site / "node", pacs.port)
    try:
        say(f"PACS: AE title {_PACS}, port {pacs.port}")
        node.wait_until_ready()
        say(f"Node: AE title {_NODE}, port {node.port}, log {node.log}")
        for uid, (modality, images) in studies.items():
            name = re.sub("[^a-z0-9]", "", modality.lower()) or "ot"
            seen[name] += 1
            folder = out / f"{name}-{seen[name]}"
            say("")
            say(f"{folder.name}: {len(images)} object(s) of {own or _SHIPPED}", bold=True)
            row = _run_study(uid, modality, images, folder, node, pacs, say)
            rows.append(row | {"origin": str(own or _SHIPPED)})
    finally:
        node.stop()
        pacs.stop()
    # Other programs use the keys (docs/reference/lists.md).
    (out / "summary.json").write_text(
        json.dumps({"studies": rows}, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
    (out / "index.html").write_text(
        _PAGE.format(
            origin="" if own else "The chest is drawn by a program; the ultrasound is real (pydicom, MIT).",
            studies="\n".join(_section(out, row) for row in rows),
        ),
        encoding="utf-8",
    )
    return rows


def _section(out: Path, row: View) -> str:
    """The HTML of the page about one study: its result in words, and pictures; ``row``: its row of the
    summary.
    """
    previews = sorted((out / row["folder"]).glob("*.png"), reverse=True)  # the first of a kind stays
    pictures = {path.stem.partition("-")[2]: path.name for path in previews}
    shown = next((kinds for kinds in _SHOWN if set(kinds) <= pictures.keys()), ())
    texts = (html.escape(text) for text in (*row["short_result"], row["reason"]))
    figures = (
        _FIGURE.format(file=f"{row['folder']}/{pictures[kind]}", caption=_CAPTIONS[kind]) for kind in shown
    )
    return f"<section><h2>{_heading(row)}</h2>\n<p>{'<br>'.join(texts)}</p>\n{''.join(figures)}</section>"


def _heading(row: View) -> str:
    """What a study of the summary is, and how it ended, for a reader who does not know the node."""
    modality = row["modality"]
    return f"{_STUDIES.get(modality, html.escape(modality))}: {_ENDS.get(row['state'], _REFUSED)}"


def shipped() -> list[Path]:
    """The two shipped DICOM files: a drawn chest radiograph, and an ultrasound image of pydicom."""
    return [DRAWN_FILM, Path(examples.get_path(_ULTRASOUND))]


def by_study(files: Iterable[Path]) -> dict[str, tuple[str, list[Path]]]:
    """(modality, files) of each study among the files, by Study Instance UID; files that are no DICOM are
    left out.
    """
    found: dict[str, tuple[str, list[Path]]] = {}
    for path in files:
        with suppress(InvalidDicomError, OSError):
            header = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "Modality"])
            if uid := str(header.get("StudyInstanceUID") or ""):
                found.setdefault(uid, (str(header.get("Modality") or "OT"), []))[1].append(path)
    return found


_QUERY_KEYS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]


class EmbeddedPacs:
    """A small PACS for the demonstration, which answers C-ECHO, C-STORE and C-FIND at IMAGE level (PS3.4
    C.6.2.1).
    """

    def __init__(self, folder: Path) -> None:
        """Start the PACS on a free port; it contains the objects that are in ``folder``/objects already."""
        self._folder = folder / "objects"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._ae = ae = AE(ae_title=_PACS)
        ae.add_supported_context(Verification)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)],
        )
        self.port: int = server.socket.getsockname()[1]

    def fetch(self, study_instance_uid: str) -> list[Path]:
        """The Part 10 files of a study in the PACS."""
        return [
            path
            for path, keys in self._stored_headers().items()
            if keys.StudyInstanceUID == study_instance_uid
        ]

    def stop(self) -> None:
        """Stop the PACS; the objects stay in its folder."""
        self._ae.shutdown()

    def _store(self, event: Any) -> int:
        """Handle a C-STORE: store the object, and return the status."""
        uid = str(event.request.AffectedSOPInstanceUID)
        if not re.fullmatch(r"[0-9.]{1,64}", uid):  # it names a file
            return 0xC000
        target = self._folder / f"{uid}.dcm"
        with self._lock:
            if not target.exists():  # the first copy stays, as in Orthanc
                part = target.with_suffix(".part")  # of a demonstration that is killed here
                part.write_bytes(event.encoded_dataset(include_meta=True))
                part.rename(target)
        return 0x0000

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        """Handle a C-FIND: yield (status, data set) for each match, then the final status."""
        for keys in self._stored_headers().values():
            if all(event.identifier.get(key) in (None, "", keys.get(key)) for key in _QUERY_KEYS):
                keys.QueryRetrieveLevel = "IMAGE"
                yield 0xFF00, keys
        yield 0x0000, None

    def _stored_headers(self) -> dict[Path, Dataset]:
        """The attributes by which stored objects are found, by file."""
        with self._lock:
            return {
                path: Dataset(dcmread(path, specific_tags=_QUERY_KEYS, stop_before_pixels=True))
                for path in sorted(self._folder.glob("*.dcm"))
            }


class _Node:
    """A process ``dicom-node serve`` with its own folder, for the demonstration; it is queried by commands,
    as scripts do.
    """

    def __init__(self, folder: Path, pacs_port: int) -> None:
        """Write the configuration into ``folder`` and start the node; ``pacs_port``: the port of its PACS."""
        folder.mkdir(parents=True, exist_ok=True)
        # A port that nobody uses, below those of outgoing connections (from 32768), so that none of them
        # takes it before the node listens.
        self.port = 0
        while not self.port:
            port = random.randrange(15_000, 32_768)
            with suppress(OSError), socket.create_server(("127.0.0.1", port)):
                self.port = port
        self.log, self._config = folder / "node.log", folder / "node.toml"
        self._config.write_text(
            _CONFIG.format(
                data_dir=folder.resolve() / "var", port=self.port, pacs_port=pacs_port, quiet=QUIET_SECONDS
            ),
            encoding="utf-8",
        )
        # A modality sends to the PACS and to the node.
        self.receivers = [
            {"name": name, "ae_title": name, "host": "127.0.0.1", "port": port}
            for name, port in ((_PACS, pacs_port), (_NODE, self.port))
        ]
        with self.log.open("wb") as log:
            # A group of its own: Ctrl-C reaches the demonstration, which then stops the node in order.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _TIED, str(os.getpid()), "serve", "--config", str(self._config)],
                stderr=log,
                stdout=log,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until the node can receive objects and run jobs. Raises Unavailable if it ends."""
        while "[6002]" not in self._log_text():  # events.NODE_READY; the first start compiles models
            self.fail_if_ended()
            time.sleep(0.1)

    def stop(self) -> None:
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

    def ask(self, *words: str) -> Any:
        """Run a command (``words``) of ``dicom-node`` and return the JSON that it prints; None if it reports
        that nothing was found. Raises Unavailable.
        """
        done = subprocess.run(
            [sys.executable, "-P", "-m", "dicom_node", *words, "--json", "--config", str(self._config)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == ExitCode.NOT_FOUND:
            return None
        if done.returncode:
            raise Unavailable(f"dicom-node {' '.join(words[:2])}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def _log_text(self) -> str:
        """The text of the node's log."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def _run_study(
    uid: str, modality: str, images: list[Path], folder: Path, node: _Node, pacs: EmbeddedPacs, say: Say
) -> View:
    """Send a study's images, wait until it ends, fetch and show the results; returns its row of the summary.

    ``folder``: where the results are copied. ``say``: prints a line.
    """
    begun = datetime.now(UTC)
    sent = _send_as_modality(modality, images, node)
    taken = SendStatus.STORED, SendStatus.WARNED
    stored = {item.sop_instance_uid for item, report in sent if report.status in taken}
    refused = [f"{report.code} {report.text}".strip() for _, report in sent if report.status not in taken]
    row: View = {
        "modality": modality,
        "study_instance_uid": uid,
        "folder": folder.name,
        "state": "refused",
        "reason": "; ".join(refused),
        "findings": [],
        "short_result": [],
        "objects": [],
        "seconds_to_pacs": None,
        "quiet_seconds": QUIET_SECONDS,
        "known_before": False,
    }
    if stored:
        view = _wait_until_ended(uid, stored, begun, node)
        files = pacs.fetch(uid)
        kinds = {item["sop_instance_uid"]: item["kind"] for item in view["results"]}
        written = _write_objects(folder, files, kinds)
        row |= {
            "state": view["state"],
            "reason": view["reason"],
            "findings": [
                {key: found[key] for key in found.keys() - {"report_uid", "verdicts"}}
                for found in node.ask("studies", "findings", uid)
            ],
            "objects": [{"kind": kind, "sop_instance_uid": key} for key, kind, _ in written if kind],
            "seconds_to_pacs": _seconds_to_pacs(uid, view, node),
            "known_before": all(item["outcome"] == "duplicate" for item in _received_since(view, begun)),
        }
        for _, kind, path in written:
            if kind == ResultKind.SR:
                row["short_result"] += read_report(path).short_result
                say("  result     " + " ".join(read_report(path).short_result))
        numbers = Counter(kind for _, kind, _ in written if kind)
        back = ", ".join(f"{number} {kind}" for kind, number in numbers.items())
        say(f"  came back  {back or 'nothing'}; the PACS holds {len(files)} object(s) of the study")
        if row["seconds_to_pacs"] is not None:
            say(f"  took       {row['seconds_to_pacs']} s to the PACS ({QUIET_SECONDS:g} s quiet time)")
    say(f"  state      {row['state']} {row['reason']}")
    say(f"  files      {folder}/pacs")
    return row


def _send_as_modality(modality: str, images: list[Path], node: _Node) -> list[tuple[Outgoing, SendReport]]:
    """Send the images as on a real site, where the modality sends to PACS and node; returns the node's
    answers.
    """
    sender = Settings.model_validate(
        {
            "node": {"ae_title": "XRAY1" if modality in ("CR", "DX") else "US1"},
            "peers": node.receivers,
        }
    )
    for peer in sender.peers:  # the node is the last one
        sent = list(send_files(peer, sender, images))
    return sent


def _seconds_to_pacs(uid: str, view: Mapping[str, Any], node: _Node) -> float | None:
    """The seconds from the reception of the last new object to the confirmation of the last result; None
    without both.

    By the node's records: so a second run, which sends the same objects again, tells the time of the first.
    """
    deliveries = node.ask("outbox", "list", "--limit", "0", "--study", uid)
    times = [item["confirmed_at"] for item in deliveries if item["confirmed_at"]]
    new = [item["received_at"] for item in view["received"] if item["outcome"] in ("new", "revision")]
    if not times or not new:
        return None
    begin, end = datetime.fromisoformat(max(new)), datetime.fromisoformat(max(times))
    return round((end - begin).total_seconds(), 3)


def _wait_until_ended(uid: str, stored: set[str], begun: datetime, node: _Node) -> View:
    """Wait until the node knows all objects ``stored`` (UIDs) after ``begun`` and the study has ended.

    Returns the node's view of the study. Raises Unavailable.
    """
    while True:
        node.fail_if_ended()
        view: View = node.ask("studies", "show", uid) or {"received": [], "state": ""}
        # A faulty object is received, too, but may have no UID of its own.
        if view["state"] in END_STATES and len(_received_since(view, begun)) >= len(stored):
            return view
        time.sleep(1.0)  # each look is a process of its own


def _received_since(view: View, begun: datetime) -> list[View]:
    """The objects in the node's view of a study that were received from ``begun`` on."""
    return [item for item in view["received"] if datetime.fromisoformat(item["received_at"]) >= begun]


def _write_objects(folder: Path, files: Sequence[Path], kinds: dict[str, str]) -> list[tuple[str, str, Path]]:
    """Copy a study's files from the PACS to ``folder``/pacs, with previews of the images.

    ``kinds``: kind of result by UID. Returns (UID, kind, "" for a source image, new file) of each, sources
    first, then results by kind and number. Files of an earlier run are replaced.
    """
    shutil.rmtree(folder / "pacs", ignore_errors=True)
    for preview in folder.glob("[0-9][0-9]-*.png"):
        preview.unlink()
    (folder / "pacs").mkdir(parents=True)
    headers = [dcmread(path, stop_before_pixels=True) for path in files]
    headers.sort(key=lambda ds: (kinds.get(ds.get("SOPInstanceUID"), ""), int(ds.get("InstanceNumber") or 0)))
    written = []
    for number, header in enumerate(headers, start=1):
        kind = kinds.get(header.get("SOPInstanceUID"), "")
        name = f"{number:02d}-{kind or 'source'}"
        target = folder / "pacs" / f"{name}.dcm"
        shutil.copy(header.filename, target)
        if header.get("Rows"):
            # The middle frame as a viewer shows it; nothing for pixels that cannot be decoded.
            with suppress(PixelError):
                image = open_dicom(target)
                Image.fromarray(image.display(image.header.frames // 2)).save(folder / f"{name}.png")
        written.append((str(header.get("SOPInstanceUID")), kind, target))
    return written
