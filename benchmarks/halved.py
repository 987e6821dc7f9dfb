#!/usr/bin/env python3
"""What halving a large film as it is decoded does to its findings: all public test films, in pairs.

    benchmarks/halved.py --data DIR [--films N]

    example: benchmarks/halved.py --data ../shared/data

Each film of an adult is enlarged to 2,500 × 2,500 and analysed three times: in full, halved, and in full but
moved by one pixel, which changes nothing that a person could see. Stamps are not read. Prints the AUC of each
label, and how many decisions, refusals and boxes change.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ai_pipeline.chest import pipeline
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.chest.ratio import CARDIOTHORACIC_RATIO
from ai_pipeline.contract import Accept, Finding
from ai_pipeline.images import resolutions
from ai_pipeline.images.decode import open_dicom
from benchmarks.lab import command_line
from benchmarks.turnaround import SIZE, chest

SETS = ("cxr_nih", "cxr_nih_more")
WAYS = ("in full", "halved", "moved by a pixel")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the pipeline says of a film in one way: ``values`` and ``decisions`` by label, ``boxes`` by label
    (left, top, right, bottom in pixels), the cardiothoracic ``ratio``; all None or empty if it is refused.
    """

    values: dict[str, float]
    decisions: dict[str, str]
    boxes: dict[str, tuple[float, ...]]
    ratio: float | None


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the public sets")
    parser.add_argument("--films", type=int, help="at most so many of each set")
    given = parser.parse_args()
    rows = [row for name in SETS for row in list(films(given.data / name))[: given.films]]
    cores = sorted(os.sched_getaffinity(0))
    with multiprocessing.Pool(len(cores)) as pool:
        chunks = [rows[start :: len(cores)] for start in range(len(cores))]
        parts = pool.starmap(answers, zip(cores, chunks, strict=True))
    found = [pair for part in parts for pair in part]
    print_table(found)
    return 0


def films(folder: Path) -> Iterator[dict[str, str]]:
    """The rows of a set's test films of adults."""
    with (folder / "manifest.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "test" and int(row["age"]) >= 18:
                yield {**row, "file": str(folder / row["file"])}


def answers(core: int, rows: list[dict[str, str]]) -> list[tuple[dict[str, str], list[Answer]]]:
    """Each film's answers in all ``WAYS``, on one core."""
    os.sched_setaffinity(0, {core})
    chest_xray = ChestXray()
    chest_xray.warm_up()
    with mock.patch.object(pipeline, "read_stamps", lambda *_: None):
        return [(row, [answer(chest_xray, row, way) for way in WAYS]) for row in rows]


def answer(chest_xray: ChestXray, row: dict[str, str], way: str) -> Answer:
    """Analyse one film in one of ``WAYS``."""
    picture = Image.open(row["file"]).convert("L").resize((SIZE, SIZE))
    samples = np.asarray(picture).astype("<u2") * 16
    if way == "moved by a pixel":
        samples = np.roll(samples, 1, axis=1)
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        chest(row["nih_name"], samples).save_as(file.name, enforce_file_format=True)
        image = open_dicom(Path(file.name))
        in_full = mock.patch.object(resolutions, "halvings", return_value=0)
        with nullcontext() if way == "halved" else in_full:
            if not isinstance(chest_xray.accepts([image]), Accept):
                return Answer({}, {}, {}, None)
            found = chest_xray.run([image], lambda *_: None, {"all_labels": True})
    ratio = next((one.value for one in found.measurements if one.quantity == CARDIOTHORACIC_RATIO), None)
    return Answer(
        dict(found.scores[0].values),
        {one.label: one.decision.value for one in found.findings},
        {one.label: bounds(one) for one in found.findings if one.regions},
        ratio,
    )


def bounds(finding: Finding) -> tuple[float, ...]:
    """The first box of a finding."""
    return finding.regions[0].bounds


def print_table(found: list[tuple[dict[str, str], list[Answer]]]) -> None:
    """The AUC of each label, then the differences from the film in full."""
    whole = [(row, three) for row, three in found if all(one.values for one in three)]
    print(f"{len(found)} films; {len(whole)} analysed in all three ways")
    print(f"{'AUC':22}" + "".join(f"{way:>18}" for way in WAYS))
    for label in sorted(whole[0][1][0].values):
        truth = [int(row.get(label.replace(" ", "_"), "") or 0) for row, _ in whole]
        if 0 < sum(truth) < len(truth):
            scores = [[three[way].values[label] for _, three in whole] for way in range(len(WAYS))]
            print(f"{label:22}" + "".join(f"{roc_auc_score(truth, some):>18.4f}" for some in scores))
    for way in (1, 2):
        print(f"\n{WAYS[way]}, beside in full")
        refused = sum(bool(three[0].values) != bool(three[way].values) for _, three in found)
        print(f"  refused by one of the two: {refused}")
        print_differences([(three[0], three[way]) for _, three in whole])


def print_differences(pairs: list[tuple[Answer, Answer]]) -> None:
    """What differs between answers to the same films."""
    gaps = [abs(one.values[name] - other.values[name]) for one, other in pairs for name in one.values]
    mean, most = np.mean(gaps), np.percentile(gaps, 99)
    print(f"  probabilities differ by {mean:.4f} (mean), {most:.4f} (99th percentile)")
    decisions = [(a.decisions[name], b.decisions.get(name)) for a, b in pairs for name in a.decisions]
    changed = [{*two} for two in decisions if two[0] != two[1]]
    present = sum("present" in two for two in changed)
    print(f"  decisions changed: {len(changed)} of {len(decisions)}, to or from present {present}")
    overlaps = [overlap(a.boxes[name], b.boxes[name]) for a, b in pairs for name in {*a.boxes} & {*b.boxes}]
    alone = sum(len({*one.boxes} ^ {*other.boxes}) for one, other in pairs)
    print(f"  boxes of both {len(overlaps)}, overlap {np.mean(overlaps):.3f} (mean); of one only {alone}")
    ratios = [abs(one.ratio - other.ratio) for one, other in pairs if one.ratio and other.ratio]
    alone = sum((one.ratio is None) != (other.ratio is None) for one, other in pairs)
    print(f"  ratios of both {len(ratios)}, differ by {np.mean(ratios):.4f} (mean); of one only {alone}")


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    sides = [max(0.0, min(one[k + 2], other[k + 2]) - max(one[k], other[k])) for k in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


if __name__ == "__main__":
    sys.exit(main())
