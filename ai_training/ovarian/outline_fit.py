"""``ai-pipeline train ovarian-outline``: teach a U-Net on EfficientNet-Lite0 to outline the lesion.

It learns from the train split of the manifest, which keeps groups of near-duplicates together; the checkpoint
is chosen on the val split, the test split is for ``ai-pipeline evaluate ovarian``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from ai_pipeline.models.preprocess import enlarge, normalise, reduce
from ai_pipeline.networks.efficientnet import NAME
from ai_pipeline.ovarian.outline import SURE, dice
from ai_training.engine.run import Recipe, RecipeRun, Validation
from ai_training.engine.setup import input_of
from ai_training.networks.outlines import OutlineNetwork, less_dice, outline_network
from ai_training.networks.start import DEFAULT_START
from ai_training.ovarian.fit import OvarianRecipe, exposed, motion
from ai_training.progress import Report, silent
from ai_training.sets.ovarian import CHAIN, MEAN, SCALE, OvarianFrame, grey, ovarian_frames

OUTLINES = 1
Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineRecipe(Recipe):
    """The settings of a run. ``frozen``: first blocks that do not learn; ``copies``: how far copies of frames
    differ.
    """

    size: int = 192
    frozen: int = 5
    iterations: int = 160
    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    workers: int = 0
    ema: float = 0.98
    validate_every: int = 80
    copies: OvarianRecipe = field(default_factory=OvarianRecipe)


def recipe(*, epochs: float, threads: int) -> OutlineRecipe:
    """The shipped recipe with its steps multiplied by ``epochs`` / 16, as the classifier is trained for
    ``epochs``.
    """
    made = OutlineRecipe(threads=threads)
    share = epochs / made.copies.epochs
    steps, every = (max(1, round(share * count)) for count in (made.iterations, made.validate_every))
    return replace(made, iterations=steps, validate_every=every)


def train(
    data: Path, out: Path, recipe: OutlineRecipe, *, resume: bool = False, report: Report = silent
) -> OutlineNetwork:
    """Train and choose a checkpoint; ``out`` receives checkpoints and history. Raises DataMissing,
    ExperimentError.
    """
    return cast(OutlineNetwork, _OutlineRun(data, out, recipe).trained(report, resume=resume))


def trained_outliner(out: Path) -> OutlineNetwork:
    """The network of the best checkpoint in ``out``, ready for inference."""
    network = OutlineNetwork(OUTLINES)
    network.load_state_dict(torch.load(out / "best.pt", map_location="cpu", weights_only=True))
    return network.eval()


def pairs_of(frames: Sequence[OvarianFrame]) -> tuple[Grey, Grey]:
    """Reduced frames and their masks (0, 255), ``[N, side, side]`` each."""
    pictures, masks = [], []
    for frame in frames:
        picture, place = reduce(grey(frame.rgb()), CHAIN)
        lesion = frame.lesion()
        rows, columns = round(place.e * lesion.shape[0]), round(place.a * lesion.shape[1])
        mask = np.zeros_like(picture)
        top, left = round(place.f), round(place.c)
        small = cv2.resize(lesion.astype(np.uint8) * 255, (columns, rows), interpolation=cv2.INTER_AREA)
        mask[top : top + rows, left : left + columns] = small
        pictures.append(picture)
        masks.append(mask)
    return np.stack(pictures), np.stack(masks)


class OutlineBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch i of a run: images ``[B, 3, size, size]``, masks ``[B, 1, size, size]`` 0 to 1, drawn from
    (seed, i) alone."""

    def __init__(self, recipe: OutlineRecipe, pictures: Grey, masks: Grey) -> None:
        self._recipe, self._pictures, self._masks = recipe, pictures, masks

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        how, size = self._recipe.copies, self._recipe.size
        random = np.random.default_rng((self._recipe.seed, iteration))
        images, masks = [], []
        for row in random.choice(len(self._pictures), self._recipe.batch):
            matrix = motion(self._pictures.shape[1], how, random)
            moved = (
                cv2.warpAffine(part[row], matrix, (size, size), flags=cv2.INTER_LINEAR)
                for part in (self._pictures, self._masks)
            )
            picture, mask = (np.asarray(part, np.uint8) for part in moved)
            images.append(exposed(picture, how, random))
            masks.append(mask.astype(np.float32)[None] / 255)
        return torch.from_numpy(normalise(np.stack(images), MEAN, SCALE)), torch.from_numpy(np.stack(masks))


class _OutlineRun(RecipeRun[OutlineRecipe]):
    CHOSEN_BY = "dice"

    def __init__(self, data: Path, out: Path, recipe: OutlineRecipe) -> None:
        super().__init__(out, recipe)
        frames = ovarian_frames(data)
        self.pairs = pairs_of([frame for frame in frames if frame.split == "train"])
        self.checked = pairs_of([frame for frame in frames if frame.split == "val"])

    def new_network(self) -> OutlineNetwork:
        network = outline_network(NAME, DEFAULT_START, OUTLINES, self.recipe.size, self.recipe.size)
        for part in (network.stem, network.norm, *network.blocks[: self.recipe.frozen]):
            part.requires_grad_(False)
        return network

    def examples(self) -> OutlineBatches:
        return OutlineBatches(self.recipe, *self.pairs)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, masks = batch
        with self.autocast():
            logits = self.network(images.contiguous(memory_format=torch.channels_last)).float()
        return (
            binary_cross_entropy_with_logits(logits, masks) + less_dice(torch.sigmoid(logits), masks).mean()
        )

    def validate(self) -> Validation:
        found = [self._dice(picture, mask) for picture, mask in zip(*self.checked, strict=True)]
        mean = float(np.mean(found))
        return Validation({"dice": mean}, f"Dice {mean:.4f}", self.average.state_dict())

    def _dice(self, picture: Grey, mask: Grey) -> float:
        size = self.recipe.size
        values = normalise(enlarge(picture, size)[None], MEAN, SCALE)
        with torch.inference_mode():
            logits = self.average.eval()(input_of(self.average, values))[0, 0].cpu().numpy()
        return dice(logits >= np.log(SURE / (1 - SURE)), enlarge(mask, size) > 127)
