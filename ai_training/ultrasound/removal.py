"""``ai-pipeline evaluate marks``: synthetic and real frames, by the network alone and by the whole node."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from skimage.segmentation import find_boundaries

from ai_pipeline.burnin.decide.writing import candidates
from ai_pipeline.burnin.find.annotation import CleaningPolicy, Mask, Picture, dilated
from ai_pipeline.burnin.find.drawings import grown
from ai_pipeline.burnin.find.text import TextReader, paint
from ai_pipeline.burnin.find.traces import no_waves
from ai_pipeline.burnin.planning import MARGIN, RemovalTask, plan_removal
from ai_pipeline.burnin.tools import MARKS, Tools
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.header import picture_header
from ai_training.base import DataMissing, Report, silent
from ai_training.metrics import Interval, exact_at_the_ends, mean_interval, patient_weights, ratio
from ai_training.sets.images import read_rgb, rows
from ai_training.ultrasound.marks import FOUND_SHARE, burned_frames, real_frames
from ai_training.ultrasound.overlays import FAMILIES, CleanFrame, MarkClass, clean_frames

AROUND = 40
"""Pixels that are shown around a mark."""
OUTLINE, TARGET = (255, 0, 255), (0, 255, 0)


def outlined(picture: Picture, *masks: tuple[Mask, tuple[int, int, int]]) -> Picture:
    """A copy of the picture with the outlines of the masks in their colours."""
    for mask, colour in masks:
        edge = find_boundaries(mask, mode="outer")  # type: ignore[no-untyped-call]
        picture = np.where(edge[..., None], np.array(colour, np.uint8), picture)
    return picture


def write_sheet(path: Path, *shown: Mapping[str, Picture]) -> None:
    """Write a PNG with rows of pictures, each under its title."""
    columns = max(map(len, shown))
    figure = Figure(figsize=(5 * columns, 4 * len(shown)), layout="constrained")
    for places, row in zip(figure.subplots(len(shown), columns, squeeze=False), shown, strict=True):
        for axes, (title, picture) in zip(places, row.items(), strict=False):
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(title)
        for axes in places:
            axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


MODALITY = "US"
NETWORK, TEXT_BOXES, NODE = "network", "text_boxes", "node"
Masker = Callable[[Picture], Mask | None]
"""One way of masking: gives the pixels to remove, or None if the node returns no image."""


def maskers(tools: Tools, policy: CleaningPolicy = CleaningPolicy.RESEARCH) -> dict[str, Masker]:
    """Three ways of masking: the network alone, rapidocr's boxes alone, and all that the node removes."""
    return {
        NETWORK: partial(network_mask, tools=tools),
        TEXT_BOXES: partial(text_mask, reader=tools.reader),
        NODE: partial(node_mask, tools=tools, policy=policy),
    }


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
    """A frame and its marks. ``picture`` RGB uint8; ``owners`` holds a mark's number, 0 elsewhere.

    ``known``: pixels for which it is known whether they belong to a mark. ``marks``: each number's class.
    """

    name: str
    picture: Picture
    owners: npt.NDArray[Any]
    known: Mask
    marks: Mapping[int, MarkClass]


def synthetic_frames(data: Path, split: str, style: str, count: int) -> Iterator[MarkedFrame]:
    """Frames of ``split`` with random overlays of the family ``style``. Raises DataMissing."""
    overlays = burned_frames(data, clean_frames(split), count, SEED, FAMILIES[style])
    for frame, burned in overlays:
        kinds = dict(enumerate((thing.kind for thing in burned.objects), start=1))
        known = np.ones(burned.owners.shape, np.bool_)
        yield MarkedFrame(frame.file, burned.image, burned.owners, known, kinds)


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
    """Real frames whose yellow and cyan pixels are marks, all taken for text; only those and the clean part
    are known. Raises DataMissing.
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
    """One way on one frame: found and existing marks by class; pixels that are rightly marked, that are
    marked, that are wrongly marked, that are known to be free; whether the node refused the frame.
    """

    found: npt.NDArray[np.float64]
    there: npt.NDArray[np.float64]
    pixels: tuple[int, ...]
    refused: bool


def measured(
    frames: Iterable[MarkedFrame],
    ways: Mapping[str, Masker],
    report: Report = silent,
    report_to: Path | None = None,
) -> dict[str, Any]:
    """The figures of every way: recall overall and by class, pixels and areas. Of a frame that the node
    refuses nothing is found. ``report_to``: folder for a picture of every mark that was missed.
    """
    names: list[str] = []
    counts: dict[str, list[MarkCounts]] = {name: [] for name in ways}
    for frame in frames:
        report(len(names) / (len(names) + 1), f"frame {frame.name}")
        names.append(frame.name)
        for name, way in ways.items():
            counts[name].append(_counted(frame, way(frame.picture), report_to and report_to / name))
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
    """Share of clean real frames that each way marks (mean of the frames' shares; all of a refused one)."""
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


def recall(found: npt.NDArray[np.float64], there: npt.NDArray[np.float64], weights: Any) -> Interval:
    """The share of marks that were found. If all were found, no resample holds a miss, so the interval is
    exact.
    """
    rate = ratio(found, there, weights)
    return exact_at_the_ends(rate.value, int((there > 0).sum())) if rate.value in {0.0, 1.0} else rate


def _counted(frame: MarkedFrame, mask: Mask | None, report_to: Path | None) -> MarkCounts:
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
        if share < FOUND_SHARE and report_to:
            left, top, wide, high = cv2.boundingRect((owners == number).astype(np.uint8))
            cut = (
                slice(max(0, top - AROUND), top + high + AROUND),
                slice(max(0, left - AROUND), left + wide + AROUND),
            )
            part = frame.picture[cut]
            marked = outlined(part, (mask[cut], OUTLINE), ((owners == number)[cut], TARGET))
            about = {f"{frame.name}, mark {number}": part, f"{kind.name.lower()}, {share:.0%} found": marked}
            write_sheet(report_to / f"{frame.name}-{number}.png", about)
    near = dilated(owners > 0, 2 * TOLERANCE + 1)
    counted, free = mask & (frame.known | near), frame.known & ~near
    of_pixels = (counted & near, counted, mask & free, free)
    return MarkCounts(found, there, tuple(int(part.sum()) for part in of_pixels), refused)


SEED = 15485863


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
    """All figures of the detector on one split; ``figures`` are those for its card. Raises DataMissing.

    ``masks``: the folder of the hand-drawn frames (test split). On the validation split the coloured marks of
    real frames are used instead, so that no choice needs test frames.
    """
    model = next(ref for ref in tools.models if ref.id == MARKS)
    figures: dict[str, Any] = {}
    ways = maskers(tools, policy)
    if pictures:
        made = synthetic_frames(data, split, style, pictures)
        about = {"set": f"overlays on {split} frames, style {style}", "threshold": tools.threshold}
        figures[f"synthetic_{split}"] = about | measured(made, {NETWORK: ways[NETWORK]}, report)
    if masks is not None or split == "val":
        real = drawn_frames(data, masks) if masks is not None else coloured_frames(data, split)
        figures["coloured" if masks is None else "drawn"] = measured(real, ways, report, report_to)
        clean = [frame for frame in clean_frames(split) if frame.file not in NOT_CLEAN]
        del ways[TEXT_BOXES]
        figures[f"clean_{split}"] = clean_areas(clean, (frame.read(data) for frame in clean), ways, report)
    return {
        "model": {"id": model.id, "version": model.version, "sha256": model.sha256},
        "split": split,
        "threshold": tools.threshold,
        "policy": policy.value,
        "figures": figures,
    }
