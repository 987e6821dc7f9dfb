"""The order of jobs: short jobs overtake long ones, and none waits for ever.

A job's turn is its arrival plus ten times its estimated work; the earliest turn is first. So a chest film (a
few seconds) overtakes a cine loop (minutes) that came up to half an hour before it, and not one that has
waited longer. Urgent jobs (STAT, or put first by a person) go before all turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

OVERTAKING = 10.0
"""Seconds by which each second of estimated work puts a job's turn later."""
LOW = timedelta(hours=1)
"""Added to the turn of a job of low priority."""
PASSES = 0.25
"""A running job is interrupted for others whose estimated work is at most this share of its own."""
SECONDS_PER_IMAGE, SECONDS_PER_MEGAPIXEL = 1.0, 0.5
"""A chest film of 6 megapixels: 4 s; a cine of 300 frames of 1024 × 768: 2 min (docs/benchmarks.md)."""


def estimated_seconds(images: Iterable[Mapping[str, Any]]) -> float:
    """The work in images with these attributes (Rows, Columns, NumberOfFrames as text): frames × pixels."""
    return sum(SECONDS_PER_IMAGE + SECONDS_PER_MEGAPIXEL * _megapixels(image) for image in images)


def turn_of(came_at: datetime, priority: int, seconds: float) -> datetime:
    """The turn of a job: ``priority`` 1 STAT, 0 routine, -1 low; ``seconds`` of estimated work."""
    return came_at + timedelta(seconds=OVERTAKING * seconds) + (LOW if priority < 0 else timedelta())


def _megapixels(image: Mapping[str, Any]) -> float:
    pixels = 1.0
    for keyword in ("Rows", "Columns", "NumberOfFrames"):
        text = str(image.get(keyword) or "1")
        pixels *= int(text) if text.isdigit() and len(text) < 7 else 1
    return pixels / 1e6
