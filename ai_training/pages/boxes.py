"""The boxes in docs/models/chest-calls.md: which labels get them, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_pipeline.models.card import Card
from ai_training.text import interval, markdown_table

NAMES = ("T(IoU.1)", "T(IoU.3)", "T(IoU.5)", "mean T", "pointing")
ARMS = {
    "fusion": "the detector",
    "head": "its head alone",
    "yolo": "its YOLO alone",
    "activation": "class activation and templates",
    "constant": "one fixed box per label",
    "centre": "a box in the middle",
    "difference": "detector less fixed box",
}


def box_lines(card: Card) -> list[str]:
    """The lines from the table ``detection`` of a card; none without that table."""
    figures = card.details.get("detection")
    if not figures:
        return []
    lines = [
        "### Boxes",
        "",
        "A label gets a box only where the detector surely beats one fixed box per label and a box in the",
        "middle (mean of T(IoU .1/.3/.5): the whole interval of the paired difference above 0), points no",
        "worse, and reaches at least half of the findings. Other findings come with a heat map and the words",
        "*no reliable location*. T(IoU .3) is the share of radiologists' boxes that are overlapped by at",
        "least .3, each asked for its own label; pointing, the share that hold the surest point.",
        "",
        *_pooled(figures, f"{figures['boxes']} boxes of {figures['patients']} patients, {figures['split']}"),
        *markdown_table(
            ("label", "boxes", "mean T", "one fixed box", "difference", "box"),
            (
                (
                    row["label"],
                    str(row["boxes"]),
                    *(interval(row[key]) for key in ("mean_T", "constant", "difference")),
                    "yes" if row["passes"] else f"no: {row['why']}",
                )
                for row in figures["labels"]
            ),
        ),
    ]
    test = figures.get("test")
    if test:
        lines += _pooled(test, f"{test['boxes']} boxes of {test['patients']} patients, test")
    return lines


def _pooled(figures: Mapping[str, Any], title: str) -> list[str]:
    return [
        f"{title}:",
        "",
        *markdown_table(
            ("who", *NAMES),
            (
                (words, *(interval(figures[arm][name]) for name in NAMES))
                for arm, words in ARMS.items()
                if arm in figures
            ),
        ),
    ]
