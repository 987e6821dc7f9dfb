#!/usr/bin/env python3
"""The three plots of docs/benchmarks.md, from what the benchmarks wrote with ``--json``.

benchmarks/plots.py --receive FILE --throughput FILE --out docs/pictures
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lab import command_line

OBJECTS = "0.5 MiB"
COLOURS = {"this node": "#d95f02", "storescp, a sync per file": "#1f78b4", "Orthanc": "#7f7f7f"}


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--receive", type=Path, required=True, help="of receive.py")
    parser.add_argument("--throughput", type=Path, required=True, help="of throughput.py")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    draw(given.out / "benchmark-receive.png", receive, json.loads(given.receive.read_text())["rows"])
    rows = json.loads(given.throughput.read_text())
    draw(given.out / "benchmark-turnaround.png", turnaround, rows)
    draw(given.out / "benchmark-processor.png", processor, rows)
    return 0


def draw(path: Path, plot: Any, found: Any) -> None:
    """One picture with one plot of ``found``."""
    figure = Figure(figsize=(6, 2.8), layout="constrained")
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


def processor(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Processor seconds a study at the limit, by process."""
    spent = sorted(next(row["cpu"] for row in rows if not row["rate"]).items(), key=lambda pair: pair[1])
    axes.barh([name for name, _ in spent], [seconds for _, seconds in spent], color="#1f78b4")
    axes.set(xlabel="processor seconds a study, at the limit")


if __name__ == "__main__":
    sys.exit(main())
