#!/usr/bin/env python3
"""OCI-GAN, a U-Net and a VAE that fill holes in ultrasound pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import cv2
import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import interpolate, l1_loss, max_pool2d, pixel_shuffle, pixel_unshuffle, relu
from torch.utils.data import Dataset

from ai_pipeline.burnin.find.annotation import Mask, Picture, dilated, index_of
from ai_pipeline.burnin.tools import CONTEXT, CORE, Classical
from ai_training import commands
from ai_training.base import Report, silent
from ai_training.cards import export, new_card
from ai_training.commands import verb
from ai_training.engine import Recipe, RecipeRun, Validation
from ai_training.networks import Perception
from ai_training.ultrasound.marks import burned_frames
from ai_training.ultrasound.overlays.burning import BurnIn, burn_in
from ai_training.ultrasound.overlays.canvas import MarkClass
from ai_training.ultrasound.overlays.hands import TRAIN
from ai_training.ultrasound.overlays.scenes import clean_frames

LATENT = 16


class Filler(nn.Module):
    """The interface of every inpainting architecture.

    ``start [N, 3, h, w]`` in -1..1: the picture with its hole filled by Navier-Stokes. ``hole [N, 1, h, w]``:
    1 inside. Returns a picture in the shape of ``start``; the caller uses only the pixels inside the hole.
    """

    def forward(self, start: Tensor, hole: Tensor) -> Tensor:
        raise NotImplementedError


class OciGan(Filler):
    """A generator of residual blocks with growing dilation; it predicts the correction of the
    classical fill.
    """

    def __init__(self, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(16, width // 2, 3, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.body = nn.Sequential(*(_Residual(width, 2 ** (index % 4)) for index in range(blocks)))
        self.leave = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(width // 2, 12, 3, padding=1),
        )

    def forward(self, start: Tensor, hole: Tensor) -> Tensor:
        x = self.enter(pixel_unshuffle(torch.cat([start, 2 * hole - 1], 1), 2))
        return start + hole * pixel_shuffle(self.leave(self.body(x)), 2)


class UNet(Filler):
    """A plain U-Net: the hole is black in its input, and it predicts the content, not a correction."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 72, 96)) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _double(before, after) for before, after in zip((16, *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList(
            _double(below + beside, beside)
            for below, beside in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], 12, 1)

    def forward(self, start: Tensor, hole: Tensor) -> Tensor:
        x = pixel_unshuffle(torch.cat([_emptied(start, hole), 2 * hole - 1], 1), 2)
        levels: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.avg_pool2d(x, 2))
            levels.append(x)
        for block, beside in zip(self.up, levels[-2::-1], strict=True):
            x = block(torch.cat([interpolate(x, scale_factor=2.0, mode="nearest"), beside], 1))
        return torch.tanh(pixel_shuffle(self.head(x), 2))


class Vae(Filler):
    """A variational autoencoder with a latent map at an eighth of the size.

    ``moments``: mean and log variance of the last call in training mode. In other modes the mean is decoded.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for before, after in zip((4, *widths[:-1]), widths, strict=True):
            steps += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.1, inplace=True)]
        self.encoder = nn.Sequential(*steps, _Residual(widths[-1], 1), nn.Conv2d(widths[-1], 2 * LATENT, 1))
        steps = [nn.Conv2d(LATENT, widths[-1], 3, padding=1), _Residual(widths[-1], 1)]
        for before, after in zip(widths[::-1], (*widths[-2::-1], widths[0]), strict=True):
            steps += [
                nn.Conv2d(before, 4 * after, 3, padding=1),
                nn.PixelShuffle(2),
                nn.LeakyReLU(0.1, inplace=True),
            ]
        self.decoder = nn.Sequential(*steps, nn.Conv2d(widths[0], 3, 3, padding=1), nn.Tanh())
        self.moments: tuple[Tensor, Tensor] | None = None

    def forward(self, start: Tensor, hole: Tensor) -> Tensor:
        mean, logarithm = self.encoder(torch.cat([_emptied(start, hole), 2 * hole - 1], 1)).chunk(2, 1)
        latent = mean
        if self.training:
            logarithm = logarithm.clamp(-10, 5)
            self.moments = mean, logarithm
            latent = mean + torch.randn_like(mean) * torch.exp(0.5 * logarithm)
        decoded: Tensor = self.decoder(latent)
        return decoded


class PatchDiscriminator(nn.Module):
    """Rates how real overlapping patches of about 34 pixels look; the hole is part of its input."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        normed = nn.utils.parametrizations.spectral_norm
        self.layers = nn.Sequential(
            normed(nn.Conv2d(4, width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2, inplace=True),
            normed(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2, inplace=True),
            normed(nn.Conv2d(2 * width, 4 * width, 3, padding=1)),
            nn.LeakyReLU(0.2, inplace=True),
            normed(nn.Conv2d(4 * width, 1, 3, padding=1)),
        )

    def forward(self, picture: Tensor, hole: Tensor) -> Tensor:
        scores: Tensor = self.layers(torch.cat([picture, hole], 1))
        return scores


ARCHITECTURES: dict[str, type[Filler]] = {"oci-gan": OciGan, "unet": UNet, "vae": Vae}


def _emptied(start: Tensor, hole: Tensor) -> Tensor:
    """Black where the hole is: these networks get no help from the classical fill."""
    return start * (1 - hole) - hole


def _double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(after, after, 3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=reach, dilation=reach),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.layers(x)
        return x + added


BOXED = 0.25
"""Share of pictures whose texts are masked as whole boxes, as a text detector does."""
FULL = 0.7
"""More of a crop masked than this: there is nothing to continue from, another one is taken."""


@dataclass(frozen=True, slots=True)
class HoleMix:
    """The size of a batch: ``pictures`` pictures with ``crops`` squares of ``side`` pixels (a multiple of 32)
    each.
    """

    pictures: int = 2
    crops: int = 4
    side: int = 128


@dataclass(frozen=True, slots=True, eq=False)
class Hole:
    """One square: the picture with the hole filled classically, the mask, and the true picture (all RGB
    uint8).
    """

    start: Picture
    mask: Mask
    truth: Picture


class HoleBatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch i of a run: start and truth in -1..1, ``[N, 3, side, side]``, and the hole."""

    def __init__(self, data: Path, mix: HoleMix, seed: int) -> None:
        self._data, self._mix, self._seed = data, mix, seed
        self._frames = clean_frames("train")

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        cv2.setNumThreads(1)
        random = np.random.default_rng((self._seed, iteration))
        holes: list[Hole] = []
        number = 0
        while len(holes) < self._mix.pictures * self._mix.crops:
            part = self._frames[int(random.integers(len(self._frames)))].read(self._data)
            burned = burn_in(part, TRAIN, (self._seed, iteration, number))
            holes += cut_holes(burned, self._mix.crops, self._mix.side, random)
            number += 1
        return as_tensors(holes[: self._mix.pictures * self._mix.crops])


def as_tensors(holes: list[Hole]) -> tuple[Tensor, Tensor, Tensor]:
    """The start, the hole (1 inside) and the truth of a batch, as tensors."""
    start, truth = (
        torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        for pictures in ([hole.start for hole in holes], [hole.truth for hole in holes])
    )
    return start, torch.from_numpy(np.stack([hole.mask for hole in holes]))[:, None].float(), truth


def cut_holes(burned: BurnIn, count: int, side: int, random: np.random.Generator) -> list[Hole]:
    """Up to ``count`` squares around marked pixels; no square if the picture is too small or has no marks."""
    rows, columns = burned.owners.shape
    marked = np.flatnonzero(burned.owners)
    if min(rows, columns) < side or not marked.size:
        return []
    mask = detected_mask(burned, random)
    holes: list[Hole] = []
    for place in random.choice(marked, count):
        row, column = np.unravel_index(int(place), (rows, columns))
        top = int(np.clip(int(row) - random.integers(side // 4, 3 * side // 4), 0, rows - side))
        left = int(np.clip(int(column) - random.integers(side // 4, 3 * side // 4), 0, columns - side))
        cut = slice(top, top + side), slice(left, left + side)
        if 0 < float(mask[cut].mean()) <= FULL:
            start = Classical("navier-stokes").fill(burned.image[cut], mask[cut])
            holes.append(Hole(start, mask[cut], burned.clean[cut]))
    return holes


def detected_mask(burned: BurnIn, random: np.random.Generator) -> Mask:
    """The mask as a detector would give it: grown by 1 to 4 pixels, some texts as whole boxes."""
    grown = burned.owners > 0
    if random.random() < BOXED:
        for thing in burned.objects:
            if thing.kind is MarkClass.TEXT and thing.box[3] - thing.box[1] < 0.15 * min(grown.shape):
                grown[index_of(thing.box)] = True
    return dilated(grown, 2 * int(random.integers(1, 5)) + 1)


@dataclass(frozen=True, slots=True)
class LossWeights:
    """The weight of each term. Pictures are in -1..1; features come from EfficientNet-Lite0.

    Measured at the start, on the Navier-Stokes fill: absolute .055, squared .012, gradient .020, spectrum
    .006, perceptual 2.0, style 4.5 (sums over three layers). With these weights, errors of the values
    contribute .17 and the terms for appearance .06; with style at .5 it was 2.2 of 2.5, and nothing else
    counted.
    """

    absolute: float = 1.0
    squared: float = 10.0
    gradient: float = 0.5
    spectrum: float = 0.5
    perceptual: float = 0.01
    style: float = 0.004
    adversarial: float = 0.01
    divergence: float = 1e-3


def reconstruction(
    made: Tensor, truth: Tensor, hole: Tensor, weights: LossWeights, perception: Perception
) -> Tensor:
    """The sum of all loss terms but the adversary's. ``made`` equals the picture outside ``hole``."""
    difference = (made - truth) * hole
    inside = 3 * hole.sum().clamp(min=1)
    loss = weights.absolute * difference.abs().sum() / inside
    loss = loss + weights.squared * difference.square().sum() / inside
    if weights.gradient:
        loss = loss + weights.gradient * _edges(made, truth, hole)
    if weights.spectrum:
        loss = loss + weights.spectrum * l1_loss(_spectrum(made), _spectrum(truth))
    if weights.perceptual or weights.style:
        with torch.no_grad():
            wanted = perception.layers(truth)
        for have, want in zip(perception.layers(made), wanted, strict=True):
            loss = loss + weights.perceptual * l1_loss(have, want)
            loss = loss + weights.style * l1_loss(_gram(have), _gram(want))
    return loss


def divergence(moments: tuple[Tensor, Tensor]) -> Tensor:
    """Kullback-Leibler divergence of the latent from the standard normal, mean over its elements."""
    mean, logarithm = moments
    return 0.5 * (mean.square() + logarithm.exp() - 1 - logarithm).mean()


def _over_holes(values: Tensor, like: Tensor, hole: Tensor) -> Tensor:
    touched = torch.nn.functional.adaptive_max_pool2d(hole, list(like.shape[-2:]))
    return (values * touched).sum() / touched.sum().clamp(min=1)


def _edges(made: Tensor, truth: Tensor, hole: Tensor) -> Tensor:
    near = max_pool2d(hole, 3, 1, 1)
    total = made.new_zeros(())
    for axis in (-1, -2):
        difference = (torch.diff(made, dim=axis) - torch.diff(truth, dim=axis)).abs()
        total = total + (difference * near.narrow(axis, 0, difference.shape[axis])).sum()
    return total / (6 * near.sum().clamp(min=1))


def _spectrum(picture: Tensor) -> Tensor:
    """Logarithm of the amplitudes: speckle is recognised by its spectrum, not by its values."""
    transformed = torch.fft.rfft2(picture.mean(1), norm="ortho")
    return torch.log1p(transformed.abs())


def _gram(features: Tensor) -> Tensor:
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[-1]


OUTPUTS = ("filled",)
TITLES = {
    "oci-gan": "residual blocks on a Navier-Stokes fill, trained with a patch discriminator",
    "unet": "U-Net",
    "vae": "variational autoencoder",
}


def file_id(architecture: str) -> str:
    return f"ultrasound-inpaint-{architecture}"


def export_filler(network: Filler, path: Path) -> None:
    """Write ``network``: inputs ``start`` and ``hole`` as in :class:`Filler`, any number of tiles."""
    side = CORE + 2 * CONTEXT
    batch = Dim("batch", min=1, max=4096)
    examples = torch.zeros(2, 3, side, side), torch.zeros(2, 1, side, side)
    export(network.eval(), examples, {"start": {0: batch}, "hole": {0: batch}}, OUTPUTS, path)


def write_filler_card(
    folder: Path, architecture: str, scores: Mapping[str, float], training: Mapping[str, Any]
) -> Path:
    """Write the card beside the weights."""
    about = {
        "task": "filling of masked pixels in ultrasound pictures",
        "architecture": f"{architecture}: {TITLES[architecture]}",
        "licence": ("Apache-2.0; trained from scratch against features of EfficientNet-Lite0 (Apache-2.0)"),
        "intended_use": "To fill the pixels of removed annotation. What it fills in was never measured.",
        "limits": ["Filled pixels are invented. Not for measurement and not for diagnosis."],
    }
    tables: dict[str, Any] = {
        "tile": {"core": CORE, "context": CONTEXT},
        "calibration": {"calibrated": False, "method": "none: it says nothing about a patient"},
        "training": {
            "data": ["us_fetal_head, us_breast, us_ovarian (train): clean parts with synthetic overlays"],
            **training,
        },
        "metrics": {"validation": {key: round(value, 4) for key, value in scores.items()}},
    }
    made_by = "Model card of a learned inpainter: `examples/studies/inpaint.py`."
    return new_card(folder, file_id(architecture), made_by, "inpainter", about, tables)


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
        torch.manual_seed(recipe.seed * 1_000_003 + self.done)  # the VAE's noise
        with self.autocast():
            filled = self.network(start, hole).float()
        # Outside the hole the source's pixels stay, so the loss is of the hole alone.
        made = truth + hole * (filled - truth)
        loss = reconstruction(made, truth, hole, recipe.weights, self.perception)
        if isinstance(self.network, Vae) and self.network.moments is not None:
            loss = loss + recipe.weights.divergence * divergence(self.network.moments)
        if recipe.adversarial and self.done >= recipe.adversary_from * recipe.iterations:
            # Hinge losses, over the patches that the hole touches.
            real, scores = self.adversary(truth, hole), self.adversary(made.detach(), hole)
            self.descend(
                self.against,
                _over_holes(relu(1 - real), real, hole) + _over_holes(relu(1 + scores), scores, hole),
            )
            scores = self.adversary(made, hole)
            loss = loss - recipe.weights.adversarial * _over_holes(scores, scores, hole)
        return loss

    def validate(self) -> Validation:
        if self._holes is None:
            self._holes = validation_holes(self.data, self.recipe)
        psnr, classical = psnr_in_holes(cast(Filler, self.average), self._holes)
        text = f"in the hole {psnr:.2f} dB (Navier-Stokes {classical:.2f})"
        return Validation({"psnr": psnr, "navier_stokes": classical}, text, self.average.state_dict())


app = typer.Typer()


@verb(app, "inpaint")
def command(
    *,
    report: Report,
    data: commands.PublicData,
    out: commands.Out,
    arch: Annotated[Literal["oci-gan", "unet", "vae"], typer.Option(help="Which network.")] = "oci-gan",
    iterations: commands.Iterations = 6000,
    seed: commands.Seed = 1,
    threads: commands.NetworkThreads = 2,
    workers: commands.Workers = 1,
    resume: commands.Resume = False,
) -> Path:
    """Train a network that fills the pixels of removed annotation."""
    recipe = InpaintRecipe(
        architecture=arch,
        iterations=iterations,
        seed=seed,
        threads=threads,
        workers=workers,
    )
    return train(data, out, recipe, resume=resume, report=report)


if __name__ == "__main__":
    app()
