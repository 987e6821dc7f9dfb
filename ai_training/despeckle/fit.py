"""``ai-pipeline train despeckle``: the published autoencoder with its losses, or our residual network.

Ours is trained with a frozen segmenter of fetal heads, whose output must stay the same (a task-consistent
loss). Runs are seeded and limited by iterations; the checkpoint is chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ai_training.despeckle.data import SpeckleBatches, SpeckleMix
from ai_training.despeckle.loss import DespeckleLoss, loss_of
from ai_training.despeckle.speckle import SIGMAS, rayleigh, reduced
from ai_training.engine.run import Recipe, RecipeRun, Validation
from ai_training.engine.setup import input_of
from ai_training.errors import ExperimentError
from ai_training.fetal.data import head_images
from ai_training.networks.despeckle import NETWORKS, STEP
from ai_training.networks.outlines import HeadNetwork
from ai_training.networks.perception import Perception
from ai_training.progress import Report, silent
from ai_training.sets.files import read_grey

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
VALIDATED = 20
"""Frames of the validation split that checkpoints are compared on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DespeckleRecipe(Recipe):
    """Settings of a run. The defaults are published: ``diconvae``, 50 epochs (6,562 iterations of four
    crops), learning rate 1e-3. ``task``: weight of the segmenter's agreement, which counts in every
    ``task_every``-th iteration (residual network only).
    """

    network: str = "diconvae"
    loss: DespeckleLoss = DespeckleLoss.L1_MS_SSIM
    iterations: int = 6562
    mix: SpeckleMix = field(default_factory=SpeckleMix)
    learning_rate: float = 1e-3
    task: float = 0.2
    task_every: int = 4
    ema: float = 0.99
    validate_every: int = 200
    half: bool = True
    clip: float = 1.0


def recipe_of(loss: str, iterations: int | None, seed: int, threads: int, workers: int) -> DespeckleRecipe:
    """The published recipe with this loss; for the loss ``task`` the recipe of our residual network, which
    ships.
    """
    made = DespeckleRecipe(loss=DespeckleLoss(loss), seed=seed, threads=threads, workers=workers)
    if made.loss is DespeckleLoss.TASK:
        mix = SpeckleMix(crops=8, side=96, physical=0.2, smallest=0.4)
        made = replace(
            made, network="residual", mix=mix, learning_rate=1.5e-3, iterations=7000, task_every=8, ema=0.998
        )
        made = replace(made, validate_every=500)
    return made if iterations is None else replace(made, iterations=iterations)


def train(
    data: Path,
    out: Path,
    recipe: DespeckleRecipe,
    segmenter: Path | None = None,
    *,
    resume: bool = False,
    report: Report = silent,
) -> tuple[nn.Module, dict[str, float]]:
    """Train and choose a checkpoint; returns the network and its entry in the history. ``out`` receives
    checkpoints.

    ``segmenter``: ``best.pt`` of ``train fetal``, for the loss ``task``. Raises DataMissing, or
    ExperimentError if the segmenter is missing or ``resume`` finds another recipe.
    """
    run = _DespeckleRun(data, out, recipe, segmenter)
    return run.trained(report, resume=resume), run.best


class _DespeckleRun(RecipeRun[DespeckleRecipe]):
    CHOSEN_BY = "psnr"
    MEMORY = torch.contiguous_format

    def __init__(self, data: Path, out: Path, recipe: DespeckleRecipe, segmenter: Path | None) -> None:
        super().__init__(out, recipe)
        self.data = data
        task = recipe.loss is DespeckleLoss.TASK
        self.segmenter = _frozen(segmenter).to(self.device) if task else None
        perceives = recipe.loss in {DespeckleLoss.L1_PERCEPTUAL, DespeckleLoss.L2_PERCEPTUAL}
        self.perception = Perception().to(self.device) if perceives else None
        images = head_images(data, "val")[:VALIDATED]
        self.validation = [
            reduced(read_grey(image.picture).astype(np.float32) / np.float32(255)) for image in images
        ]

    def new_network(self) -> nn.Module:
        network: nn.Module = NETWORKS[self.recipe.network]()
        return network

    def examples(self) -> SpeckleBatches:
        return SpeckleBatches(self.data, self.recipe.mix, self.recipe.seed)

    def loss(self, batch: Batch) -> Tensor:
        speckled, below, whole, frame = batch
        with self.autocast():
            made = self.network(speckled)
        loss = loss_of(made.float(), below, self.recipe.loss, self.perception)
        if self.segmenter is None or self.batch_number % self.recipe.task_every:
            return loss
        with self.autocast():
            after = self.segmenter(_as_input(self.network(whole)))[0]
            with torch.no_grad():
                before = torch.sigmoid(self.segmenter(_as_input(frame))[0].float())
        return loss + self.recipe.task * binary_cross_entropy_with_logits(after.float(), before)

    def validate(self) -> Validation:
        found = psnr_of(self.average.eval(), self.validation)
        figures = {
            "psnr": float(np.mean(found)),
            **{f"sigma {s}": v for s, v in zip(SIGMAS, found, strict=True)},
        }
        text = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
        return Validation(figures, text, self.average.state_dict())


def psnr_of(network: nn.Module, frames: Sequence[np.ndarray]) -> list[float]:
    """Mean peak signal-to-noise ratio, dB, of filtered frames 0..1 with the published speckle, for each
    sigma.
    """
    found = []
    for sigma in SIGMAS:
        random = np.random.default_rng(11)
        values = []
        for frame in frames:
            rows, columns = (length // STEP * STEP for length in frame.shape)
            whole = frame[:rows, :columns]
            speckled = input_of(network, rayleigh(whole, sigma, random))[None, None]
            with torch.inference_mode():
                made = network(speckled).clamp(0, 1)[0, 0].cpu().numpy()
            values.append(-10 * np.log10(np.mean((made - whole) ** 2)))
        found.append(float(np.mean(values)))
    return found


def _frozen(checkpoint: Path | None) -> HeadNetwork:
    if checkpoint is None:
        raise ExperimentError(
            "the loss 'task' needs --segmenter: best.pt of a run of `ai-pipeline train fetal`"
        )
    network = HeadNetwork()
    network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    return network.requires_grad_(False).eval()


def _as_input(pictures: Tensor) -> Tensor:
    """Pictures 0..1 as the network for heads takes them."""
    return ((pictures.clamp(0, 1) * 255 - 127) / 128).expand(-1, 3, -1, -1)
