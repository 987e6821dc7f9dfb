#!/usr/bin/env python3
"""The three plots of docs/benchmarks.md, from what the benchmarks wrote with ``--json``.

benchmarks/plots.py --receive FILE --throughput FILE --flame FILE --out docs/pictures
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lab import command_line

OBJECTS = "0.5 MiB"
SHOWN = ("ai_pipeline", "dicom_node", "rapidocr", "onnxruntime")
FLAMES = ("#fdae61", "#fee090", "#f46d43")
DEEPEST, NARROWEST = 11, 0.006
COLOURS = {"this node": "#d95f02", "storescp, a sync per file": "#1f78b4", "Orthanc": "#7f7f7f"}


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--receive", type=Path, required=True, help="of receive.py")
    parser.add_argument("--throughput", type=Path, required=True, help="of throughput.py")
    parser.add_argument("--flame", type=Path, required=True, help="of throughput.py")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    draw(given.out / "benchmark-receive.png", receive, json.loads(given.receive.read_text())["rows"])
    rows = json.loads(given.throughput.read_text())
    draw(given.out / "benchmark-turnaround.png", turnaround, rows)
    draw(given.out / "benchmark-flame.png", flame, read_stacks(given.flame), size=(9, 3.6))
    return 0


def draw(path: Path, plot: Any, found: Any, size: tuple[float, float] = (6, 2.8)) -> None:
    """One picture with one plot of ``found``, ``size`` in inches."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    plot(figure.subplots(), found)
    figure.savefig(path, dpi=100)


def receive(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Objects a second of the durable receivers, by associations."""
    numbers = sorted({row["associations"] for row in rows if row["objects"] == OBJECTS})
    for place, (name, colour) in enumerate(COLOURS.items()):
        speed = {
            row["associations"]: row["files_per_second"]
            for row in rows
            if row["receiver"] == name and row["objects"] == OBJECTS
        }
        axes.bar(
            [k + 0.27 * (place - 1) for k in range(len(numbers))],
            [speed.get(n, 0) for n in numbers],
            0.25,
            label=name,
            color=colour,
        )
    axes.set_xticks(range(len(numbers)), [str(number) for number in numbers])
    axes.set(xlabel="associations at once", ylabel=f"objects of {OBJECTS} a second")
    axes.legend(fontsize=8)


def turnaround(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Seconds from the last image to the results in the PACS, by studies an hour."""
    paced = sorted((row for row in rows if row["rate"]), key=lambda row: row["rate"])
    for key, label in (("p95", "95th percentile"), ("p50", "median")):
        axes.plot([row["rate"] for row in paced], [row[key] for row in paced], "o-", label=label)
    limit = next(row["an_hour"] for row in rows if not row["rate"])
    axes.axvline(limit, color="#7f7f7f", linestyle=":", label="limit of two cores")
    axes.set(xlabel="studies an hour", ylabel="seconds to the results", ylim=(0, None))
    axes.legend(fontsize=8)


def flame(axes: Axes, stacks: list[tuple[list[str], int]]) -> None:
    """Draw a flame graph of the worker's jobs: each step as wide as its share of their time, above the steps
    that it called. ``stacks``: (names of the steps, outermost first; samples).
    """
    whole = sum(count for _, count in stacks)
    _flames(axes, stacks, whole, 0.0, 0)
    axes.set(xlim=(0, 1), ylim=(-DEEPEST, 0), yticks=[], xlabel="share of a worker's time in jobs")
    axes.spines[:].set_visible(False)


def _flames(axes: Axes, stacks: list[tuple[list[str], int]], whole: int, left: float, depth: int) -> None:
    """Draw the steps at one depth that the same step called, the widest first, and all below them. ``whole``:
    samples in all; ``left``: where their caller begins.
    """
    below: dict[str, list[tuple[list[str], int]]] = {}
    for steps, count in stacks:
        if steps and depth < DEEPEST:
            below.setdefault(steps[0], []).append((steps[1:], count))
    for name, own in sorted(below.items(), key=lambda pair: -sum(count for _, count in pair[1])):
        width = sum(count for _, count in own) / whole
        if width > NARROWEST:
            axes.add_patch(
                Rectangle((left, -depth - 0.95), width, 0.9, facecolor=FLAMES[depth % len(FLAMES)])
            )
            letters = int(width * 125)
            text = name if len(name) <= letters else name.split(".")[-1]
            text = text if len(text) <= letters else ""
            axes.text(
                left + width / 2, -depth - 0.5, text, ha="center", va="center", fontsize=6, clip_on=True
            )
            _flames(axes, own, whole, left, depth + 1)
        left += width


def read_stacks(path: Path) -> list[tuple[list[str], int]]:
    """The stacks of jobs that py-spy wrote: names of our functions and of the networks' libraries, and how
    often each stack was seen.
    """
    found = []
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [(name, file) for name, _, file in (one.partition(" (") for one in stack.split(";"))]
        start = next((k for k, (name, _) in enumerate(frames) if name.endswith("JobRunner._end")), None)
        if start is not None:
            own = [name for name, file in frames[start + 1 :] if file.startswith(SHOWN) and "<" not in name]
            found.append((own, int(count)))
    return found


if __name__ == "__main__":
    sys.exit(main())
