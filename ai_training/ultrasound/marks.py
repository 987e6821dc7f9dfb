"""``ai-pipeline train marks``: teach a small U-Net to find burned-in annotation.

Runs are seeded and limited by iterations. The network learns from synthetic overlays of the train style
family and from the coloured marks of real frames; the checkpoint and the threshold are chosen on validation
frames with the same family, so that the held-out family stays unseen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import cross_entropy, interpolate, pixel_shuffle, pixel_unshuffle
from torch.utils.data import Dataset

from ai_pipeline.burnin.find.annotation import Box, Picture, index_of
from ai_pipeline.burnin.find.drawings import grown
from ai_pipeline.burnin.find.networks import MarkFinder
from ai_training.base import Report, silent
from ai_training.cards import export, new_card
from ai_training.engine import Recipe, RecipeRun, Validation, input_of
from ai_training.sets.files import read_rgb, rows
from ai_training.ultrasound.overlays.burning import BurnIn, burn_in
from ai_training.ultrasound.overlays.hands import FAMILIES, TRAIN, StyleFamily, font_list
from ai_training.ultrasound.overlays.scenes import CleanFrame, chroma, clean_frames

CLASSES = ("background", "text", "caliper", "marker", "scale", "logo")
"""In the order of the outputs."""
WIDTHS = (24, 40, 72, 112)
OUTPUTS = ("marked", "classes")


class MarkNetwork(nn.Module):
    """The detector of burned-in marks, a U-Net. ``forward`` takes float32 RGB ``[N, 3, rows, columns]`` of
    0..255 and returns logits ``[N, 6, rows, columns]`` of no mark and five classes of marks.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        """``widths``: channels of each level."""
        super().__init__()
        self.down = nn.ModuleList(
            _block(before, after) for before, after in zip((12, *widths[:-1]), widths, strict=True)
        )
        self.narrow = nn.ModuleList(
            nn.Conv2d(below, beside, 1) for below, beside in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.up = nn.ModuleList(_block(2 * beside, beside) for beside in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], 4 * len(CLASSES), 1)

    def forward(self, frames: Tensor) -> Tensor:
        """The logits of each pixel of ``frames``."""
        x = pixel_unshuffle((frames - 127.5) / 127.5, 2)
        levels: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            levels.append(x)
        for narrow, block, beside in zip(self.narrow, self.up, levels[-2::-1], strict=True):
            x = block(torch.cat([interpolate(narrow(x), scale_factor=2.0, mode="nearest"), beside], 1))
        return pixel_shuffle(self.head(x), 2)


class MarkFinderGraph(nn.Module):
    """The mark detector for export: it returns ``marked [N, rows, columns]`` 0..1, and the class of the
    likeliest mark (uint8, 1 to 5).
    """

    def __init__(self, network: MarkNetwork) -> None:
        """Wrap the trained ``network``."""
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Probability and class of a mark at each pixel."""
        logits = self.network(frames)
        marks = logits[:, 1:]
        marked = torch.sigmoid(torch.logsumexp(marks, 1) - logits[:, 0])
        return marked, (marks.argmax(1) + 1).to(torch.uint8)


def _block(before: int, after: int) -> nn.Sequential:
    """Two convolutions, each with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


IGNORED, ANY_MARK = 255, 254
"""Targets beside the classes: not to be learnt from, and "some mark, whichever"."""
FAINT = 8
"""A change of fewer grey levels in every channel (soft edges, scaling) is neither mark nor background."""
REAL_SOURCE = "us_ovarian"
LEAST_COLOURED, MOST_FLOW = 60, 300
"""Coloured pixels that a frame has at least, and red or blue ones of colour Doppler at most."""

Targets = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Mix:
    """The composition of a training batch: ``pictures`` pictures with ``crops`` squares of ``side`` pixels
    each; a share ``real`` of the pictures is real.
    """

    pictures: int = 4
    crops: int = 3
    side: int = 192
    real: float = 0.15


@dataclass(frozen=True, slots=True)
class RealFrame:
    """A frame with real coloured marks, and a part of it that is known to be clean (or None)."""

    path: Path
    clean: Box | None

    def sample(self) -> tuple[Picture, Targets]:
        """Read the frame as RGB, and the class of each pixel: coloured pixels are marks, those of the clean
        part are none, and all others are unknown.
        """
        picture = read_rgb(self.path)
        targets: Targets = np.full(picture.shape[:2], IGNORED, np.uint8)
        if self.clean is not None:
            targets[index_of(self.clean)] = 0
        targets[chroma(picture) > 60] = ANY_MARK
        return picture, targets


class MarkBatches(Dataset[tuple[Tensor, Tensor]]):
    """The training batches of a run; item i is float32 ``[N, 3, side, side]`` and the class of each pixel
    ``[N, side, side]``.
    """

    def __init__(self, data: Path, mix: Mix, seed: int) -> None:
        """``data``: folder of the sets of images; ``mix``: composition of a batch."""
        self._data, self._mix, self._seed = data, mix, seed
        self._frames = clean_frames("train")
        self._real = real_frames(data)

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Make the batch of step ``iteration``."""
        cv2.setNumThreads(1)
        random = np.random.default_rng((self._seed, iteration))
        frames, targets = [], []
        for number in range(self._mix.pictures):
            picture, target = self._picture(random, (self._seed, iteration, number))
            for _ in range(self._mix.crops):
                frame, known = crop(picture, target, self._mix.side, random)
                frames.append(frame)
                targets.append(known)
        stacked = np.stack(frames).transpose(0, 3, 1, 2).astype(np.float32)
        return torch.from_numpy(stacked), torch.from_numpy(np.stack(targets).astype(np.int64))

    def _picture(self, random: np.random.Generator, seed: tuple[int, ...]) -> tuple[Picture, Targets]:
        """A random picture with its targets, real or synthetic."""
        if self._real and random.random() < self._mix.real:
            return self._real[int(random.integers(len(self._real)))].sample()
        part = self._frames[int(random.integers(len(self._frames)))].read(self._data)
        burned = burn_in(part, TRAIN, seed)
        return burned.image, targets_of(burned)


def targets_of(burned: BurnIn) -> Targets:
    """The class of each pixel; ignored where the mark has hardly changed the picture."""
    change = np.abs(burned.drawn.astype(np.int16) - burned.plain).max(axis=2)
    return np.where((change > 0) & (change < FAINT), IGNORED, burned.classes).astype(np.uint8)


def crop(
    picture: Picture, targets: Targets, side: int, random: np.random.Generator
) -> tuple[Picture, Targets]:
    """Cut the same random square of ``side`` pixels out of picture and targets, black beyond the picture;
    half of the squares are chosen so that they hold a marked pixel.
    """
    rows, columns = targets.shape
    short = max(0, side - rows), max(0, side - columns)
    picture = np.pad(picture, ((0, short[0]), (0, short[1]), (0, 0)))
    targets = np.pad(targets, ((0, short[0]), (0, short[1])))
    rows, columns = targets.shape
    top, left = int(random.integers(rows - side + 1)), int(random.integers(columns - side + 1))
    marked = np.flatnonzero((targets > 0) & (targets != IGNORED))
    if marked.size and random.random() < 0.5:
        row, column = np.unravel_index(int(random.choice(marked)), targets.shape)
        top = int(np.clip(int(row) - random.integers(side), 0, rows - side))
        left = int(np.clip(int(column) - random.integers(side), 0, columns - side))
    cut = slice(top, top + side), slice(left, left + side)
    return picture[cut], targets[cut]


def real_frames(data: Path, split: str = "train", most_flow: int = MOST_FLOW) -> tuple[RealFrame, ...]:
    """The frames of ``us_ovarian`` with coloured marks and hardly any colour flow. Raises DataMissing."""
    folder = data / REAL_SOURCE
    clean = {frame.file: frame.box for frame in clean_frames(split) if frame.source == REAL_SOURCE}
    return tuple(
        RealFrame(folder / row["file"], clean.get(row["file"]))
        for row in rows(folder / "manifest.csv", split)
        if int(row["yellow_overlay_px"]) >= LEAST_COLOURED and int(row["doppler_colour_px"]) <= most_flow
    )


def burned_frames(
    data: Path, frames: Sequence[CleanFrame], count: int, seed: int, family: StyleFamily
) -> Iterator[tuple[CleanFrame, BurnIn]]:
    """Make ``count`` synthetic pictures for measuring: the frames one after another, each with its own random
    overlay.
    """
    order = np.random.default_rng(seed).permutation(len(frames))
    for index in range(count):
        frame = frames[order[index % len(frames)]]
        yield frame, burn_in(frame.read(data), family, (seed, index))


ID = "ultrasound-marks-unet"
LARGEST = 512
"""Most steps of 16 pixels a side that an exported file is declared for (8,192 pixels)."""


def export_finder(network: MarkNetwork, path: Path) -> None:
    """Write the mark detector as an ONNX file: input ``frames`` RGB 0..255 with free rows and columns,
    multiples of 16.
    """
    rows, columns = Dim("rows16", min=2, max=LARGEST), Dim("columns16", min=2, max=LARGEST)
    export(
        MarkFinderGraph(network).eval(),
        (torch.zeros(1, 3, 96, 128),),
        {"frames": {2: 16 * rows, 3: 16 * columns}},
        OUTPUTS,
        path,
    )


def write_finder_card(
    folder: Path, threshold: float, scores: Mapping[str, float], training: Mapping[str, Any]
) -> Path:
    """Write the mark detector's model card beside its weights in ``folder``; returns its path. ``scores``:
    validation figures; ``training``: the card's table on the training. ``ai-pipeline evaluate marks`` adds
    the test figures.
    """
    about = {
        "task": "segmentation of burned-in annotation in ultrasound pictures, by kind of mark",
        "architecture": "marks-unet",
        "licence": "Apache-2.0; trained from scratch",
        "intended_use": (
            "To find text and drawn marks that are to be removed, together with a text detector and what "
            "DICOM says. Not a proof that nothing is left: that is read off the cleaned picture."
        ),
        "limits": [
            "Trained on synthetic overlays and on the coloured marks of one hospital's frames.",
            "Bars and boxes under a text are left where they are: without their text they say nothing.",
            "Whether a text names a person is not its to say.",
        ],
    }
    tables = {
        "detector": {"classes": list(CLASSES), "threshold": threshold, "step": 16},
        "calibration": {
            "calibrated": False,
            "method": (
                "lowest threshold that marks at most .1 % of clean validation frames, soft edges included"
            ),
        },
        "training": {
            "data": [
                "us_fetal_head, us_breast, us_ovarian (train): clean parts with synthetic overlays",
                "us_ovarian (train): coloured marks",
            ],
            **training,
            "fonts": {
                name: [
                    " ".join((row["name"], row["weight"], row["sha256"][:12])).strip()
                    for row in font_list(family.latin + family.korean)
                ]
                for name, family in FAMILIES.items()
            },
        },
        "metrics": {"validation": {name: round(value, 5) for name, value in scores.items()}},
    }
    made_by = "Model card of the detector of burned-in annotation: `ai-pipeline train marks`."
    return new_card(folder, ID, made_by, "mark-finder", about, tables)


THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GROWN_AREA = 0.001
"""Share of clean validation frames that may be marked, as cleaning grows it: half of the project's limit,
because text boxes come on top of it."""
FOUND_SHARE = 0.5
"""An object is found when half its pixels lie in the mask, as cleaning grows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRecipe(Recipe):
    """The settings of a training run of the mark detector. ``mark_weight``, ``dice_weight``: weights of the
    pixels of marks and of the Dice loss.
    """

    iterations: int = 6000
    widths: tuple[int, ...] = WIDTHS
    mix: Mix = field(default_factory=Mix)
    weight_decay: float = 0.01
    warm_up: float = 0.05
    mark_weight: float = 2.0
    dice_weight: float = 0.5
    validate_every: int = 500
    validation_pictures: int = 60


def train(
    data: Path, out: Path, recipe: MarkRecipe, *, resume: bool = False, report: Report = silent
) -> Path:
    """Train the mark detector, choose checkpoint and threshold, export it; returns the path of the model
    card. ``out`` receives checkpoints, history, weights and card. Raises DataMissing if image sets are
    missing, ExperimentError if ``resume`` finds another recipe.
    """
    run = _MarkRun(data, out, recipe)
    network = cast(MarkNetwork, run.trained(report, resume=resume))
    plain = [frame.read(data) for frame in clean_frames("val")]
    threshold, scores = choose_threshold(torch_finder(network), run.validation, plain)
    export_finder(network, out / f"{ID}.onnx")
    described = {
        "recipe": recipe.described(),
        "validation": f"{len(run.validation)} synthetic pictures on validation frames, style {TRAIN.name}",
        "chosen_iteration": run.best["iteration"],
    }
    return write_finder_card(out, threshold, scores, described)


def loss_of(logits: Tensor, targets: Tensor, recipe: MarkRecipe) -> Tensor:
    """The training loss: cross-entropy over the classes (where only "some mark" is known, of that), and one
    minus Dice of all marks together. ``recipe``: their weights.
    """
    weights = logits.new_tensor([1.0] + [recipe.mark_weight] * (len(CLASSES) - 1))
    known = targets.masked_fill(targets == ANY_MARK, IGNORED)
    # Not the mean of torch's: a batch of real frames may hold no known pixel, and 0 / 0 ends a run.
    summed = cross_entropy(logits, known, weights, ignore_index=IGNORED, reduction="sum")
    loss = summed / weights[known[known != IGNORED]].sum().clamp(min=1)
    evidence = torch.logsumexp(logits[:, 1:], 1) - logits[:, 0]
    either = targets == ANY_MARK
    if either.any():
        share = either.float().mean()
        loss = loss + recipe.mark_weight * share * torch.nn.functional.softplus(-evidence[either]).mean()
    valid = (targets != IGNORED).float()
    marked, truth = torch.sigmoid(evidence) * valid, (targets > 0).float() * valid
    dice = 1 - (2 * (marked * truth).sum() + 1) / (marked.sum() + truth.sum() + 1)
    return loss + recipe.dice_weight * dice


def choose_threshold(
    finder: MarkFinder, pictures: Sequence[BurnIn], plain: Sequence[Picture]
) -> tuple[float, dict[str, float]]:
    """The lowest threshold at which at most a share :data:`GROWN_AREA` of the clean frames ``plain`` is
    marked, and its figures on ``pictures``. If every threshold marks more, the highest of :data:`THRESHOLDS`.
    """
    areas = np.zeros(len(THRESHOLDS))
    for picture in plain:
        maps = finder.find(picture)
        areas += [float(grown(maps.marked >= threshold).mean()) / len(plain) for threshold in THRESHOLDS]
    fitting = [threshold for threshold, area in zip(THRESHOLDS, areas, strict=True) if area <= GROWN_AREA]
    threshold = fitting[0] if fitting else THRESHOLDS[-1]
    return threshold, score(finder, pictures, threshold)


def score(finder: MarkFinder, pictures: Sequence[BurnIn], threshold: float) -> dict[str, float]:
    """Compare the masks of a finder at a threshold with the truth; returns the figures by name.

    ``clean_area``: marked share of clean pictures; ``choice``: the figure by which the best checkpoint is
    chosen.
    """
    hit = predicted = true = objects = found = 0
    for burned in pictures:
        mask, truth = finder.find(burned.image).marked >= threshold, burned.owners > 0
        hit += int((mask & truth).sum())
        predicted += int(mask.sum())
        true += int(truth.sum())
        shares = object_shares(burned, mask)
        objects, found = objects + len(shares), found + int((shares >= FOUND_SHARE).sum())
    area = float(np.mean([(finder.find(burned.clean).marked >= threshold).mean() for burned in pictures]))
    recall, dice = found / max(1, objects), 2 * hit / max(1, predicted + true)
    return {
        "choice": (recall + dice) / 2 - 20 * max(0.0, area - 0.001),
        "object_recall": recall,
        "pixel_recall": hit / max(1, true),
        "precision": hit / max(1, predicted),
        "dice": dice,
        "clean_area": area,
    }


def object_shares(burned: BurnIn, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The share of each visible object's pixels that lies in the mask, grown as cleaning grows it."""
    size = len(burned.objects) + 1
    pixels = np.bincount(burned.owners.ravel(), minlength=size)[1:]
    covered = np.bincount(burned.owners.ravel(), weights=grown(mask).ravel(), minlength=size)[1:]
    return np.asarray(covered[pixels > 0] / pixels[pixels > 0], np.float64)


def torch_finder(network: MarkNetwork) -> MarkFinder:
    """Make a mark finder that runs the torch network, for measuring before there is an ONNX file."""
    graph = MarkFinderGraph(network).eval()

    def run(frames: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.generic]]:
        """Run the network on ``frames``."""
        with torch.inference_mode():
            outputs = graph(input_of(network, frames))
        return {name: part.cpu().numpy() for name, part in zip(OUTPUTS, outputs, strict=True)}

    return MarkFinder(run)


class _MarkRun(RecipeRun[MarkRecipe]):
    """One training run of the mark detector."""

    CHOSEN_BY = "choice"

    def __init__(self, data: Path, out: Path, recipe: MarkRecipe) -> None:
        """Make the validation pictures, the same in every run."""
        super().__init__(out, recipe)
        self.data = data
        frames = burned_frames(data, clean_frames("val"), recipe.validation_pictures, 7919, TRAIN)
        self.validation = [burned for _, burned in frames]  # the same in every run

    def new_network(self) -> MarkNetwork:
        """The network before its first step."""
        return MarkNetwork(self.recipe.widths)

    def examples(self) -> MarkBatches:
        """The training batches."""
        return MarkBatches(self.data, self.recipe.mix, self.recipe.seed)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch."""
        frames, targets = batch
        with self.autocast():
            logits = self.network(frames.contiguous(memory_format=torch.channels_last))
        return loss_of(logits.float(), targets, self.recipe)

    def validate(self) -> Validation:
        """Measure recall and Dice on the validation pictures."""
        scores = score(torch_finder(cast(MarkNetwork, self.average)), self.validation, 0.5)
        text = (
            f"objects found {scores['object_recall']:.3f}, Dice {scores['dice']:.3f}, "
            f"clean area {scores['clean_area']:.5f}"
        )
        return Validation(scores, text, self.average.state_dict())
