"""The counts of ``evaluate legible``, with exact bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import beta

from ai_training.ultrasound.legible.evaluate import Leak, LegibleOutcome
from ai_training.ultrasound.legible.ocr import RAPIDOCR, TESSERACT, tesseract_version
from ai_training.ultrasound.overlays import HELD_OUT

LEAST_PICTURES = 500
LARGEST_RATE = 0.05
"""The design's targets: so many pictures; quarantined and blacked-out ones at most this share."""


def counted(found: Sequence[LegibleOutcome], split: str, policy: str) -> dict[str, Any]:
    """All figures; ``at_most`` is the exact one-sided upper 95 % bound (Clopper and Pearson).

    Rates are of pictures. Pictures of one frame have different overlays and count as independent.
    """
    released = [outcome for outcome in found if outcome.released]
    names = [name for name in (RAPIDOCR, TESSERACT) if any(name in outcome.counts for outcome in released)]
    first, frames = min(outcome.number for outcome in found), len({outcome.frame for outcome in found})
    return {
        "set": (
            f"{len(found)} pictures from number {first} on, {frames} {split} frames, "
            f"style {HELD_OUT.name}, policy {policy}"
        ),
        "pictures": len(found),
        "distinct_frames": frames,
        "policy": policy,
        "tesseract": tesseract_version() or "not installed: nothing was read by it",
        "engines": {name: _engine(released, name) for name in names},
        "any_engine": rate([outcome for outcome in released if any_left(outcome)], released),
        "quarantined": rate([outcome for outcome in found if not outcome.released], found)
        | {"reasons": dict(Counter(outcome.reason for outcome in found if outcome.reason))},
        "blacked_out": rate([outcome for outcome in released if outcome.blacked_out], released),
        "widened": rate([outcome for outcome in released if outcome.widened], released),
        "identity_lines": sum(outcome.texts for outcome in released),
        "uncovered_lines": sum(outcome.uncovered for outcome in released),
        "pixels_changed_outside": sum(outcome.changed_outside for outcome in released),
        "filled_share": _mean([outcome.filled for outcome in released]),
        "seconds": _percentiles([outcome.seconds for outcome in found]),
    }


def any_left(outcome: LegibleOutcome) -> bool:
    """Whether any engine still reads something of the overlay."""
    return any(count.left or count.elsewhere for count in outcome.counts.values())


def rate(hits: Sequence[LegibleOutcome], among: Sequence[LegibleOutcome]) -> dict[str, Any]:
    """The number of ``hits``, the number of pictures ``among``, and the upper bound of the rate."""
    return {"pictures": len(hits), "of": len(among), "at_most": round(at_most(len(hits), len(among)), 5)}


def at_most(hits: int, among: int) -> float:
    """The exact one-sided upper 95 % bound of a rate: 0 of 500 means at most .006."""
    if among == 0 or hits >= among:
        return 1.0
    return float(beta.ppf(0.95, hits + 1, among - hits))


def missed_targets(result: dict[str, Any]) -> list[str]:
    """The targets of the design that are not reached, in words."""
    faults = []
    if result["pictures"] < LEAST_PICTURES:
        faults.append(f"{result['pictures']} pictures, the target is at least {LEAST_PICTURES}")
    if TESSERACT not in result["engines"]:
        faults.append("one OCR engine instead of two: tesseract is not installed")
    for name, row in result["engines"].items():
        if row["left"] or row["elsewhere"]:
            faults.append(
                f"{name} reads {row['left']} tokens in their places and {row['elsewhere']} elsewhere"
            )
    for key in ("quarantined", "blacked_out"):
        row = result[key]
        if row["pictures"] > LARGEST_RATE * row["of"]:
            faults.append(f"{key}: {row['pictures']} of {row['of']}, at most {LARGEST_RATE:.0%} may be")
    if result["pixels_changed_outside"]:
        faults.append(f"{result['pixels_changed_outside']} pixels changed outside the mask")
    return faults


def _engine(released: Sequence[LegibleOutcome], name: str) -> dict[str, Any]:
    counts = [outcome.counts[name] for outcome in released]
    readable = sum(count.before for count in counts)
    left = sum(len(count.left) for count in counts)
    return {
        "tokens": sum(outcome.tokens for outcome in released),
        "legible_before": readable,
        "left": left,
        "at_most": round(at_most(left, readable), 5),
        "pictures_with_any": rate(
            [o for o in released if o.counts[name].left or o.counts[name].elsewhere], released
        ),
        "elsewhere": sum(len(count.elsewhere) for count in counts),
        "invented": sum(count.invented for count in counts),
        "what": [
            {"picture": outcome.number, "where": where, **_leak(leak)}
            for outcome in released
            for where, leaks in (
                ("in place", outcome.counts[name].left),
                ("elsewhere", outcome.counts[name].elsewhere),
            )
            for leak in leaks
        ],
    }


def _leak(leak: Leak) -> dict[str, Any]:
    return {"text": leak.text, "box": list(leak.box)}


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 5) if values else float("nan")


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{rank}": round(float(np.percentile(values, rank)), 2) for rank in (50, 90, 99)}
