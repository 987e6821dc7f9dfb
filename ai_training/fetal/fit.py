"""``ai-pipeline train fetal``: teach a U-Net to outline a fetal head, and to say whether there is one.

Runs are seeded and limited by iterations; the checkpoint is chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from ai_pipeline.fetal_head.ellipse import ellipse_of
from ai_pipeline.fetal_head.outline import GRID, head_mask
from ai_pipeline.fetal_head.picture import COLUMNS, ROWS, fit_to_input, values
from ai_pipeline.networks.efficientnet import NAME
from ai_training.engine.run import Recipe, RecipeRun, Validation
from ai_training.engine.setup import input_of
from ai_training.fetal.data import HeadAugment, HeadBatches, HeadImage, HeadMix, head_images
from ai_training.metrics import dice
from ai_training.networks.outlines import HeadNetwork, less_dice, outline_network
from ai_training.networks.start import DEFAULT_START, StartWeights
from ai_training.progress import Report, silent

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe(Recipe):
    """The settings of a run. ``dice_weight``, ``present_weight``: weights of the Dice loss and of the loss
    for "there is a head", against the cross-entropy of the pixels.
    """

    iterations: int = 2000
    backbone: str = NAME
    start: StartWeights = DEFAULT_START
    mix: HeadMix = field(default_factory=HeadMix)
    augment: HeadAugment = field(default_factory=HeadAugment)
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    dice_weight: float = 1.0
    present_weight: float = 0.2
    ema: float = 0.995
    validate_every: int = 200
    half: bool = True


def train(
    data: Path, out: Path, recipe: HeadRecipe, *, resume: bool = False, report: Report = silent
) -> tuple[HeadNetwork, dict[str, float]]:
    """Train and choose a checkpoint; returns the network and its entry in the history. ``out`` receives
    checkpoints.

    Raises DataMissing, or ExperimentError if ``resume`` finds a run with another recipe.
    """
    run = _HeadRun(data, out, recipe)
    return cast(HeadNetwork, run.trained(report, resume=resume)), run.best


def loss_of(found: tuple[Tensor, Tensor], batch: Batch, recipe: HeadRecipe) -> Tensor:
    """The loss: cross-entropy of every pixel whose truth is known, one minus Dice of each head, cross-entropy
    of "there is a head".
    """
    (logits, seen), (_, heads, present, known) = found, batch
    pixels = cross_entropy(logits, heads, reduction="none").mean((1, 2))
    outlined = known * present
    apart = less_dice(torch.sigmoid(logits), heads)
    return (
        (pixels * known).sum() / known.sum().clamp(min=1)
        + recipe.dice_weight * (apart * outlined).sum() / outlined.sum().clamp(min=1)
        + recipe.present_weight * cross_entropy(seen, present)
    )


class _HeadRun(RecipeRun[HeadRecipe]):
    CHOSEN_BY = "choice"

    def __init__(self, data: Path, out: Path, recipe: HeadRecipe) -> None:
        super().__init__(out, recipe)
        self.data, self.validation = data, head_images(data, "val")

    def new_network(self) -> HeadNetwork:
        return HeadNetwork(outline_network(self.recipe.backbone, self.recipe.start, 1, ROWS, COLUMNS))

    def examples(self) -> HeadBatches:
        return HeadBatches(self.data, self.recipe.mix, self.recipe.augment, self.recipe.seed)

    def loss(self, batch: Batch) -> Tensor:
        with self.autocast():
            logits, present = self.network(batch[0].contiguous(memory_format=torch.channels_last))
        return loss_of((logits.float(), present.float()), batch, self.recipe)

    def validate(self) -> Validation:
        overlap, error = scores(cast(HeadNetwork, self.average).eval(), self.validation)
        figures = {"choice": overlap - error / 100, "dice": overlap, "circumference error": error}
        text = f"Dice {overlap:.4f}, circumference {error:.2f} mm off"
        return Validation(figures, text, self.average.state_dict())


def scores(network: HeadNetwork, images: Sequence[HeadImage]) -> tuple[float, float]:
    """Mean Dice of the ellipses and mean absolute error of their circumferences, mm, by one variant per
    picture.

    A head that is not found counts as Dice 0 and an error of the whole circumference.
    """
    overlaps, errors = [], []
    for image in images:
        picture, head = image.read()
        small, to_input = fit_to_input(picture)
        with torch.inference_mode():
            found = torch.sigmoid(network(input_of(network, values(small[None])))[0])[0].cpu().numpy()
        ellipse = ellipse_of(head_mask(found), to_input.inverse().after(GRID))
        overlaps.append(dice(ellipse.mask(*head.shape), head) if ellipse else 0.0)
        measured = ellipse.circumference * image.pixel_mm if ellipse else 0.0
        errors.append(abs(measured - image.circumference))
    return float(np.mean(overlaps)), float(np.mean(errors))
