#!/usr/bin/env python3
"""How many studies an hour a node manages, and how long results take while it does: a clinic's mix.

    benchmarks/throughput.py --data DIR [--studies N] [--shares .5 .8] [--json FILE] [--flame FILE]

Of ten studies six are chest X-rays (2,500 × 2,500), three ultrasound stills (1,024 × 768), one is a cine (60
frames of 640 × 480). One node with one worker and a real Orthanc as PACS, quiet time 0. First all studies are
sent as fast as the node takes them: that is the limit. Then they come evenly, at shares of the limit.
Turnaround is from the last acknowledgement of a study to its last result confirmed in the PACS. Processor
time is that of the node's processes; ``--flame`` writes the stacks that used it (py-spy, as root);
``plots.py`` draws them.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydicom import dcmread
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cleaning import write_cine
from benchmarks.lab import command_line, configuration
from benchmarks.turnaround import END, RULES, chests, seconds_to_confirmed, ultrasounds
from dicom_node.base.dicom.uids import derived_uid
from tests.node_lab import Node, running, store
from tests.wire.orthanc_lab import start_orthanc

FRAMES = 60
CHESTS, STILLS = 6, 3  # of ten; the tenth is a cine


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the public sets")
    parser.add_argument("--studies", type=int, default=40, help="of each rate")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.5, 0.8], help="of the limit")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--flame", type=Path, help="write the stacks of the first rate here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="throughput-") as name:
        folder = Path(name)
        mix = list(write_mix(given.data, folder))
        rows = [measure(folder / "limit", mix, given.studies, 0, given.flame)]
        for share in given.shares:
            rate = rows[0]["an_hour"] * share
            rows.append(measure(folder / f"share-{share}", mix, given.studies, rate))
    print_rows(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))
    return 0


def write_mix(data: Path, folder: Path) -> Iterator[Path]:
    """Write the images that are sent in turn, again and again: chest films, ultrasound stills and a cine;
    yields their files.
    """
    images = [*list(chests(data, CHESTS))[:CHESTS], *list(ultrasounds(data, STILLS))[:STILLS]]
    for number, image in enumerate(images):
        path = folder / f"{number}.dcm"
        image.save_as(path, enforce_file_format=True)
        yield path
    yield write_cine(data, folder / "cine.dcm", FRAMES)


def measure(
    folder: Path, mix: Sequence[Path], studies: int, rate: float, flame: Path | None = None
) -> dict[str, Any]:
    """Send ``studies`` studies of the files ``mix`` at ``rate`` an hour (0: without a pause) to a fresh node,
    which one study of each kind warms up.

    Returns turnaround in seconds, and processor time in seconds per study. ``flame`` as in ``_drawn``.
    """
    with (
        start_orthanc(folder / "pacs", ae_title="ORTHANC") as pacs,
        running(Node(folder / "node", configuration(pacs.dicom_port, *RULES))) as node,
    ):
        first = [copy_of(mix[place], -1 - place) for place in (0, CHESTS)]
        for image in first:
            store(node.port, [image], "MODALITY")
        node.wait_for(END, count=len(first))
        before = cpu_seconds(node.pid)
        with _drawn(node.pid, flame):
            begun = time.monotonic()
            sent = [_send(node, mix, number, rate, begun) for number in range(studies)]
            found = node.wait_for(END, count=studies + len(first), seconds=900)
            took = time.monotonic() - begun
        cpu = {
            name: (seconds - before.get(name, 0)) / studies for name, seconds in cpu_seconds(node.pid).items()
        }
        memory = sum(one.memory_full_info().pss for one in processes(node.pid)) / 2**20
        ended = [found[uid] for uid in sent]
        seconds = [seconds_to_confirmed(node, study) for study in ended if study["state"] == "delivered"]
    return {
        "rate": rate,
        "studies": studies,
        "an_hour": 3600 * studies / took,
        "p50": float(np.percentile(seconds, 50)),
        "p95": float(np.percentile(seconds, 95)),
        "cpu": cpu,
        "memory_mib": memory,
        "ends": dict(Counter(study["state"] for study in ended)),
    }


def copy_of(path: Path, number: int) -> Dataset:
    """Read an image, and make it study number ``number``, with UIDs of its own."""
    image = dcmread(path)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(image, keyword, derived_uid("throughput", keyword, str(number)))
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.PatientID = f"MIX{number}"
    return image


def _send(node: Node, mix: Sequence[Path], number: int, rate: float, begun: float) -> str:
    """Send study number ``number``, if ``rate`` (studies an hour) is not 0 at its time after ``begun``;
    returns its Study Instance UID.
    """
    image = copy_of(mix[(7 * number) % len(mix)], number)  # the kinds alternate
    if rate:
        time.sleep(max(0.0, begun + 3600 / rate * number - time.monotonic()))
    assert store(node.port, [image], "MODALITY") == [0x0000]
    return str(image.StudyInstanceUID)


def processes(pid: int) -> list[psutil.Process]:
    """The node's main process and all that it started."""
    main_process = psutil.Process(pid)
    return [main_process, *main_process.children(recursive=True)]


def cpu_seconds(pid: int) -> dict[str, float]:
    """Processor seconds by kind of process: ``dicom_node.receive``, ``dicom_node.jobs.worker``, …"""
    found: Counter[str] = Counter()
    for process in processes(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            words, times = process.cmdline(), process.cpu_times()
            name = words[words.index("-m") + 1] if "-m" in words else "other"
            found[name] += times.user + times.system + times.children_user + times.children_system
    return dict(found)


@contextlib.contextmanager
def _drawn(pid: int, flame: Path | None) -> Iterator[None]:
    """Context manager: record where the process and its children spend their time, by py-spy, into the file
    ``flame``; None: do not record.
    """
    if flame is None:
        yield
        return
    words = ["py-spy", "record", "--subprocesses", "--rate", "50", "--format", "raw"]
    recorder = subprocess.Popen(
        [*words, "--pid", str(pid), "--output", str(flame)], stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        recorder.send_signal(signal.SIGINT)  # py-spy writes its file then
        recorder.wait()


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """A table in Markdown, then processor seconds by process at the limit."""
    print("| sent an hour | studies | done an hour | turnaround p50 s | p95 s | CPU s a study | MiB | ends |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        told = {
            "rate": f"{row['rate']:.0f}" if row["rate"] else "at once",
            "cpu": sum(row["cpu"].values()),
            "ends": ", ".join(f"{count} {state}" for state, count in row["ends"].items()),
        }
        print(
            "| {rate} | {studies} | {an_hour:.0f} | {p50:.1f} | {p95:.1f} | {cpu:.2f} | {memory_mib:.0f} "
            "| {ends} |".format(**row | told)
        )
    print("\nProcessor seconds a study at the limit:")
    for name, seconds in sorted(rows[0]["cpu"].items(), key=lambda pair: -pair[1]):
        print(f"  {name:30}{seconds:.2f}")


if __name__ == "__main__":
    sys.exit(main())
