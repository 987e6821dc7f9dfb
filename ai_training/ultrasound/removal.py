"""``ai-pipeline evaluate marks``: synthetic and real frames, by the network alone and by the whole node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_pipeline.burnin.decide.writing import candidates
from ai_pipeline.burnin.find.annotation import Box, CleaningPolicy, Mask, Picture, dilated, index_of
from ai_pipeline.burnin.find.drawings import grown
from ai_pipeline.burnin.find.networks import MarkFinder
from ai_pipeline.burnin.find.text import TextReader, paint
from ai_pipeline.burnin.find.traces import no_waves
from ai_pipeline.burnin.planning import MARGIN, RemovalTask, plan_removal
from ai_pipeline.burnin.tools import MARKS, Tools
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.header import picture_header
from ai_training.base import DataMissing, Report, silent
from ai_training.metrics import Interval, exact_at_the_ends, mean_interval, patient_weights, ratio
from ai_training.sets.images import read_rgb, rows
from ai_training.ultrasound.marks import (
    FOUND_SHARE,
    LEAST_COLOURED,
    REAL_SOURCE,
    burned_frames,
    object_shares,
)
from ai_training.ultrasound.overlays import FAMILIES, CleanFrame, MarkClass, clean_frames
from ai_training.ultrasound.overlays.burning import box_of

AROUND = 40
"""Pixels that are shown around a mark."""
ENLARGED = 4
OUTLINE, TARGET = (255, 0, 255), (0, 255, 0)
TITLE = 22
"""Height of the line above a picture (pixels)."""
GAP = 6


def crop_around(picture: Picture, box: Box, around: int = AROUND) -> tuple[slice, slice]:
    """The part of the picture that holds the box and a margin of ``around`` pixels."""
    left, top, right, bottom = box
    rows = slice(max(0, top - around), min(picture.shape[0], bottom + around))
    return rows, slice(max(0, left - around), min(picture.shape[1], right + around))


def outlined(picture: Picture, masks: Sequence[tuple[Mask, tuple[int, int, int]]], scale: int) -> Picture:
    """A copy of the picture, enlarged ``scale`` times, with the outlines of the masks in their colours."""
    large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    for mask, colour in masks:
        part = np.repeat(np.repeat(mask.astype(np.uint8), scale, 0), scale, 1)
        contours, _ = cv2.findContours(part, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(large, contours, -1, colour, 1)
    return np.asarray(large, np.uint8)


def titled(picture: Picture, title: str) -> Picture:
    """The picture with a line of text above it (Latin letters)."""
    width = max(picture.shape[1], 8 * len(title))
    page = np.zeros((picture.shape[0] + TITLE, width, 3), np.uint8)
    page[TITLE:, : picture.shape[1]] = picture
    cv2.putText(page, title, (3, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return page


def beside(pictures: Sequence[Picture]) -> Picture:
    """Pictures in a row, aligned at the top."""
    rows = max(picture.shape[0] for picture in pictures)
    return np.concatenate(
        [
            np.pad(picture, ((0, rows - picture.shape[0]), (0, GAP), (0, 0)), constant_values=90)
            for picture in pictures
        ],
        axis=1,
    )


def stacked(rows: Sequence[Picture]) -> Picture:
    """Pictures below one another, aligned at the left."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=90) for row in rows]
    )


def save(path: Path, picture: npt.NDArray[np.uint8]) -> Path:
    """Write an RGB picture as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, optimize=True)
    return path


MODALITY = "US"
NETWORK, TEXT_BOXES, NODE = "network", "text boxes", "node"


@dataclass(frozen=True, slots=True)
class Masker:
    """One way of masking. ``mask`` gives the pixels to remove, or None if the node returns no image."""

    name: str
    mask: Callable[[Picture], Mask | None]


def maskers(tools: Tools, policy: CleaningPolicy = CleaningPolicy.RESEARCH) -> tuple[Masker, ...]:
    """Three maskers: the network alone, rapidocr's boxes alone, and all that the node removes."""
    return (
        Masker(NETWORK, lambda picture: network_mask(picture, tools)),
        Masker(TEXT_BOXES, lambda picture: text_mask(picture, tools.reader)),
        Masker(NODE, lambda picture: node_mask(picture, tools, policy)),
    )


def network_mask(picture: Picture, tools: Tools) -> Mask:
    """The pixels that the network marks, with the soft edges that cleaning adds."""
    return grown(tools.finder.find(picture).above(tools.threshold))


def text_mask(picture: Picture, reader: TextReader) -> Mask:
    """The text detector's boxes that are text by their shape or by the text read in them."""
    found = candidates(picture, reader, no_waves(picture.shape))
    boxes = [one.box for one in found if one.certain or one.read(reader).legible]
    return paint(boxes, picture.shape, MARGIN)


def node_mask(picture: Picture, tools: Tools, policy: CleaningPolicy) -> Mask | None:
    """All pixels that the node's plan removes before it verifies; None if the node refuses the picture."""
    header = picture_header(picture, MODALITY, lossy=True)
    try:
        plan = plan_removal(picture, header, RemovalTask(tools, policy), graphics=True)
    except CleaningFailed:
        return None
    return np.asarray(plan.mask | plan.banner, np.bool_)


MOST_FLOW = 2000
"""More red or blue pixels: colour Doppler, whose colour bar and flow hold yellow (the set's own limit)."""
STRONG, WEAK = 45, 30
"""Yellow or cyan (grey levels): a mark has a pixel above the one, and is all that is above the other."""
SMALLEST = 4
"""Coloured pixels that make a mark; fewer are the rim of one, or JPEG (pixels)."""
SOLITARY = 3
"""Coloured pixels this near to each other are one mark (pixels)."""
NOT_CLEAN = frozenset(
    f"images/{name}"
    for name in (
        "322_HC.jpg",
        "679_HC.jpg",
        "benign_244.png",
        "024_HC.jpg",
        "623_HC.jpg",
        "benign_5.png",
        "benign_416.png",
        "otu_0057.jpg",
        "otu_0690.jpg",
    )
)
"""Parts of ``clean_frames.csv`` in which the eye sees marks after all: grey bars, calipers, cut letters.

First those of the test split (found by looking at all 107 before any detector ran on them), then validation.
What is right to be marked there is no false mark; overlays are still drawn on them.
"""
YELLOW, NO_YELLOW = "with yellow marks", "without yellow marks"

Owners = npt.NDArray[np.uint8] | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RealMark:
    """One mark of a frame: its number in the frame's ``owners``, its class, its box, the annotator's note."""

    number: int
    kind: MarkClass
    box: Box
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class MarkedFrame:
    """A real frame and its marks. ``picture`` RGB uint8; ``owners`` holds a mark's number, 0 elsewhere.

    ``known``: pixels for which it is known whether they belong to a mark (in a hand-drawn frame: all).
    """

    name: str
    stratum: str
    picture: Picture
    owners: Owners
    known: Mask
    marks: tuple[RealMark, ...]


def drawn_frames(data: Path, masks: Path) -> Iterator[MarkedFrame]:
    """The hand-drawn test frames, in the order of ``frames.csv``. Raises DataMissing."""
    objects = rows(masks / "objects.csv")
    for row in rows(masks / "frames.csv"):
        picture = read_rgb(data / row["set"] / row["file"])
        name = f"{row['set']}__{Path(row['file']).stem}"
        owners = cv2.imread(str(masks / "owners" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        if owners is None or owners.shape != picture.shape[:2]:
            raise DataMissing(f"{masks / 'owners' / name}.png is missing or not of its frame's size")
        marks = tuple(
            RealMark(int(mark["object_id"]), MarkClass[mark["class"].upper()], box_of(mark), mark["note"])
            for mark in objects
            if (mark["set"], mark["file"]) == (row["set"], row["file"])
        )
        stratum = YELLOW if row["stratum"] == "yellow" else NO_YELLOW
        known = np.ones(owners.shape, np.bool_)
        yield MarkedFrame(name, stratum, picture, np.asarray(owners, np.uint8), known, marks)


def coloured_frames(data: Path, split: str = "val") -> Iterator[MarkedFrame]:
    """``us_ovarian`` frames whose yellow and cyan pixels are marks; only those and the clean part are known.

    The class of such a mark is unknown: all count as text. Raises DataMissing.
    """
    folder = data / REAL_SOURCE
    clean = {frame.file: frame.box for frame in clean_frames(split) if frame.source == REAL_SOURCE}
    for row in rows(folder / "manifest.csv"):
        marked = int(row["yellow_overlay_px"]) >= LEAST_COLOURED
        if row["split"] == split and marked and int(row["doppler_colour_px"]) <= MOST_FLOW:
            yield _coloured(read_rgb(folder / row["file"]), Path(row["file"]).stem, clean.get(row["file"]))


def clean_pictures(data: Path, split: str) -> Iterator[tuple[CleanFrame, Picture]]:
    """The parts of real frames without any mark (``clean_frames.csv``, checked by eye). Raises
    DataMissing.
    """
    for frame in clean_frames(split):
        if frame.file not in NOT_CLEAN:
            yield frame, frame.read(data)


def _coloured(picture: Picture, name: str, clean: Box | None) -> MarkedFrame:
    red, green, blue = (picture[..., channel].astype(np.int16) for channel in range(3))
    tint = np.minimum(green, np.maximum(red, blue)) - np.minimum(red, blue)
    coloured = tint > WEAK
    joined = cv2.dilate(coloured.astype(np.uint8), np.ones((SOLITARY, SOLITARY), np.uint8))
    count, labels = cv2.connectedComponents(joined, connectivity=8)
    owners = np.where(coloured, labels, 0)
    pixels = np.bincount(owners.ravel(), minlength=count)
    strong = np.bincount(owners[tint > STRONG], minlength=count) > 0
    marked = [number for number in range(1, count) if strong[number] and pixels[number] >= SMALLEST]
    owners[~np.isin(owners, marked)] = 0
    known = coloured.copy()
    if clean is not None:
        known[index_of(clean)] = True
    marks = tuple(
        RealMark(number, MarkClass.TEXT, (left, top, left + wide, top + high))
        for number in marked
        for left, top, wide, high in [cv2.boundingRect((owners == number).astype(np.uint8))]
    )
    return MarkedFrame(name, YELLOW, picture, np.asarray(owners, np.int32), known, marks)


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
    of_frames = np.array([frame.stratum for frame in frames])
    strata = {stratum: of_frames == stratum for stratum in sorted(set(of_frames.tolist()))}
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
                stratum: {
                    "frames": int(own.sum()),
                    "objects": int(there[own].sum()),
                    "recall": recall(found.sum(1)[own], there.sum(1)[own], weights[:, own]).as_list(),
                }
                for stratum, own in strata.items()
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
        areas, refused = np.zeros(len(shown)), 0
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


SEED = 15485863


def evaluate_marks(
    data: Path,
    finder: MarkFinder,
    threshold: float,
    *,
    pictures: int = 200,
    split: str = "test",
    style: str = "held-out",
    report: Report = silent,
) -> dict[str, Any]:
    """Object recall by kind, pixel recall, precision, Dice, and the area marked on the clean pictures.

    Intervals are 95 % by bootstrap over frames. Raises DataMissing.
    """
    frames: list[str] = []
    counts: list[list[int]] = []
    areas: list[float] = []
    kinds = [kind for kind in MarkClass if kind is not MarkClass.BACKGROUND]
    found = {kind: ([], []) for kind in kinds}  # type: dict[MarkClass, tuple[list[int], list[int]]]
    overlays = burned_frames(data, clean_frames(split), pictures, SEED, FAMILIES[style])
    for number, (frame, burned) in enumerate(overlays):
        report(number / pictures, f"picture {number + 1}")
        mask, truth = finder.find(burned.image).above(threshold), burned.owners > 0
        frames.append(frame.file)
        counts.append([int((mask & truth).sum()), int(mask.sum()), int(truth.sum())])
        areas.append(float(finder.find(burned.clean).above(threshold).mean()))
        seen = np.bincount(burned.owners.ravel(), minlength=len(burned.objects) + 1)[1:] > 0
        shown = [thing.kind for thing, visible in zip(burned.objects, seen, strict=True) if visible]
        hits = object_shares(burned, mask) >= FOUND_SHARE
        for kind, (above, below) in found.items():
            own = np.array([shape is kind for shape in shown], np.bool_)
            above.append(int(hits[own].sum()) if own.size else 0)
            below.append(int(own.sum()))
    weights = patient_weights(frames)
    hit, marked, true = np.array(counts, np.float64).T
    recall = {
        kind.name.lower(): {
            "objects": sum(below),
            "recall": ratio(np.array(above, float), np.array(below, float), weights).as_list(),
        }
        for kind, (above, below) in found.items()
    }
    everything = [np.sum([pair[side] for pair in found.values()], axis=0).astype(float) for side in (0, 1)]
    return {
        "set": f"{len(frames)} synthetic pictures on {len(set(frames))} {split} frames, style {style}",
        "threshold": threshold,
        "objects": int(everything[1].sum()),
        "object_recall": ratio(everything[0], everything[1], weights).as_list(),
        "by_kind": recall,
        "pixel_recall": ratio(hit, true, weights).as_list(),
        "precision": ratio(hit, marked, weights).as_list(),
        "dice": ratio(2 * hit, marked + true, weights).as_list(),
        "clean_area": mean_interval(np.array(areas), weights).as_list(6),
    }


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
    if masks is None and split != "val":
        return result
    kind = "drawn" if masks is not None else "coloured"
    frames = list(drawn_frames(data, masks) if masks is not None else coloured_frames(data, split))
    if not frames:
        return result
    ways = maskers(tools, policy)
    tallies = score_frames(frames, ways, report)
    result[kind] = summary(frames, tallies)
    if masks is not None:
        for name, reached in met(result[kind]["rows"]).items():
            result[kind]["rows"][name]["met"] = reached
    result["clean"] = clean_areas(clean_pictures(data, split), ways, report) | {"split": split}
    for row in result["clean"]["rows"].values():
        row["met"] = row["area"][0] <= CLEAN_AREA
    if report_to is not None:
        for name, tally in tallies.items():
            show_missed(report_to / name.replace(" ", "-"), tally)
    return result


def show_missed(folder: Path, tally: MarkCounts) -> None:
    """Write a picture of every mark that was not found: unchanged, and with mark (green) and
    mask outlined.
    """
    for missed in tally.missed:
        frame, mark = missed.frame, missed.mark
        cut = crop_around(frame.picture, mark.box)
        outlines = [(missed.mask[cut], OUTLINE), ((frame.owners == mark.number)[cut], TARGET)]
        shown = beside([outlined(frame.picture[cut], masks, ENLARGED) for masks in ([], outlines)])
        title = f"{frame.name} mark {mark.number}, {mark.kind.name.lower()}: {missed.share:.0%} found"
        save(folder / f"{frame.name}-{mark.number}.png", titled(shown, title))


def marks_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of ``evaluate marks`` for the detector's card, by split: ``[value, low, high]``, 95 %."""
    split = result["split"]
    figures: dict[str, Any] = {}
    if "synthetic" in result:
        figures[f"synthetic_{split}"] = result["synthetic"]
    for key in [name for name in ("drawn", "coloured") if name in result]:
        found = result[key]
        figures[key] = {name: found[name] for name in ("frames", "objects", "found_from", "tolerance")} | {
            name.replace(" ", "_"): {part: value for part, value in row.items() if part != "refused"}
            | {"refused": len(row["refused"])}
            for name, row in found["rows"].items()
        }
    if "clean" in result:
        figures[f"clean_{split}"] = {"frames": result["clean"]["frames"], **result["clean"]["rows"]}
    return figures


def legible_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of ``evaluate legible`` for the detector's card, without any text that was read."""
    engines = {
        name: {key: value for key, value in row.items() if key != "what"}
        for name, row in result["engines"].items()
    }
    quarantined = {key: value for key, value in result["quarantined"].items() if key != "reasons"}
    return {f"legible_{result['policy']}": {**result, "engines": engines, "quarantined": quarantined}}


def inpaint_figures(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of ``evaluate inpaint`` for each inpainter's card, by the card's id."""
    cards: dict[str, dict[str, Any]] = {}
    for row in result["rows"]:
        own = cards.setdefault(f"ultrasound-inpaint-{row['name']}", {}).setdefault(
            result["split"], {"set": result["set"]}
        )
        own[row["mask"]] = {key: value for key, value in row.items() if key not in {"mask", "name"}}
    return cards
