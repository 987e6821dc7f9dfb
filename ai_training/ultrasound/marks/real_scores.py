"""How much of the marks in real frames is found, and how much is marked wrongly.

A mark is found if at least half of its pixels lie in the mask as cleaning grows it. Intervals are 95 %, by
bootstrap over frames; if no mark or every mark is found, the exact interval of Clopper and Pearson for as
many frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.pixels import Mask, Picture, dilated
from ai_training.metrics import Interval, exact_at_the_ends, mean_interval, patient_weights, ratio
from ai_training.progress import Report, silent
from ai_training.ultrasound.marks.maskers import TEXT_BOXES, Masker
from ai_training.ultrasound.marks.real_frames import MarkedFrame, RealMark
from ai_training.ultrasound.overlays import CleanFrame, MarkClass

FOUND_SHARE = 0.5
"""Share of a mark's pixels in the mask from which it is found."""
TOLERANCE = 3
"""Marked pixels this near to a hand-drawn one are right: JPEG rings, hands shake (pixels)."""
RECALL, LOWEST = 0.95, 0.92
"""The design's targets: object recall, and the lower end of its interval."""
CLEAN_AREA = 0.002
"""... and the share of clean pictures that may be marked, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class MissedMark:
    """A mark that a masker does not find: the frame, the mark, the masker's mask, the found share."""

    frame: MarkedFrame
    mark: RealMark
    mask: Mask
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class MarkCounts:
    """The counts of one masker, a row per frame: found and existing marks by class; hit, marked and
    known-wrong pixels.
    """

    found: list[npt.NDArray[np.int64]] = field(default_factory=list)
    there: list[npt.NDArray[np.int64]] = field(default_factory=list)
    pixels: list[tuple[int, int, int, int]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    missed: list[MissedMark] = field(default_factory=list)


def score_frames(
    frames: Sequence[MarkedFrame], maskers: Sequence[Masker], report: Report = silent
) -> dict[str, MarkCounts]:
    """Run every masker on every frame. A frame that the node refuses counts as nothing found."""
    tallies = {masker.name: MarkCounts() for masker in maskers}
    for number, frame in enumerate(frames):
        report(number / len(frames), f"frame {number + 1}")
        for masker in maskers:
            tally, mask = tallies[masker.name], masker.mask(frame.picture)
            if mask is None:
                tally.refused.append(frame.name)
                mask = np.zeros(frame.owners.shape, np.bool_)
            _count(frame, mask, tally)
    return tallies


def summary(frames: Sequence[MarkedFrame], tallies: Mapping[str, MarkCounts]) -> dict[str, Any]:
    """The figures of every masker: overall, by class, by stratum; with pixels and areas."""
    weights = patient_weights([frame.name for frame in frames])
    strata = sorted({frame.stratum for frame in frames})
    rows = {}
    for name, tally in tallies.items():
        found, there = np.stack(tally.found).astype(float), np.stack(tally.there).astype(float)
        hit, marked, wrong, known = np.array(tally.pixels, float).T
        rows[name] = {
            "recall": recall(found.sum(1), there.sum(1), weights).as_list(),
            "by_class": {
                kind.name.lower(): {
                    "objects": int(there[:, kind].sum()),
                    "recall": recall(found[:, kind], there[:, kind], weights).as_list(),
                }
                for kind in MarkClass
                if there[:, kind].any()
            },
            "by_stratum": {
                stratum: _stratum(frames, stratum, found.sum(1), there.sum(1), weights) for stratum in strata
            },
            "precision": ratio(hit, marked, weights).as_list(),
            "false_area": ratio(wrong, known, weights).as_list(6),
            "refused": tally.refused,
        }
    return {
        "frames": len(frames),
        "objects": int(sum(len(frame.marks) for frame in frames)),
        "found_from": FOUND_SHARE,
        "tolerance": TOLERANCE,
        "rows": rows,
    }


def clean_areas(
    pictures: Iterable[tuple[CleanFrame, Picture]], maskers: Sequence[Masker], report: Report = silent
) -> dict[str, Any]:
    """Share of clean real frames that each masker marks (mean of the frames' shares)."""
    shown = list(pictures)
    frames = [f"{frame.source}/{frame.file}" for frame, _ in shown]
    sources = np.array([frame.source for frame, _ in shown])
    weights = patient_weights(frames)
    rows: dict[str, Any] = {}
    measured = [masker for masker in maskers if masker.name != TEXT_BOXES]
    for step, masker in enumerate(measured):
        areas = np.zeros(len(shown))
        refused = 0
        for number, (_, picture) in enumerate(shown):
            report((step + number / len(shown)) / len(measured), f"clean frame {number + 1}")
            mask = masker.mask(picture)
            refused += mask is None
            areas[number] = 1.0 if mask is None else float(mask.mean())
        rows[masker.name] = {
            "area": mean_interval(areas, weights).as_list(6),
            "frames_touched": int((areas > 0).sum()),
            "largest": round(float(areas.max()), 5),
            "refused": refused,
            "by_source": {
                source: round(float(areas[sources == source].mean()), 5) for source in set(sources.tolist())
            },
        }
    return {"frames": len(shown), "rows": rows}


def recall(found: npt.NDArray[np.float64], there: npt.NDArray[np.float64], weights: Any) -> Interval:
    """The share of marks that were found. If all were found, no resample holds a miss, so the interval is
    exact.
    """
    rate = ratio(found, there, weights)
    return exact_at_the_ends(rate.value, int((there > 0).sum())) if rate.value in {0.0, 1.0} else rate


def met(rows: Mapping[str, Any]) -> dict[str, bool]:
    """For each masker whether it reaches the recall that the design demands."""
    return {name: row["recall"][0] >= RECALL and row["recall"][1] >= LOWEST for name, row in rows.items()}


def _count(frame: MarkedFrame, mask: Mask, tally: MarkCounts) -> None:
    found, there = np.zeros(len(MarkClass), np.int64), np.zeros(len(MarkClass), np.int64)
    size = int(frame.owners.max(initial=0)) + 1
    pixels = np.bincount(frame.owners.ravel(), minlength=size)
    covered = np.bincount(frame.owners[mask].ravel(), minlength=size)
    for mark in frame.marks:
        share = float(covered[mark.number] / max(1, pixels[mark.number]))
        there[mark.kind] += 1
        found[mark.kind] += share >= FOUND_SHARE
        if share < FOUND_SHARE:
            tally.missed.append(MissedMark(frame, mark, mask, share))
    near = dilated(frame.owners > 0, 2 * TOLERANCE + 1)
    counted = mask & (frame.known | near)
    wrong = frame.known & ~near
    tally.found.append(found)
    tally.there.append(there)
    tally.pixels.append(
        (int((counted & near).sum()), int(counted.sum()), int((mask & wrong).sum()), int(wrong.sum()))
    )


def _stratum(
    frames: Sequence[MarkedFrame],
    stratum: str,
    found: npt.NDArray[np.float64],
    there: npt.NDArray[np.float64],
    weights: Any,
) -> dict[str, Any]:
    own = np.array([frame.stratum == stratum for frame in frames])
    return {
        "frames": int(own.sum()),
        "objects": int(there[own].sum()),
        "recall": recall(found[own], there[own], weights[:, own]).as_list(),
    }
