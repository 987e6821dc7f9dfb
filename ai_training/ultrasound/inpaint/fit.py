"""``ai-pipeline train inpaint``: teach a network to fill holes, starting where the classical method ends.

Runs are seeded and limited by iterations. The adversary joins late and with a small weight: early on it pulls
away from the true picture (see docs/studies/inpainting.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ai_training.engine.run import Recipe, RecipeRun, Validation
from ai_training.networks.inpaint import ARCHITECTURES, Filler, PatchDiscriminator, Vae
from ai_training.networks.perception import Perception
from ai_training.progress import Report, silent
from ai_training.ultrasound.inpaint.data import Hole, HoleBatches, HoleMix, as_tensors, cut_holes
from ai_training.ultrasound.inpaint.export import export_filler, file_id, write_filler_card
from ai_training.ultrasound.inpaint.loss import (
    LossWeights,
    discriminator_loss,
    divergence,
    generator_loss,
    reconstruction,
)
from ai_training.ultrasound.marks.data import burned_frames
from ai_training.ultrasound.overlays import TRAIN, clean_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class InpaintRecipe(Recipe):
    """The settings of a run. ``adversary_from``: share of the iterations after which the adversary joins."""

    architecture: str = "oci-gan"
    iterations: int = 6000
    mix: HoleMix = field(default_factory=HoleMix)
    weights: LossWeights = field(default_factory=LossWeights)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    adversary_rate: float = 2e-4
    warm_up: float = 0.05
    adversary_from: float = 0.6
    ema: float = 0.998
    validate_every: int = 500
    validation_pictures: int = 60

    @property
    def adversarial(self) -> bool:
        """Whether the architecture is trained against an adversary; only the GAN is."""
        return self.architecture == "oci-gan"


def train(
    data: Path, out: Path, recipe: InpaintRecipe, *, resume: bool = False, report: Report = silent
) -> Path:
    """Train, choose by validation, export; returns the card. ``out`` also receives checkpoints and weights.

    Raises DataMissing if image sets are missing, ExperimentError if ``resume`` finds another recipe.
    """
    run = _InpainterRun(data, out, recipe)
    network = cast(Filler, run.trained(report, resume=resume))
    export_filler(network, out / f"{file_id(recipe.architecture)}.onnx")
    best = run.best
    described = {"recipe": recipe.described(), "chosen_iteration": best["iteration"]}
    return write_filler_card(out, recipe.architecture, best, described)


def validation_holes(data: Path, recipe: InpaintRecipe) -> list[Hole]:
    """Validation squares, the same in every run: validation frames with overlays of the train family."""
    random = np.random.default_rng(7919)
    pictures = burned_frames(data, clean_frames("val"), recipe.validation_pictures, 7919, TRAIN)
    return [hole for _, burned in pictures for hole in cut_holes(burned, 3, recipe.mix.side, random)]


def psnr_in_holes(network: Filler, holes: list[Hole]) -> tuple[float, float]:
    """The mean over squares of the PSNR in the hole (dB): of the network, and of the classical start."""
    network.eval()
    made_scores, start_scores = [], []
    for first in range(0, len(holes), 16):
        device = next(network.parameters()).device
        start, hole, truth = (part.to(device) for part in as_tensors(holes[first : first + 16]))
        with torch.inference_mode():
            made = network(start, hole)
        made_scores += _psnr(made, truth, hole)
        start_scores += _psnr(start, truth, hole)
    return float(np.mean(made_scores)), float(np.mean(start_scores))


def _psnr(made: Tensor, truth: Tensor, hole: Tensor) -> list[float]:
    error = ((made.clamp(-1, 1) - truth) * hole).square().sum((1, 2, 3)) / (3 * hole.sum((1, 2, 3)))
    return (10 * torch.log10(4 / error.clamp(min=1e-6))).tolist()


class _InpainterRun(RecipeRun[InpaintRecipe]):
    """A generator and, for the GAN, its adversary with an optimiser of its own."""

    PARTS = (*RecipeRun.PARTS, "adversary", "against")
    CHOSEN_BY = "psnr"
    MEMORY = torch.contiguous_format

    def __init__(self, data: Path, out: Path, recipe: InpaintRecipe) -> None:
        super().__init__(out, recipe)
        self.data = data
        self.adversary = PatchDiscriminator().to(self.device)
        self.perception = Perception().to(self.device)
        self.against = torch.optim.Adam(self.adversary.parameters(), recipe.adversary_rate, betas=(0.0, 0.99))
        self._holes: list[Hole] | None = None

    def new_network(self) -> Filler:
        return ARCHITECTURES[self.recipe.architecture]()

    def examples(self) -> HoleBatches:
        return HoleBatches(self.data, self.recipe.mix, self.recipe.seed)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        start, hole, truth = batch
        recipe = self.recipe
        torch.manual_seed(recipe.seed * 1_000_003 + self.batch_number)  # the VAE's noise
        with self.autocast():
            filled = self.network(start, hole).float()
        # Outside the hole the source's pixels stay, so the loss is of the hole alone.
        made = truth + hole * (filled - truth)
        loss = reconstruction(made, truth, hole, recipe.weights, self.perception)
        if isinstance(self.network, Vae) and self.network.moments is not None:
            loss = loss + recipe.weights.divergence * divergence(self.network.moments)
        if recipe.adversarial and self.done >= recipe.adversary_from * recipe.iterations:
            self._train_adversary(made.detach(), truth, hole)
            loss = loss + recipe.weights.adversarial * generator_loss(self.adversary(made, hole), hole)
        return loss

    def _train_adversary(self, made: Tensor, truth: Tensor, hole: Tensor) -> None:
        loss = discriminator_loss(self.adversary(truth, hole), self.adversary(made, hole), hole)
        self.descend(self.against, loss)

    def validate(self) -> Validation:
        if self._holes is None:
            self._holes = validation_holes(self.data, self.recipe)
        psnr, classical = psnr_in_holes(cast(Filler, self.average), self._holes)
        text = f"in the hole {psnr:.2f} dB (Navier-Stokes {classical:.2f})"
        return Validation({"psnr": psnr, "navier_stokes": classical}, text, self.average.state_dict())
