"""Whose turn it is: short jobs overtake long ones, and none waits for ever.

A job's turn is when it came, and later by ten times the work that it is estimated to be. So a chest film (a
few seconds) overtakes a cine loop (minutes) that came up to half an hour before it, and not one that has
waited longer. What is urgent (STAT, or put first by a person) does not wait for turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

OVERTAKING = 10.0
"""Seconds that each second of estimated work lets others come later and still go first."""
LOW = timedelta(hours=1)
"""So much later is the turn of a job of low priority."""
PASSES = 0.25
"""A job that is running lets others pass that are estimated at no more than this share of it."""
SECONDS_PER_IMAGE, SECONDS_PER_MEGAPIXEL = 1.0, 0.5
"""A chest film of 6 megapixels: 4 s; a cine of 300 frames of 1024 × 768: 2 min (docs/benchmarks.md)."""


def estimated_seconds(images: Iterable[Mapping[str, Any]]) -> float:
    """The work in images with these attributes (Rows, Columns, NumberOfFrames as text): frames × pixels."""
    return sum(SECONDS_PER_IMAGE + SECONDS_PER_MEGAPIXEL * _megapixels(image) for image in images)


def turn_of(came_at: datetime, priority: int, seconds: float) -> datetime:
    """When it is this job's turn; the earliest goes first."""
    return came_at + timedelta(seconds=OVERTAKING * seconds) + (LOW if priority < 0 else timedelta())


def _megapixels(image: Mapping[str, Any]) -> float:
    pixels = 1.0
    for keyword in ("Rows", "Columns", "NumberOfFrames"):
        text = str(image.get(keyword) or "1")
        pixels *= int(text) if text.isdigit() and len(text) < 7 else 1
    return pixels / 1e6
