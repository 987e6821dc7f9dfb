"""``ai-pipeline train ovarian``: the classifier of ovarian frames, by grouped cross-validation and on all
frames.

Every network of a fold trains a fixed number of steps and is scored once, on the frames that it has not seen:
these frames choose nothing. The shipped network is trained on all frames by the same recipe, so the figures
of the folds are its figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from ai_pipeline.models.preprocess import enlarge, normalise
from ai_pipeline.networks.efficientnet import NAME
from ai_training.engine.run import BEST, Plan, TrainingRun, Validation
from ai_training.engine.setup import input_of, run_options, seed_all
from ai_training.networks.ovarian import CystClassifier, CystEnsemble, cyst_classifier
from ai_training.networks.start import DEFAULT_START, RANDOM, StartWeights
from ai_training.progress import Report, silent
from ai_training.sets.ovarian import (
    FOLDS,
    LABELS,
    MEAN,
    SCALE,
    OvarianFrame,
    folds,
    ovarian_frames,
    reduced,
)

ALL = "all"
"""Folder of the run that sees every frame."""
FOLD_RUNS = tuple(map(str, range(FOLDS)))
Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]
Both = tuple[Tensor, Tensor]
"""What the frozen part makes of pictures, and of their mirror images."""


@dataclass(frozen=True, slots=True)
class OvarianRecipe:
    """All settings of a run.

    ``start``: the weights that ``architecture`` starts from; ``epochs``: passes over its training frames;
    ``frozen``: first blocks of EfficientNet-Lite0 that keep their weights; ``balance``: exponent of a class's
    count by which its frames are drawn less often (0: all frames equally often, 1: all classes equally
    often). The frozen part runs on ``copies`` of each frame, once for all runs (0: a new copy in every step).
    For a copy: ``rotation`` in degrees, the rest as shares of the picture or of its grey levels.
    """

    architecture: str = NAME
    start: StartWeights = DEFAULT_START
    size: int = 192
    frozen: int = 11
    epochs: float = 16.0
    batch: int = 32
    seed: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.2
    smoothing: float = 0.1
    balance: float = 0.5
    copies: int = 6
    ema: float = 0.98
    rotation: float = 12.0
    scale: float = 0.2
    stretch: float = 0.08
    shift: float = 0.08
    contrast: float = 0.2

    def iterations(self, frames: int) -> int:
        """The number of steps of a run over so many ``frames``."""
        return max(1, round(self.epochs * frames / self.batch))


def train(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    seeds: Sequence[int] = (1,),
    runs: Sequence[str] = (*FOLD_RUNS, ALL),
    report: Report = silent,
    *,
    pixels: Grey | None = None,
) -> None:
    """Train ``runs`` (numbers of folds, or :data:`ALL`) into ``out/seed-S/``; complete runs there are not
    repeated.

    ``pixels``: reduced pictures ``[N, side, side]`` to use in place of the frames.

    If the recipe keeps augmented copies, all seeds share them. Each run writes ``best.pt``, and for a fold
    ``validation.npz`` with ``rows`` and ``logits`` of its frames. Raises DataMissing, or ExperimentError if a
    folder holds a run of another recipe.
    """
    frames = ovarian_frames(data)
    fold = folds(frames)
    if pixels is None:
        pixels = reduced([frame.rgb() for frame in frames])
    seen = _seen_copies(pixels, recipe, report) if recipe.copies else None
    for seed, name in product(seeds, runs):
        held_out = fold == int(name) if name != ALL else np.zeros(len(frames), np.bool_)
        own = replace(recipe, seed=seed)
        run = _OvarianRun(out / f"seed-{seed}" / name, own, pixels, frames, held_out, seen)
        report(0.0, f"seed {seed}, {name}: {run.plan.iterations} steps\n")
        run.finish(report, resume=run.begun)


def recipe(
    *,
    epochs: float | None = None,
    architecture: str | None = None,
    frozen: int | None = None,
    start: StartWeights = DEFAULT_START,
) -> OvarianRecipe:
    """The shipped recipe with the given changes. If no block is frozen, every step uses new copies."""
    made = OvarianRecipe()
    architecture = architecture or made.architecture
    kept = 0 if architecture != NAME else made.frozen if frozen is None else frozen
    copies = made.copies if kept else 0
    return replace(
        made,
        architecture=architecture,
        start=start,
        frozen=kept,
        copies=copies,
        epochs=epochs or made.epochs,
    )


def new_classifier(recipe: OvarianRecipe) -> CystClassifier:
    """The network of ``recipe`` before its first step. Raises ExperimentError, DataMissing."""
    return cyst_classifier(recipe.architecture, recipe.size, recipe.frozen, len(LABELS), recipe.start)


def trained_classifier(folder: Path, recipe: OvarianRecipe) -> CystClassifier:
    """The network of a run in ``folder``, ready for inference."""
    network = new_classifier(replace(recipe, start=StartWeights(RANDOM)))
    network.load_state_dict(torch.load(folder / BEST, map_location="cpu", weights_only=True))
    return network.eval()


def ensemble(out: Path, recipe: OvarianRecipe, seeds: Sequence[int], name: str) -> CystEnsemble:
    """The networks of all seeds for the run ``name``, ready for inference."""
    return CystEnsemble([trained_classifier(out / f"seed-{seed}" / name, recipe) for seed in seeds]).eval()


def outputs_of(network: CystEnsemble, pixels: Grey, size: int, batch: int = 16) -> tuple[Floats, Floats]:
    """Logits ``[N, labels]`` and pooled features ``[N, C]`` for reduced pictures ``[N, side, side]``."""
    return outputs_above(network, lower_of(network, pixels, size, batch))


def lower_of(network: CystEnsemble, pixels: Grey, size: int, batch: int = 16) -> list[Both]:
    """The outputs of the frozen layers, which all folds share, for reduced pictures, in batches."""
    found = []
    for start in range(0, len(pixels), batch):
        squares = np.stack([enlarge(one, size) for one in pixels[start : start + batch]])
        with torch.inference_mode():
            images = input_of(network, normalise(squares, MEAN, SCALE))
            images = images.contiguous(memory_format=torch.channels_last)
            found.append((network.lower(images), network.lower(images.flip(3))))
    return found


def outputs_above(network: CystEnsemble, lower: Sequence[Both]) -> tuple[Floats, Floats]:
    """:func:`outputs_of`, computed from the outputs of :func:`lower_of`."""
    logits, features = [np.zeros((0, len(LABELS)), np.float32)], []
    for upright, mirrored in lower:
        with torch.inference_mode():
            found, maps, _ = network.upper(upright, mirrored)
        logits.append(found.cpu().numpy())
        features.append(maps.mean((2, 3)).cpu().numpy())
    return np.concatenate(logits), np.concatenate(features) if features else np.zeros((0, 0), np.float32)


class OvarianBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch i of a run: images ``[B, 3, size, size]`` and labels ``[B]``, drawn from (seed, i) alone.

    If ``seen [N, copies, C, h, w]`` is given, batches hold these outputs of the frozen layers in place of
    images.
    """

    def __init__(
        self, recipe: OvarianRecipe, pixels: Grey, labels: Rows, rows: Rows, seen: Tensor | None
    ) -> None:
        self._recipe, self._pixels, self._labels, self._rows, self._seen = recipe, pixels, labels, rows, seen
        odds = np.bincount(labels[rows], minlength=len(LABELS))[labels[rows]] ** -recipe.balance
        self._odds = odds / odds.sum()

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((self._recipe.seed, iteration))
        rows = random.choice(self._rows, self._recipe.batch, p=self._odds)
        labels = torch.from_numpy(self._labels[rows])
        if self._seen is not None:
            chosen = random.integers(self._recipe.copies, size=len(rows))
            return self._seen[rows, chosen].float(), labels
        copies = np.stack([augmented(self._pixels[row], self._recipe, random) for row in rows])
        return torch.from_numpy(normalise(copies, MEAN, SCALE)), labels


def _seen_copies(pixels: Grey, recipe: OvarianRecipe, report: Report) -> Tensor:
    """``[N, copies, C, h, w]`` float16: what the frozen part makes of copies of each frame."""
    network = new_classifier(recipe).eval()
    network.to(run_options().chosen_device())
    found = []
    for number, picture in enumerate(pixels):
        random = np.random.default_rng((recipe.seed, number, recipe.copies))
        copies = np.stack([augmented(picture, recipe, random) for _ in range(recipe.copies)])
        images = input_of(network, normalise(copies, MEAN, SCALE))
        images = images.contiguous(memory_format=torch.channels_last)
        found.append(network.trunk.lower(images).half().contiguous().cpu())
        report(number / len(pixels), "copies through the frozen part")
    return torch.stack(found)


def augmented(picture: Grey, how: OvarianRecipe, random: np.random.Generator) -> Grey:
    """A random copy ``[size, size]``: perhaps mirrored, turned, scaled, shifted, with other
    gamma and gain.
    """
    matrix = motion(picture.shape[0], how, random)
    moved = cv2.warpAffine(picture, matrix, (how.size, how.size), flags=cv2.INTER_AREA)
    return exposed(np.asarray(moved, np.uint8), how, random)


def motion(side: int, how: OvarianRecipe, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random 2 × 3 matrix that maps pixel centres of a picture of ``side`` pixels to those of a network
    input.
    """
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation))
    zoom = how.size / side * np.exp(random.uniform(-how.scale, how.scale))
    wide, high = zoom * np.exp(random.uniform(-how.stretch, how.stretch, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * (wide, high)
    if random.random() < 0.5:
        turn[:, 0] *= -1
    centre = np.full(2, (how.size - 1) / 2) + random.uniform(-how.shift, how.shift, 2) * how.size
    return np.column_stack([turn, centre - turn @ np.full(2, (side - 1) / 2)])


def exposed(picture: Grey, how: OvarianRecipe, random: np.random.Generator) -> Grey:
    """``picture`` with a random gamma and gain."""
    gamma = np.exp(random.uniform(-how.contrast, how.contrast) * 2)
    gain = np.exp(random.uniform(-how.contrast, how.contrast))
    levels = 255.0 * gain * (np.arange(256) / 255.0) ** gamma
    return np.asarray(np.clip(levels, 0, 255).astype(np.uint8)[picture])


class _OvarianRun(TrainingRun):
    CHOSEN_BY = "iteration"  # the last is kept: nothing is chosen by frames that were held out

    def __init__(
        self,
        out: Path,
        recipe: OvarianRecipe,
        pixels: Grey,
        frames: Sequence[OvarianFrame],
        held_out: npt.NDArray[np.bool_],
        seen: Tensor | None,
    ) -> None:
        seed_all(recipe.seed)
        self.recipe, self.pixels, self.seen = recipe, pixels, seen
        self.labels = np.array([frame.label for frame in frames], np.intp)
        self.rows, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        network = new_classifier(recipe)
        steps = recipe.iterations(len(self.rows))
        plan = Plan(
            iterations=steps,
            learning_rate=recipe.learning_rate,
            warm_up=recipe.warm_up,
            validate_every=steps,
            ema=recipe.ema,
            weight_decay=recipe.weight_decay,
        )
        super().__init__(out, json.dumps(asdict(recipe)), plan, network)

    def examples(self) -> OvarianBatches:
        return OvarianBatches(self.recipe, self.pixels, self.labels, self.rows, self.seen)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        images = images.contiguous(memory_format=torch.channels_last)
        network = cast(CystClassifier, self.network)
        with self.autocast():
            logits, _ = network(images) if self.seen is None else network.upper(images)
        return cross_entropy(logits.float(), labels, label_smoothing=self.recipe.smoothing)

    def validate(self) -> Validation:
        network = CystEnsemble([cast(CystClassifier, self.average.eval())])
        logits, _ = outputs_of(network, self.pixels[self.held_out], self.recipe.size)
        right = (
            float((logits.argmax(1) == self.labels[self.held_out]).mean()) if len(logits) else float("nan")
        )
        arrays: dict[str, npt.NDArray[Any]] = {"rows": self.held_out, "logits": logits} if len(logits) else {}
        figures = {"iteration": self.done, "accuracy": right}
        return Validation(figures, f"held out accuracy {right:.3f}", self.average.state_dict(), arrays)
