#!/usr/bin/env python3
"""Seconds from the last C-STORE acknowledgement of a study to its results confirmed in the PACS.

    benchmarks/turnaround.py [--studies N] [--data DIR] [--json FILE]

One run starts a real Orthanc as PACS and the node with quiet time 0, sends chest X-rays (2,500 × 2,500 DX
made from the public NIH images under ``--data``) and ultrasound stills (1,024 × 768, from the public ovarian
set) one study at a time, and reads the times that the node itself recorded. Quiet time is a setting that a
site chooses, so it is counted apart: it is added in full to what a radiologist waits.
"""

import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lab import command_line, configuration, rule
from tests.modality import chest, ultrasound, ultrasound_from
from tests.node_lab import Node, running, store
from tests.wire.orthanc_lab import start_orthanc

RULES = (rule("ultrasound", ["US"]), rule("chest_xray", ["DX"]))
SIZE = 2500
END = ("delivered", "failed", "not_applicable", "quarantined")


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--studies", type=int, default=10, help="studies of each kind")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with the public sets"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    rows = {
        "chest DX 2500 × 2500": measure(list(chests(args.data, args.studies))),
        "ultrasound 1024 × 768": measure(list(ultrasounds(args.data, args.studies))),
    }
    print(f"{'study':24}{'n':>4}{'p50 s':>8}{'p95 s':>8}{'worst':>8}  ended as")
    for name, (seconds, states) in rows.items():
        p95 = float(np.percentile(seconds, 95))
        print(
            f"{name:24}{len(seconds):>4}{statistics.median(seconds):>8.2f}{p95:>8.2f}{max(seconds):>8.2f}"
            f"  {', '.join(sorted(set(states)))}"
        )
    if args.json:
        args.json.write_text(
            json.dumps({name: {"seconds": row[0], "states": row[1]} for name, row in rows.items()})
        )
    return 0


def measure(images: list[Dataset]) -> tuple[list[float], list[str]]:
    """Send one study after the other; the first warms caches up and is not counted."""
    seconds, states = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        start_orthanc(Path(folder) / "pacs", ae_title="ORTHANC") as pacs,
        running(Node(Path(folder) / "node", configuration(pacs.dicom_port, *RULES))) as node,
    ):
        for number, image in enumerate(images):
            assert store(node.port, [image], "MODALITY") == [0x0000]
            study = node.wait_for(END, count=number + 1)[image.StudyInstanceUID]
            if number:
                seconds.append(seconds_to_confirmed(node, study))
                states.append(study["state"])
    return seconds, states


def seconds_to_confirmed(node: Node, study: dict[str, Any]) -> float:
    """The seconds from the last acknowledged object of a study to its last confirmed delivery, by the node's
    own records.
    """
    rows = node.cli("outbox", "list", "--study", study["study_instance_uid"], "--limit", "0")
    last = max(datetime.fromisoformat(row["confirmed_at"]) for row in rows)
    return (last - datetime.fromisoformat(study["last_received_at"])).total_seconds()


def chests(data: Path, count: int) -> Iterator[Dataset]:
    """Yield ``count`` and one more public frontal chest X-rays, enlarged to a detector's matrix, each a study
    of its own.
    """
    manifest = data / "cxr_nih" / "manifest.csv"
    if not manifest.exists():
        sys.exit(f"no chest X-rays under {data}: the pipeline refuses a phantom, which would measure nothing")
    with manifest.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test" and int(row["age"]) >= 18]
    for row in rows[: count + 1]:
        picture = Image.open(manifest.parent / row["file"]).convert("L").resize((SIZE, SIZE))
        yield chest(row["nih_name"], np.asarray(picture).astype("<u2") * 16)


def ultrasounds(data: Path, count: int) -> Iterator[Dataset]:
    """Yield ``count`` and one more ultrasound images of 1,024 × 768, each a study: enlarged public ovarian
    frames, or synthetic ones without that set.
    """
    manifest = data / "us_ovarian" / "manifest.csv"
    if not manifest.exists():
        yield from (ultrasound(f"bench{number}", size=(1024, 768)) for number in range(count + 1))
        return
    with manifest.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    for row in rows[: count + 1]:
        picture = Image.open(manifest.parent / row["file"]).convert("RGB").resize((1024, 768))
        yield ultrasound_from(row["file"], np.asarray(picture))


if __name__ == "__main__":
    sys.exit(main())
