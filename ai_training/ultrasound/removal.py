"""``ai-pipeline evaluate marks``: what each way of masking finds, and what it takes of clean areas.

Measured on synthetic and real frames, by the network alone and by the whole node. Every figure is computed
per picture; intervals are 95 % by bootstrap over frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.decide.candidates import candidates
from ai_pipeline.burnin.find.annotation import CleaningPolicy, Mask, Picture, dilated
from ai_pipeline.burnin.find.drawings import grown
from ai_pipeline.burnin.find.text import TextReader, paint
from ai_pipeline.burnin.find.traces import no_waves
from ai_pipeline.burnin.planning import MARGIN, RemovalTask, plan_removal
from ai_pipeline.burnin.tools import MARKS, Tools, shared_tools
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.header import picture_header
from ai_training.base import DataMissing, Report, silent
from ai_training.metrics import Interval, exact_at_the_ends, mean_interval, patient_weights, ratio
from ai_training.sets.files import read_rgb, rows
from ai_training.ultrasound.marks import FOUND_SHARE, burned_frames, real_frames
from ai_training.ultrasound.overlays.canvas import MarkClass
from ai_training.ultrasound.overlays.hands import FAMILIES
from ai_training.ultrasound.overlays.scenes import CleanFrame, clean_frames

MODALITY = "US"
NETWORK, TEXT_BOXES, NODE = "network", "text_boxes", "node"
Masker = Callable[[Picture], Mask | None]
"""One way of masking: gives the pixels to remove, or None if the node returns no image."""


def maskers(tools: Tools, policy: CleaningPolicy = CleaningPolicy.RESEARCH) -> dict[str, Masker]:
    """Three ways of finding the pixels of burned-in marks, by name: the mark network alone, rapidocr's boxes
    alone, and all that the node removes.
    """
    return {
        NETWORK: partial(network_mask, tools=tools),
        TEXT_BOXES: partial(text_mask, reader=tools.reader),
        NODE: partial(node_mask, tools=tools, policy=policy),
    }


def network_mask(picture: Picture, tools: Tools) -> Mask:
    """The pixels that the mark network marks, with the soft edges that cleaning adds."""
    return grown(tools.finder.find(picture).marked >= tools.threshold)


def text_mask(picture: Picture, reader: TextReader) -> Mask:
    """The mask of the text detector's boxes that are text by their shape or by the text read in them."""
    found = candidates(picture, reader, no_waves(picture.shape))
    boxes = [one.box for one in found if one.certain or one.text(reader).line.legible]
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


class MarkedFrame(NamedTuple):
    """A frame and the marks burned into it. ``picture``: RGB uint8; ``owners``: a mark's number at its
    pixels, 0 elsewhere. ``known``: pixels for which it is known whether they belong to a mark. ``marks``: the
    class of each mark by number.
    """

    name: str
    picture: Picture
    owners: npt.NDArray[Any]
    known: Mask
    marks: Mapping[int, MarkClass]


def synthetic_frames(data: Path, split: str, style: str, count: int) -> Iterator[MarkedFrame]:
    """Yield ``count`` frames of ``split`` with random overlays of the family ``style``. Raises
    DataMissing.
    """
    overlays = burned_frames(data, clean_frames(split), count, SEED, FAMILIES[style])
    for frame, burned in overlays:
        kinds = dict(enumerate((thing.kind for thing in burned.objects), start=1))
        yield MarkedFrame(
            frame.file, burned.image, burned.owners, np.ones(burned.owners.shape, np.bool_), kinds
        )


def drawn_frames(data: Path, masks: Path) -> Iterator[MarkedFrame]:
    """The hand-drawn test frames, in the order of ``frames.csv``. Raises DataMissing."""
    objects = rows(masks / "objects.csv")
    for row in rows(masks / "frames.csv"):
        picture = read_rgb(data / row["set"] / row["file"])
        name = f"{row['set']}__{Path(row['file']).stem}"
        owners = cv2.imread(str(masks / "owners" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        if owners is None or owners.shape != picture.shape[:2]:
            raise DataMissing(f"{masks / 'owners' / name}.png is missing or not of its frame's size")
        marks = {
            int(mark["object_id"]): MarkClass[mark["class"].upper()]
            for mark in objects
            if (mark["set"], mark["file"]) == (row["set"], row["file"])
        }
        yield MarkedFrame(name, picture, owners, np.ones(owners.shape, np.bool_), marks)


def coloured_frames(data: Path, split: str = "val") -> Iterator[MarkedFrame]:
    """Real frames of ``split`` whose yellow and cyan pixels are marks, all counted as text. The truth is
    known for these pixels and for the clean part of a frame only. Raises DataMissing.
    """
    for frame in real_frames(data, split, MOST_FLOW):
        picture, targets = frame.sample()
        red, green, blue = (picture[..., channel].astype(np.int16) for channel in range(3))
        tint = np.minimum(green, np.maximum(red, blue)) - np.minimum(red, blue)
        coloured = tint > WEAK
        joined = cv2.dilate(coloured.astype(np.uint8), np.ones((SOLITARY, SOLITARY), np.uint8))
        count, labels = cv2.connectedComponents(joined, connectivity=8)
        owners = np.where(coloured, labels, 0)
        strong = np.bincount(owners[tint > STRONG], minlength=count) > 0
        # Fewer coloured pixels are the rim of a mark, or JPEG.
        large = np.flatnonzero(strong & (np.bincount(owners.ravel(), minlength=count) >= 4))
        owners[~np.isin(owners, large)] = 0
        marks = dict.fromkeys(large.tolist(), MarkClass.TEXT)
        yield MarkedFrame(frame.path.stem, picture, owners, coloured | (targets == 0), marks)


TOLERANCE = 3
"""Marked pixels this near to a hand-drawn one are right: JPEG rings, hands shake (pixels)."""
RECALL, LOWEST = 0.95, 0.92
"""The design's targets: object recall, and the lower end of its interval."""


class MarkCounts(NamedTuple):
    """The counts of one way of masking on one frame.

    Found and existing marks by class; pixels that are rightly marked, marked, wrongly marked, and known to be
    free of marks; whether the node refused the frame.
    """

    found: npt.NDArray[np.float64]
    there: npt.NDArray[np.float64]
    pixels: tuple[int, ...]
    refused: bool


def mark_figures(
    frames: Iterable[MarkedFrame],
    ways: Mapping[str, Masker],
    report: Report = silent,
) -> dict[str, Any]:
    """Compare each way of finding marks (``ways``: functions that return a mask, by name) with the truth of
    ``frames``: recall of all marks and of each class, and of pixels. In a frame that the node refuses,
    nothing counts as found.
    """
    names: list[str] = []
    counts: dict[str, list[MarkCounts]] = {name: [] for name in ways}
    for frame in frames:
        report(len(names) / (len(names) + 1), f"frame {frame.name}")
        names.append(frame.name)
        for name, way in ways.items():
            counts[name].append(_mark_counts(frame, way(frame.picture)))
    weights = patient_weights(names)
    result: dict[str, Any] = {
        "frames": len(names),
        "objects": 0,
        "found_from": FOUND_SHARE,
        "tolerance": TOLERANCE,
    }
    for name, tally in counts.items():
        found, there, pixels, refused = map(np.array, zip(*tally, strict=True))
        hit, marked, wrong, free = pixels.T
        everything = recall(found.sum(1), there.sum(1), weights)
        result["objects"] = int(there.sum())
        result[name] = {
            "recall": everything.as_list(),
            "met": everything.value >= RECALL and everything.low >= LOWEST,
            "by_class": {
                kind.name.lower(): {
                    "objects": int(there[:, kind].sum()),
                    "recall": recall(found[:, kind], there[:, kind], weights).as_list(),
                }
                for kind in MarkClass
                if there[:, kind].any()
            },
            "precision": ratio(hit, marked, weights).as_list(),
            "false_area": ratio(wrong, free, weights).as_list(6),
            "refused": int(refused.sum()),
        }
    return result


def clean_areas(
    frames: Sequence[CleanFrame],
    pictures: Iterable[Picture],
    ways: Mapping[str, Masker],
    report: Report = silent,
) -> dict[str, Any]:
    """The share of the area of real frames without marks (``pictures``) that each way marks wrongly, as a
    mean over frames; a refused frame counts as all marked.
    """
    shown, weights = list(pictures), patient_weights([f"{frame.source}/{frame.file}" for frame in frames])
    result: dict[str, Any] = {"frames": len(shown)}
    for name, way in ways.items():
        report(0.0, f"clean frames: {name}")
        masks = [way(picture) for picture in shown]
        areas = np.array([1.0 if mask is None else float(mask.mean()) for mask in masks])
        area = mean_interval(areas, weights)
        result[name] = {
            "area": area.as_list(6),
            # The design's target.
            "met": area.value <= 0.002,
            "frames_touched": int((areas > 0).sum()),
            "largest": round(float(areas.max()), 5),
            "refused": sum(mask is None for mask in masks),
        }
    return result


def recall(found: npt.NDArray[np.float64], marks: npt.NDArray[np.float64], weights: Any) -> Interval:
    """The share of ``marks`` that were found. If all were found, resampling shows no spread, so the interval
    is the exact one.
    """
    rate = ratio(found, marks, weights)
    return exact_at_the_ends(rate.value, int((marks > 0).sum())) if rate.value in {0.0, 1.0} else rate


def _mark_counts(frame: MarkedFrame, mask: Mask | None) -> MarkCounts:
    """Compare ``mask``, the pixels that one way takes for marks, with the truth of one frame. None: the node
    refused the frame.
    """
    refused, owners = mask is None, frame.owners
    mask = np.zeros(owners.shape, np.bool_) if mask is None else mask
    found, there = np.zeros((2, len(MarkClass)))
    size = int(owners.max(initial=0)) + 1
    pixels, covered = (np.bincount(part.ravel(), minlength=size) for part in (owners, owners[mask]))
    for number, kind in frame.marks.items():
        if number >= size or not pixels[number]:  # later ones have covered it
            continue
        share = covered[number] / pixels[number]
        there[kind] += 1
        found[kind] += share >= FOUND_SHARE
    near = dilated(owners > 0, 2 * TOLERANCE + 1)
    counted, free = mask & (frame.known | near), frame.known & ~near
    of_pixels = (counted & near, counted, mask & free, free)
    return MarkCounts(found, there, tuple(int(part.sum()) for part in of_pixels), refused)


SEED = 15485863


def evaluate_removal(
    data: Path,
    models_dir: Path | None,
    *,
    masks: Path | None,
    split: str = "test",
    style: str = "held-out",
    pictures: int = 200,
    policy: str = "research",
    report: Report = silent,
) -> dict[str, Any]:
    """Measure the mark detector on one split; returns all figures, of which ``figures`` are those for its
    model card. ``masks``: the folder of the hand-drawn frames (test split). On the validation split the
    coloured marks of real frames are used instead, so that no choice needs test frames. ``style``: family of
    the synthetic overlays; ``pictures``: their number; ``policy``: of cleaning. Raises DataMissing.
    """
    tools = shared_tools(models_dir)
    model = next(ref for ref in tools.models if ref.id == MARKS)
    figures: dict[str, Any] = {}
    ways = maskers(tools, CleaningPolicy(policy))
    if pictures:
        made = synthetic_frames(data, split, style, pictures)
        about = {"set": f"overlays on {split} frames, style {style}", "threshold": tools.threshold}
        figures[f"synthetic_{split}"] = about | mark_figures(made, {NETWORK: ways[NETWORK]}, report)
    if masks is not None or split == "val":
        real = drawn_frames(data, masks) if masks is not None else coloured_frames(data, split)
        figures["coloured" if masks is None else "drawn"] = mark_figures(real, ways, report)
        clean = [frame for frame in clean_frames(split) if frame.file not in NOT_CLEAN]
        del ways[TEXT_BOXES]
        figures[f"clean_{split}"] = clean_areas(clean, (frame.read(data) for frame in clean), ways, report)
    return {
        "model": {"id": model.id, "version": model.version, "sha256": model.sha256},
        "split": split,
        "threshold": tools.threshold,
        "policy": policy,
        "figures": figures,
    }


def planned_by(models_dir: Path | None, policy: str) -> Masker:
    """Return a function that gives the mask of all that the node removes from a picture under ``policy``."""
    return partial(node_mask, tools=shared_tools(models_dir), policy=CleaningPolicy(policy))
