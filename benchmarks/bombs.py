"""A good study beside every kind of bomb, on a running node: does anybody notice?

Sends good ultrasound studies alone and measures receipt to delivery; then puts each bomb of
tests/hostile before one and measures again, with the largest memory that a process of the node has had.
By hand: ``python benchmarks/bombs.py``.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from pydicom import dcmread
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lab import command_line, configuration, rule
from benchmarks.sender import associate, load
from tests.hostile import test_decoding_bombs as decoding
from tests.hostile import test_object_bombs as headers
from tests.inbox_lab import encoded
from tests.modality import ultrasound
from tests.node_lab import Node, running, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.waiting import wait_until

ENDS = {"delivered", "quarantined", "failed", "not_applicable"}


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--alone", type=int, default=9, help="good studies without a bomb (default: 9)")
    rounds = parser.parse_args().alone
    with tempfile.TemporaryDirectory() as name, run_pacs(Pacs(free_port())) as pacs:
        folder = Path(name)
        with running(Node(folder / "node", quick(pacs.port))) as node:
            seconds(node, "warm", None)
            alone = [seconds(node, f"alone-{number}", None) for number in range(rounds)]
            usual = statistics.median(alone)
            print(f"alone: median {usual:.2f} s, slowest {max(alone):.2f} s; {memory(node)}")
            for bomb, ds in bombs(folder):
                took = seconds(node, f"beside {bomb}", ds)
                print(f"{took:6.2f} s, {took / usual:4.1f} x  beside {bomb:22} {memory(node)}", flush=True)
            states = [study["state"] for study in node.studies().values()]
            print({state: states.count(state) for state in sorted(set(states))})
    return 0


def quick(pacs: int, *rules: str) -> str:
    """A node that analyses ultrasound at once and waits for no confirmation."""
    ultrasounds = rule("ultrasound", ["US"])
    return configuration(pacs, ultrasounds, *rules, title="PACS", quiet=0.2, confirm="none")


def seconds(node: Node, name: str, before: Path | None) -> float:
    """From the first byte of a good study to its delivery; ``before`` is sent ahead of it."""
    good = ultrasound(name)
    if before is not None:
        item = load(before)
        sender = associate(
            ("127.0.0.1", node.port), [(item.sop_class_uid, [item.transfer_syntax_uid])], calling="MODALITY"
        )
        sender.store(1, item)
        sender.release()
    began = time.monotonic()
    assert store(node.port, [good], "MODALITY") == [0x0000]
    wait_until(lambda: state_of(node, str(good.StudyInstanceUID)) in ENDS, 300, name, step=0.02)
    took = time.monotonic() - began
    assert state_of(node, str(good.StudyInstanceUID)) == "delivered"
    return took


def state_of(node: Node, study_uid: str) -> str:
    return str(node.studies().get(study_uid, {}).get("state", ""))


def bombs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each as a file of its own study that the rule takes."""
    for name, (frame, syntax, rows, columns, _) in decoding.BOMBS.items():
        path = decoding.bomb(folder, frame, syntax, rows, columns)
        ds = dcmread(path)
        ds.Modality, ds.StudyInstanceUID = "US", generate_uid()
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.save_as(path)
        yield name, path
    heads = {"items": headers.empty_items(500_000), "nested items": headers.nested(1000)}
    for name, head in {**heads, "attributes": headers.attributes(210_000)}.items():
        image = ultrasound(name)
        path = folder / "header.dcm"
        image.save_as(path, enforce_file_format=True)
        whole, data = path.read_bytes(), encoded(image)
        path.write_bytes(whole[: len(whole) - len(data)] + head + data)
        yield name, path


def memory(node: Node) -> str:
    """The largest resident memory that each process has had so far, MiB."""
    found = []
    for process in [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]:
        with contextlib.suppress(OSError, psutil.NoSuchProcess):  # the process of a frame lives for a moment
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = status.partition("VmHWM:")[2].split()[0]
            words = [word for word in process.cmdline() if word.startswith(("dicom_node", "ai_pipeline"))]
            found.append(f"{(words or ['?'])[-1].removeprefix('dicom_node.')} {int(peak) // 1024}")
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
