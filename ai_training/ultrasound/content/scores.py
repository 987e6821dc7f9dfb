"""``ai-pipeline evaluate cleaning``: real frames, cleaned as the node does, compared with marks drawn by
hand.

For each class of content the share of removed pixels, with 95 % intervals by bootstrap over patients if they
are known, else over frames; lines that were cut, neither kept nor removed; identity that was not covered; and
pixels that were made up on plain background.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_pipeline.burnin.annotation.pixels import Mask, Picture, brightest, dilated
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.tools import Tools
from ai_pipeline.errors import CleaningFailed
from ai_training.metrics import Interval, patient_weights, ratio
from ai_training.progress import Report, silent
from ai_training.ultrasound.content.marked import TEXTS, Content, MarkedContent, marked_content, patient_of
from ai_training.ultrasound.marks import snapshots

CUT, WHOLE = 0.1, 0.9
"""A text of which more than the one and less than the other share is removed is cut; identity of which less
than the other is removed is left."""
NEIGHBOURHOOD, FEWEST, PLAIN = 41, 200, 3.0
"""Background is where the known pixels of such a square, at least so many, differ no more (pixels; standard
deviation in grey levels)."""
STANDS_OUT = 10.0
"""Difference from the background from which a pixel was made up (grey levels)."""
BLACK = 8
"""Grey level up to which a pixel was blacked out, which makes nothing up (grey levels)."""
KNOWN_MARGIN = 7
"""Side of the square by which marks are grown before what is beside them counts as background (pixels)."""


@dataclass(frozen=True, slots=True)
class ObjectOutcome:
    """One marked object: the number of its pixels, and how many of them were removed."""

    content: Content
    pixels: int
    removed: int

    @property
    def share(self) -> float:
        """Share of the object's pixels that was removed, 0 to 1."""
        return self.removed / self.pixels if self.pixels else 0.0


@dataclass(frozen=True, slots=True)
class FrameOutcome:
    """The outcome for one frame. ``withheld``: the reason why no image was returned.

    ``background``: number of filled pixels where the source has a plain background; ``made_up``: how many of
    these do not have the background's colour after filling.
    """

    name: str
    objects: tuple[ObjectOutcome, ...] = ()
    background: int = 0
    made_up: int = 0
    filled: float = 0.0
    seconds: float = 0.0
    withheld: str = ""

    @property
    def patient(self) -> str:
        return patient_of(self.name)

    @property
    def lost(self) -> int:
        """The number of removed pixels of content that is no identity."""
        return sum(one.removed for one in self.objects if one.content is not Content.IDENTITY)


def evaluate_cleaning(
    data: Path,
    content: Path,
    masks: Path,
    tools: Tools,
    policy: CleaningPolicy,
    *,
    report_to: Path | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Clean every marked frame and judge the result. Raises DataMissing.

    ``content``, ``masks``: as :func:`marked_content` takes them; ``report_to``: folder for pictures.
    """
    outcomes = []
    for number, frame in enumerate(marked_content(data, content, masks), start=1):
        outcomes.append(_outcome(frame, tools, policy, report_to))
        report(number / (number + 1), f"frame {number}: {frame.name}")
    return summary(outcomes, policy, tools)


def _outcome(
    frame: MarkedContent, tools: Tools, policy: CleaningPolicy, report_to: Path | None
) -> FrameOutcome:
    began = time.perf_counter()
    try:
        cleaned = clean(frame.source, lambda _share, _what: None, policy=policy, tools=tools)
    except CleaningFailed as failure:
        return FrameOutcome(frame.name, withheld=str(failure), seconds=time.perf_counter() - began)
    seconds = time.perf_counter() - began
    mask = np.asarray(cleaned.mask.frames[frame.frame - 1]) > 0
    after = _as_displayed(frame, np.asarray(cleaned.image.frames[frame.frame - 1]), mask)
    changed = (after != frame.picture).any(axis=2)
    objects = tuple(
        ObjectOutcome(one.content, int(one.ink.sum()), int((one.ink & changed).sum()))
        for one in frame.objects
    )
    background, made_up = _made_up(frame, after, changed)
    if report_to is not None:
        shown = [snapshots.titled(frame.picture, "before"), snapshots.titled(after, "after")]
        snapshots.save(report_to / f"{frame.name}.png", snapshots.beside(shown))
    return FrameOutcome(
        frame.name, objects, int(background.sum()), int(made_up.sum()), float(mask.mean()), seconds
    )


def _as_displayed(frame: MarkedContent, samples: npt.NDArray[Any], mask: Mask) -> Picture:
    """The cleaned frame as a viewer shows it; grey samples by the levels that the source's have."""
    if samples.ndim == 3:
        return np.asarray(samples, np.uint8)
    stored = frame.source.stored(frame.frame - 1)
    values, first = np.unique(stored, return_index=True)
    shown = np.interp(samples, values.astype(np.float64), brightest(frame.picture).ravel()[first])
    grey = np.where(mask, np.rint(shown), brightest(frame.picture)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _made_up(frame: MarkedContent, after: Picture, mask: Mask) -> tuple[Mask, Mask]:
    """The filled pixels around which the source is plain, and those of them that do not look like it.

    Judged by the source alone, so that it does not share the error of the program that finds the image area.
    """
    grey = brightest(frame.picture).astype(np.float64)
    drawn = mask.copy()
    for one in frame.objects:
        drawn |= one.ink
    known = (~dilated(drawn, KNOWN_MARGIN)).astype(np.float64)
    size = (NEIGHBOURHOOD, NEIGHBOURHOOD)
    count, total, squares = (
        cv2.boxFilter(values * known, -1, size, normalize=False) for values in (known, grey, grey**2)
    )
    enough = np.maximum(count, 1)
    level = total / enough
    spread = np.sqrt(np.maximum(squares / enough - level**2, 0))
    background = mask & (count >= FEWEST) & (spread <= PLAIN)
    shown = brightest(after)
    differs = (np.abs(shown.astype(np.float64) - level) > STANDS_OUT) & (shown > BLACK)
    return np.asarray(background, np.bool_), np.asarray(background & differs, np.bool_)


def summary(outcomes: Sequence[FrameOutcome], policy: CleaningPolicy, tools: Tools) -> dict[str, Any]:
    """The figures of all frames, by class of content."""
    released = [one for one in outcomes if not one.withheld]
    texts = [one for frame in released for one in frame.objects if one.content in TEXTS and one.pixels]
    identity = [one for one in texts if one.content is Content.IDENTITY]
    withheld = sorted({one.withheld for one in outcomes if one.withheld})
    return {
        "policy": policy.value,
        "models": [f"{ref.id} {ref.version}" for ref in tools.models],
        "frames": len(outcomes),
        "patients": len({one.patient for one in outcomes}),
        "withheld": {"frames": len(outcomes) - len(released), "reasons": withheld},
        "identity": {"objects": len(identity), "left": sum(one.share < WHOLE for one in identity)},
        "content": dict(_by_class(released)),
        "cut": {"lines": len(texts), "cut": sum(CUT < one.share < WHOLE for one in texts)},
        "background": {
            "filled": sum(one.background for one in released),
            "made_up": sum(one.made_up for one in released),
            "frames_with_any": sum(one.made_up > 0 for one in released),
        },
        "filled_share": float(np.mean([one.filled for one in released])) if released else 0.0,
        "most_lost": [
            {"frame": one.name, "pixels": one.lost}
            for one in sorted(released, key=lambda one: -one.lost)[:8]
            if one.lost
        ],
        "seconds": float(np.median([one.seconds for one in outcomes])) if outcomes else 0.0,
    }


def _by_class(frames: Sequence[FrameOutcome]) -> Iterator[tuple[str, dict[str, Any]]]:
    kinds = [content for content in Content if content is not Content.IDENTITY]
    for content in kinds:
        found = [one for frame in frames for one in frame.objects if one.content is content]
        if found:
            yield content.value, _row(frames, {content}, len(found))
    count = sum(one.content is not Content.IDENTITY for frame in frames for one in frame.objects)
    yield "all", _row(frames, set(kinds), count)


def _row(frames: Sequence[FrameOutcome], contents: set[Content], count: int) -> dict[str, Any]:
    own = [[one for one in frame.objects if one.content in contents] for frame in frames]
    pixels = np.array([sum(one.pixels for one in objects) for objects in own], np.float64)
    removed = np.array([sum(one.removed for one in objects) for objects in own], np.float64)
    share: Interval = ratio(removed, pixels, patient_weights([frame.patient for frame in frames]))
    gone = sum(one.share >= WHOLE for objects in own for one in objects)
    touched = sum(CUT < one.share < WHOLE for objects in own for one in objects)
    return {"objects": count, "share": share.as_list(), "gone": gone, "in_part": touched}
