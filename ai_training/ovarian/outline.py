"""The network that outlines the lesion."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from ai_pipeline.models.registry import enlarge, normalise, reduce
from ai_pipeline.ovarian.pipeline import SURE, dice
from ai_training.engine import Recipe, RecipeRun, Validation, input_of
from ai_training.networks import MEAN, SCALE, OutlineNetwork, less_dice, outline_network
from ai_training.ovarian.frames import CHAIN, OvarianFrame, grey, ovarian_frames
from ai_training.ovarian.training import OvarianRecipe, exposed, motion
from ai_training.sets.files import Grey

OUTLINES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineRecipe(Recipe):
    """The settings of a training run of the outline network. ``frozen``: first blocks that do not learn;
    ``copies``: how far copies of frames differ.
    """

    size: int = 192
    frozen: int = 5
    iterations: int = 160
    batch: int = 16
    weight_decay: float = 0.02
    workers: int = 0
    ema: float = 0.98
    validate_every: int = 80
    copies: OvarianRecipe = field(default_factory=OvarianRecipe)


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
    """The training batches of a run; item i is images ``[B, 3, size, size]`` and masks ``[B, 1, size, size]``
    0 to 1, drawn from (seed, i) alone.
    """

    def __init__(self, recipe: OutlineRecipe, pictures: Grey, masks: Grey) -> None:
        """``pictures``, ``masks``: reduced frames and their masks, ``[N, side, side]``."""
        self._recipe, self._pictures, self._masks = recipe, pictures, masks

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Make the batch of step ``iteration``."""
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


class OutlineRun(RecipeRun[OutlineRecipe]):
    """One training run of the outline network."""

    CHOSEN_BY = "dice"

    def __init__(self, data: Path, out: Path, recipe: OutlineRecipe) -> None:
        """Read the frames of the splits train and val."""
        super().__init__(out, recipe)
        frames = ovarian_frames(data)
        self.pairs = pairs_of([frame for frame in frames if frame.split == "train"])
        self.checked = pairs_of([frame for frame in frames if frame.split == "val"])

    def new_network(self) -> OutlineNetwork:
        """The network before its first step, its first blocks frozen."""
        network = outline_network(OUTLINES)
        for part in (network.stem, network.norm, *network.blocks[: self.recipe.frozen]):
            part.requires_grad_(False)
        return network

    def examples(self) -> OutlineBatches:
        """The training batches."""
        return OutlineBatches(self.recipe, *self.pairs)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch: cross-entropy of every pixel plus one minus Dice."""
        images, masks = batch
        with self.autocast():
            logits = self.network(images.contiguous(memory_format=torch.channels_last)).float()
        return (
            binary_cross_entropy_with_logits(logits, masks) + less_dice(torch.sigmoid(logits), masks).mean()
        )

    def validate(self) -> Validation:
        """Measure the mean Dice on the validation split."""
        found = [self._dice(picture, mask) for picture, mask in zip(*self.checked, strict=True)]
        mean = float(np.mean(found))
        return Validation({"dice": mean}, f"Dice {mean:.4f}", self.average.state_dict())

    def _dice(self, picture: Grey, mask: Grey) -> float:
        """The Dice coefficient of the network's outline of ``picture`` with the true outline ``mask``."""
        size = self.recipe.size
        values = normalise(enlarge(picture, size)[None], MEAN, SCALE)
        with torch.inference_mode():
            logits = self.average.eval()(input_of(self.average, values))[0, 0].cpu().numpy()
        return dice(logits >= np.log(SURE / (1 - SURE)), enlarge(mask, size) > 127)
