"""The figures of a study as ``figures.json``, as Markdown tables and as a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ai_training.engine.setup import device_name, run_options
from ai_training.evaluation.plots import BLUE, GREY, ORANGE, save
from ai_training.metrics import Interval
from ai_training.studies.compare import ArmRow
from ai_training.studies.experiment import ChestStudy
from ai_training.text import NOT_DIAGNOSTIC, interval, markdown_table, without_nan

MINUS = "−"


def write_report(
    out: Path, study: ChestStudy, rows: Sequence[ArmRow], left_out: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write ``figures.json``, ``report.md`` and ``arms.png`` into ``out``; returns the page.

    ``left_out``: arms that did not run, and why.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = {"study": study.model_dump(mode="json"), "machine": machine(), "arms": [asdict(r) for r in rows]}
    found["left_out"] = dict(left_out)
    (out / "figures.json").write_text(json.dumps(without_nan(found), indent=1))
    forest(out / "arms.png", rows)
    page = out / "report.md"
    not_run = [f"Left out: **{name}**, {why}." for name, why in left_out.items()]
    lines = [f"# {study.name}", "", f"**{NOT_DIAGNOSTIC}** {machine()}", "", *tables(rows), *not_run]
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def machine() -> str:
    """The processor or GPU, the threads and the version of torch that the study runs with."""
    device = torch.device(run_options().chosen_device())
    return f"{device_name(device)}, torch {torch.__version__}"


def tables(rows: Sequence[ArmRow]) -> list[str]:
    """One table of arms for each block, and one of AUCs by label."""
    blocks = dict.fromkeys(row.block for row in rows)
    lines: list[str] = []
    for block in blocks:
        lines += [*([f"## {block}", ""] if block else []), *_arms([r for r in rows if r.block == block])]
    return [*lines, *_labels(rows)]


def forest(path: Path, rows: Sequence[ArmRow]) -> None:
    """Plot each arm's mean AUC with its interval and the values of its seeds."""
    figure = Figure(figsize=(7, 0.8 + 0.32 * len(rows)), layout="constrained")
    axes: Axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.plot([row.auc.low, row.auc.high], [place, place], color=BLUE, linewidth=1.5)
        axes.plot(row.seeds, [place] * len(row.seeds), "o", color=GREY, markersize=3)
        axes.plot(row.auc.value, place, "s", color=ORANGE, markersize=5)
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    named = [f"{row.name} ({row.block})" if row.block else row.name for row in rows]
    axes.set_yticks(range(len(rows)), named, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("mean AUC inside sources, 95 % interval; grey: seeds", fontsize=8)
    save(figure, path)


def _arms(rows: Sequence[ArmRow]) -> list[str]:
    headings = (
        "arm",
        "learned from",
        "mean AUC",
        "seeds",
        "difference",
        "",
        "accuracy",
        "always no",
        "ms an image",
    )
    return markdown_table(headings, [_arm(row) for row in rows])


def _arm(row: ArmRow) -> list[str]:
    return [
        row.name,
        str(row.learned),
        text(row.auc),
        " ".join("–" if np.isnan(value) else f"{value:.3f}" for value in row.seeds),
        text(row.difference) if row.difference else "–",
        row.verdict,
        f"{row.accuracy:.3f}",
        f"{row.always_no:.3f}",
        f"{row.milliseconds:.1f}",
    ]


def _labels(rows: Sequence[ArmRow]) -> list[str]:
    names = list(dict.fromkeys(label.label for row in rows for label in row.labels))
    known = {(row.name, label.label): label for row in rows for label in row.labels}
    body = []
    for name in names:
        positives = {str(found.positives) for (_, label), found in known.items() if label == name}
        values = [_value(known.get((row.name, name))) for row in rows]
        body.append([name, "/".join(sorted(positives)), *values])
    return markdown_table(("label", "positives", *(row.name for row in rows)), body)


def _value(found: Any) -> str:
    return "–" if found is None or np.isnan(found.auc.value) else f"{found.auc.value:.2f}"


def text(found: Interval) -> str:
    """An interval as text: ``0.690 [0.648, 0.730]``; a dash if there are too few images."""
    return "–" if np.isnan(found.value) else interval(found.as_list(), minus=MINUS)
