"""One arm of a study with one seed: trained for its iterations, then run once on the held-out images."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from ai_pipeline.models.preprocess import normalise
from ai_training.chest.batches import MEAN, SCALE
from ai_training.engine.run import CHECKPOINT, Plan, TrainingRun, Validation
from ai_training.engine.setup import seed_all
from ai_training.networks.start import STARTS
from ai_training.networks.studies import fill, folded, restore_normalisation, study_network
from ai_training.progress import Report, silent
from ai_training.studies.alter import altered
from ai_training.studies.experiment import Arm
from ai_training.studies.material import Rows, StudyMaterial

PREDICTIONS = "predictions.npz"
TIMED, AT_ONCE = 10, 64
GPU_WORKERS = 2  # a step of a GPU takes as long as to draw its batch
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class HeldAnswers:
    """A trained arm's answers on the held-out images: ``rows`` of the material, ``logits [N, labels]``.

    ``milliseconds``: for one image, batch 1, on the processor and with the number of threads of the training.
    ``learned``: how many images it learned from.
    """

    rows: Rows
    logits: Floats
    milliseconds: float
    learned: int


class ArmBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch i of an arm: images and their labels ``[B, labels]``, drawn from (seed, i) alone."""

    def __init__(self, arm: Arm, seed: int, pixels: Bytes, truth: Floats, learned: Rows) -> None:
        self._arm, self._seed, self._pixels, self._truth, self._rows = arm, seed, pixels, truth, learned
        self._positive = truth[learned].max(1) > 0
        odds = np.where(self._positive, arm.lesson.copies, 1.0)
        self._odds = odds / odds.sum()

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((self._seed, iteration))
        picked = random.choice(len(self._rows), self._arm.lesson.batch, p=self._odds)
        images = [self._image(int(k), random) for k in picked]
        return tensor(np.stack(images)), torch.from_numpy(self._truth[self._rows[picked]])

    def _image(self, picked: int, random: np.random.Generator) -> Bytes:
        image, lesson = np.asarray(self._pixels[self._rows[picked]]), self._arm.lesson
        taken = lesson.altered == "all" or (
            self._positive[picked] and random.random() < 1 - 1 / lesson.copies
        )
        if not taken:
            return image
        return altered(image, self._arm.alter, random)


class ArmRun(TrainingRun):
    """The training of one arm with one seed. No checkpoint is chosen: the last weights are the result."""

    CHOSEN_BY = "iteration"
    KIND = "arm"

    def __init__(self, arm: Arm, seed: int, material: StudyMaterial, weights: Path, out: Path) -> None:
        seed_all(seed)
        self.arm, self.seed = arm, seed
        self.pixels, self.truth = material.sized(arm.network.size), material.labels(arm.task)
        self.learned, self.held = material.rows(arm)
        network = started(arm, weights, self.pixels[self.learned[: 2 * AT_ONCE]])
        lesson = arm.lesson
        plan = Plan(
            iterations=lesson.iterations,
            learning_rate=lesson.learning_rate,
            warm_up=lesson.warm_up,
            validate_every=lesson.iterations,
            ema=0.0,
            weight_decay=lesson.weight_decay,
        )
        precision = "bf16" if arm.network.precision == "bfloat16" else "fp32"
        super().__init__(out, f"{seed}: {arm.model_dump_json()}", plan, network, precision)
        self.workers = GPU_WORKERS if self.device.type == "cuda" else 0

    def examples(self) -> ArmBatches:
        return ArmBatches(self.arm, self.seed, self.pixels, self.truth, self.learned)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, truth = batch
        torch.manual_seed(hash((self.seed, self.batch_number)) % 2**31)  # dropout
        with self.autocast():
            logits = self.network(images)
        return binary_cross_entropy_with_logits(logits.float(), truth)

    def validate(self) -> Validation:
        """Save the last weights; :meth:`held_out` measures them once."""
        return Validation({"iteration": self.done}, "done", self.network.state_dict())

    def held_out(self) -> HeldAnswers:
        """Run the network with its present weights on the held-out images; returns its answers."""
        logits = logits_of(self.network, self.pixels[self.held])
        return HeldAnswers(self.held, logits, timed(self.network, self.pixels[self.held]), len(self.learned))


def run_arm(
    arm: Arm, seed: int, material: StudyMaterial, weights: Path, out: Path, report: Report = silent
) -> HeldAnswers:
    """Train ``arm`` with ``seed`` and store the results in ``out``; returns the answers on the held-out
    images.

    If ``out`` holds the finished run of this arm and seed, the stored answers are returned without training.
    ``weights``: the file or folder that ``initial`` of the network refers to.

    Raises DataMissing, or ExperimentError if ``out`` holds another arm.
    """
    stored, done = out / PREDICTIONS, out / "done.json"
    text = f"{seed}: {arm.model_dump_json()}"
    if stored.is_file() and done.is_file() and done.read_text() == text:
        return read(stored)
    run = ArmRun(arm, seed, material, weights, out)
    run.finish(report, resume=run.begun)
    held = run.held_out()
    np.savez(
        stored,
        allow_pickle=False,
        rows=held.rows,
        logits=held.logits,
        milliseconds=held.milliseconds,
        learned=held.learned,
    )
    done.write_text(text)
    (out / CHECKPOINT).unlink()  # it is three times as large as the weights, and of no more use
    return held


def read(path: Path) -> HeldAnswers:
    """Read the answers that :func:`run_arm` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return HeldAnswers(
            found["rows"], found["logits"], float(found["milliseconds"]), int(found["learned"])
        )


def started(arm: Arm, weights: Path, images: Bytes) -> nn.Module:
    """The network of ``arm`` before its first step.

    ``weights``: the file that it starts from, or a folder with the file named in ``initial``. ``images [N,
    size, size]``: used to restore batch normalisations that are folded.
    """
    wanted = arm.network
    if wanted.initial in STARTS:
        return study_network(wanted.architecture, wanted.initial, len(arm.task.labels), wanted.size)
    network = study_network(wanted.architecture, "random", len(arm.task.labels), wanted.size)
    fill(network, wanted.architecture, weights / wanted.initial if weights.is_dir() else weights)
    if folded(network):
        restore_normalisation(network, tensor(images))
    return network


def logits_of(network: nn.Module, pixels: Bytes) -> Floats:
    """Logits ``[N, labels]`` of ``pixels [N, size, size]``."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [
            network(tensor(pixels[start : start + AT_ONCE]).to(device)).cpu().numpy()
            for start in range(0, len(pixels), AT_ONCE)
        ]
    return np.concatenate(parts)


def timed(network: nn.Module, pixels: Bytes) -> float:
    """Median milliseconds of ``network`` for one image, batch 1."""
    network.eval()
    image = tensor(pixels[:1]).to(next(network.parameters()).device)
    taken: list[float] = []
    with torch.inference_mode():
        for _ in range(TIMED):
            begun = time.perf_counter()
            network(image).cpu()
            taken.append(time.perf_counter() - begun)
    return float(np.median(taken)) * 1000


def tensor(images: npt.NDArray[Any]) -> Tensor:
    """``images [N, size, size]`` uint8 as the networks' input."""
    return torch.from_numpy(normalise(images, MEAN, SCALE)).contiguous(memory_format=torch.channels_last)
