"""Training of the folds and of the network that ships."""

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
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from ai_pipeline.models.registry import enlarge, normalise
from ai_training.backbones import default_start, fill_start
from ai_training.base import CannotAdapt, ExperimentError, Report, followed, silent
from ai_training.engine import Plan, TrainingRun, Validation, best_of, input_of, run_options, seed_all
from ai_training.networks import IMAGENET, MEAN, NAME, SCALE, TIMM
from ai_training.ovarian.calibration import Ints
from ai_training.ovarian.frames import FOLDS, LABELS, OvarianFrame, folds, ovarian_frames, reduced
from ai_training.ovarian.network import EVERY, CystClassifier, CystEnsemble, LiteTrunk, TimmTrunk
from ai_training.sets.files import Grey, Singles

ALL = "all"
"""Folder of the run that sees every frame."""
FOLD_RUNS = tuple(map(str, range(FOLDS)))
Both = tuple[Tensor, Tensor]
"""What the frozen part makes of pictures, and of their mirror images."""


@dataclass(frozen=True, slots=True)
class OvarianRecipe:
    """All settings of a run.

    ``architecture``: EfficientNet-Lite0, or a name of timm; ``initial``: its first weights (``imagenet``,
    ``random``, a file's path) and their ``licence``; ``epochs``: passes over its training frames;
    ``frozen``: first blocks of EfficientNet-Lite0 that keep their weights (of a network of timm all do with
    :data:`.network.EVERY`, else none); ``balance``: exponent of a class's
    count by which its frames are drawn less often (0: all frames equally often, 1: all classes equally
    often). The frozen part runs on ``copies`` of each frame, once for all runs.
    For a copy: ``rotation`` in degrees, the rest as shares of the picture or of its grey levels.
    """

    architecture: str = NAME
    initial: str = IMAGENET
    licence: str = ""
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

    def on_backbone(self, backbone: str, weights: str, licence: str, *, frozen: bool) -> "OvarianRecipe":
        """This recipe on another ``backbone`` (``""``: its own), which starts from ``weights`` (``""``:
        ImageNet weights if a package has them, else random ones) of this ``licence``.
        """
        name = backbone or self.architecture
        kept = EVERY if frozen else self.frozen
        start = default_start(name, weights)
        return replace(self, architecture=name, initial=start, licence=licence, frozen=kept)

    def described(self) -> dict[str, Any]:
        """The recipe as a table for a model card, without folders of this machine."""
        return asdict(self) | {"initial": Path(self.initial).name}


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

    All seeds share the augmented copies. Each run writes ``best.pt``, and for a fold
    ``validation.npz`` with ``rows`` and ``logits`` of its frames. Raises DataMissing, or ExperimentError if a
    folder holds a run of another recipe.
    """
    frames = ovarian_frames(data)
    fold = folds(frames)
    if pixels is None:
        pixels = reduced([frame.rgb() for frame in frames])
    seen = _seen_copies(pixels, recipe, report)
    for seed, name in product(seeds, runs):
        folder, own = out / f"seed-{seed}" / name, replace(recipe, seed=seed)
        run = _OvarianRun(folder, own, pixels, frames, not_trained_on(name, fold), seen)
        report(0.0, f"seed {seed}, {name}: {run.plan.iterations} steps\n")
        run.finish(report, resume=run.begun)


def not_trained_on(run: str, fold: Ints) -> npt.NDArray[np.bool_]:
    """Which frames the training run ``run`` (number of a fold, or :data:`ALL`) does not train on."""
    return np.asarray(fold == (-1 if run == ALL else int(run)))


def new_classifier(recipe: OvarianRecipe) -> CystClassifier:
    """Create the network of ``recipe`` with its first weights. Raises ExperimentError, DataMissing."""
    name, frozen = recipe.architecture, recipe.frozen >= EVERY
    try:
        lite = name == NAME
        trunk = (
            LiteTrunk(recipe.size, recipe.frozen)
            if lite
            else TimmTrunk(name.removeprefix(TIMM), recipe.size, frozen=frozen)
        )
    except CannotAdapt as error:
        raise ExperimentError(f"--backbone {name}: {error}") from error
    fill_start(trunk.network, name, recipe.initial, frozen=frozen)
    return CystClassifier(trunk, len(LABELS))


def trained_classifier(folder: Path, recipe: OvarianRecipe) -> CystClassifier:
    """Load the network of a training run in ``folder``, ready for inference."""
    return best_of(new_classifier(recipe), folder)


def ensemble(out: Path, recipe: OvarianRecipe, seeds: Sequence[int], name: str) -> CystEnsemble:
    """Load the networks of all seeds for the run ``name`` below ``out``, ready for inference."""
    return CystEnsemble([trained_classifier(out / f"seed-{seed}" / name, recipe) for seed in seeds]).eval()


def outputs_of(network: CystEnsemble, pixels: Grey, size: int, batch: int = 16) -> tuple[Singles, Singles]:
    """Logits ``[N, labels]`` and mean features ``[N, C]`` for reduced pictures ``[N, side, side]``. ``size``:
    side of the input; ``batch``: pictures run at once.
    """
    return outputs_above(network, frozen_outputs(network, pixels, size, batch))


def frozen_outputs(network: CystEnsemble, pixels: Grey, size: int, batch: int = 16) -> list[Both]:
    """The outputs of the frozen layers, which all folds share, for reduced pictures ``pixels`` and for their
    mirror images, in batches. ``size``: side of the network's input.
    """
    found = []
    for start in range(0, len(pixels), batch):
        squares = np.stack([enlarge(one, size) for one in pixels[start : start + batch]])
        with torch.inference_mode():
            images = _seen_by(network, squares)
            found.append((network.frozen_layers(images), network.frozen_layers(images.flip(3))))
    return found


def outputs_above(network: CystEnsemble, lower: Sequence[Both]) -> tuple[Singles, Singles]:
    """The result of :func:`outputs_of`, computed from the outputs of :func:`frozen_outputs` (``lower``)."""
    logits, features = [np.zeros((0, len(LABELS)), np.float32)], []
    for upright, mirrored in lower:
        with torch.inference_mode():
            found, maps, _ = network.trained_layers(upright, mirrored)
        logits.append(found.cpu().numpy())
        features.append(maps.mean((2, 3)).cpu().numpy())
    return np.concatenate(logits), np.concatenate(features) if features else np.zeros((0, 0), np.float32)


class OvarianBatches(Dataset[tuple[Tensor, Tensor]]):
    """The training batches of a run; item i is outputs of the frozen layers ``[B, C, h, w]``, taken from
    ``seen [N, copies, C, h, w]``, and labels ``[B]``, drawn from (seed, i) alone.
    """

    def __init__(self, recipe: OvarianRecipe, labels: Ints, rows: Ints, seen: Tensor) -> None:
        """``labels [N]``: the classes; ``rows``: the frames that may be drawn."""
        self._recipe, self._labels, self._rows, self._seen = recipe, labels, rows, seen
        odds = np.bincount(labels[rows], minlength=len(LABELS))[labels[rows]] ** -recipe.balance
        self._odds = odds / odds.sum()

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Make the batch of step ``iteration``."""
        random = np.random.default_rng((self._recipe.seed, iteration))
        rows = random.choice(self._rows, self._recipe.batch, p=self._odds)
        labels = torch.from_numpy(self._labels[rows])
        chosen = random.integers(self._recipe.copies, size=len(rows))
        return self._seen[rows, chosen].float(), labels


def _seen_copies(pixels: Grey, recipe: OvarianRecipe, report: Report) -> Tensor:
    """Run the frozen layers on random copies of each frame in ``pixels``; returns their outputs ``[N, copies,
    C, h, w]`` (float16).
    """
    network = new_classifier(recipe).eval().to(run_options().chosen_device())
    found = []
    for number in followed(range(len(pixels)), report, "copies through the frozen part"):
        random = np.random.default_rng((recipe.seed, number, recipe.copies))
        copies = np.stack([augmented(pixels[number], recipe, random) for _ in range(recipe.copies)])
        found.append(network.trunk.frozen_layers(_seen_by(network, copies)).half().contiguous().cpu())
    return torch.stack(found)


def _seen_by(network: nn.Module, squares: Grey) -> Tensor:
    """Convert pictures of the network's size to its input."""
    return input_of(network, normalise(squares, MEAN, SCALE)).contiguous(memory_format=torch.channels_last)


def augmented(picture: Grey, how: OvarianRecipe, random: np.random.Generator) -> Grey:
    """Make a random copy ``[size, size]``: perhaps mirrored, turned, scaled, shifted, with other gamma and
    gain.
    """
    matrix = motion(picture.shape[0], how, random)
    moved = cv2.warpAffine(picture, matrix, (how.size, how.size), flags=cv2.INTER_AREA)
    return exposed(np.asarray(moved, np.uint8), how, random)


def motion(side: int, how: OvarianRecipe, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random 2 × 3 matrix that maps pixel centres of a picture of ``side`` pixels to those of a network
    input. ``how``: how far it may turn, scale and shift.
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
    """Return ``picture`` with a random gamma and gain, within the limits of ``how``."""
    gamma = np.exp(random.uniform(-how.contrast, how.contrast) * 2)
    gain = np.exp(random.uniform(-how.contrast, how.contrast))
    levels = 255.0 * gain * (np.arange(256) / 255.0) ** gamma
    return np.asarray(np.clip(levels, 0, 255).astype(np.uint8)[picture])


class _OvarianRun(TrainingRun):
    """One training run of the classifier of ovarian frames."""

    CHOSEN_BY = "iteration"  # the last is kept: nothing is chosen by frames that were held out

    def __init__(
        self,
        out: Path,
        recipe: OvarianRecipe,
        pixels: Grey,
        frames: Sequence[OvarianFrame],
        held_out: npt.NDArray[np.bool_],
        seen: Tensor,
    ) -> None:
        """Prepare the run: ``pixels``: reduced frames; ``held_out``: the frames not to train on; ``seen``:
        the frozen layers' outputs for copies of all frames.
        """
        seed_all(recipe.seed)
        self.recipe, self.pixels, self.seen = recipe, pixels, seen
        self.labels = np.array([frame.label for frame in frames], np.intp)
        self.rows, self.held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        network = new_classifier(recipe)
        steps = max(1, round(recipe.epochs * len(self.rows) / recipe.batch))
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
        """The training batches."""
        return OvarianBatches(self.recipe, self.labels, self.rows, self.seen)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        images = images.contiguous(memory_format=torch.channels_last)
        network = cast(CystClassifier, self.network)
        with self.autocast():
            logits, _ = network.trained_layers(images)
        return cross_entropy(logits.float(), labels, label_smoothing=self.recipe.smoothing)

    def validate(self) -> Validation:
        """Measure the accuracy on the frames that are held out."""
        network = CystEnsemble([cast(CystClassifier, self.average.eval())])
        logits, _ = outputs_of(network, self.pixels[self.held_out], self.recipe.size)
        right = (
            float((logits.argmax(1) == self.labels[self.held_out]).mean()) if len(logits) else float("nan")
        )
        arrays: dict[str, npt.NDArray[Any]] = {"rows": self.held_out, "logits": logits} if len(logits) else {}
        figures = {"iteration": self.done, "accuracy": right}
        return Validation(figures, f"held out accuracy {right:.3f}", self.average.state_dict(), arrays)
