"""``ai-pipeline train anatomy``: teach a U-Net to outline heart and lungs.

Seeded and capped by iterations; the checkpoint is chosen on the validation split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from ai_pipeline.chest.anatomy import FINER, cardiothoracic, organ_masks
from ai_pipeline.images.coordinates import Affine
from ai_training.anatomy.data import AnatomyBatches, AnatomyImage, Augment, anatomy_images, plain
from ai_training.anatomy.evaluate import dice
from ai_training.anatomy.export import ID, export_anatomy, write_card
from ai_training.networks.outlines import ORGANS, OutlineNetwork
from ai_training.progress import Report, silent
from ai_training.runs import Plan, TrainingRun, Validation

GRID = Affine(1 / FINER, 0.0, 0.0, 0.0, 1 / FINER, 0.0)
"""From the fine grid of the masks to the network's input: measured there, the ratio is the same."""


@dataclass(frozen=True, slots=True)
class AnatomyRecipe:
    """Everything that shapes a run. ``dice_weight``: of the Dice loss beside the cross-entropy."""

    iterations: int = 2000
    batch: int = 8
    seed: int = 1
    augment: Augment = field(default_factory=Augment)
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warm_up: float = 0.1
    dice_weight: float = 1.0
    ema: float = 0.995
    validate_every: int = 100
    threads: int = 2
    workers: int = 1


def train(
    data: Path, out: Path, recipe: AnatomyRecipe, *, resume: bool = False, report: Report = silent
) -> Path:
    """Train, choose, export; returns the card. ``out`` receives checkpoints, history, weights and card.

    Raises DataMissing, ExperimentError when ``resume`` meets another recipe.
    """
    torch.set_num_threads(recipe.threads)
    run = _Run(data, out, recipe)
    network = OutlineNetwork(len(ORGANS))
    network.load_state_dict(run.finish(report, resume=resume))
    export_anatomy(network.eval(), out / f"{ID}.onnx")
    described = {"recipe": json.loads(json.dumps(asdict(recipe))), "chosen": run.best}
    return write_card(out, described)


def loss_of(logits: Tensor, organs: Tensor, dice_weight: float) -> Tensor:
    """Cross-entropy of every pixel and organ, and one minus Dice of each organ of each picture."""
    probabilities = torch.sigmoid(logits)
    common = (probabilities * organs).sum((2, 3))
    dice = 1 - (2 * common + 1) / (probabilities.sum((2, 3)) + organs.sum((2, 3)) + 1)
    return binary_cross_entropy_with_logits(logits, organs) + dice_weight * dice.mean()


def ratio(masks: npt.NDArray[np.bool_]) -> float:
    """The cardiothoracic ratio of masks on the fine grid; NaN where an organ is missing."""
    measured = cardiothoracic(masks, GRID)
    return measured.ratio if measured else float("nan")


class _Run(TrainingRun):
    CHOSEN_BY = "choice"

    def __init__(self, data: Path, out: Path, recipe: AnatomyRecipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.training = anatomy_images(data, "train")
        self.validation = [_Case.of(image) for image in anatomy_images(data, "val")]
        network = OutlineNetwork(len(ORGANS))
        network.load_imagenet()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(
            network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        plan = Plan(
            recipe.iterations, recipe.learning_rate, recipe.warm_up, recipe.validate_every, recipe.ema, 2.0
        )
        super().__init__(out, json.dumps(asdict(recipe)), plan, network, optimiser)

    def batches(self, iterations: range) -> DataLoader[tuple[Tensor, Tensor]]:
        batches = AnatomyBatches(self.training, self.recipe.augment, self.recipe.batch, self.recipe.seed)
        return DataLoader(batches, batch_size=None, sampler=list(iterations), num_workers=self.recipe.workers)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, organs = batch
        logits = self.network(images.contiguous(memory_format=torch.channels_last))
        return loss_of(logits, organs, self.recipe.dice_weight)

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
    def of(image: AnatomyImage) -> _Case:
        values, organs = plain(image)
        fine = organ_masks(organs)
        return _Case(values, fine, ratio(fine))


def scores(network: OutlineNetwork, cases: Sequence[_Case]) -> dict[str, Any]:
    """Mean Dice of each organ, mean absolute error of the ratio (1 where none could be measured)."""
    dices, errors = [], []
    for case in cases:
        with torch.inference_mode():
            found = torch.sigmoid(network(torch.from_numpy(case.values[None])))[0].numpy()
        masks = organ_masks(found)
        dices.append(dice(masks, case.organs))
        errors.append(abs(ratio(masks) - case.ratio))
    named = dict(zip(ORGANS, np.mean(dices, axis=0).tolist(), strict=True))
    return {**named, "ratio error": float(np.mean(np.nan_to_num(errors, nan=1.0)))}
