"""``ai-pipeline train marks``: teach a small U-Net to find burned-in annotation.

Runs are seeded and limited by iterations. The network learns from synthetic overlays of the train style
family and from the coloured marks of real frames; the checkpoint and the threshold are chosen on validation
frames with the same family, so that the held-out family stays unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ai_pipeline.burnin.annotation.pixels import Picture
from ai_pipeline.burnin.find.drawings import grown
from ai_pipeline.burnin.find.mark_network import MarkFinder, MarkMaps
from ai_training.engine.run import Recipe, RecipeRun, Validation
from ai_training.engine.setup import input_of
from ai_training.networks.marks import CLASSES, OUTPUTS, WIDTHS, MarkNetwork
from ai_training.networks.marks import MarkFinderGraph as FinderGraph
from ai_training.progress import Report, silent
from ai_training.ultrasound.marks.data import ANY_MARK, IGNORED, MarkBatches, Mix, burned_frames
from ai_training.ultrasound.marks.export import ID, export_finder, write_finder_card
from ai_training.ultrasound.overlays import TRAIN, BurnIn, clean_frames

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CLEAN_AREA = 0.001
"""Share of clean pictures that a checkpoint may take for marks before it is held against it."""
GROWN_AREA = 0.001
"""Share of clean validation frames that may be marked, as cleaning grows it: half of the project's limit,
because text boxes come on top of it."""
FOUND_SHARE = 0.5
"""An object is found when half its pixels lie in the mask, as cleaning grows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRecipe(Recipe):
    """The settings of a run. ``mark_weight``, ``dice_weight``: weights of the pixels of marks and of the Dice
    loss.
    """

    iterations: int = 6000
    widths: tuple[int, ...] = WIDTHS
    mix: Mix = field(default_factory=Mix)
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warm_up: float = 0.05
    mark_weight: float = 2.0
    dice_weight: float = 0.5
    ema: float = 0.995
    validate_every: int = 500
    validation_pictures: int = 60


@dataclass(frozen=True, slots=True)
class MarkScores:
    """How well masks agree with the truth on some pictures. ``clean_area``: marked share of
    clean pictures.
    """

    object_recall: float
    pixel_recall: float
    precision: float
    dice: float
    clean_area: float

    @property
    def choice(self) -> float:
        """The figure by which the best checkpoint is chosen."""
        return (self.object_recall + self.dice) / 2 - 20 * max(0.0, self.clean_area - CLEAN_AREA)


def train(
    data: Path, out: Path, recipe: MarkRecipe, *, resume: bool = False, report: Report = silent
) -> Path:
    """Train, choose, export; returns the card. ``out`` receives checkpoints, history, weights and card.

    Raises DataMissing if image sets are missing, ExperimentError if ``resume`` finds another recipe.
    """
    run = _MarkRun(data, out, recipe)
    network = cast(MarkNetwork, run.trained(report, resume=resume))
    validation = list(validation_pictures(data, recipe))
    plain = [frame.read(data) for frame in clean_frames("val")]
    threshold, scores = choose_threshold(network, validation, plain)
    export_finder(network, out / f"{ID}.onnx")
    described = {
        "recipe": recipe.described(),
        "validation": f"{len(validation)} synthetic pictures on validation frames, style family {TRAIN.name}",
        "chosen_iteration": run.best["iteration"],
    }
    return write_finder_card(out, threshold, asdict(scores), described)


def loss_of(logits: Tensor, targets: Tensor, recipe: MarkRecipe) -> Tensor:
    """The loss: cross-entropy over the classes (of "any mark" if only that is known), and Dice of mark
    against none.
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


def validation_pictures(data: Path, recipe: MarkRecipe) -> Iterator[BurnIn]:
    """Validation pictures, the same in every run: validation frames with overlays of the train family."""
    pictures = burned_frames(data, clean_frames("val"), recipe.validation_pictures, 7919, TRAIN)
    return (burned for _, burned in pictures)


def choose_threshold(
    network: MarkNetwork, pictures: Sequence[BurnIn], plain: Sequence[Picture]
) -> tuple[float, MarkScores]:
    """The lowest threshold at which at most a share :data:`GROWN_AREA` of ``plain``, clean frames, is marked;
    the highest of :data:`THRESHOLDS` if there is none.

    Also returns the scores at that threshold.
    """
    finder = torch_finder(network)
    areas = np.zeros(len(THRESHOLDS))
    for picture in plain:
        maps = finder.find(picture)
        areas += [float(grown(maps.above(threshold)).mean()) / len(plain) for threshold in THRESHOLDS]
    fitting = [threshold for threshold, area in zip(THRESHOLDS, areas, strict=True) if area <= GROWN_AREA]
    threshold = fitting[0] if fitting else THRESHOLDS[-1]
    marked = [finder.find(burned.image) for burned in pictures]
    clean = [finder.find(burned.clean) for burned in pictures]
    return threshold, score(pictures, marked, clean, threshold)


def score(
    pictures: Sequence[BurnIn], maps: Sequence[MarkMaps], plain: Sequence[MarkMaps], threshold: float
) -> MarkScores:
    """Compare masks with the truth; ``plain`` are the maps of the same pictures without marks."""
    hit = predicted = true = objects = found = 0
    for burned, own in zip(pictures, maps, strict=True):
        mask, truth = own.above(threshold), burned.owners > 0
        hit += int((mask & truth).sum())
        predicted += int(mask.sum())
        true += int(truth.sum())
        shares = object_shares(burned, mask)
        objects, found = objects + len(shares), found + int((shares >= FOUND_SHARE).sum())
    area = float(np.mean([own.above(threshold).mean() for own in plain]))
    return MarkScores(
        object_recall=found / max(1, objects),
        pixel_recall=hit / max(1, true),
        precision=hit / max(1, predicted),
        dice=2 * hit / max(1, predicted + true),
        clean_area=area,
    )


def object_shares(burned: BurnIn, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The share of each visible object's pixels that lies in the mask, grown as cleaning grows it."""
    size = len(burned.objects) + 1
    pixels = np.bincount(burned.owners.ravel(), minlength=size)[1:]
    covered = np.bincount(burned.owners.ravel(), weights=grown(mask).ravel(), minlength=size)[1:]
    return np.asarray(covered[pixels > 0] / pixels[pixels > 0], np.float64)


def torch_finder(network: MarkNetwork) -> MarkFinder:
    """A mark finder that runs the torch network, for measuring before there is an ONNX file."""
    graph = FinderGraph(network).eval()

    def run(frames: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.generic]]:
        with torch.inference_mode():
            outputs = graph(input_of(network, frames))
        return {name: part.cpu().numpy() for name, part in zip(OUTPUTS, outputs, strict=True)}

    return MarkFinder(run)


class _MarkRun(RecipeRun[MarkRecipe]):
    CHOSEN_BY = "choice"

    def __init__(self, data: Path, out: Path, recipe: MarkRecipe) -> None:
        super().__init__(out, recipe)
        self.data = data

    def new_network(self) -> MarkNetwork:
        return MarkNetwork(self.recipe.widths)

    def examples(self) -> MarkBatches:
        return MarkBatches(self.data, self.recipe.mix, self.recipe.seed)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        frames, targets = batch
        with self.autocast():
            logits = self.network(frames.contiguous(memory_format=torch.channels_last))
        return loss_of(logits.float(), targets, self.recipe)

    def validate(self) -> Validation:
        finder = torch_finder(cast(MarkNetwork, self.average))
        pictures = list(validation_pictures(self.data, self.recipe))
        maps = [finder.find(burned.image) for burned in pictures]
        plain = [finder.find(burned.clean) for burned in pictures]
        scores = score(pictures, maps, plain, 0.5)
        text = (
            f"objects found {scores.object_recall:.3f}, Dice {scores.dice:.3f}, "
            f"clean area {scores.clean_area:.5f}"
        )
        return Validation({"choice": scores.choice, **asdict(scores)}, text, self.average.state_dict())
