"""Why a segmentation contains colours that no class has: resized labels, regressed colours, or missing
speckle.

A published comparison of despeckled frames found colours in its segmenter's output that no label has, such as
(54, 65, 23). Here four small networks learn heads from the same frames. Their labels are resized either with
the nearest pixel or bilinearly, like pictures; the network either chooses among the values of labels, or
regresses the value. One value stands for a colour: 0 is the background, 1 the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from ai_pipeline.despeckle.despeckler import Despeckler
from ai_pipeline.models.preprocess import normalise
from ai_pipeline.networks.efficientnet import NAME
from ai_training.despeckle.afterwards import Filter
from ai_training.engine.run import Plan, TrainingRun
from ai_training.engine.setup import seed_all
from ai_training.fetal.data import head_images
from ai_training.metrics import dice, mean_interval, patient_weights
from ai_training.networks.outlines import OutlineNetwork
from ai_training.networks.start import imagenet_file
from ai_training.progress import Report, silent

ROWS, COLUMNS = 64, 96
LEVELS = 3
"""Values among which a network chooses: 0, 1/2 and 1. Labels resized with the nearest pixel lack 1/2."""
BETWEEN = (0.25, 0.75)
"""Values that are nearer to 1/2 than to any class."""
RESIZED = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}
OUTPUTS = ("classes", "regression")
Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LabelRecipe:
    """All settings of the four runs, besides the kind of labels and outputs."""

    iterations: int = 250
    batch: int = 12
    learning_rate: float = 2e-3
    seed: int = 1


@dataclass(frozen=True, slots=True)
class _Heads:
    """``pictures [N, rows, columns]`` as they came and with less speckle, their heads 0 to 1, patients."""

    raw: Grey
    despeckled: Grey
    heads: Floats
    patients: Sequence[str]


def compare(data: Path, recipe: LabelRecipe, report: Report = silent) -> dict[str, Any]:
    """Train the four networks on the train split and evaluate them on the test split, on raw and despeckled
    frames.

    Figures: Dice of the pixels nearer to the head's value, and the share of pixels between the classes.
    Raises DataMissing, CardError.
    """
    torch.set_num_threads(1)
    despeckler = Despeckler.active()
    found: dict[str, Any] = {}
    exam = _read(data, "test", "nearest", despeckler.picture)
    weights = patient_weights(exam.patients)
    for resized, output in product(RESIZED, OUTPUTS):
        name = f"{resized} labels, {output}"
        lessons = _read(data, "train", resized, None)
        run = _LabelRun(lessons, output, recipe)
        run.train(lambda share, _, name=name: report(share, name))  # type: ignore[misc]
        network = run.network.cpu().eval()
        found[name] = {
            seen: _judged(network, pictures, exam.heads, output, weights)
            for seen, pictures in (("raw", exam.raw), ("despeckled", exam.despeckled))
        }
    return {"recipe": asdict(recipe), "frames": len(exam.raw), "runs": found}


def _read(data: Path, split: str, resized: str, despeckle: Filter | None) -> _Heads:
    images = head_images(data, split)
    raw, less, heads = [], [], []
    for image in images:
        picture, head = image.read()
        raw.append(_small(picture))
        if despeckle is not None:
            shares = despeckle(picture.astype(np.float32) / np.float32(255))
            less.append(_small(np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)))
        size = (COLUMNS, ROWS)
        heads.append(cv2.resize(head.astype(np.float32), size, interpolation=RESIZED[resized]))
    return _Heads(np.stack(raw), np.stack(less or raw), np.stack(heads), [image.patient for image in images])


def _small(picture: Grey) -> Grey:
    return np.asarray(cv2.resize(picture, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA), np.uint8)


class _LabelRun(TrainingRun):
    """One of the four, which leaves no files."""

    MEMORY = torch.contiguous_format

    def __init__(self, heads: _Heads, output: str, recipe: LabelRecipe) -> None:
        seed_all(recipe.seed)
        self.heads, self.output, self.recipe = heads, output, recipe
        network = OutlineNetwork(LEVELS if output == "classes" else 1)
        network.load_trunk(imagenet_file(NAME))
        plan = Plan(
            iterations=recipe.iterations,
            learning_rate=recipe.learning_rate,
            warm_up=0.0,
            validate_every=0,
            ema=0.0,
            clip=0.0,
            weight_decay=0.01,
        )
        super().__init__(None, output, plan, network)

    def new_schedule(self, optimiser: Optimizer) -> LRScheduler:
        return ConstantLR(optimiser, factor=1.0)

    def batches(self, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        heads, random = self.heads, np.random.default_rng(self.recipe.seed)
        for _ in numbers:
            rows = random.choice(len(heads.raw), self.recipe.batch)
            mirrored = slice(None, None, -1 if random.random() < 0.5 else 1)
            wanted = torch.from_numpy(np.ascontiguousarray(heads.heads[rows][..., mirrored]))
            yield _input(heads.raw[rows][..., mirrored]), wanted

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        with self.autocast():
            made = self.network(batch[0])
        if self.output == "classes":
            return cross_entropy(made.float(), (batch[1] * (LEVELS - 1)).round().long())
        return mse_loss(torch.sigmoid(made[:, 0].float()), batch[1])


def _judged(
    network: nn.Module, pictures: Grey, heads: Floats, output: str, weights: npt.NDArray[np.floating[Any]]
) -> dict[str, list[float]]:
    agreement, between = [], []
    for picture, head in zip(pictures, heads, strict=True):
        with torch.inference_mode():
            made = network(_input(picture[None]))[0]
        value = made.argmax(0) / (LEVELS - 1) if output == "classes" else torch.sigmoid(made[0])
        values = value.numpy()
        agreement.append(dice(values >= 0.5, head > 0.5))
        between.append(float(((values >= BETWEEN[0]) & (values <= BETWEEN[1])).mean()))
    return {
        "dice": mean_interval(np.array(agreement), weights).as_list(),
        "between": mean_interval(np.array(between), weights).as_list(),
    }


def _input(pictures: Grey) -> Tensor:
    return torch.from_numpy(normalise(np.ascontiguousarray(pictures), 127.0, 128.0))


def as_text(result: Mapping[str, Any]) -> str:
    """A line for each run."""
    size = f"{result['frames']} test frames at {COLUMNS} × {ROWS}"
    lines = [f"{size}: Dice, share of pixels between the classes"]
    for name, row in result["runs"].items():
        for seen, figures in row.items():
            (d, *_), (b, low, high) = figures["dice"], figures["between"]
            lines.append(f"  {name:28} {seen:11} {d:.3f}  {b:.4f} [{low:.4f}, {high:.4f}]")
    return "\n".join(lines)
