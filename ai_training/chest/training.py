"""Fine-tuning of a backbone on chest X-rays: batches, targets, losses, the run."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss
from torch.utils.data import Dataset

from ai_pipeline.models.registry import enlarge, normalise
from ai_training.backbones import fill_start, new_classifier
from ai_training.base import DataMissing, Report, silent
from ai_training.chest.experiment import Augmentation, Experiment, Loss
from ai_training.engine import Plan, TrainingRun, Validation, best_of, run_options, seed_all
from ai_training.metrics import within_source_auc
from ai_training.networks import MEAN, SCALE, PlacedNetwork
from ai_training.sets.chest import adults_of, chest_set, label_matrix, reduced_images, soft_matrix
from ai_training.sets.files import Grey, Singles, size_of
from ai_training.sets.images import LABELS, SetImage

CERTAIN = 1e-3  # probabilities nearer to 0 or 1 than this count as this: their log-odds mean nothing


class Targets(NamedTuple):
    """The training targets of N images, as arrays or as tensors. ``hard [N, labels]``: 0 or 1, NaN if
    unknown. ``soft [N, labels]``: a teacher model's probabilities; ``odds [N, labels]``: their log-odds, with
    mean 0 and spread 1 over the images of the train split; ``taught [N, 1]``: 1 if the teacher's
    probabilities are known.
    """

    hard: Any
    soft: Any
    odds: Any
    taught: Any

    @staticmethod
    def from_images(images: Sequence[SetImage]) -> Targets:
        """The targets from the labels and teacher's probabilities of ``images``."""
        soft: Singles = soft_matrix(images)
        taught = np.asarray(~np.isnan(soft).any(1, keepdims=True))
        learned = taught[:, 0] & np.array([image.split == "train" for image in images])
        probability = np.clip(soft, CERTAIN, 1 - CERTAIN)
        odds = np.log(probability / (1 - probability))
        if learned.any():
            odds = (odds - odds[learned].mean(0)) / (odds[learned].std(0) + CERTAIN)
        soft, odds = (np.where(taught, values, 0.0).astype(np.float32) for values in (soft, odds))
        return Targets(label_matrix(images, unknown=np.nan), soft, odds, taught.astype(np.float32))


Batch = tuple[Tensor, Targets]
"""Images float32 ``[B, 3, size, size]``, targets as tensors."""


class ChestBatches(Dataset[Batch]):
    """The training batches of a run: batch number i holds images drawn at random and augmented."""

    def __init__(
        self, experiment: Experiment, pixels: Grey, targets: Targets, rows: npt.NDArray[np.intp]
    ) -> None:
        """``pixels [N, side, side]``: reduced images; ``targets``: those of all N images; ``rows``: the
        images that may be drawn.
        """
        self._experiment, self._pixels, self._targets, self._rows = experiment, pixels, targets, rows
        made = experiment.images
        weight = np.where((targets.hard[rows] > 0).any(1), made.finding_weight, 1.0)
        weight = weight * np.where(targets.taught[rows, 0] > 0, made.taught_weight, 1.0)
        self._odds = weight / weight.sum()

    def __getitem__(self, iteration: int) -> Batch:
        """Make the batch of step ``iteration``: images and targets."""
        made, known = self._experiment, self._targets
        random = np.random.default_rng((made.seed, iteration))
        rows = random.choice(self._rows, made.schedule.batch, p=self._odds)
        copies = [augment(self._pixels[row], made.network.size, made.augment, random) for row in rows]
        images = torch.from_numpy(normalise(np.stack(copies), MEAN, SCALE))
        targets = Targets(*(torch.from_numpy(part[rows]) for part in known))
        return images.contiguous(memory_format=torch.channels_last), targets


def augment(image: Grey, size: int, how: Augmentation, random: np.random.Generator) -> Grey:
    """Make a randomly moved and turned copy ``[size, size]`` of ``image`` with another window. ``how``: how
    far it may differ.
    """
    side = image.shape[0]
    angle = np.deg2rad(random.uniform(-how.rotation, how.rotation))
    zoom = size / side * (1 + random.uniform(-how.scale, how.scale))
    wide, high = zoom * (1 + random.uniform(-how.stretch, how.stretch, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos * wide, -sin * high], [sin * wide, cos * high]])
    centre = np.full(2, (size - 1) / 2) + random.uniform(-how.shift, how.shift, 2) * size
    matrix = np.column_stack([turn, centre - turn @ np.full(2, (side - 1) / 2)])
    moved = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC)
    gain = 1 + random.uniform(-how.contrast, how.contrast)
    gamma = 2 ** random.uniform(-how.contrast * 2, how.contrast * 2)
    bias = random.uniform(-how.contrast, how.contrast) * 100
    levels = 255.0 * (np.arange(256) / 255.0) ** gamma * gain + bias
    return np.asarray(np.clip(levels, 0, 255).astype(np.uint8)[moved])


UNFAIR = (("cxr_nih_more/images", LABELS.index("Pneumonia")),)
"""Images and label left out when a checkpoint is chosen: there the repository alone predicts pneumonia."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a training run: the network that is best by validation, and the history of validation
    figures.
    """

    network: PlacedNetwork
    history: tuple[dict[str, float], ...]
    experiment: Experiment


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The adults' images of the train and validation splits, reduced: shared by all parts of a training run.
    ``labels``: the labels that images of both splits have; the network is trained with all of :data:`LABELS`,
    and exported with these. ``notes``: on what the set holds and what of it is left out.
    """

    images: tuple[SetImage, ...]
    pixels: npt.NDArray[np.uint8]
    labels: tuple[str, ...] = LABELS
    notes: tuple[str, ...] = ()

    @staticmethod
    def gather(data: Path, experiment: Experiment, cache: Path, report: Report = silent) -> Material:
        """Read and reduce the images in the folder ``data``, as the ``experiment`` wants them. ``cache``:
        folder that stores the reduced images between runs. Raises DataMissing.
        """
        cv2.setNumThreads(1)
        found = chest_set(data)
        images, notes = adults_of(found, "train", "val")
        for note in notes:
            report(0.0, f"{note}\n")
        labels = found.labels
        for split in ("train", "val"):
            of_split = [image for image in images if image.split == split]
            known = ~np.isnan(label_matrix(of_split, unknown=np.nan)).reshape(-1, len(LABELS))
            labels = tuple(label for label in labels if known[:, LABELS.index(label)].any())
        if not labels:
            raise DataMissing(
                f"{data}: of no label are adults in both splits train and val (ai-pipeline split)"
            )
        pixels = reduced_images(images, experiment.images.chain, cache, report)
        return Material(images, pixels, labels, notes)

    def rows(self, split: str, smallest: int = 0) -> npt.NDArray[np.intp]:
        """The indices of the images of ``split`` whose files have at least ``smallest`` pixels a side."""
        return np.array(
            [
                row
                for row, image in enumerate(self.images)
                if image.split == split and (not smallest or min(size_of(image.path)) >= smallest)
            ],
            np.intp,
        )


def fit(
    data: Path,
    out: Path,
    experiment: Experiment,
    *,
    resume: bool = False,
    threads: int = 0,
    cache: Path | None = None,
    report: Report = silent,
) -> Trained:
    """Train the chest classifier on the train split, and choose the checkpoint on the validation split; the
    test split is not used. ``out`` receives ``checkpoint.pt`` (resumable), ``best.pt``, ``history.json`` and
    ``validation.npz`` (names, logits). ``threads``: 0 for all cores. ``cache`` (default: a folder in ``out``)
    stores reduced images. Raises ``DataMissing``, or ExperimentError if ``resume`` finds another
    experiment.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    material = Material.gather(data, experiment, cache or out / "cache", report)
    run = ClassifierRun(experiment, material, out)
    run.finish(report, resume=resume)
    network = new_classifier(experiment.network.architecture, len(LABELS), experiment.network.size)
    return Trained(best_of(network, out), tuple(run.history), experiment)


def infer(network: PlacedNetwork, pixels: npt.NDArray[np.uint8], size: int) -> tuple[Singles, Singles]:
    """Run ``network`` on reduced images ``[N, side, side]`` as at run time; returns logits ``[N, labels]``
    and mean features ``[N, C]``. ``size``: side of the network's input.
    """
    network.eval()
    device = next(network.parameters()).device
    logits: list[npt.NDArray[np.float32]] = []
    pooled: list[npt.NDArray[np.float32]] = []
    with torch.inference_mode():
        # Of few pictures: larger maps are new memory in every layer, which takes as long as the layers.
        for start in range(0, len(pixels), 16):
            batch = np.stack([enlarge(image, size) for image in pixels[start : start + 16]])
            inputs = torch.from_numpy(normalise(batch, MEAN, SCALE)).to(device)
            scores, features, _ = network(inputs.contiguous(memory_format=torch.channels_last))
            logits.append(scores.cpu().numpy())
            pooled.append(features.mean((2, 3)).cpu().numpy())
    return np.concatenate(logits), np.concatenate(pooled)


class Tasks(nn.Module):
    """A classifier with a second output layer, used in training only, for a teacher model's log-odds."""

    def __init__(self, network: PlacedNetwork) -> None:
        """Add the second output layer to ``network``."""
        super().__init__()
        self.network = network
        self.teacher = nn.Linear(network.head.in_features, len(LABELS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the teacher's standard log-odds, ``[B, labels]`` each."""
        pooled = self.network.dropout(self.network.maps(images)[0].mean((2, 3)))
        return self.network.head(pooled), self.teacher(pooled)

    def merged(self, pooled: npt.NDArray[np.float32], share: float) -> PlacedNetwork:
        """Return the classifier with one output layer: its own plus ``share`` times the teacher's, each in
        units of its spread. ``pooled [N, C]``: mean features of the images on which the spreads are
        computed.
        """
        features = torch.from_numpy(pooled)
        network = copy.deepcopy(self.network)
        own, taught = network.head, self.teacher
        with torch.no_grad():
            one, other = (1 / head(features).std(0).clamp(min=1e-6) for head in (own, taught))
            network.head.weight.copy_(own.weight * one[:, None] + share * taught.weight * other[:, None])
            network.head.bias.copy_(own.bias * one + share * taught.bias * other)
        return network


def loss_of(predicted: tuple[Tensor, Tensor], batch: Batch, weights: Loss) -> Tensor:
    """The training loss of a batch: the sum of the parts in the experiment's table ``[loss]``, with their
    ``weights``. ``predicted``: logits and the teacher's log-odds.
    """
    logits, teacher = (part.float() for part in predicted)
    targets, known = batch[1], ~batch[1].hard.isnan()
    hard = binary_cross_entropy_with_logits(logits, targets.hard.nan_to_num(), reduction="none")
    soft = binary_cross_entropy_with_logits(logits, targets.soft, reduction="none") * targets.taught
    away = smooth_l1_loss(teacher, targets.odds, reduction="none") * targets.taught
    mean = (hard * known).sum() / known.sum().clamp(min=1)
    return cast(Tensor, weights.hard * mean + weights.soft * soft.mean() + weights.teacher * away.mean())


class ClassifierRun(TrainingRun):
    """One training run of the chest classifier by an experiment; it validates after every epoch."""

    PARTS = ("tasks", "average", "optimiser", "schedule")
    CHOSEN_BY = "validation_auc"
    KIND = "experiment"

    def __init__(self, experiment: Experiment, material: Material, out: Path) -> None:
        """Prepare the run of ``experiment`` on the images of ``material``; ``out``: its folder."""
        seed_all(experiment.seed)
        self.experiment, self.material = experiment, material
        self.targets = Targets.from_images(material.images)
        made = experiment.schedule
        self.train_rows = material.rows("train", experiment.images.smallest)
        self.validation_rows = material.rows("val")
        per_epoch = max(1, len(self.train_rows) // (made.batch * run_options().accumulate))
        iterations = made.iterations or round(made.epochs * per_epoch)
        plan = Plan(
            iterations=iterations,
            learning_rate=made.learning_rate,
            warm_up=made.warm_up,
            validate_every=per_epoch,
            ema=made.ema,
            weight_decay=made.weight_decay,
        )
        cuda = run_options().chosen_device() == "cuda"
        self.workers = max(0, len(os.sched_getaffinity(0)) - 1) if cuda else 0
        precision = "bf16" if made.precision == "bfloat16" or (made.precision == "auto" and cuda) else "fp32"
        wanted = experiment.network
        sizes = len(LABELS), wanted.size, wanted.dropout, wanted.drop_connect
        network = new_classifier(wanted.architecture, *sizes)
        fill_start(network.backbone, wanted.architecture, wanted.initial, frozen=wanted.frozen)
        if wanted.frozen:
            network.freeze()
        tasks = Tasks(network)
        super().__init__(out, experiment.model_dump_json(), plan, tasks, precision)

    @property
    def tasks(self) -> Tasks:
        """The network in training, with both output layers."""
        return cast(Tasks, self.network)

    def examples(self) -> ChestBatches:
        """The training batches."""
        return ChestBatches(self.experiment, self.material.pixels, self.targets, self.train_rows)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of one batch."""
        torch.manual_seed(hash((self.experiment.seed, self.drawn)) % 2**31)  # dropout, drop connect
        with self.autocast():
            predicted = self.tasks(batch[0])
        return loss_of(predicted, batch, self.experiment.loss)

    def validate(self) -> Validation:
        """Measure the mean AUC within each source on the validation split."""
        rows, size, weights = self.validation_rows, self.experiment.network.size, self.experiment.loss
        average, pixels = cast(Tasks, self.average), self.material.pixels[self.validation_rows]
        network = average.network
        logits, pooled = infer(network, pixels, size)
        if weights.teacher and weights.teacher_share:  # what ships: both heads as one
            network = copy.deepcopy(average).cpu().merged(pooled, weights.teacher_share)
            with torch.inference_mode():  # the features are the same: only the last layer is another
                logits = network.head(torch.from_numpy(pooled)).numpy()
        images = [self.material.images[row] for row in rows]
        sources = np.array([image.source for image in images])
        auc = within_source_auc(self.targets.hard[rows], logits, sources, left_out=UNFAIR)
        arrays = {"names": np.array([image.path.name for image in images]), "logits": logits}
        return Validation({"validation_auc": auc}, f"validation AUC {auc:.4f}", network.state_dict(), arrays)
