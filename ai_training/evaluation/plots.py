"""Plots, in colours that people with a colour vision deficiency can tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ai_training.text import interval

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


CURVES = "ROC; circle: not absent, square: present. Precision. Reliability; bars: 95 % of the bin's rate"


def draw_curves(path: Path, found: Mapping[str, Any], aucs: Mapping[str, Any]) -> Path:
    """Plot three curves for each label, a row each, and write them to ``path``: ROC with its AUC and the
    model card's two operating points; precision over recall, with the prevalence, which guessing reaches; the
    rate in ten equally full bins over the mean probability there. ``found``: the curves by label; ``aucs``:
    by label.
    """
    figure = Figure(figsize=(7.5, 2.5 * max(1, len(found))), layout="constrained")
    grid = figure.subplots(max(1, len(found)), 3, squeeze=False)
    for (roc, precision, reliability), (label, one) in zip(grid, found.items(), strict=False):
        roc.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        roc.plot(*one["roc"], color=BLUE)
        for point, marker, decision in zip(one["operating"], "os", ("not absent", "present"), strict=True):
            roc.plot(*point, marker, color=ORANGE, markersize=5, label=decision)
        roc.set(xlabel="1 − specificity", ylabel="sensitivity", title=f"{label}\n{interval(aucs.get(label))}")
        precision.axhline(one["rate"], color=GREY, linewidth=0.8, linestyle=":")
        precision.plot(*one["pr"], color=BLUE)
        precision.set(xlabel="recall", ylabel="precision", title=f"prevalence {one['rate']:.3f}")
        precision.set(xlim=(-0.03, 1.03), ylim=(0, 1.03))
        points = np.array(one["reliability"], float)
        end = min(1.0, max(0.05, 1.15 * float(points[:, :2].max())))
        reliability.plot([0, end], [0, end], color=GREY, linewidth=0.8, linestyle=":")
        error = 1.96 * np.sqrt(points[:, 1] * (1 - points[:, 1]) / points[:, 2])
        reliability.errorbar(
            points[:, 0], points[:, 1], yerr=error, color=BLUE, marker="o", markersize=3, linewidth=1
        )
        reliability.set(xlabel="probability", ylabel="rate", xlim=(0, end), ylim=(0, end))
    if found:
        grid[0, 0].legend(loc="lower right", fontsize=7)
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as PNG to ``path``: the same figures give the same bytes."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


DECISIONS = ("not found", "unclear", "suspected", "refused")
"""What a confusion of one label has for columns; more names than these are written aslant."""


def draw_confusions(path: Path, found: Mapping[str, tuple[Sequence[str], Sequence[str], Any]]) -> Path:
    """Draw a confusion matrix for each title of ``found``: names of the rows (truth), names of the columns
    (answer), counts ``[rows, columns]``. A cell is the darker the larger its share of the row.
    """
    sizes = [(len(rows), len(columns)) for rows, columns, _ in found.values()]
    high, wide = (sum(rows for rows, _ in sizes), max((columns for _, columns in sizes), default=1))
    figure = Figure(figsize=(3 + 0.8 * wide, 1 + 1.1 * len(sizes) + 0.4 * high), layout="constrained")
    grid = figure.subplots(max(1, len(sizes)), 1, squeeze=False)[:, 0]
    for axes, (title, (rows, columns, counts)) in zip(grid, found.items(), strict=False):
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            ink = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=ink, fontsize=8)
        many = len(columns) > len(DECISIONS)
        axes.set_xticks(
            range(len(columns)), columns, rotation=30 if many else 0, ha="right" if many else "center"
        )
        axes.set_yticks(range(len(rows)), rows)
        axes.set(title=title, ylabel="truth")
    return save(figure, path)


def draw_pictures(path: Path, pictures: Sequence[Any], captions: Sequence[str]) -> Path:
    """Draw ``pictures`` (uint8, grey or RGB, any size), four in a row, each under its caption."""
    rows = max(1, -(-len(pictures) // 4))
    figure = Figure(figsize=(11, 3.1 * rows), layout="constrained")
    cells = figure.subplots(rows, 4, squeeze=False).ravel()
    for axes in cells:
        axes.set_axis_off()
    for axes, picture, caption in zip(cells, pictures, captions, strict=False):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes.set_title(caption, fontsize=8)
    return save(figure, path)
