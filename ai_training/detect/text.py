"""The figures of boxes as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_training.detect.locating.scores import PLACE_NAMES
from ai_training.text import interval, markdown_table


def as_text(result: Mapping[str, Any]) -> str:
    """Every figure of ``ai-pipeline evaluate detect`` as tables."""
    lines = [
        f"{result['model']}, {result['split']}: {result['boxes']} boxes in {result['images']} images of "
        f"{result['patients']} patients ({result['children']} boxes of children)",
        "",
        *_table(result),
        "",
        "mean T of each label, fusion beside the constant box:",
    ]
    for row in result["labels"]:
        ours, prior = (row["arms"][arm]["mean T"] for arm in ("fusion", "constant"))
        difference = row["differences"]["fusion - constant"]["mean T"]
        verdict = "" if "passes" not in row else "box" if row["passes"] else f"no box: {row['why']}"
        lines.append(
            f"{row['label']:14}{row['boxes']:5}  {interval(ours)}  {interval(prior)}  "
            f"difference {interval(difference)}  {verdict}"
        )
    for name, part in result.items():
        if isinstance(part, Mapping) and "arms" in part:
            lines += ["", f"{name}: {part['boxes']} boxes", *_table(part)]
    lines += ["", "boxes drawn for every label in every image:"]
    figures = result["detection"]
    for name in next(iter(figures.values())):
        lines.append(f"  {name}")
        lines += [f"    {arm:24}{interval(values[name])}" for arm, values in figures.items()]
    for row in result.get("moving", []):
        kinds = (f"{row[kind][1]} of {row[kind][0]} {kind}" for kind in ("right", "wrong", "no box"))
        lines.append(f"left out because they move, {row['label']}: {', '.join(kinds)}")
    return "\n".join(lines)


def places_as_text(part: Mapping[str, Any]) -> str:
    """Where the boxes lie, of every arm, and the differences between the arms."""
    return "\n".join([f"{part['boxes']} boxes", *_table(part)])


def _table(part: Mapping[str, Any]) -> list[str]:
    lines = [f"{'':24}" + "".join(f"{name:24}" for name in PLACE_NAMES)]
    for arm, values in {**part["arms"], **part["differences"]}.items():
        lines.append(f"{arm:24}" + "".join(f"{interval(values[name]):24}" for name in PLACE_NAMES))
    return lines


def as_markdown(result: Mapping[str, Any]) -> str:
    """The same figures as tables of Markdown, for docs/studies/detection.md."""
    lines = [
        f"{result['boxes']} boxes in {result['images']} films of {result['patients']} patients "
        f"({result['model']}, split {result['split']}).",
        "",
        *_markdown(result),
    ]
    if result["labels"]:
        headings = ("mean T: fusion", "activation", "constant", "fusion - constant", "pointing: fusion")
        lines += markdown_table(("label", "boxes", *headings, "box"), map(_label_row, result["labels"]))
    for name, part in result.items():
        if isinstance(part, Mapping) and "arms" in part:
            lines += [f"{name}, {part['boxes']} boxes:".capitalize(), "", *_markdown(part)]
    figures = result["detection"]
    names = list(next(iter(figures.values())))
    lines += [
        "Every label asked of every film:",
        "",
        *markdown_table(
            ("who", *names), ((arm, *(interval(row[name]) for name in names)) for arm, row in figures.items())
        ),
    ]
    return "\n".join(lines)


def _label_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    arms = row["arms"]
    cells = [interval(arms[arm]["mean T"]) for arm in ("fusion", "activation", "constant")]
    cells += [
        interval(row["differences"]["fusion - constant"]["mean T"]),
        interval(arms["fusion"]["pointing"]),
    ]
    verdict = "" if "passes" not in row else "**yes**" if row["passes"] else f"no: {row['why']}"
    return row["label"], str(row["boxes"]), *cells, verdict


def _markdown(part: Mapping[str, Any]) -> list[str]:
    return markdown_table(
        ("who", *PLACE_NAMES),
        (
            (arm, *(interval(values[name]) for name in PLACE_NAMES))
            for arm, values in {**part["arms"], **part["differences"]}.items()
        ),
    )
