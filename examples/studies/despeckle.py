#!/usr/bin/env python3
"""``examples/studies/despeckle.py``: the published autoencoder with its losses, or our residual network.

Ours is trained with a frozen segmenter of fetal heads, whose output must stay the same (a task-consistent
loss). Runs are seeded and limited by iterations; the checkpoint is chosen on the validation split."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
import typer
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import (
    avg_pool2d,
    binary_cross_entropy_with_logits,
    conv2d,
    l1_loss,
    mse_loss,
    pixel_shuffle,
    pixel_unshuffle,
)
from torch.utils.data import Dataset

from ai_pipeline.contract import ModelRef
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import find
from ai_pipeline.networks.heads import HeadModel, fit_to_input
from ai_training import commands
from ai_training.base import ExperimentError, Report, silent
from ai_training.cards import export, new_card
from ai_training.commands import verb
from ai_training.engine import Recipe, RecipeRun, Validation, input_of
from ai_training.fetal import ID as HEADS
from ai_training.fetal import head_images
from ai_training.metrics import mean_interval, patient_weights
from ai_training.networks import HeadNetwork, Perception
from ai_training.sets.files import read_grey
from ai_training.ultrasound.speckle import (
    MODEL,
    SIGMAS,
    Despeckler,
    head_scores,
    rayleigh,
    reduced,
    scattered,
)

STEP = 8
"""Rows and columns of an input are multiples of this."""
BLACK = 1 / 255
"""Added before logarithms: the smallest step of a picture."""


class DiConvAutoencoder(nn.Module):
    """DiConvAE: four dilated convolutions, and the same mirrored; input and output ``[N, 1, rows, columns]``
    0..1.

    Batch norm, dropout and ReLU follow each, a sigmoid the last. Channels, dilations and the places of the
    two reductions by two are not published: these are our choice.
    """

    CHANNELS = (32, 32, 64, 64)
    DILATIONS = (1, 2, 2, 4)
    STRIDES = (1, 2, 1, 2)

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        before = (1, *self.CHANNELS[:-1])
        layers = tuple(zip(before, self.CHANNELS, self.DILATIONS, self.STRIDES, strict=True))
        encoder = [
            _step(nn.Conv2d(first, second, 3, stride, reach, reach, bias=False), second, dropout)
            for first, second, reach, stride in layers
        ]
        decoder = [
            _step(
                nn.ConvTranspose2d(second, max(first, 16), 3, stride, reach, stride - 1, 1, False, reach),
                max(first, 16),
                dropout,
            )
            for first, second, reach, stride in reversed(layers)
        ]
        self.layers = nn.Sequential(*encoder, *decoder, nn.Conv2d(16, 1, 3, padding=1))

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(pictures))


class ResidualDespeckler(nn.Module):
    """Predicts the correction that is added to a picture; input and output ``[N, 1, rows, columns]`` 0..1. It
    is not told the strength of the noise.

    A U-Net of residual blocks (B. Lim et al., CVPRW 2017) on the picture and its logarithm, in which speckle
    is a sum. Both are folded to half their size, which quarters the work of each layer (K. Zhang et al.,
    FFDNet, TIP 2018). Before training the output equals the input.
    """

    WIDTHS = (32, 48, 64)
    BLOCKS = 2
    """Convolutions of each level, on the way down and again on the way up."""

    def __init__(self) -> None:
        super().__init__()
        pairs = tuple(pairwise(self.WIDTHS))
        self.first = nn.Conv2d(8, self.WIDTHS[0], 3, padding=1)
        self.before = nn.ModuleList(self._blocks(width) for width in self.WIDTHS)
        self.smaller = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in pairs)
        self.larger = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in pairs)
        self.after = nn.ModuleList(self._blocks(width) for width in self.WIDTHS[:-1])
        self.last = nn.Conv2d(self.WIDTHS[0], 4, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, pictures: Tensor) -> Tensor:
        logarithm = 1 + torch.log(pictures.clamp(min=0) + BLACK) / -math.log(BLACK)
        values = self.first(pixel_unshuffle(torch.cat([pictures, logarithm], 1), 2))
        kept = []
        for blocks, smaller in zip(self.before, self.smaller, strict=False):
            kept.append(blocks(values))
            values = smaller(kept[-1])
        values = self.before[-1](values)
        for blocks, larger, fine in reversed(list(zip(self.after, self.larger, kept, strict=True))):
            values = blocks(larger(values) + fine)
        return pictures + pixel_shuffle(self.last(values).float(), 2)

    def _blocks(self, width: int) -> nn.Sequential:
        return nn.Sequential(*(_Block(width) for _ in range(self.BLOCKS)))


class _Block(nn.Module):
    """Two convolutions beside the values as they came."""

    def __init__(self, width: int) -> None:
        super().__init__()
        steps = nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)
        self.layers = nn.Sequential(*steps, nn.Conv2d(width, width, 3, padding=1))

    def forward(self, values: Tensor) -> Tensor:
        added: Tensor = self.layers(values)
        return values + added


class DespecklerGraph(nn.Module):
    """The exported graph: ``despeckled [N, 1, rows, columns]``, 0..1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        made: Tensor = self.network(pictures)
        return made.clamp(0, 1)


NETWORKS = {"diconvae": DiConvAutoencoder, "residual": ResidualDespeckler}


def _step(layer: nn.Module, channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Dropout2d(dropout))


SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of MS-SSIM, from the finest scale on (Z. Wang et al., Asilomar 2003)."""
NEGLIGIBLE = 1e-5
"""Mean square error, 50 dB below white, under which less is no longer worth much."""
PERCEPTUAL = 0.02
"""Weight of the difference of features, beside the difference of pixel values (weight 1)."""


class DespeckleLoss(StrEnum):
    """Names of the losses: those from publications, and the loss of our own network."""

    L1_MS_SSIM = "l1-ms-ssim"
    L1_PERCEPTUAL = "l1-perceptual"
    L2_PERCEPTUAL = "l2-perceptual"
    TASK = "task"


def loss_of(made: Tensor, truth: Tensor, loss: DespeckleLoss, perception: Perception | None) -> Tensor:
    """The loss of filtered pictures ``made`` against ``truth``, both ``[N, 1, rows, columns]``, 0..1.

    For the loss ``task``, the part that needs no segmenter.
    """
    if loss is DespeckleLoss.L1_MS_SSIM:
        return 0.16 * l1_loss(made, truth) + 0.84 * (1 - ms_ssim(made, truth))  # H. Zhao et al., 2017
    if loss is DespeckleLoss.TASK:
        return 0.1 * decibels(made, truth) + 0.1 * (1 - ms_ssim(made, truth, SCALES[:3]))
    assert perception is not None
    values = l1_loss(made, truth) if loss is DespeckleLoss.L1_PERCEPTUAL else mse_loss(made, truth)
    with torch.no_grad():
        wanted = perception.layers(_as_rgb(truth))
    pairs = zip(perception.layers(_as_rgb(made)), wanted, strict=True)
    return values + PERCEPTUAL * torch.stack([l1_loss(have, want) for have, want in pairs]).sum()


def decibels(made: Tensor, truth: Tensor) -> Tensor:
    """The mean square error of each picture in dB above :data:`NEGLIGIBLE`, averaged over pictures: so weak
    noise counts as much as strong noise.
    """
    return 10 * torch.log10(1 + (made - truth).square().mean((1, 2, 3)) / NEGLIGIBLE).mean()


def ms_ssim(made: Tensor, truth: Tensor, scales: tuple[float, ...] = SCALES) -> Tensor:
    """Multi-scale structural similarity, up to 1; the coarsest scale must hold a window of 11 pixels."""
    weights = torch.tensor(scales) / sum(scales)
    product = made.new_ones(())
    for level, weight in enumerate(weights):
        whole, contrast = _ssim(made, truth)
        product = product * (whole if level == len(scales) - 1 else contrast).clamp(min=1e-4) ** weight
        made, truth = avg_pool2d(made, 2), avg_pool2d(truth, 2)
    return product


def _ssim(made: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Structural similarity, and its part without brightness, mean over pictures."""
    offsets = torch.arange(11, device=made.device) - 5.0
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = (line / line.sum()).to(made.dtype)

    def smooth(values: Tensor) -> Tensor:
        return conv2d(conv2d(values, window[None, None, None]), window[None, None, :, None])

    mean_a, mean_b = smooth(made), smooth(truth)
    spread_a, spread_b = smooth(made * made) - mean_a**2, smooth(truth * truth) - mean_b**2
    both = smooth(made * truth) - mean_a * mean_b
    contrast = (2 * both + 0.03**2) / (spread_a + spread_b + 0.03**2)
    bright = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    return (bright * contrast).mean(), contrast.mean()


def _as_rgb(pictures: Tensor) -> Tensor:
    return (2 * pictures - 1).expand(-1, 3, -1, -1)


Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpeckleMix:
    """The contents of a batch. ``side`` of a crop in pixels; ``physical``: the share with the physical model
    of speckle, on frames reduced to a half, whose own speckle is averaged away. The rest has the published
    model, on frames reduced by a factor from ``smallest`` to 1.
    """

    crops: int = 4
    side: int = 256
    physical: float = 0.0
    smallest: float = 1.0


class SpeckleBatches(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batch i of a run: crops with added speckle and the original crops ``[B, 1, side, side]``; one whole
    frame with and without it, ``[1, 1, rows, columns]``, in the form for the fetal head network. 0..1; drawn
    from (seed, i) alone.
    """

    def __init__(self, data: Path, mix: SpeckleMix, seed: int) -> None:
        self._frames = [read_grey(image.picture) for image in head_images(data, "train")]
        self._mix, self._seed = mix, seed

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        random = np.random.default_rng((self._seed, iteration))
        pairs = [self._pair(random) for _ in range(self._mix.crops)]
        speckled, below = (torch.from_numpy(np.stack(part))[:, None] for part in zip(*pairs, strict=True))
        frame = _shares(fit_to_input(self._frames[int(random.integers(len(self._frames)))])[0])
        whole = frame if random.random() < 0.5 else _published(frame, random)
        return speckled, below, torch.from_numpy(whole)[None, None], torch.from_numpy(frame)[None, None]

    def _pair(self, random: np.random.Generator) -> tuple[Floats, Floats]:
        frame = self._frames[int(random.integers(len(self._frames)))]
        physical = random.random() < self._mix.physical
        scale = 0.5 if physical else random.uniform(self._mix.smallest, 1)
        if scale < 1:
            size = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
            frame = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
        crop = _crop(_shares(frame), self._mix.side, random)
        if physical:
            return scattered(crop, random, random.uniform(0.5, 1.2), random.uniform(0.8, 2.0)), crop
        return _published(crop, random), crop


def _published(picture: Floats, random: np.random.Generator) -> Floats:
    return rayleigh(picture, random.uniform(SIGMAS[0] / 2, SIGMAS[-1]), random)


def _shares(picture: npt.NDArray[np.uint8]) -> Floats:
    return picture.astype(np.float32) / np.float32(255)


def _crop(picture: Floats, side: int, random: np.random.Generator) -> Floats:
    """A square, mirrored at random; black below and right of smaller pictures."""
    rows, columns = picture.shape
    top, left = (int(random.integers(max(length - side, 0) + 1)) for length in (rows, columns))
    crop = np.zeros((side, side), np.float32)
    part = picture[top : top + side, left : left + side]
    crop[: part.shape[0], : part.shape[1]] = part
    return np.ascontiguousarray(crop[:, ::-1] if random.random() < 0.5 else crop)


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
        if self.segmenter is None or self.done % self.recipe.task_every:
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


LARGEST = 1024
"""Most steps of :data:`STEP` pixels a side that an exported file is declared for."""
VERSION = "3"
"""Version of our card; 1 and 2 mixed blurs of the picture."""
USE = (
    "A study (`ai-pipeline evaluate despeckle`): nothing of the node runs it. "
    "rule of the node asks for it. Not for measurement of texture."
)
COMPARISON = "To compare with: no pipeline runs it."


def name_of(network: str, loss: str) -> str:
    """The id of the model card for this network and loss."""
    return MODEL if network == "residual" else f"ultrasound-despeckle-{network}-{loss}"


def export_despeckler(network: nn.Module, path: Path) -> None:
    """Write the network: ``pictures [1, 1, rows, columns]`` to ``despeckled``, both 0..1; sides are multiples
    of :data:`STEP`."""
    rows, columns = Dim("steps_down", min=4, max=LARGEST), Dim("steps_across", min=4, max=LARGEST)
    shapes = {"pictures": {2: STEP * rows, 3: STEP * columns}}
    export(DespecklerGraph(network).eval(), (torch.zeros(1, 1, 96, 128),), shapes, ("despeckled",), path)


def write_card(folder: Path, card_id: str, strength: float, training: Mapping[str, Any]) -> Path:
    """Write the card beside the weights; ``ai-pipeline evaluate despeckle`` adds the figures."""
    about = {
        "task": "less speckle in ultrasound pictures",
        "architecture": card_id.removeprefix("ultrasound-despeckle-"),
        "licence": "Apache-2.0; trained from scratch",
        "intended_use": USE if card_id == MODEL else COMPARISON,
        "limits": [
            "Taught by the fetal frames of one hospital with speckle put on them: no picture without speckle "
            "exists.",
            "Speckle is a sign too: texture of organs and of lesions is weaker in what comes out.",
            "Looked at one by one, frames of a cine may flicker.",
        ],
    }
    tables: dict[str, dict[str, Any]] = {
        "despeckler": {"strength": strength},
        "calibration": {"calibrated": False, "method": "none: pictures, no probabilities"},
        "training": {"data": ["us_fetal_head (train): frames, with speckle by two models"], **training},
    }
    made_by = "Model card of a network that reduces speckle: `examples/studies/despeckle.py`."
    version = VERSION if card_id == MODEL else "1"
    return new_card(folder, card_id, made_by, "despeckler", about, tables, version)


STRENGTHS = (1.0, 0.75, 0.5, 0.25)
MARGIN = 0.005
"""Largest loss of Dice of heads on despeckled frames; the lower end of the interval must stay above it."""


def train_and_ship(
    data: Path,
    out: Path,
    recipe: DespeckleRecipe,
    segmenter: Path | None = None,
    *,
    resume: bool = False,
    report: Report = silent,
) -> Path:
    """Train, export, choose the strength; returns the card. Raises the errors of :func:`fit.train`."""
    network, chosen = train(data, out, recipe, segmenter, resume=resume, report=report)
    card_id = name_of(recipe.network, recipe.loss)
    weights = out / f"{card_id}.onnx"
    export_despeckler(network, weights)
    engine = OnnxRuntime(weights.read_bytes(), recipe.threads)
    described = {"recipe": recipe.described(), "chosen": chosen}
    if recipe.network != "residual":
        return write_card(out, card_id, 1.0, described)
    tried, strength = _strength(data, Despeckler(engine, 1.0, ModelRef(card_id, "1", "", "")), report)
    return write_card(out, card_id, strength, {**described, "strengths": tried})


def _strength(data: Path, despeckler: Despeckler, report: Report) -> tuple[dict[str, list[float]], float]:
    """The largest strength at which Dice of validation heads is not inferior, 0 if none is, with the
    difference at each that was tried, from the largest on."""
    model = HeadModel.of(find(HEADS))
    patients, raw = head_scores(data, model, "val", lambda picture: picture, report)
    weights = patient_weights(patients)
    tried: dict[str, list[float]] = {}
    for strength in STRENGTHS:
        weaker = Despeckler(despeckler.engine, strength, despeckler.ref)
        _, found = head_scores(data, model, "val", weaker.picture, report)
        difference = mean_interval(found[0] - raw[0], weights)
        tried[f"{strength:g}"] = difference.as_list()
        if difference.low >= -MARGIN:
            return tried, strength
    return tried, 0.0


app = typer.Typer()


@verb(app, "despeckle")
def command(
    *,
    report: Report,
    data: commands.PublicData,
    out: commands.Out,
    loss: Annotated[
        Literal["l1-ms-ssim", "l1-perceptual", "l2-perceptual", "task"],
        typer.Option(help="The losses of DiConvAE, or task: our residual network beside a segmenter."),
    ] = "l1-ms-ssim",
    segmenter: Annotated[
        Path | None, typer.Option(help="best.pt of `ai-pipeline train fetal`, for --loss task.")
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(help="Steps of the optimiser. Default: the published 50 epochs (6562); of task 7000."),
    ] = None,
    seed: commands.Seed = 1,
    threads: commands.NetworkThreads = 2,
    workers: commands.Workers = 1,
    resume: commands.Resume = False,
) -> Path:
    """Train a network that reduces speckle.

    Example: examples/studies/despeckle.py --data DIR --out runs/despeckle --loss l1-perceptual
    """

    recipe = recipe_of(loss, iterations=iterations, seed=seed, threads=threads, workers=workers)
    return train_and_ship(data, out, recipe, segmenter, resume=resume, report=report)


if __name__ == "__main__":
    app()
