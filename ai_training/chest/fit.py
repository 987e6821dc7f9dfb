"""``ai-pipeline train chest``: fine-tune EfficientNet-Lite0 on chest X-rays as an experiment file says.

Runs are seeded and limited by iterations, never by seconds: two runs of one machine with one thread count
give the same numbers, also if one was interrupted. A GPU is used if there is one (bfloat16, channels last).
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, smooth_l1_loss

from ai_pipeline.models.preprocess import enlarge, normalise
from ai_pipeline.networks.efficientnet import PlacedNetwork
from ai_training.chest.batches import HEADER, MEAN, SCALE, Batch, ChestBatches, Targets
from ai_training.chest.experiment import Experiment, Loss
from ai_training.engine.run import BEST, CHECKPOINT, Plan, TrainingRun, Validation
from ai_training.engine.setup import run_options, seed_all
from ai_training.errors import DataMissing
from ai_training.metrics import within_source_auc
from ai_training.networks.backbone import classifier, set_drop_connect, unfilled_classifier
from ai_training.networks.studies import folded, restore_normalisation
from ai_training.progress import Report, silent
from ai_training.sets.chest import boxes_of, chest_set, label_matrix, reduced_images
from ai_training.sets.files import size_of
from ai_training.sets.images import LABELS, ChestImage

TAUGHT = 64
"""Images from which norms that a file has folded are restored."""
UNFAIR = (("cxr_nih_more/images", LABELS.index("Pneumonia")),)
"""Images and label left out when a checkpoint is chosen: there the repository alone predicts pneumonia."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a run: the best network by validation, and the history of validation figures."""

    network: PlacedNetwork
    history: tuple[dict[str, float], ...]
    experiment: Experiment


@dataclass(frozen=True, slots=True, eq=False)
class NetworkOutputs:
    """Outputs for N images: ``logits [N, labels]`` and ``pooled`` features ``[N, C]``."""

    logits: npt.NDArray[np.float32]
    pooled: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The adults' images of the train and validation splits, reduced: shared by all parts of a run.

    ``labels``: the labels that images of both splits have; the network is trained with all of :data:`LABELS`,
    and ships with these.
    """

    images: tuple[ChestImage, ...]
    pixels: npt.NDArray[np.uint8]
    labels: tuple[str, ...] = LABELS

    @staticmethod
    def gather(data: Path, experiment: Experiment, cache: Path, report: Report = silent) -> Material:
        """Read ``data``. ``cache`` keeps the reduced images between runs. Raises DataMissing."""
        cv2.setNumThreads(1)
        found = chest_set(data)
        images = tuple(image for image in found.images if image.adult and image.split != "test")
        labels = found.labels
        for split in ("train", "val"):
            of_split = [image for image in images if image.split == split]
            known = ~np.isnan(label_matrix(of_split, unknown=np.nan)).reshape(-1, len(LABELS))
            labels = tuple(label for label in labels if known[:, LABELS.index(label)].any())
        if not labels:
            raise DataMissing(
                f"{data}: of no label are adults in both splits train and val (ai-pipeline split)"
            )
        return Material(images, reduced_images(images, experiment.chain, cache, report), labels)

    def rows(self, split: str, smallest: int = 0) -> npt.NDArray[np.intp]:
        """The indices of the images of ``split`` from files with at least ``smallest`` pixels a side."""
        found = [row for row, image in enumerate(self.images) if image.split == split]
        return np.array(
            [row for row in found if not smallest or _side(self.images[row]) >= smallest], np.intp
        )

    @property
    def sources(self) -> npt.NDArray[np.str_]:
        return np.array([image.source for image in self.images])


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
    """Train on the train split, choose the checkpoint on the validation split; the test split is not used.

    ``out`` receives ``checkpoint.pt`` (resumable), ``best.pt``, ``history.json`` and ``validation.npz``
    (names, logits). ``cache`` (default: a folder in ``out``) keeps reduced images. Raises ``DataMissing``, or
    ExperimentError if ``resume`` finds another experiment.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    material = Material.gather(data, experiment, cache or out / "cache", report)
    targets = Targets.from_images(material.images, boxes_of(data, material.images))
    ClassifierRun(experiment, material, targets, out).finish(report, resume=resume)
    return trained_in(out)


def trained_in(folder: Path) -> Trained:
    """The result of the run in ``folder``. Raises OSError if there is none."""
    state = torch.load(folder / CHECKPOINT, weights_only=True, map_location="cpu")
    experiment = Experiment.model_validate_json(state["experiment"])
    network = unfilled_classifier(experiment.network.architecture, len(LABELS), experiment.size)
    network.load_state_dict(torch.load(folder / BEST, weights_only=True, map_location="cpu"))
    return Trained(network.eval(), tuple(state["history"]), experiment)


def infer(network: PlacedNetwork, pixels: npt.NDArray[np.uint8], size: int) -> NetworkOutputs:
    """Run ``network`` on reduced images ``[N, side, side]`` as at run time."""
    network.eval()
    device = next(network.parameters()).device
    logits: list[npt.NDArray[np.float32]] = []
    pooled: list[npt.NDArray[np.float32]] = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 64):
            batch = np.stack([enlarge(image, size) for image in pixels[start : start + 64]])
            inputs = torch.from_numpy(normalise(batch, MEAN, SCALE)).to(device)
            scores, features, _ = network(inputs.contiguous(memory_format=torch.channels_last))
            logits.append(scores.cpu().numpy())
            pooled.append(features.mean((2, 3)).cpu().numpy())
    return NetworkOutputs(np.concatenate(logits), np.concatenate(pooled))


class Tasks(nn.Module):
    """The network with the heads that only training needs: teacher's log-odds, header, place of the boxes."""

    def __init__(self, network: PlacedNetwork) -> None:
        super().__init__()
        self.network = network
        self.teacher = nn.Linear(network.head.in_features, len(LABELS))
        self.header = nn.Linear(network.head.in_features, len(HEADER))
        self.place = nn.Conv2d(network.place.in_channels, len(LABELS), 1)

    def forward(self, images: Tensor) -> Predictions:
        """All predictions that the loss may need, for ``images``."""
        features, middle = self.network.maps(images)
        pooled = self.network.dropout(features.mean((2, 3)))
        return Predictions(
            self.network.head(pooled), self.teacher(pooled), self.header(pooled), self.place(middle)
        )

    def merged(self, pooled: npt.NDArray[np.float32], share: float) -> PlacedNetwork:
        """The network with one head: its own plus ``share`` times the teacher's, each in units of its spread.

        ``pooled [N, C]``: features of the images on which the spreads are computed.
        """
        features = torch.from_numpy(pooled)
        network = copy.deepcopy(self.network)
        own, taught = network.head, self.teacher
        with torch.no_grad():
            one, other = (1 / head(features).std(0).clamp(min=1e-6) for head in (own, taught))
            network.head.weight.copy_(own.weight * one[:, None] + share * taught.weight * other[:, None])
            network.head.bias.copy_(own.bias * one + share * taught.bias * other)
        return network


class Predictions(NamedTuple):
    """The predictions of the network and of the teacher for B images.

    ``logits`` and the ``teacher``'s standard log-odds ``[B, labels]``, ``header [B, 3]``, ``places [B,
    labels, c, c]``.
    """

    logits: Tensor
    teacher: Tensor
    header: Tensor
    places: Tensor


def loss_of(predicted: Predictions, batch: Batch, weights: Loss) -> Tensor:
    """The sum of the losses in the experiment's table ``[loss]``, with their weights."""
    logits, teacher, header, places = (part.float() for part in predicted)
    known = ~batch.hard.isnan()
    hard = binary_cross_entropy_with_logits(logits, batch.hard.nan_to_num(), reduction="none")
    loss = weights.hard * (hard * known).sum() / known.sum().clamp(min=1)
    if weights.soft:
        taught = binary_cross_entropy_with_logits(logits, batch.soft, reduction="none") * batch.taught
        loss = loss + weights.soft * taught.mean()
    if weights.teacher:
        away = smooth_l1_loss(teacher, batch.odds, reduction="none") * batch.taught
        loss = loss + weights.teacher * away.mean()
    if weights.header:
        age = smooth_l1_loss(header[:, 0], batch.header[:, 0])
        loss = loss + weights.header * (
            age + binary_cross_entropy_with_logits(header[:, 1:], batch.header[:, 1:])
        )
    if weights.boxes and len(batch.placed):
        here = log_softmax(places[batch.placed, batch.placed_label].flatten(1), 1)
        share = len(batch.placed) / len(batch.images)
        loss = loss - weights.boxes * share * (batch.place.flatten(1) * here).sum(1).mean()
    return loss


class ClassifierRun(TrainingRun):
    """One training run of an experiment; it validates after every epoch."""

    PARTS = ("tasks", "average", "optimiser", "schedule")
    CHOSEN_BY = "validation_auc"
    KIND = "experiment"

    def __init__(self, experiment: Experiment, material: Material, targets: Targets, out: Path) -> None:
        seed_all(experiment.seed)
        self.experiment, self.material, self.targets = experiment, material, targets
        made = experiment.schedule
        self.train_rows = material.rows("train", experiment.images.smallest)
        self.validation_rows = material.rows("val")
        per_epoch = max(1, len(self.train_rows) // made.batch)
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
        tasks = Tasks(_initial(experiment, material.pixels[self.train_rows[:TAUGHT]]))
        super().__init__(out, experiment.model_dump_json(), plan, tasks, precision)

    @property
    def tasks(self) -> Tasks:
        """The network with its training heads."""
        return cast(Tasks, self.network)

    def examples(self) -> ChestBatches:
        return ChestBatches(self.experiment, self.material.pixels, self.targets, self.train_rows)

    def loss(self, batch: Batch) -> Tensor:
        torch.manual_seed(hash((self.experiment.seed, self.batch_number)) % 2**31)  # dropout, drop connect
        with self.autocast():
            predicted = self.tasks(batch.images)
        return loss_of(predicted, batch, self.experiment.loss)

    def validate(self) -> Validation:
        rows, size = self.validation_rows, self.experiment.size
        average = cast(Tasks, self.average)
        network = self._shipped(average, infer(average.network, self.material.pixels[rows], size).pooled)
        logits = infer(network, self.material.pixels[rows], size).logits
        auc = within_source_auc(self.targets.hard[rows], logits, self.material.sources[rows], left_out=UNFAIR)
        names = np.array([self.material.images[row].path.name for row in rows])
        arrays = {"names": names, "logits": logits}
        return Validation({"validation_auc": auc}, f"validation AUC {auc:.4f}", network.state_dict(), arrays)

    def _shipped(self, average: Tasks, pooled: npt.NDArray[np.float32]) -> PlacedNetwork:
        """What ships if the run ends here: the average, its heads merged if there is a teacher."""
        weights = self.experiment.loss
        if not (weights.teacher and weights.teacher_share):
            return average.network
        return copy.deepcopy(average).cpu().merged(pooled, weights.teacher_share).to(self.device)


def _initial(experiment: Experiment, pixels: npt.NDArray[np.uint8]) -> PlacedNetwork:
    """The network before its first step; ``pixels`` of training restore norms that a file has folded."""
    wanted, size = experiment.network, experiment.size
    network = classifier(wanted.architecture, experiment.start, len(LABELS), size, wanted.dropout)
    if experiment.start.path(wanted.architecture) is not None and folded(network):
        inputs = normalise(np.stack([enlarge(one, size) for one in pixels]), MEAN, SCALE)
        restore_normalisation(network, torch.from_numpy(inputs))
    set_drop_connect(network, wanted.drop_connect)
    return network


def _side(image: ChestImage) -> int:
    return min(size_of(image.path))
