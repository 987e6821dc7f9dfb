"""docs/models/training.md: the training data and choices of each network, from ``[training]``
of the cards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ai_pipeline.models.card import Card
from ai_training.text import interval, markdown_table

RECIPES = {"experiment": "Recipe", "recipe": "Recipe", "outline": "Recipe of the outline"}
WORDS = {
    "images": "images",
    "patients": "patients",
    "frames": "frames",
    "groups": "groups of near-duplicates",
    "seeds": "seeds",
    "views": "asked",
    "validation": "validation",
    "validation_images": "validation images",
    "chosen_iteration": "chosen at iteration",
    "validation_auc_within_sources": "AUC inside sources of the validation images",
}


def training_lines(card: Card) -> list[str]:
    """Training images, choice of the checkpoint, recipe and compared settings of one card; none if it names
    no images.
    """
    training = card.details.get("training", {})
    if not training:
        return []
    return [
        *(f"* {source}" for source in training["data"]),
        *(f"* {words}: {training[key]}" for key, words in WORDS.items() if key in training),
        *_chosen(training.get("chosen", {})),
        *_times(training.get("time", {})),
        "",
        *(line for key, title in RECIPES.items() for line in _recipe(title, training.get(key, {}))),
        *_levers(training.get("levers", [])),
    ]


def _chosen(chosen: Mapping[str, Any]) -> list[str]:
    """The iteration whose weights ship, and what they reached on the validation split."""
    reached = ", ".join(f"{name} {value:.4g}" for name, value in chosen.items() if name != "iteration")
    return [f"* chosen at iteration: {chosen['iteration']} ({reached})"] if chosen else []


def _times(times: Mapping[str, float]) -> list[str]:
    """The milliseconds of a step on each device that it was timed on."""
    measured = "; ".join(f"{milliseconds:,.0f} ms on {device}" for device, milliseconds in times.items())
    return [f"* one step took {measured}"] if measured else []


def _recipe(title: str, table: Mapping[str, Any]) -> list[str]:
    """One line: the keys of the training file with their values."""
    return [f"{title}: {', '.join(_pairs(table))}.", ""] if table else []


def _pairs(table: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{before}{key}.")
        else:
            yield f"`{before}{key}` {_text(value)}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _levers(levers: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [_lever(row) for row in levers]
    if not rows:
        return []
    headings = "lever", "validation AUC", "difference, 95 % by patient", "against"
    return [
        "What each lever gave on validation images (mean AUC inside sources, paired image by image):",
        "",
        *markdown_table(headings, rows),
    ]


def _lever(row: Mapping[str, Any]) -> tuple[str, ...]:
    gain = interval((row["difference"], row["low"], row["high"])) if "difference" in row else ""
    return row["name"], f"{row['validation_auc']:.3f}", gain, row.get("against", "")
