"""``ai-pipeline evaluate marks``, ``cleaning`` and ``inpaint``: what is found, what goes, how it is filled.

**Marks** are measured on synthetic and real frames, by the network alone and by the whole node. **Cleaning**
is measured by what it takes of waves, flow, bars, rulers, calipers and texts. **Filling**: synthetic marks of
the held-out style family are drawn on test frames. Every figure is computed per picture, over the true mask
(pixels that were drawn on, whatever was masked) and over the whole picture; intervals are 95 % by bootstrap
over frames. KID compares squares around marks in the feature space of EfficientNet-Lite0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from skimage.metrics import structural_similarity
from sklearn.metrics.pairwise import polynomial_kernel

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.candidates import candidates
from ai_pipeline.burnin.find.annotation import (
    Box,
    CleaningPolicy,
    Mask,
    Picture,
    brightest,
    components,
    dilated,
    index_of,
)
from ai_pipeline.burnin.find.drawings import grown
from ai_pipeline.burnin.find.text import TextReader, paint
from ai_pipeline.burnin.find.traces import no_waves
from ai_pipeline.burnin.planning import MARGIN, RemovalTask, plan_removal
from ai_pipeline.burnin.tools import (
    MARKS,
    PLAIN,
    Classical,
    Inpainter,
    NetworkInpainter,
    Tools,
    on_onnx,
    shared_tools,
)
from ai_pipeline.contract import SourceImage
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import PictureImage, open_dicom
from ai_pipeline.images.header import picture_header
from ai_pipeline.models import registry
from ai_pipeline.models.registry import Card
from ai_training.base import DataMissing, Report, silent
from ai_training.metrics import (
    Floats,
    Interval,
    exact_at_the_ends,
    interval,
    mean_interval,
    patient_weights,
    ratio,
)
from ai_training.networks import SIDE, Perception
from ai_training.sets import read_rgb, rows
from ai_training.ultrasound.marks import FOUND_SHARE, burned_frames, real_frames
from ai_training.ultrasound.overlays import (
    FAMILIES,
    HELD_OUT,
    BurnIn,
    CleanFrame,
    MarkClass,
    box_of,
    chroma,
    clean_frames,
)
from ai_training.ultrasound.speckle import COMPARED

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


Row = dict[str, str]

STROKE = 9
"""Side of the square in which a stroke of a letter or a curve stands out from what is beside it (pixels)."""
CONTRAST, TICK_CONTRAST = 40, 60
"""How far strokes, and the ticks of a ruler, stand out at least (grey levels)."""
COLOURED = 50
"""Difference of a pixel's channels from which it is coloured (grey levels)."""


class Content(StrEnum):
    """What a marked object in a frame shows."""

    WAVEFORM = "waveform"
    M_MODE = "m-mode"
    FLOW = "flow"
    COLOUR_BAR = "colour bar"
    GREY_BAR = "grey bar"
    RULER = "ruler"
    CALIPER = "caliper"
    MEASUREMENT = "measurement"
    NUMBER = "number"
    PLACE = "place"
    SETTING = "setting"
    IDENTITY = "identity"


TEXTS = frozenset({Content.MEASUREMENT, Content.NUMBER, Content.PLACE, Content.SETTING, Content.IDENTITY})


@dataclass(frozen=True, slots=True, eq=False)
class MarkedObject:
    """One object that was marked by hand in a frame: what it shows, its box, its pixels ``ink``."""

    content: Content
    box: Box
    ink: Mask


@dataclass(frozen=True, slots=True, eq=False)
class MarkedContent:
    """A frame with the objects that were marked by hand in it. ``frame`` counts from 1; ``picture``: RGB
    uint8 as displayed.
    """

    name: str
    source: SourceImage
    frame: int
    picture: Picture
    objects: tuple[MarkedObject, ...]


def marked_content(data: Path, content: Path, masks: Path) -> Iterator[MarkedContent]:
    """Yield the frames that the folder ``content`` lists, in their order; ``masks``: the folder of the
    hand-drawn masks. Raises DataMissing.
    """
    objects = rows(content / "objects.csv")
    for row in rows(content / "frames.csv"):
        source, picture = shown_frame(data, row)
        name = name_of(row)
        own = objects_of(row, objects)
        path = masks / "owners" / f"{name}.png"
        owners = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
        if owners is None and any(one["owner"] for one in own):
            raise DataMissing(f"{path} is missing")
        found = tuple(object_of_row(one, picture, owners) for one in own)
        yield MarkedContent(name, source, int(row["frame"]), picture, found)


def shown_frame(data: Path, row: Row) -> tuple[SourceImage, Picture]:
    """The image and the displayed picture of a row of ``frames.csv``. Raises DataMissing."""
    path = data / row["set"] / row["file"]
    if not path.is_file():
        raise DataMissing(f"{path} is missing")
    if path.suffix == ".dcm":
        source: SourceImage = open_dicom(path)
    else:
        stored = read_rgb(path)
        source = PictureImage("2.25.1", "2.25.2", picture_header(stored, MODALITY, lossy=True), stored)
    shown = source.display(int(row["frame"]) - 1)
    return source, shown if shown.ndim == 3 else np.repeat(shown[:, :, None], 3, axis=2)


def name_of(row: Row) -> str:
    """The name under which results list the frame of ``row``."""
    return f"{row['set']}__{Path(row['file']).stem}"


def patient_of(name: str) -> str:
    """The unit for resampling of a frame: its patient if the set names one, else its file."""
    return name.partition("_Plane")[0]


def objects_of(frame: Row, objects: Iterable[Row]) -> list[Row]:
    """The rows of ``objects`` that belong to ``frame``."""
    return [one for one in objects if (one["set"], one["file"]) == (frame["set"], frame["file"])]


def object_of_row(row: Row, picture: Picture, owners: npt.NDArray[Any] | None = None) -> MarkedObject:
    """Make the marked object of a row of ``objects.csv``, on the frame ``picture``. ``owners``: the number of
    the object at each pixel; without it the pixels of the object are found by its box and by what it shows.
    """
    content, box = Content(row["class"]), box_of(row)
    if owners is not None and row["owner"]:
        return MarkedObject(content, box, np.asarray(owners == int(row["owner"]), np.bool_))
    within = np.zeros(picture.shape[:2], np.bool_)
    within[index_of(box)] = True
    return MarkedObject(content, box, ink(content, picture, within) & within)


def ink(content: Content, picture: Picture, within: Mask) -> Mask:
    """The pixels of a picture, RGB uint8, that may belong to an object that shows ``content``, ``within`` the
    object's box.
    """
    if content in {Content.M_MODE, Content.COLOUR_BAR, Content.GREY_BAR}:
        return within
    if content is Content.FLOW:
        return np.asarray(chroma(picture) > COLOURED, np.bool_)
    if content is Content.RULER:
        labels, stats = components(strokes(picture, TICK_CONTRAST) & within)
        sides = np.asarray(stats)[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
        return np.isin(labels, np.flatnonzero(sides <= 20) + 1)
    if content is Content.WAVEFORM and (curve := (chroma(picture) > COLOURED) & within).any():
        return curve
    return strokes(picture, CONTRAST)


def strokes(picture: Picture, contrast: int) -> Mask:
    """The pixels of thin strokes: lighter, or more coloured, than their neighbours by more than ``contrast``
    (0..255).
    """
    square = np.ones((STROKE, STROKE), np.uint8)
    lighter, more_coloured = (
        cv2.morphologyEx(np.ascontiguousarray(grey), cv2.MORPH_TOPHAT, square) > contrast
        for grey in (brightest(picture), chroma(picture))
    )
    return np.asarray(lighter | more_coloured, np.bool_)


CUT, WHOLE = 0.1, 0.9
"""A text of which more than the one and less than the other share is removed is cut; identity of which less
than the other is removed is left."""
NEIGHBOURHOOD, FEWEST, EVEN = 41, 200, 3.0
"""Background is where the known pixels of such a square, at least so many, differ no more (pixels; standard
deviation in grey levels)."""
STANDS_OUT = 10.0
"""Difference from the background from which a pixel was made up (grey levels)."""
BLACK = 8
"""Grey level up to which a pixel was blacked out, which makes nothing up (grey levels)."""


@dataclass(frozen=True, slots=True)
class ObjectOutcome:
    """How cleaning treated one marked object: the number of its pixels, and how many of them were removed."""

    content: Content
    pixels: int
    removed: int

    @property
    def share(self) -> float:
        """Share of the object's pixels that was removed, 0 to 1."""
        return self.removed / self.pixels if self.pixels else 0.0


@dataclass(frozen=True, slots=True)
class FrameOutcome:
    """How cleaning treated one frame. ``withheld``: why no image was returned, "" if one was. ``background``:
    number of filled pixels where the source has a plain background; ``made_up``: how many of these do not
    have the background's colour after filling.
    """

    name: str
    objects: tuple[ObjectOutcome, ...] = ()
    background: int = 0
    made_up: int = 0
    filled: float = 0.0
    seconds: float = 0.0
    withheld: str = ""


def evaluate_cleaning(
    data: Path,
    content: Path,
    masks: Path,
    models_dir: Path | None,
    policy: str,
    *,
    pictures: int = 0,
    report: Report = silent,
) -> dict[str, Any]:
    """Clean every frame with marked objects and judge the result; returns all figures. How close the node's
    filling and a plain one come to the original pixels is measured on ``pictures`` frames (their number) on
    which marks were drawn, all of which are removed. ``content``, ``masks``: as in :func:`marked_content`.
    Raises DataMissing.
    """
    tools, how, outcomes = shared_tools(models_dir), CleaningPolicy(policy), []
    for number, frame in enumerate(marked_content(data, content, masks), start=1):
        outcomes.append(_outcome(frame, tools, how))
        report(number / (number + 1), f"frame {number}: {frame.name}")
    result = summary(outcomes, how, tools)
    if pictures:
        planned = planned_by(models_dir, CleaningPolicy.RESEARCH)
        result["filling"] = evaluate_inpaint(
            data, [tools.filler, PLAIN], planned, pictures=pictures, report=report
        )
    return result


def _outcome(frame: MarkedContent, tools: Tools, policy: CleaningPolicy) -> FrameOutcome:
    """Clean a frame, and count what the cleaning changed of its marked objects and of its plain
    background.
    """
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
    background, made_up = _filled_background(frame, after, changed)
    return FrameOutcome(
        frame.name, objects, int(background.sum()), int(made_up.sum()), float(mask.mean()), seconds
    )


def _as_displayed(frame: MarkedContent, samples: npt.NDArray[Any], mask: Mask) -> Picture:
    """The cleaned frame as a viewer shows it; grey samples with the same window as the source."""
    if samples.ndim == 3:
        return np.asarray(samples, np.uint8)
    stored = frame.source.stored(frame.frame - 1)
    values, first = np.unique(stored, return_index=True)
    shown = np.interp(samples, values.astype(np.float64), brightest(frame.picture).ravel()[first])
    grey = np.where(mask, np.rint(shown), brightest(frame.picture)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _filled_background(frame: MarkedContent, after: Picture, mask: Mask) -> tuple[Mask, Mask]:
    """The filled pixels whose surroundings are plain in the source, and those of them that stand out from
    these surroundings.

    Judged by the source alone, so that it does not share the error of the program that finds the image area.
    """
    grey = brightest(frame.picture).astype(np.float64)
    drawn = mask.copy()
    for one in frame.objects:
        drawn |= one.ink
    known = (~dilated(drawn, 7)).astype(np.float64)
    size = (NEIGHBOURHOOD, NEIGHBOURHOOD)
    count, total, squares = (
        cv2.boxFilter(values * known, -1, size, normalize=False) for values in (known, grey, grey**2)
    )
    enough = np.maximum(count, 1)
    level = total / enough
    spread = np.sqrt(np.maximum(squares / enough - level**2, 0))
    background = mask & (count >= FEWEST) & (spread <= EVEN)
    shown = brightest(after)
    differs = (np.abs(shown.astype(np.float64) - level) > STANDS_OUT) & (shown > BLACK)
    return np.asarray(background, np.bool_), np.asarray(background & differs, np.bool_)


def summary(outcomes: Sequence[FrameOutcome], policy: CleaningPolicy, tools: Tools) -> dict[str, Any]:
    """The figures of the cleaning by ``policy``, over all frames: withheld frames, removed pixels by what the
    objects show, and filled background.
    """
    released = [one for one in outcomes if not one.withheld]
    texts = [one for frame in released for one in frame.objects if one.content in TEXTS and one.pixels]
    identity = [one for one in texts if one.content is Content.IDENTITY]
    every = set(Content) - {Content.IDENTITY}
    kinds = {kind.value: {kind} for kind in Content if kind in every} | {"all": every}
    content = {name: _row(released, contents) for name, contents in kinds.items()}
    return {
        "policy": policy,
        "models": [f"{ref.id} {ref.version}" for ref in tools.models],
        "frames": len(outcomes),
        "patients": len({patient_of(one.name) for one in outcomes}),
        "withheld": {
            "frames": len(outcomes) - len(released),
            "reasons": sorted({one.withheld for one in outcomes if one.withheld}),
        },
        "identity": {"objects": len(identity), "left": sum(one.share < WHOLE for one in identity)},
        "content": {name: row for name, row in content.items() if row["objects"] or name == "all"},
        "cut": {"lines": len(texts), "cut": sum(CUT < one.share < WHOLE for one in texts)},
        "background": {
            "filled": sum(one.background for one in released),
            "made_up": sum(one.made_up for one in released),
            "frames_with_any": sum(one.made_up > 0 for one in released),
        },
        "filled_share": float(np.mean([one.filled for one in released])) if released else 0.0,
        "seconds": float(np.median([one.seconds for one in outcomes])) if outcomes else 0.0,
    }


def _row(frames: Sequence[FrameOutcome], contents: set[Content]) -> dict[str, Any]:
    """The figures of the objects that show one of ``contents``, over all frames."""
    own = [[one for one in frame.objects if one.content in contents] for frame in frames]
    pixels = np.array([sum(one.pixels for one in objects) for objects in own], np.float64)
    removed = np.array([sum(one.removed for one in objects) for objects in own], np.float64)
    shares = [one.share for objects in own for one in objects]
    return {
        "objects": len(shares),
        "share": ratio(removed, pixels, patient_weights([patient_of(one.name) for one in frames])).as_list(),
        "gone": sum(share >= WHOLE for share in shares),
        "in_part": sum(CUT < share < WHOLE for share in shares),
    }


NETWORKS = ("unet", "vae", "oci-gan")
CLASSICAL = ("telea", "navier-stokes")


def cards_with_compared(models_dir: Path | None = None) -> dict[str, Card]:
    """The model cards of :func:`ai_pipeline.models.registry.cards` and those of models for comparison, sorted
    by id. A card in ``models_dir`` replaces one of the same id. Raises CardError if one cannot be read.
    """
    known = {card.id: card for folder in (COMPARED, models_dir) for card in registry.cards(folder)}
    return dict(sorted(known.items()))


def inpainters(known: Mapping[str, Card], threads: int) -> list[Inpainter]:
    """The inpainters of :data:`NETWORKS` whose model cards are ``known``, and :data:`CLASSICAL`. Raises
    CardError.
    """
    networks = (
        NetworkInpainter(name, on_onnx(registry.read(card.file("inpainter")), threads))
        for name in NETWORKS
        if (card := known.get(f"ultrasound-inpaint-{name}"))
    )
    return [*networks, *map(Classical, CLASSICAL)]


def planned_by(models_dir: Path | None, policy: str) -> Masker:
    """Return a function that gives the mask of all that the node removes from a picture under ``policy``."""
    return partial(node_mask, tools=shared_tools(models_dir), policy=CleaningPolicy(policy))


FIGURES = ("mae", "mse", "psnr", "ssim")
PLACES = ("inside", "whole")
UNCLEANED = "uncleaned"
REFERENCE = "navier-stokes"
FILLING_SEED = 104729
HALVES = 100
LARGEST_PSNR = 60.0
"""What a perfect fill counts (dB): rounding alone gives 59."""


def evaluate_inpaint(
    data: Path,
    inpainters: Sequence[Inpainter],
    planned: Masker | None,
    *,
    pictures: int = 200,
    split: str = "test",
    report: Report = silent,
) -> dict[str, Any]:
    """Measure how well ``inpainters`` fill holes, compared with the uncleaned picture; ``planned`` gives the
    mask that the node would remove. Without ``planned`` there are no rows with a detected mask; pictures that
    the node refuses are left out of those rows and counted. Raises DataMissing.
    """
    perception, refused = Perception(), 0
    measured: dict[str, list[MeasuredPicture]] = {"given": [], "detected": []}
    files: list[str] = []
    for frame, burned in burned_frames(data, clean_frames(split), pictures, FILLING_SEED, HELD_OUT):
        if not burned.objects:
            continue
        report(len(files) / pictures, f"picture {len(files) + 1}")
        files.append(frame.file)
        holes = {"given": grown(burned.mask > 0)}  # and their soft edges and the ringing of compression
        if planned:
            hole = planned(burned.image)
            holes |= {} if hole is None else {"detected": hole}
            refused += hole is None
        squares = squares_of(burned)
        truth = _features(perception, burned.clean, squares)
        for mask, hole in holes.items():
            made = {UNCLEANED: burned.image} | {way.name: way.fill(burned.image, hole) for way in inpainters}
            values = {name: figures(one, burned.clean, burned.owners > 0) for name, one in made.items()}
            features = {name: _features(perception, one, squares) for name, one in made.items()}
            measured[mask].append(MeasuredPicture(frame.file, truth, values, features))
    return {
        "set": f"{len(files)} pictures on {len(set(files))} {split} frames, style {HELD_OUT.name}",
        "split": split,
        "refused": refused,
        "reference": REFERENCE,
        "rows": [row for mask, found in measured.items() if found for row in _summary(mask, found)],
    }


class MeasuredPicture(NamedTuple):
    """The figures of one picture with one mask.

    ``frame``: its name; ``truth``: features of the unmarked picture's squares, for KID; ``values`` and
    ``features``: for each way of filling the figures of :func:`figures`, and the features of its squares.
    """

    frame: str
    truth: npt.NDArray[np.float32]
    values: Mapping[str, npt.NDArray[np.float64]]
    features: Mapping[str, npt.NDArray[np.float32]]


def figures(filled: Picture, truth: Picture, mask: Mask) -> npt.NDArray[np.float64]:
    """How close the ``filled`` picture is to the ``truth``: ``[2, 4]``, in ``mask`` and over the whole
    picture, MAE (0..255), MSE (0..1), PSNR (dB) and SSIM.

    SSIM is that of the luminances (Wang et al. 2004: Gaussian window, sigma 1.5, range 255).
    """
    difference = filled.astype(np.float64) - truth
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (filled, truth)]
    choices = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, similarity = structural_similarity(*grey, data_range=255, full=True, **choices)  # type: ignore[no-untyped-call]
    rows = []
    for place in (mask, np.ones_like(mask)):
        error = float(np.square(difference[place] / 255).mean())
        psnr = LARGEST_PSNR if error == 0 else min(LARGEST_PSNR, -10 * np.log10(error))
        rows.append([float(np.abs(difference[place]).mean()), error, psnr, float(similarity[place].mean())])
    return np.array(rows)


def kernel_distances(made: npt.NDArray[np.float32], real: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The distance (KID) of the features ``made`` of filled pictures from the features ``real`` of unmarked
    ones, ``[pictures, squares, C]`` each, for :data:`HALVES` random halves of the pictures, the same for
    every way of filling.

    The unbiased squared MMD with the kernel (x·y / C + 1)³ (Binkowski et al. 2018). In every half, made and
    real squares come from different pictures: two squares of one picture share all that surrounds the hole.
    """
    random = np.random.default_rng(FILLING_SEED)
    values = np.zeros(HALVES)
    for number in range(HALVES):
        order = random.permutation(len(made))
        parts = made[order[: len(made) // 2]], real[order[len(made) // 2 :]]
        one, other = (part.reshape(-1, made.shape[-1]).astype(np.float64) for part in parts)
        for sample in (one, other):
            similar = polynomial_kernel(sample)  # of that degree, scale and offset
            values[number] += (similar.sum() - np.trace(similar)) / (len(sample) * (len(sample) - 1))
        values[number] -= 2 * polynomial_kernel(one, other).mean()
    return values


def squares_of(picture: BurnIn) -> list[tuple[slice, slice]]:
    """Squares of :data:`SIDE` pixels around marks, the same in every run."""
    rows, columns = picture.owners.shape
    places = np.random.default_rng(FILLING_SEED).choice(np.argwhere(picture.owners), 4)
    squares = []
    for row, column in places.tolist():
        top = int(np.clip(row - SIDE // 2, 0, max(0, rows - SIDE)))
        left = int(np.clip(column - SIDE // 2, 0, max(0, columns - SIDE)))
        squares.append((slice(top, top + SIDE), slice(left, left + SIDE)))
    return squares


def _summary(mask: str, found: Sequence[MeasuredPicture]) -> Iterator[dict[str, Any]]:
    """The figures of each way of filling with this kind of mask."""
    weights = patient_weights([one.frame for one in found])
    real = np.stack([one.truth for one in found])
    names = found[0].values
    values = {name: np.stack([one.values[name] for one in found]) for name in names}
    kid = {name: kernel_distances(np.stack([one.features[name] for one in found]), real) for name in names}
    for name in names:
        row: dict[str, Any] = {"mask": mask, "name": name, "pictures": len(found)}
        row |= {where: _by_figure(values[name][:, place], weights) for place, where in enumerate(PLACES)}
        row["kid"] = _percentiles(kid[name])
        if REFERENCE in names and name not in {UNCLEANED, REFERENCE}:
            difference = values[name] - values[REFERENCE]
            for place, where in enumerate(PLACES):
                row[where]["difference"] = _by_figure(difference[:, place], weights)
            row["kid_difference"] = _percentiles(kid[name] - kid[REFERENCE])
        yield row


def _by_figure(values: npt.NDArray[np.float64], weights: Floats) -> dict[str, Any]:
    """The mean of each figure, with its interval."""
    return {figure: mean_interval(values[:, k], weights).as_list(6) for k, figure in enumerate(FIGURES)}


def _percentiles(values: npt.NDArray[np.float64]) -> list[float]:
    """The mean with the 2.5 and 97.5 percentiles."""
    return interval(float(values.mean()), values).as_list(6)


def _features(
    perception: Perception, picture: Picture, squares: list[tuple[slice, slice]]
) -> npt.NDArray[np.float32]:
    """The ImageNet features of squares of a picture, by which pictures are compared (KID)."""
    cuts = [picture[square] for square in squares]
    padded = [np.pad(cut, ((0, SIDE - cut.shape[0]), (0, SIDE - cut.shape[1]), (0, 0))) for cut in cuts]
    with torch.inference_mode():
        pictures = torch.from_numpy(np.stack(padded)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return np.asarray(perception.pooled(pictures).numpy(), np.float32)


def inpaint_figures(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of :func:`evaluate_inpaint` for each inpainter's card, by the model card's id."""
    cards: dict[str, dict[str, Any]] = {}
    for row in result["rows"]:
        card = cards.setdefault(f"ultrasound-inpaint-{row['name']}", {"set": result["set"]})
        card[row["mask"]] = {key: value for key, value in row.items() if key not in {"mask", "name"}}
    return {name: {result["split"]: figures} for name, figures in cards.items()}
