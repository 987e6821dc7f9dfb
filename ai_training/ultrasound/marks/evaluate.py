"""``ai-pipeline evaluate marks``: synthetic and real frames, by the network alone and by the whole node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_pipeline.burnin.tools import MARKS, Tools
from ai_training.progress import Report, silent
from ai_training.ultrasound.marks import snapshots
from ai_training.ultrasound.marks.maskers import maskers
from ai_training.ultrasound.marks.real_frames import (
    MarkedFrame,
    clean_pictures,
    coloured_frames,
    drawn_frames,
)
from ai_training.ultrasound.marks.real_scores import (
    CLEAN_AREA,
    MarkCounts,
    MissedMark,
    clean_areas,
    met,
    score_frames,
    summary,
)
from ai_training.ultrasound.marks.scores import evaluate_marks


def evaluate_removal(
    data: Path,
    tools: Tools,
    *,
    masks: Path | None,
    split: str = "test",
    style: str = "held-out",
    pictures: int = 200,
    policy: CleaningPolicy = CleaningPolicy.RESEARCH,
    report_to: Path | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """All figures of the detector on one split. Raises DataMissing.

    ``masks``: the folder of the hand-drawn frames (test split). On the validation split the coloured marks of
    real frames are used instead, so that no choice needs test frames.
    """
    model = next(ref for ref in tools.models if ref.id == MARKS)
    result: dict[str, Any] = {
        "model": {"id": model.id, "version": model.version, "sha256": model.sha256},
        "split": split,
        "threshold": tools.threshold,
        "policy": policy.value,
    }
    if pictures:
        result["synthetic"] = evaluate_marks(
            data, tools.finder, tools.threshold, pictures=pictures, split=split, style=style, report=report
        )
    frames = _frames(data, masks, split)
    if not frames:
        return result
    ways = maskers(tools, policy)
    tallies = score_frames(frames, ways, report)
    kind = "drawn" if masks is not None else "coloured"
    result[kind] = summary(frames, tallies)
    for name, reached in met(result[kind]["rows"]).items():
        row = result[kind]["rows"][name]
        row["missed"] = worst_first(tallies[name])
        if masks is not None:
            row["met"] = reached
    result["clean"] = clean_areas(clean_pictures(data, split), ways, report) | {"split": split}
    for row in result["clean"]["rows"].values():
        row["met"] = row["area"][0] <= CLEAN_AREA
    if report_to is not None:
        for name, tally in tallies.items():
            show_missed(report_to / name.replace(" ", "-"), tally)
            show_frames(report_to / f"{name.replace(' ', '-')}-frames", tally)
    return result


def show_missed(folder: Path, tally: MarkCounts) -> None:
    """Write a picture of every mark that was not found: unchanged, and with mark (green) and
    mask outlined.
    """
    for missed in tally.missed:
        snapshots.save(folder / f"{missed.frame.name}-{missed.mark.number}.png", _picture(missed))


def show_frames(folder: Path, tally: MarkCounts) -> None:
    """Write every whole frame in which a mark was missed: missed marks in green, the mask outlined."""
    by_frame: dict[str, list[MissedMark]] = {}
    for missed in tally.missed:
        by_frame.setdefault(missed.frame.name, []).append(missed)
    for name, found in by_frame.items():
        frame = found[0].frame
        lost = np.isin(frame.owners, [missed.mark.number for missed in found])
        outlines = [(found[0].mask, snapshots.OUTLINE), (lost, snapshots.TARGET)]
        picture = snapshots.outlined(frame.picture, outlines, 2)
        snapshots.save(folder / f"{name}.png", snapshots.titled(picture, f"{name}: {len(found)} missed"))


def worst_first(tally: MarkCounts) -> list[Mapping[str, Any]]:
    """The missed marks as plain values, those with the smallest found share first."""
    rows = sorted(tally.missed, key=lambda missed: missed.share)
    return [
        {
            "frame": missed.frame.name,
            "mark": missed.mark.number,
            "class": missed.mark.kind.name.lower(),
            "share": round(missed.share, 3),
        }
        for missed in rows
    ]


def _frames(data: Path, masks: Path | None, split: str) -> list[MarkedFrame]:
    if masks is not None:
        return list(drawn_frames(data, masks))
    return list(coloured_frames(data, split)) if split == "val" else []


def _picture(missed: MissedMark) -> np.typing.NDArray[np.uint8]:
    frame, mark = missed.frame, missed.mark
    cut = snapshots.crop_around(frame.picture, mark.box)
    own = frame.owners == mark.number
    outlines = [(missed.mask[cut], snapshots.OUTLINE), (own[cut], snapshots.TARGET)]
    shown = snapshots.beside(
        [
            snapshots.outlined(frame.picture[cut], [], snapshots.ENLARGED),
            snapshots.outlined(frame.picture[cut], outlines, snapshots.ENLARGED),
        ]
    )
    title = f"{frame.name} mark {mark.number}, {mark.kind.name.lower()}: {missed.share:.0%} found"
    return snapshots.titled(shown, title)
