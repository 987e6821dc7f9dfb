#!/usr/bin/env python3
"""Seconds until the port answers with a backlog in the spool, until the first film is delivered, until a
changed rule is in force, and of a film that arrives behind a cine.

    benchmarks/start.py [--backlog N] [--rounds N] [--frames N] [--data DIR]

* **Start**: ``dicom-node serve`` with an empty spool and with files waiting in it, in turn: from the start of
  the main process, and from that of the listener, until a peer is let in; processor time of the listener;
  which processes hold torch.
* **First film, changed rule**: ``dicom-node serve`` with a rule for chest X-rays gets one as soon as its port
  answers: from the start of the main process to the film's delivery. Then the rule changes: from the reload
  until a worker is ready under it. Both with the processor time of all processes.
* **Film behind a cine**: a node with one worker gets a chest X-ray alone, then one behind a cine that is
  being cleaned: from its acknowledgement to its delivery. Public images of ``--data``, as in turnaround.py.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bombs import ENDS, quick, state_of
from benchmarks.lab import command_line, configuration, rule
from benchmarks.sender import associate
from benchmarks.turnaround import chests
from dicom_node.inbox.header import Arrival
from dicom_node.inbox.spool import Spool
from tests.inbox_lab import spooled
from tests.modality import set_pixels, ultrasound
from tests.node_lab import Node, running, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.waiting import wait_until
from tests.wire.receiver import EXPLICIT, US
from tests.wire.receiver import ultrasound as small

LIMIT = 1.5  # seconds until the port answers
CINE = (480, 640, 3)


@dataclass(frozen=True, slots=True)
class Start:
    """Until the first association was accepted. ``busy``: processor seconds of the listener."""

    node: float
    listener: float
    busy: float
    torch: tuple[str, ...]


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--backlog", type=int, default=1500, help="files that wait in the spool")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind, and films of each kind")
    parser.add_argument("--frames", type=int, default=240, help="of the cine; 0: no cine and no film")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with the public sets"
    )
    args = parser.parse_args()
    print_starts(args.backlog, args.rounds)
    print_first(args.data, args.rounds)
    if args.frames:
        print_films(args.data, args.rounds, args.frames)
    return 0


def print_starts(backlog: int, rounds: int) -> None:
    starts: dict[int, list[Start]] = {0: [], backlog: []}
    for _ in range(rounds):
        for files, found in starts.items():
            found.append(start(files))
    print(f"{'files that wait':>16}{'serve s':>10}{'listener s':>12}{'worst':>8}{'busy s':>8}  torch in")
    for files, found in starts.items():
        figures = [statistics.median(getattr(one, name) for one in found) for name in ("node", "listener")]
        worst, busy = max(one.listener for one in found), statistics.median(one.busy for one in found)
        held = sorted({name for one in found for name in one.torch})
        print(
            f"{files:>16}{figures[0]:>10.2f}{figures[1]:>12.2f}{worst:>8.2f}{busy:>8.2f}"
            f"  {', '.join(held) or 'none'}   (at most {LIMIT} s)"
        )


def start(backlog: int) -> Start:
    """A fresh node on a spool with ``backlog`` files, until its port answers."""
    with tempfile.TemporaryDirectory() as name, serving(Path(name), backlog) as (process, port):
        wait_until(lambda: answers(port), 120, "an answer at the port", step=0.01)
        now = time.time()
        family = {kind(one): one for one in (process, *process.children(recursive=True))}
        listener = family["scp"]
        return Start(
            node=now - process.create_time(),
            listener=now - listener.create_time(),
            busy=sum(listener.cpu_times()[:2]),
            torch=tuple(name for name, one in family.items() if holds_torch(one)),
        )


@contextmanager
def serving(folder: Path, backlog: int) -> Iterator[tuple[psutil.Process, int]]:
    """``dicom-node serve`` as it is started by hand, not waited for; ended with all that it started."""
    node = Node(folder, quick(1))
    spool = Spool(folder / "var" / "spool", 0)
    arrival = Arrival("former", "MODALITY", "AINODE", "127.0.0.1", 0, datetime.now(UTC))
    for number in range(backlog):
        item = small(number, pixels=5000)
        spooled(spool, arrival, US, item.sop_instance_uid, EXPLICIT, [item.data_set])
    with served(node) as process:
        yield process, node.port


@contextmanager
def served(node: Node) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(node.config)]
    with node.log.open("wb") as log, subprocess.Popen(command, stderr=log, cwd=node.folder) as started:
        process = psutil.Process(started.pid)
        try:
            yield process
        finally:
            for one in (process, *process.children(recursive=True)):
                one.kill()


def answers(port: int) -> bool:
    try:
        associate(("127.0.0.1", port), [(US, [EXPLICIT])], calling="MODALITY").release()
    except OSError:
        return False
    return True


def kind(process: psutil.Process) -> str:
    """``scp``, ``inbox``, ``jobs.worker``, or ``main``."""
    modules = [word for word in process.cmdline() if word.startswith("dicom_node.")]
    return modules[0].removeprefix("dicom_node.") if modules else "main"


def holds_torch(process: psutil.Process) -> bool:
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


def print_first(data: Path, rounds: int) -> None:
    films = list(chests(data, rounds))
    first, changed = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name, run_pacs(Pacs(free_port())) as pacs:
            site = configuration(pacs.port, rule("chest_xray", ["DX"]), title="PACS", confirm="none")
            node = Node(Path(name), site)
            with served(node) as process:
                wait_until(lambda port=node.port: answers(port), 120, "an answer at the port", step=0.01)
                delivered(node, films.pop())
                first.append((time.time() - process.create_time(), busy(process)))
                changed.append(reloaded(node, process))
    for words, found in {"serve to the first film": first, "a changed rule": changed}.items():
        clock, processor = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{words:24} median {clock:5.2f} s, worst {max(found)[0]:5.2f} s, processor {processor:5.2f} s")


def reloaded(node: Node, process: psutil.Process) -> tuple[float, float]:
    """Seconds until the worker is ready under a changed rule, and processor seconds of all processes."""
    text = node.config.read_text(encoding="utf-8")
    node.config.write_text(text.replace('["DX"]', '["DX", "CR"]'), encoding="utf-8")
    ready, before, began = ready_workers(node), busy(process), time.monotonic()
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: ready_workers(node) > ready, 120, "a worker under the new rule", step=0.01)
    return time.monotonic() - began, busy(process) - before


def ready_workers(node: Node) -> int:
    """How often one was ready."""
    return node.log.read_text(encoding="utf-8").count("pipelines loaded in")


def busy(process: psutil.Process) -> float:
    """Processor seconds of it and all its children so far, those that ended included."""
    family = (process, *process.children(recursive=True))
    return sum(sum(one.cpu_times()[:4]) for one in family)


def print_films(data: Path, rounds: int, frames: int) -> None:
    films = list(chests(data, 2 * rounds))
    with tempfile.TemporaryDirectory() as name, run_pacs(Pacs(free_port())) as pacs:
        config = quick(pacs.port, rule("chest_xray", ["DX"]))
        with running(Node(Path(name) / "node", config)) as node:
            delivered(node, films.pop())  # it loads the models
            alone, behind, left = [], [], []
            for number in range(rounds):
                alone.append(delivered(node, films.pop()))
                film, long = films.pop(), cine(f"cine-{number}", frames)
                assert store(node.port, [long], "MODALITY") == [0x0000]
                wait_until(lambda cine=long: state(node, cine) in {"running", *ENDS}, 120, "the cine's job")
                behind.append(delivered(node, film))
                began = time.monotonic()
                wait_until(lambda cine=long: state(node, cine) in ENDS, 900, "the cine delivered", step=0.05)
                left.append(time.monotonic() - began)
    for words, seconds in {"alone": alone, "behind a cine": behind}.items():
        print(f"film {words:14} median {statistics.median(seconds):6.2f} s, worst {max(seconds):6.2f} s")
    print(f"the cine's results came {statistics.median(left):.2f} s after the film's ({frames} frames)")


def delivered(node: Node, image: Dataset) -> float:
    """Seconds from acknowledgement to delivery."""
    assert store(node.port, [image], "MODALITY") == [0x0000]
    began = time.monotonic()
    wait_until(lambda: state(node, image) in ENDS, 900, "the film delivered", step=0.05)
    return time.monotonic() - began


def state(node: Node, image: Dataset) -> str:
    return state_of(node, str(image.StudyInstanceUID))


def cine(name: str, frames: int) -> Dataset:
    """Colour frames that differ, as those of a modality do."""
    ds = ultrasound(name)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    random = np.random.default_rng(1)
    pictures: Sequence[np.ndarray] = [random.integers(0, 60, CINE, np.uint8) for _ in range(frames)]
    set_pixels(ds, pictures[0], "RGB", 8)
    ds.NumberOfFrames, ds.FrameTime, ds.FrameIncrementPointer = frames, 40, 0x00181063
    ds.PixelData = b"".join(picture.tobytes() for picture in pictures)
    return ds


if __name__ == "__main__":
    sys.exit(main())
