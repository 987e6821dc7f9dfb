"""The test figures of the ultrasound networks, as docs/models/ultrasound.md shows them (from their cards)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ai_pipeline.models.card import Card
from ai_training.text import interval, markdown_table

CLASSES = ("text", "caliper", "marker", "scale", "logo")
WAYS = {"network": "network alone", "text_boxes": "text detector alone", "node": "all that the node removes"}


def ultrasound_lines(card: Card) -> list[str]:
    """The figures of a mark detector or of an inpainter; no lines for other cards."""
    metrics = card.details.get("metrics", {})
    if "detector" in card.details:
        return marks_lines(metrics)
    return inpaint_lines(metrics) if "tile" in card.details else []


def marks_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The figures of the mark detector: hand-drawn frames, clean frames, legible tokens,
    synthetic overlays.
    """
    parts = (_drawn, _clean, _legible, _synthetic)
    lines = [line for part in parts for line in part(metrics)]
    return ["### Test figures", "", *lines] if lines else []


def inpaint_lines(metrics: Mapping[str, Any]) -> list[str]:
    """An inpainter's figures in the mask, and the paired difference to Navier-Stokes."""
    found = metrics.get("test")
    if not found:
        return []
    lines = ["### Test figures", "", f"{found['set']}; [low, high]: 95 % by bootstrap over frames.", ""]
    rows = []
    for mask in ("given", "detected"):
        if mask in found:
            inside, kid = found[mask]["inside"], found[mask]["kid"]
            figures = (
                (inside["mae"], 2),
                (inside["psnr"], 2),
                (inside["ssim"], 3),
                (inside["difference"]["psnr"], 2),
                (kid, 4),
            )
            rows.append((mask, *(_text(values, digits) for values, digits in figures)))
    headings = ("mask", "MAE (0–255)", "PSNR (dB)", "SSIM", "PSNR − Navier-Stokes", "KID")
    return [
        *lines,
        *markdown_table(headings, rows),
        "[The study](../studies/inpainting.md) has the other ways and pictures.",
        "",
    ]


def _drawn(metrics: Mapping[str, Any]) -> list[str]:
    found = metrics.get("drawn")
    if not found:
        return []
    ways = {key: title for key, title in WAYS.items() if key in found}
    lines = [
        f"{found['frames']} real test frames, {found['objects']} marks drawn by hand; a mark is found when "
        f"{found['found_from']:.0%} of its pixels are marked. Share of the marks that is found:",
        "",
    ]
    rows = []
    for key, title in ways.items():
        row = found[key]
        by_class = row["by_class"]
        cells = [_text(by_class[name]["recall"], 3) if name in by_class else "–" for name in CLASSES]
        cells = [_text(row["recall"], 3), *cells, _text(row["precision"], 3), _text(row["false_area"], 4)]
        rows.append((title, *cells))
    lines += markdown_table(("", "all", *CLASSES, "precision", "wrongly marked"), rows)
    by_stratum = "; ".join(
        f"{stratum} ({part['frames']} frames, {part['objects']} marks) {_text(part['recall'], 3)}"
        for stratum, part in found.get("node", {}).get("by_stratum", {}).items()
    )
    return [*lines, *([f"All that the node removes, by frames: {by_stratum}.", ""] if by_stratum else [])]


def _clean(metrics: Mapping[str, Any]) -> list[str]:
    found = metrics.get("clean_test")
    if not found:
        return []
    areas = "; ".join(f"{WAYS[key]} {_text(found[key]['area'], 5)}" for key in WAYS if key in found)
    return [f"Share of {found['frames']} clean real frames that is marked: {areas}.", ""]


def _legible(metrics: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for policy in ("research", "clinical"):
        found = metrics.get(f"legible_{policy}")
        if found:
            lines += [f"Legible after cleaning, policy `{policy}`: {found['set']}.", ""]
            lines += [
                f"* {name}: {row['legible_before']} tokens legible before, {row['left']} after (at most "
                f"{row['at_most']:.2%}); words elsewhere: {row['elsewhere']}"
                for name, row in found["engines"].items()
            ]
            lines += [
                f"* pictures {title}: {found[key]['pictures']} of {found[key]['of']} "
                f"(at most {found[key]['at_most']:.2%})"
                for key, title in (
                    ("any_engine", "in which any engine still reads anything of the overlay"),
                    ("quarantined", "withheld"),
                    ("blacked_out", "with a place blacked out"),
                    ("widened", "with a place widened"),
                )
            ]
            lines += [f"* pixels changed outside the mask: {found['pixels_changed_outside']}", ""]
    return lines


def _synthetic(metrics: Mapping[str, Any]) -> list[str]:
    found = metrics.get("synthetic_test")
    if not found:
        return []
    return [
        f"Synthetic overlays, network alone ({found['set']}): "
        f"object recall {_text(found['object_recall'], 3)}, Dice {_text(found['dice'], 3)}, "
        f"precision {_text(found['precision'], 3)}, clean pictures marked {_text(found['clean_area'], 5)}.",
        "",
    ]


def _text(values: Sequence[float], digits: int) -> str:
    return interval(values, digits, minus="−")
