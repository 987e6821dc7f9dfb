"""``ai-pipeline train chest``: fine-tune a backbone on chest X-rays as an experiment file says.

Runs are seeded and limited by iterations, never by seconds: two runs of one machine with one thread count
give the same numbers, also if one was interrupted. A GPU is used if there is one (bfloat16)."""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss
from torch.utils.data import Dataset

from ai_pipeline.mistakes import mistakes
from ai_pipeline.models.inputs import enlarge, normalise
from ai_pipeline.models.registry import Chain
from ai_training.base import DataMissing, ExperimentError, Report, silent
from ai_training.engine import Plan, TrainingRun, Validation, best_of, run_options, seed_all
from ai_training.metrics import within_source_auc
from ai_training.networks.backbones import StartWeights, classifier, set_drop_connect, unfilled_classifier
from ai_training.networks.efficientnet import PlacedNetwork
from ai_training.sets.chest import chest_set, label_matrix, reduced_images, soft_matrix
from ai_training.sets.images import LABELS, ChestImage, size_of

Share = Annotated[float, Field(ge=0.0, le=1.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class ExperimentPart(BaseModel):
    """Base of the models for tables in experiment files: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Part = TypeVar("Part", bound=ExperimentPart)


def read_table(path: Path) -> dict[str, Any]:
    """Read the TOML file at ``path``. Raises ExperimentError if it is not TOML, OSError if
    there is no file.
    """
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path} is not TOML: {error}") from error


def checked(kind: type[Part], table: Mapping[str, Any], where: str) -> Part:
    """``table`` as a model of the class ``kind``. Raises ExperimentError, which names every wrong key of
    ``where``.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        faults = "; ".join(f"{where}: {one.key}: {one.remedy}" for one in mistakes(error))
        raise ExperimentError(faults) from error


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The nested table ``below`` with its values replaced by those of ``above``."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = (
            laid_over(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
        )
    return result


SHIPPED = Path(__file__).parent / "experiments"


class Network(ExperimentPart):
    """The network to train. ``architecture``: a backbone (:func:`ai_training.networks.backbones.unfilled`).

    ``initial``: ``imagenet`` (of a package), ``random``, or the path of a file with its weights, such as the
    ``*.pt`` of an earlier run; ``licence`` of that file.
    """

    architecture: str = "efficientnet-lite0"
    size: Annotated[int, Field(ge=64, multiple_of=32)] = 160
    initial: str = "imagenet"
    licence: str | None = None
    dropout: Share = 0.3
    drop_connect: Share = 0.2


class Images(ExperimentPart):
    """The training images, and how often images with a finding or with a teacher's answer are drawn.

    ``smallest``: smaller side of a file in pixels; smaller files are left out.
    """

    smallest: int = 0
    finding_weight: Annotated[float, Field(gt=0)] = 1.5
    taught_weight: Annotated[float, Field(gt=0)] = 1.0
    chain: Chain = Field(default_factory=Chain)


class Augmentation(ExperimentPart):
    """How far augmented copies may differ. Angles in degrees; shift, scale and stretch as shares of the side;
    contrast of grey levels.

    No flips: a flip changes the heart's side, and with it the signs of situs and cardiomegaly.
    """

    rotation: Annotated[float, Field(ge=0, le=45)] = 5.0
    shift: Share = 0.06
    scale: Share = 0.12
    stretch: Share = 0.05
    contrast: Share = 0.2


class Loss(ExperimentPart):
    """Weights of the parts of the loss.

    ``hard``: the NIH labels. ``soft``: a teacher's probabilities, if there are any. ``teacher``: a second
    head learns the teacher's log-odds, in units of their spread; ``teacher_share``: the weight of that head,
    against 1 for the first, when both are merged into the one head that ships.
    """

    hard: NotNegative = 1.0
    soft: NotNegative = 0.7
    teacher: NotNegative = 0.0
    teacher_share: NotNegative = 1.0


class Schedule(ExperimentPart):
    """The schedule: AdamW with one cycle. ``iterations`` replaces ``epochs``. ``ema``: decay of the weights'
    average.

    ``precision`` of the forward pass: ``auto`` is bfloat16 on a GPU and float32 elsewhere.
    """

    epochs: Annotated[float, Field(gt=0)] = 5.0
    iterations: Annotated[int, Field(gt=0)] | None = None
    batch: Annotated[int, Field(gt=0)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: NotNegative = 0.02
    warm_up: Share = 0.2
    ema: Share = 0.995
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class Experiment(ExperimentPart):
    """One training run. The same experiment on the same machine gives the same weights."""

    name: str = "chest"
    seed: int = 1
    network: Network = Field(default_factory=Network)
    images: Images = Field(default_factory=Images)
    augment: Augmentation = Field(default_factory=Augmentation)
    loss: Loss = Field(default_factory=Loss)
    schedule: Schedule = Field(default_factory=Schedule)

    @property
    def start(self) -> StartWeights:
        """The weights that the backbone starts from."""
        return StartWeights(self.network.initial, self.network.licence or "")

    def described(self) -> dict[str, Any]:
        """The experiment as a table for a card, without folders of this machine."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        found["network"]["initial"] = Path(self.network.initial).name
        return found

    @property
    def size(self) -> int:
        """The side of the network's input in pixels."""
        return self.network.size

    def on_backbone(self, backbone: str, weights: str = "", licence: str = "") -> Experiment:
        """This experiment on another ``backbone``, with ``weights`` as in :class:`StartWeights`."""
        initial = StartWeights(weights).of(backbone)
        network = {"architecture": backbone, "initial": initial, "licence": licence or None}
        return self.changed(self.name, {"network": network})

    def changed(self, name: str, change: Mapping[str, Any]) -> Experiment:
        """This experiment with the values of ``change`` (nested tables, as in TOML) in place of its own."""
        return checked(Experiment, {**laid_over(self.model_dump(), change), "name": name}, name)


def load(path: Path) -> Experiment:
    """Read an experiment. Raises ExperimentError, which names every wrong key, or OSError if there is no
    file.
    """
    return checked(Experiment, read_table(path), str(path))


def shipped(name: str) -> Path:
    """The path of the experiment file with this name that comes with the package."""
    return SHIPPED / f"{name}.toml"


MEAN, SCALE = 127.0, 128.0  # EfficientNet-Lite's own normalisation of 0..255
CERTAIN = 1e-3  # probabilities nearer to 0 or 1 than this count as this: their log-odds mean nothing
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Targets(NamedTuple):
    """The training targets of N images, as arrays or as tensors.

    ``hard [N, labels]`` 0 or 1, NaN if unknown. ``soft [N, labels]``: a teacher's probabilities; ``odds [N,
    labels]``: their log-odds, with mean 0 and spread 1 over the images of the train split; ``taught [N, 1]``:
    1 if the teacher's probabilities are known.
    """

    hard: Any
    soft: Any
    odds: Any
    taught: Any

    @staticmethod
    def from_images(images: Sequence[ChestImage]) -> Targets:
        """The targets in the manifests of ``images``."""
        soft: Floats = soft_matrix(images)
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
    """Batch number i of a run: images drawn at random and augmented."""

    def __init__(
        self, experiment: Experiment, pixels: Bytes, targets: Targets, rows: npt.NDArray[np.intp]
    ) -> None:
        self._experiment, self._pixels, self._targets, self._rows = experiment, pixels, targets, rows
        made = experiment.images
        weight = np.where((targets.hard[rows] > 0).any(1), made.finding_weight, 1.0)
        weight = weight * np.where(targets.taught[rows, 0] > 0, made.taught_weight, 1.0)
        self._odds = weight / weight.sum()

    def __getitem__(self, iteration: int) -> Batch:
        made, known = self._experiment, self._targets
        random = np.random.default_rng((made.seed, iteration))
        rows = random.choice(self._rows, made.schedule.batch, p=self._odds)
        copies = [augment(self._pixels[row], made.size, made.augment, random) for row in rows]
        images = torch.from_numpy(normalise(np.stack(copies), MEAN, SCALE))
        targets = Targets(*(torch.from_numpy(part[rows]) for part in known))
        return images.contiguous(memory_format=torch.channels_last), targets


def augment(image: Bytes, size: int, how: Augmentation, random: np.random.Generator) -> Bytes:
    """A randomly moved, turned and re-windowed copy ``[size, size]``."""
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
    """The result of a run: the best network by validation, and the history of validation figures."""

    network: PlacedNetwork
    history: tuple[dict[str, float], ...]
    experiment: Experiment


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
        return Material(images, reduced_images(images, experiment.images.chain, cache, report), labels)

    def rows(self, split: str, smallest: int = 0) -> npt.NDArray[np.intp]:
        """The indices of the images of ``split`` from files with at least ``smallest`` pixels a side."""
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
    """Train on the train split, choose the checkpoint on the validation split; the test split is not used.

    ``out`` receives ``checkpoint.pt`` (resumable), ``best.pt``, ``history.json`` and ``validation.npz``
    (names, logits). ``cache`` (default: a folder in ``out``) keeps reduced images. Raises ``DataMissing``, or
    ExperimentError if ``resume`` finds another experiment.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    material = Material.gather(data, experiment, cache or out / "cache", report)
    run = ClassifierRun(experiment, material, out)
    run.finish(report, resume=resume)
    network = unfilled_classifier(experiment.network.architecture, len(LABELS), experiment.size)
    return Trained(best_of(network, out), tuple(run.history), experiment)


def infer(network: PlacedNetwork, pixels: npt.NDArray[np.uint8], size: int) -> tuple[Floats, Floats]:
    """Run ``network`` on reduced images ``[N, side, side]`` as at run time: logits ``[N, labels]`` and pooled
    features ``[N, C]``.
    """
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
    return np.concatenate(logits), np.concatenate(pooled)


class Tasks(nn.Module):
    """The network with the head that only training needs: of the teacher's log-odds."""

    def __init__(self, network: PlacedNetwork) -> None:
        super().__init__()
        self.network = network
        self.teacher = nn.Linear(network.head.in_features, len(LABELS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the teacher's standard log-odds, ``[B, labels]`` each."""
        pooled = self.network.dropout(self.network.maps(images)[0].mean((2, 3)))
        return self.network.head(pooled), self.teacher(pooled)

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


def loss_of(predicted: tuple[Tensor, Tensor], batch: Batch, weights: Loss) -> Tensor:
    """The sum of the losses in the experiment's table ``[loss]``, with their weights."""
    logits, teacher = (part.float() for part in predicted)
    targets, known = batch[1], ~batch[1].hard.isnan()
    hard = binary_cross_entropy_with_logits(logits, targets.hard.nan_to_num(), reduction="none")
    soft = binary_cross_entropy_with_logits(logits, targets.soft, reduction="none") * targets.taught
    away = smooth_l1_loss(teacher, targets.odds, reduction="none") * targets.taught
    mean = (hard * known).sum() / known.sum().clamp(min=1)
    return cast(Tensor, weights.hard * mean + weights.soft * soft.mean() + weights.teacher * away.mean())


class ClassifierRun(TrainingRun):
    """One training run of an experiment; it validates after every epoch."""

    PARTS = ("tasks", "average", "optimiser", "schedule")
    CHOSEN_BY = "validation_auc"
    KIND = "experiment"

    def __init__(self, experiment: Experiment, material: Material, out: Path) -> None:
        seed_all(experiment.seed)
        self.experiment, self.material = experiment, material
        self.targets = Targets.from_images(material.images)
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
        wanted = experiment.network
        network = classifier(
            wanted.architecture, experiment.start, len(LABELS), experiment.size, wanted.dropout
        )
        set_drop_connect(network, wanted.drop_connect)
        tasks = Tasks(network)
        super().__init__(out, experiment.model_dump_json(), plan, tasks, precision)

    @property
    def tasks(self) -> Tasks:
        """The network with its training heads."""
        return cast(Tasks, self.network)

    def examples(self) -> ChestBatches:
        return ChestBatches(self.experiment, self.material.pixels, self.targets, self.train_rows)

    def loss(self, batch: Batch) -> Tensor:
        torch.manual_seed(hash((self.experiment.seed, self.done)) % 2**31)  # dropout, drop connect
        with self.autocast():
            predicted = self.tasks(batch[0])
        return loss_of(predicted, batch, self.experiment.loss)

    def validate(self) -> Validation:
        rows, size, weights = self.validation_rows, self.experiment.size, self.experiment.loss
        average, pixels = cast(Tasks, self.average), self.material.pixels[self.validation_rows]
        network = average.network
        if weights.teacher and weights.teacher_share:  # what ships: both heads as one
            pooled = infer(network, pixels, size)[1]
            network = copy.deepcopy(average).cpu().merged(pooled, weights.teacher_share).to(self.device)
        logits, _ = infer(network, pixels, size)
        images = [self.material.images[row] for row in rows]
        sources = np.array([image.source for image in images])
        auc = within_source_auc(self.targets.hard[rows], logits, sources, left_out=UNFAIR)
        arrays = {"names": np.array([image.path.name for image in images]), "logits": logits}
        return Validation({"validation_auc": auc}, f"validation AUC {auc:.4f}", network.state_dict(), arrays)
