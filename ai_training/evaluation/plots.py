"""Write the report of an evaluation: PNG plots and one Markdown page that shows them.

Plots are drawn without a display and without pyplot's global state. Colours are those of Okabe and Ito, which
people with a colour vision deficiency can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ai_training.text import NOT_DIAGNOSTIC, interval, markdown_table

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
COLUMNS = 4
BASELINES = {"hog": "HOG + kernel ridge", "age_sex_view": "age, sex, view", "source": "source alone"}
DPI = 110


def write_report(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write the plots of :func:`ai_training.evaluation.evaluate.evaluate_chest`'s ``result`` and
    ``report.md``; returns the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Report", "", f"**{NOT_DIAGNOSTIC}**", "", *_evaluation(folder, result)]
    page = folder / "report.md"
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def roc_curves(folder: Path, name: str, found: Mapping[str, Any], rows: Mapping[str, Any]) -> Path:
    """Plot one panel per label: the ROC curve, its AUC, and the card's two operating points."""

    def draw(axes: Axes, label: str) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        axes.plot(*found[label]["roc"], color=BLUE)
        for point, marker in zip(found[label]["operating"], "os", strict=True):
            axes.plot(*point, marker=marker, color=ORANGE, markersize=5)
        axes.set_title(f"{label}\n{interval(rows.get(label))}", fontsize=8)

    return _panels(folder / f"roc-{_slug(name)}.png", list(found), draw, "1 − specificity", "sensitivity")


def precision_recall_curves(folder: Path, name: str, found: Mapping[str, Any]) -> Path:
    """Plot one panel per label: precision over recall, and the prevalence, which guessing reaches."""

    def draw(axes: Axes, label: str) -> None:
        axes.axhline(found[label]["rate"], color=GREY, linewidth=0.8, linestyle=":")
        axes.plot(*found[label]["pr"], color=BLUE)
        axes.set_title(f"{label}\nprevalence {found[label]['rate']:.3f}", fontsize=8)

    return _panels(folder / f"precision-recall-{_slug(name)}.png", list(found), draw, "recall", "precision")


def reliability_plots(folder: Path, name: str, found: Mapping[str, Any]) -> Path:
    """Plot one panel per label: the rate in ten equally full bins over the mean probability in them."""

    def draw(axes: Axes, label: str) -> None:
        points = np.array(found[label]["reliability"], float)
        end = min(1.0, max(0.05, 1.15 * float(points[:, :2].max())))
        axes.plot([0, end], [0, end], color=GREY, linewidth=0.8, linestyle=":")
        error = 1.96 * np.sqrt(points[:, 1] * (1 - points[:, 1]) / points[:, 2])
        axes.errorbar(
            points[:, 0], points[:, 1], yerr=error, color=BLUE, marker="o", markersize=3, linewidth=1
        )
        axes.set(xlim=(0, end), ylim=(0, end))
        axes.set_title(label, fontsize=8)

    return _panels(folder / f"reliability-{_slug(name)}.png", list(found), draw, "probability", "rate")


def forest(folder: Path, result: Mapping[str, Any]) -> Path:
    """Plot every AUC with its interval, source by source; means and baselines at the bottom."""
    rows: list[tuple[str, Sequence[float | None], str]] = []
    colours = dict(zip([row["source"] for row in result["sources"]], (BLUE, GREEN, ORANGE), strict=False))
    for source in result["sources"]:
        colour = colours.get(source["source"], GREY)
        rows += [(f"{k}, {v['positives']}", v["auc"], colour) for k, v in source["labels"].items()]
        rows.append((f"mean of {source['source']}", source["mean_auc"], colour))
    within = result["within_source"]
    rows.append(("mean within sources", within["model"], "black"))
    rows += [(f"  {title}", within[name], GREY) for name, title in BASELINES.items() if name in within]
    known = [row for row in rows if row[1][0] is not None]
    figure, axes = _intervals(known)
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=0.8)
    axes.set(xlabel="AUC, 95 % by patients; after the label its positives", xlim=(0.3, 1.0))
    return save(figure, folder / "auc.png")


def differences(path: Path, tables: Mapping[str, Mapping[str, Any]], margin: float) -> Path:
    """Plot the paired ``difference`` of macro AUC ``[value, low, high]`` of each table's rows, one colour per
    table.

    A value left of the dotted line has lost more than ``margin``.
    """
    colours = dict(zip(tables, (BLUE, ORANGE, GREEN, GREY), strict=False))
    rows = [
        (f"{name} ({table})", row["difference"], colours[table])
        for table, found in tables.items()
        for name, row in found.items()
    ]
    figure, axes = _intervals(rows)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.axvline(-margin, color=GREY, linestyle=":", linewidth=0.8)
    axes.set(xlabel="difference of macro AUC, 95 %; dotted: the margin")
    return save(figure, path)


def _intervals(rows: Sequence[tuple[str, Sequence[float | None], str]]) -> tuple[Figure, Axes]:
    """A line from low to high for each name, ``[value, low, high]`` and colour, from the top down."""
    figure = Figure(figsize=(7, 0.24 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, (_, values, colour) in enumerate(rows):
        value, low, high = (float("nan") if v is None else float(v) for v in values)
        axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
        axes.plot(value, place, marker="s", color=colour, markersize=4)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _evaluation(folder: Path, result: Mapping[str, Any]) -> list[str]:
    main, model, within = result["main"], result["model"], result["within_source"]
    lines = [
        f"## {model['id']}, version {model['version']}, split {result['split']}",
        "",
        f"{result['data']['main']}: {main['images']} images of {main['patients']} adults. "
        f"Weights `{model['sha256'][:16]}…`.",
        "",
        f"Mean AUC of {len(main['labels_counted'])} labels: **{interval(main['mean_auc'])}**; mean of "
        f"{within['cells']} within-source AUCs: {interval(within['model'])}.",
        "",
    ]
    figures = ("auc", "average_precision", "sensitivity_present", "specificity_present")
    lines += markdown_table(
        ("label", "positives", "AUC", "average precision", "sensitivity, present", "specificity, present"),
        (
            (row["label"], str(row["positives"]), *(interval(row[figure]) for figure in figures))
            for row in main["labels"]
        ),
    )
    lines += [_picture(forest(folder, result), "AUC with intervals"), ""]
    for name, found in result.get("curves", {}).items():
        if not found:
            continue
        inside = [row["labels"] for row in result["sources"] if row["source"] == name]
        rows = {label: cell["auc"] for labels in inside for label, cell in labels.items()}
        lines += [f"### {name}", "", "ROC; circle: not absent, square: present.", ""]
        lines += [_picture(roc_curves(folder, name, found, rows), "ROC curves"), ""]
        lines += [_picture(precision_recall_curves(folder, name, found), "precision and recall"), ""]
        lines += ["Reliability; bars: 95 % of the bin's rate.", ""]
        lines += [_picture(reliability_plots(folder, name, found), "reliability"), ""]
    return lines


def _panels(path: Path, labels: Sequence[str], draw: Callable[[Axes, str], None], x: str, y: str) -> Path:
    rows = -(-len(labels) // COLUMNS)
    figure = Figure(figsize=(2.3 * COLUMNS, 2.4 * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, COLUMNS, squeeze=False)).ravel()
    for axes, label in zip(grid, labels, strict=False):
        draw(axes, label)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for axes in grid[len(labels) :]:
        axes.set_visible(False)
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as PNG: the same figures give the same bytes."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def _picture(path: Path, text: str) -> str:
    return f"![{text}]({path.name})"


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.casefold()).strip("-")
