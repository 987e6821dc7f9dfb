"""The part of docs/models/ultrasound.md on the network that reduces speckle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ai_pipeline.models.card import Card
from ai_training.text import interval, markdown_table


def despeckle_lines(card: Card) -> list[str]:
    """Noise, texture and heads on the test frames, filter by filter; no lines without figures."""
    tested = card.details.get("metrics", {}).get("test")
    if "despeckler" not in card.details or not tested:
        return []
    return [
        f"On {tested['frames']} test frames (`ai-pipeline evaluate despeckle`; intervals are 95 %, by "
        "bootstrap over examinations). PSNR and SSIM are against frames that have speckle of their own: no "
        "others exist.",
        "",
        *_noise(tested["noise"]),
        *_rows(
            "frames as they came", tested["texture"], {"enl": "ENL", "cnr": "CNR", "edges": "edges kept"}, 2
        ),
        f"Heads that the shipped segmenter, taught by raw frames, outlines on what each filter leaves "
        f"(strength {tested['strength']:g} ships):",
        "",
        *_rows(
            "all test heads",
            tested["heads"],
            {
                "dice": "Dice",
                "difference": "difference to raw",
                "error": "circumference off by, mm",
                "area": "area, found over true",
            },
            4,
        ),
        "What was tried and what it means: [studies/despeckle.md](../studies/despeckle.md).",
        "",
    ]


def _noise(rows: Mapping[str, Any]) -> list[str]:
    levels = [name for name in next(iter(rows.values())) if name != "seconds"]
    shown = [
        [
            name,
            *(f"{row[level]['psnr'][0]:.2f} / {row[level]['ssim'][0]:.3f}" for level in levels),
            f"{row['seconds'] * 1000:.0f}",
        ]
        for name, row in rows.items()
    ]
    heads = [level if level == "physical" else f"Rayleigh σ {level}" for level in levels]
    return markdown_table(["PSNR dB / SSIM", *heads, "ms a frame"], shown)


def _rows(what: str, rows: Mapping[str, Any], columns: Mapping[str, str], digits: int) -> Sequence[str]:
    shown = [[name, *(interval(row[key], digits) for key in columns)] for name, row in rows.items()]
    return markdown_table([what, *columns.values()], shown)
