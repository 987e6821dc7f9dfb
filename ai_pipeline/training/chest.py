"""``ai-pipeline train chest``: fine-tune EfficientNet-Lite0 on the public NIH images.

Seeded and capped by iterations, never by seconds: two runs of one machine with one thread count give the
same numbers. Every batch draws its random numbers from ``(seed, iteration)``, so an interrupted run that
is resumed sees the same batches as one that was not.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ai_pipeline.networks.efficientnet import PlacedClassifier, pretrained_on_imagenet
from ai_pipeline.preprocess import enlarge, normalise
from ai_pipeline.registry import Chain
from ai_pipeline.training.calibrate import operating_point
from ai_pipeline.training.chestdata import (
    LABELS,
    YOUNGEST,
    ChestImage,
    chest_images,
    label_matrix,
    reduced_images,
    soft_matrix,
)
from ai_pipeline.training.export import ID, export_onnx, fit_gate, write_card
from ai_pipeline.training.metrics import within_source_auc
from ai_pipeline.training.places import fit_places

Report = Callable[[float, str], None]
GATE_IMAGES = 2000  # of the train split, for the gate's directions
MEAN, SCALE = 127.0, 128.0  # EfficientNet-Lite's own normalisation of 0..255


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that shapes a run. Angles in degrees, shift and scale as a share of the image's side."""

    size: int = 160
    batch: int = 32
    epochs: float = 5.0
    iterations: int | None = None
    seed: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warm_up: float = 0.2
    soft_weight: float = 0.7
    finding_weight: float = 1.5
    ema: float = 0.995
    rotation: float = 5.0
    shift: float = 0.06
    scale: float = 0.12
    stretch: float = 0.05
    contrast: float = 0.2
    threads: int = 2
    chain: Chain = field(default_factory=Chain)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run leaves: the best network by validation, and the history of validation figures."""

    network: PlacedClassifier
    history: tuple[dict[str, float], ...]
    recipe: Recipe


def fit(data: Path, out: Path, recipe: Recipe, *, resume: bool = False, report: Report) -> Trained:
    """Train on the train split, choose the checkpoint on the validation split, never look at the test split.

    ``out`` receives ``checkpoint.pt`` (resumable), ``best.pt``, ``history.json`` and the image cache.
    """
    torch.set_num_threads(recipe.threads)
    cv2.setNumThreads(1)
    images = _adults(data)
    pixels = reduced_images(images, recipe.chain, out / "cache", report)
    run = _Run(recipe, images, pixels, out)
    if resume:
        run.load()
    run.train(report)
    network = PlacedClassifier(len(LABELS), recipe.size)
    network.load_state_dict(torch.load(out / "best.pt", weights_only=True))
    return Trained(network.eval(), tuple(run.history), recipe)


def train(
    data: Path,
    out: Path,
    *,
    epochs: float = 5.0,
    iterations: int | None = None,
    seed: int = 1,
    threads: int = 2,
    resume: bool = False,
    report: Report = lambda _share, _what: None,
) -> Path:
    """Train, export and calibrate; returns the card, which with its weights makes ``out`` a models folder.

    ``data``: the folder that docs/training.md describes. ``iterations`` overrides ``epochs``. Raises
    ``DataMissing`` when image sets are missing, ValueError when ``resume`` meets another recipe.
    """
    recipe = Recipe(epochs=epochs, iterations=iterations, seed=seed, threads=threads)
    return finish(data, out, fit(data, out, recipe, resume=resume, report=report))


def finish(data: Path, out: Path, trained: Trained) -> Path:
    """Export the chosen network and read calibration, thresholds and gate off the validation split."""
    network, recipe = trained.network, trained.recipe
    places = fit_places(network, data, recipe, MEAN, SCALE)
    images = _adults(data)
    pixels = reduced_images(images, recipe.chain, out / "cache")
    rows = np.flatnonzero([image.split == "val" for image in images])
    learned = np.flatnonzero([image.split == "train" for image in images])
    sample = np.random.default_rng(recipe.seed).choice(learned, min(GATE_IMAGES, len(learned)), replace=False)
    truth = label_matrix([images[row] for row in rows])
    outputs = infer(network, pixels[rows], recipe.size)
    gate, threshold = fit_gate(infer(network, pixels[sample], recipe.size).pooled, outputs.pooled)
    points = tuple(operating_point(truth[:, k], outputs.logits[:, k]) for k in range(len(LABELS)))
    export_onnx(network, recipe.size, out / f"{ID}.onnx")
    (out / f"{ID}.gate.npz").write_bytes(gate.to_bytes())
    (out / f"{ID}.boxes.npz").write_bytes(places.to_bytes())
    best = max(trained.history, key=lambda entry: entry["validation_auc"])
    described = {
        "images": len(learned),
        "patients": len({images[row].patient for row in learned}),
        "recipe": {k: v for k, v in asdict(recipe).items() if k != "chain" and v is not None},
        "chosen_iteration": int(best["iteration"]),
        "validation_auc_within_sources": round(best["validation_auc"], 4),
        "validation_images": len(rows),
    }
    return write_card(out, points, threshold, truth.mean(0), described)


def augment(
    image: npt.NDArray[np.uint8], recipe: Recipe, random: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """One randomly moved, turned (at most ``rotation`` degrees) and re-windowed copy at the network's size.

    No flips: a flip changes the heart's side, and with it what situs and cardiomegaly look like.
    """
    side, size = image.shape[0], recipe.size
    angle = np.deg2rad(random.uniform(-recipe.rotation, recipe.rotation))
    zoom = size / side * (1 + random.uniform(-recipe.scale, recipe.scale))
    wide, high = zoom * (1 + random.uniform(-recipe.stretch, recipe.stretch, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos * wide, -sin * high], [sin * wide, cos * high]])
    centre = np.full(2, (size - 1) / 2) + random.uniform(-recipe.shift, recipe.shift, 2) * size
    offset = centre - turn @ np.full(2, (side - 1) / 2)
    moved = cv2.warpAffine(image, np.column_stack([turn, offset]), (size, size), flags=cv2.INTER_CUBIC)
    gain = 1 + random.uniform(-recipe.contrast, recipe.contrast)
    gamma = 2 ** random.uniform(-recipe.contrast * 2, recipe.contrast * 2)
    bias = random.uniform(-recipe.contrast, recipe.contrast) * 100
    levels = 255.0 * (np.arange(256) / 255.0) ** gamma * gain + bias
    return np.asarray(np.clip(levels, 0, 255).astype(np.uint8)[moved])


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What a network says about N images: ``logits [N, labels]`` and ``pooled`` features ``[N, C]``."""

    logits: npt.NDArray[np.float32]
    pooled: npt.NDArray[np.float32]


def infer(network: PlacedClassifier, pixels: npt.NDArray[np.uint8], size: int) -> Outputs:
    """Run reduced images ``[N, side, side]`` through ``network`` as at run time."""
    network.eval()
    logits: list[npt.NDArray[np.float32]] = []
    pooled: list[npt.NDArray[np.float32]] = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 64):
            batch = np.stack([enlarge(image, size) for image in pixels[start : start + 64]])
            inputs = torch.from_numpy(normalise(batch, MEAN, SCALE))
            said, features, _ = network(inputs.contiguous(memory_format=torch.channels_last))
            logits.append(said.numpy())
            pooled.append(features.mean((2, 3)).numpy())
    return Outputs(np.concatenate(logits), np.concatenate(pooled))


def _adults(data: Path) -> tuple[ChestImage, ...]:
    """The train and validation images of patients of 16 years and over."""
    return tuple(image for image in chest_images(data) if image.age >= YOUNGEST and image.split != "test")


class _Run:
    """The state of one training run: network, its moving average, optimiser, schedule, history."""

    def __init__(
        self,
        recipe: Recipe,
        images: tuple[ChestImage, ...],
        pixels: npt.NDArray[np.uint8],
        out: Path,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out = recipe, out
        self.train_rows = train = np.flatnonzero([image.split == "train" for image in images])
        self.validation_rows = np.flatnonzero([image.split == "val" for image in images])
        self.pixels, self.images = pixels, images
        self.hard, self.soft = label_matrix(images), soft_matrix(images)
        weight = np.where(self.hard[train].any(1), recipe.finding_weight, 1.0)
        self.odds = weight / weight.sum()
        self.per_epoch = len(train) // recipe.batch
        self.last = recipe.iterations or round(recipe.epochs * self.per_epoch)
        network = pretrained_on_imagenet(len(LABELS), recipe.size)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, recipe.learning_rate, total_steps=self.last, pct_start=recipe.warm_up
        )
        self.done = 0
        self.history: list[dict[str, float]] = []

    def train(self, report: Report) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        loss_sum, loss_count = 0.0, 0
        while self.done < self.last:
            loss_sum += self._step()
            loss_count += 1
            self.done += 1
            report(self.done / self.last, f"iteration {self.done}, loss {loss_sum / loss_count:.4f}")
            if self.done % self.per_epoch == 0 or self.done == self.last:
                self._validate(loss_sum / loss_count, report)
                loss_sum, loss_count = 0.0, 0

    def load(self) -> None:
        """Go on from ``checkpoint.pt``. ValueError when it is of another recipe."""
        state = torch.load(self.out / "checkpoint.pt", weights_only=True)
        if state["recipe"] != json.dumps(asdict(self.recipe)):
            raise ValueError("checkpoint.pt was made by another recipe: train into a new folder")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.done, self.history = state["done"], state["history"]

    def _step(self) -> float:
        random = np.random.default_rng((self.recipe.seed, self.done))
        torch.manual_seed(int(random.integers(2**31)))
        rows = random.choice(self.train_rows, self.recipe.batch, p=self.odds)
        batch = np.stack([augment(self.pixels[row], self.recipe, random) for row in rows])
        inputs = torch.from_numpy(normalise(batch, MEAN, SCALE)).contiguous(memory_format=torch.channels_last)
        self.network.train()
        logits = self.network.classify(inputs)
        loss = self._loss(logits, rows)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimiser.step()
        self.schedule.step()
        self._move_average()
        return float(loss.detach())

    def _loss(self, logits: Tensor, rows: npt.NDArray[np.intp]) -> Tensor:
        loss = binary_cross_entropy_with_logits(logits, torch.from_numpy(self.hard[rows]))
        taught = ~np.isnan(self.soft[rows]).any(1)
        if taught.any():
            target = torch.from_numpy(self.soft[rows][taught])
            share = float(taught.mean()) * self.recipe.soft_weight
            loss = loss + share * binary_cross_entropy_with_logits(logits[torch.from_numpy(taught)], target)
        return loss

    def _move_average(self) -> None:
        keep = min(self.recipe.ema, (1 + self.done) / (10 + self.done))
        current = self.network.state_dict()
        with torch.no_grad():
            for name, value in self.average.state_dict().items():
                if value.dtype.is_floating_point:
                    value.lerp_(current[name], 1 - keep)
                else:
                    value.copy_(current[name])

    def _validate(self, loss: float, report: Report) -> None:
        rows = self.validation_rows
        logits = infer(self.average, self.pixels[rows], self.recipe.size).logits
        sources = np.array([self.images[row].source for row in rows])
        auc = within_source_auc(self.hard[rows], logits, sources)
        self.history.append({"iteration": self.done, "loss": loss, "validation_auc": auc})
        report(self.done / self.last, f"iteration {self.done}, validation AUC {auc:.4f}, loss {loss:.4f}\n")
        if auc >= max(entry["validation_auc"] for entry in self.history):
            torch.save(self.average.state_dict(), self.out / "best.pt")
        (self.out / "history.json").write_text(json.dumps(self.history, indent=1))
        self._save()

    def _save(self) -> None:
        state = {
            "recipe": json.dumps(asdict(self.recipe)),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "done": self.done,
            "history": self.history,
        }
        partial = self.out / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.out / "checkpoint.pt")
