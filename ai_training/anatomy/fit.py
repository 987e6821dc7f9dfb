"""``ai-pipeline train anatomy``: teach a U-Net to outline heart and lungs.

Runs are seeded and limited by iterations; the checkpoint is chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ai_pipeline.chest.anatomy import FINER, cardiothoracic, organ_masks
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.networks.efficientnet import NAME
from ai_training.anatomy.data import (
    AnatomyBatches,
    AnatomyImage,
    Augment,
    anatomy_images,
    anatomy_set,
    plain,
)
from ai_training.anatomy.evaluate import dice
from ai_training.anatomy.export import ID, export_anatomy, write_card
from ai_training.engine.run import Recipe, RecipeRun, Validation
from ai_training.engine.setup import input_of
from ai_training.networks.outlines import ORGANS, SIDE, OutlineNetwork, less_dice, outline_network
from ai_training.networks.start import DEFAULT_START, StartWeights
from ai_training.progress import Report, silent

GRID = Affine(1 / FINER, 0.0, 0.0, 0.0, 1 / FINER, 0.0)
"""From the fine grid of the masks to the network's input: measured there, the ratio is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnatomyRecipe(Recipe):
    """The settings of a run. ``dice_weight``: weight of the Dice loss against the cross-entropy."""

    iterations: int = 2000
    backbone: str = NAME
    start: StartWeights = DEFAULT_START
    batch: int = 8
    augment: Augment = field(default_factory=Augment)
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    dice_weight: float = 1.0
    ema: float = 0.995
    validate_every: int = 100


def train(
    data: Path, out: Path, recipe: AnatomyRecipe, *, resume: bool = False, report: Report = silent
) -> Path:
    """Train, choose a checkpoint, export; returns the card. ``out`` receives checkpoints, history, weights
    and card.

    Raises DataMissing, or ExperimentError if ``resume`` finds a run with another recipe.
    """
    run = _AnatomyRun(data, out, recipe)
    network = cast(OutlineNetwork, run.trained(report, resume=resume))
    export_anatomy(network, out / f"{ID}.onnx")
    learned = [f"{anatomy_set(data).title} (train): masks of heart and lungs"]
    training = {"data": learned, "recipe": recipe.described(), "chosen": run.best}
    return write_card(out, training, recipe.backbone, recipe.start)


def loss_of(logits: Tensor, organs: Tensor, dice_weight: float) -> Tensor:
    """The loss: cross-entropy of every pixel and organ, plus weighted one minus Dice of each organ of each
    picture.
    """
    apart = less_dice(torch.sigmoid(logits), organs)
    return binary_cross_entropy_with_logits(logits, organs) + dice_weight * apart.mean()


def ratio(masks: npt.NDArray[np.bool_]) -> float:
    """The cardiothoracic ratio of masks on the fine grid; NaN if an organ is missing."""
    measured = cardiothoracic(masks, GRID)
    return measured.ratio if measured else float("nan")


class _AnatomyRun(RecipeRun[AnatomyRecipe]):
    CHOSEN_BY = "choice"

    def __init__(self, data: Path, out: Path, recipe: AnatomyRecipe) -> None:
        super().__init__(out, recipe)
        self.training = anatomy_images(data, "train")
        self.validation = [_Case.from_image(image) for image in anatomy_images(data, "val")]

    def new_network(self) -> OutlineNetwork:
        return outline_network(self.recipe.backbone, self.recipe.start, len(ORGANS), SIDE, SIDE)

    def examples(self) -> AnatomyBatches:
        return AnatomyBatches(self.training, self.recipe.augment, self.recipe.batch, self.recipe.seed)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, organs = batch
        with self.autocast():
            logits = self.network(images.contiguous(memory_format=torch.channels_last))
        return loss_of(logits.float(), organs, self.recipe.dice_weight)

    def validate(self) -> Validation:
        found = scores(cast(OutlineNetwork, self.average).eval(), self.validation)
        text = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        # One point of Dice weighs as much as a hundredth of the ratio.
        choice = float(np.mean([found[name] for name in ORGANS])) - found["ratio error"]
        return Validation({"choice": choice, **found}, text, self.average.state_dict())


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """An image as the network sees it, its organs on the fine grid and its ratio by them."""

    values: npt.NDArray[np.float32]
    organs: npt.NDArray[np.bool_]
    ratio: float

    @staticmethod
    def from_image(image: AnatomyImage) -> _Case:
        values, organs = plain(image)
        fine = organ_masks(organs)
        return _Case(values, fine, ratio(fine))


def scores(network: OutlineNetwork, cases: Sequence[_Case]) -> dict[str, Any]:
    """Mean Dice of each organ, and mean absolute error of the ratio (1 if no ratio could be measured)."""
    dices, errors = [], []
    for case in cases:
        with torch.inference_mode():
            found = torch.sigmoid(network(input_of(network, case.values[None])))[0].cpu().numpy()
        masks = organ_masks(found)
        dices.append(dice(masks, case.organs))
        errors.append(abs(ratio(masks) - case.ratio))
    named = dict(zip(ORGANS, np.mean(dices, axis=0).tolist(), strict=True))
    return {**named, "ratio error": float(np.mean(np.nan_to_num(errors, nan=1.0)))}
