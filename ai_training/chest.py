"""``ai-pipeline train chest``: fine-tune a backbone as an experiment file says; gate, ONNX, card.

Runs are seeded and limited by iterations, never by seconds: two runs of one machine with one thread count
give the same numbers, also if one was interrupted. A GPU is used if there is one (bfloat16).

The gate is fitted again for every network, in a minute or two, because it reads the network's own features.
Its pictures are made from the images of ``--data``: transforms of adults' chests (turned, inverted, cut off,
clipped), small children of another hospital, ultrasound. Sets that are missing are left out. It is measured
by what it reorients, refuses, and accepts wrongly.
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt
import tomlkit
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.stats import binomtest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss
from torch.utils.data import Dataset

from ai_pipeline.chest.classifier import CANDIDATES, NETWORK, YOLO, BoxTemplates, Classifier, share_inside
from ai_pipeline.errors import PixelError
from ai_pipeline.images.coordinates import POSES, UPRIGHT, Pose, shown
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.mistakes import mistakes
from ai_pipeline.models.registry import SHIPPED, Chain, enlarge, normalise, prepare, reduce
from ai_pipeline.networks.gate import ASKEW, CHILD, CLIPPED, CUT_OFF, OTHER, FeatureGate, Head
from ai_training.base import DataMissing, ExperimentError, Report, silent
from ai_training.cards import changed_card, export, weights_row
from ai_training.convert import NO_GATE
from ai_training.engine import Plan, TrainingRun, Validation, best_of, run_options, seed_all
from ai_training.metrics import THRESHOLDS, Interval, calibrated, prevalence, reference, within_source_auc
from ai_training.networks import (
    IMAGENET,
    MEAN,
    OUTPUTS,
    SCALE,
    PlacedClassifier,
    classifier,
    fuse,
    licence_from,
    start_described,
)
from ai_training.sets import (
    LABELS,
    Grey,
    SetImage,
    Singles,
    TruthBox,
    chest_set,
    label_matrix,
    part_of_set,
    read_grey,
    reduced_images,
    size_of,
    soft_matrix,
)
from ai_training.sets import NAME as SHIPPED_SET

Share = Annotated[float, Field(ge=0.0, le=1.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class ExperimentPart(BaseModel):
    """Base of the classes that check tables of an experiment file: immutable, and unknown keys are errors."""

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
    """Check ``table`` as an object of the class ``kind``. Raises ExperimentError, which names every wrong
    key; ``where``: the table's name in its text.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        faults = "; ".join(f"{where}: {one.key}: {one.remedy}" for one in mistakes(error))
        raise ExperimentError(faults) from error


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested table ``below`` with its values replaced by those of ``above``."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = (
            laid_over(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
        )
    return result


EXPERIMENTS = Path(__file__).parent / "experiments"


class Network(ExperimentPart):
    """The table ``[network]`` of an experiment file: the network to train. ``initial``: its first weights:
    ``imagenet`` (of a package), ``random``, or the path of a file, such as the ``*.pt`` of an earlier run;
    ``licence`` of that file.
    """

    size: Annotated[int, Field(ge=64, multiple_of=32)] = 160
    initial: str = "imagenet"
    licence: str | None = None
    dropout: Share = 0.3
    drop_connect: Share = 0.2


class Images(ExperimentPart):
    """The table ``[images]`` of an experiment file: which training images are used, and how often images with
    a finding (``finding_weight``) or with a teacher model's probabilities (``taught_weight``) are drawn,
    against 1 for others. ``smallest``: smaller side of a file in pixels; smaller files are left out.
    ``chain``: the preprocessing.
    """

    smallest: int = 0
    finding_weight: Annotated[float, Field(gt=0)] = 1.5
    taught_weight: Annotated[float, Field(gt=0)] = 1.0
    chain: Chain = Field(default_factory=Chain)


class Augmentation(ExperimentPart):
    """The table ``[augment]`` of an experiment file: how far augmented copies may differ. Angles in degrees;
    shift, scale and stretch as shares of the side; contrast of grey levels. No flips: a flip changes the
    heart's side, and with it the signs of situs and cardiomegaly.
    """

    rotation: Annotated[float, Field(ge=0, le=45)] = 5.0
    shift: Share = 0.06
    scale: Share = 0.12
    stretch: Share = 0.05
    contrast: Share = 0.2


class Loss(ExperimentPart):
    """The table ``[loss]`` of an experiment file: weights of the parts of the loss. ``hard``: the NIH labels.
    ``soft``: a teacher model's probabilities, if there are any. ``teacher``: a second output layer learns the
    teacher's log-odds, in units of their spread; ``teacher_share``: the weight of that layer, against 1 for
    the first, when both are merged into the one of the exported network.
    """

    hard: NotNegative = 1.0
    soft: NotNegative = 0.7
    teacher: NotNegative = 0.0
    teacher_share: NotNegative = 1.0


class Schedule(ExperimentPart):
    """The table ``[schedule]`` of an experiment file: AdamW with one cycle. ``iterations`` replaces
    ``epochs``. ``ema``: decay of the weights' moving average. ``precision`` of the forward pass: ``auto`` is
    bfloat16 on a GPU and float32 elsewhere.
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
    """An experiment file: the settings of one training run of the chest classifier. The same experiment on
    the same machine gives the same weights.
    """

    name: str = "chest"
    seed: int = 1
    network: Network = Field(default_factory=Network)
    images: Images = Field(default_factory=Images)
    augment: Augmentation = Field(default_factory=Augmentation)
    loss: Loss = Field(default_factory=Loss)
    schedule: Schedule = Field(default_factory=Schedule)

    def described(self) -> dict[str, Any]:
        """The experiment as a table for a model card, without folders of this machine."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        found["network"]["initial"] = Path(self.network.initial).name
        return found

    def changed(self, name: str, change: Mapping[str, Any]) -> Experiment:
        """This experiment with the values of ``change`` (nested tables, as in TOML) in place of its own."""
        return checked(Experiment, {**laid_over(self.model_dump(), change), "name": name}, name)


def load(path: Path) -> Experiment:
    """Read an experiment file. Raises ExperimentError, which names every wrong key, or OSError if there is no
    file.
    """
    return checked(Experiment, read_table(path), str(path))


def shipped(name: str) -> Path:
    """The path of the experiment file with this name that comes with the package."""
    return EXPERIMENTS / f"{name}.toml"


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

    network: PlacedClassifier
    history: tuple[dict[str, float], ...]
    experiment: Experiment


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The adults' images of the train and validation splits, reduced: shared by all parts of a training run.
    ``labels``: the labels that images of both splits have; the network is trained with all of :data:`LABELS`,
    and exported with these.
    """

    images: tuple[SetImage, ...]
    pixels: npt.NDArray[np.uint8]
    labels: tuple[str, ...] = LABELS

    @staticmethod
    def gather(data: Path, experiment: Experiment, cache: Path, report: Report = silent) -> Material:
        """Read and reduce the images in the folder ``data``, as the ``experiment`` wants them. ``cache``:
        folder that stores the reduced images between runs. Raises DataMissing.
        """
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
    network = PlacedClassifier(len(LABELS), experiment.network.size)
    return Trained(best_of(network, out), tuple(run.history), experiment)


def infer(network: PlacedClassifier, pixels: npt.NDArray[np.uint8], size: int) -> tuple[Singles, Singles]:
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

    def __init__(self, network: PlacedClassifier) -> None:
        """Add the second output layer to ``network``."""
        super().__init__()
        self.network = network
        self.teacher = nn.Linear(network.head.in_features, len(LABELS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the teacher's standard log-odds, ``[B, labels]`` each."""
        pooled = self.network.dropout(self.network.maps(images)[0].mean((2, 3)))
        return self.network.head(pooled), self.teacher(pooled)

    def merged(self, pooled: npt.NDArray[np.float32], share: float) -> PlacedClassifier:
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
        network = classifier(wanted.initial, len(LABELS), wanted.size, wanted.dropout, wanted.drop_connect)
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
        torch.manual_seed(hash((self.experiment.seed, self.done)) % 2**31)  # dropout, drop connect
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


T = TypeVar("T")
Random = np.random.Generator
Change = Callable[[Grey, Random], Grey]
ULTRASOUND = ("us_ovarian", "us_fetal_head", "us_breast")


def other_chests(data: Path, population: str, split: str) -> list[Path]:
    """The chest X-rays of another hospital in ``data``: of the ``population`` ``hannover`` (adults) or
    ``pediatric`` (1 to 5 years), of ``split``.
    """
    return [
        path for path in files_of_split(data / "cxr_nih_more/other", split) if path.parent.name == population
    ]


def drawn_from(files: Sequence[T], most: int, random: Random) -> list[T]:
    """Draw at most ``most`` of ``files`` at random without replacement; they stay in their order."""
    return [files[index] for index in sorted(random.permutation(len(files))[:most])]


def pictures(files: Sequence[Path], made: Change, random: Random) -> list[Grey]:
    """Read the images ``files`` and apply the change ``made`` to each. Raises DataMissing if one cannot be
    read.
    """
    return [made(read_grey(path), random) for path in files]


def as_it_is(image: Grey, random: Random) -> Grey:  # noqa: ARG001  (one of the changes, without any)
    """A :data:`Change` that returns the image unchanged."""
    return image


def _part(image: Grey, random: Random, least: float, most: float) -> Grey:
    """Cut a random part out of a picture, between ``least`` and ``most`` (shares) of each side."""
    share, (rows, columns) = random.uniform(least, most, 2), image.shape
    height, width = max(1, int(rows * share[0])), max(1, int(columns * share[1]))
    top, left = random.integers(0, rows - height + 1), random.integers(0, columns - width + 1)
    return np.ascontiguousarray(image[top : top + height, left : left + width])


framed = partial(_part, least=0.88, most=1.0)
"""Other formats and collimations of a whole chest."""
cut_off = partial(_part, least=0.5, most=0.75)
"""Some of the chest is not in the picture."""


def clipped(image: Grey, random: Random, share: float | None = None) -> Grey:
    """Return a copy with a window so narrow that a ``share`` of the pixels (default: 30 to 70 %) becomes
    black or white.
    """
    return _windowed(image, random.uniform(0.3, 0.7) if share is None else share, random)


def posed(pose: Pose, before: Change = as_it_is) -> Change:
    """Return a :data:`Change` that applies ``before``, then shows the picture in ``pose``."""
    return lambda image, random: shown(before(image, random), pose)


def tilted(image: Grey, random: Random, least: float, most: float) -> Grey:
    """Return a copy turned by ``least`` to ``most`` degrees, to either side; the corners become black."""
    rows, columns = image.shape
    degrees = random.uniform(least, most) * random.choice((-1, 1))
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, matrix, (columns, rows)), np.uint8)


def varied(image: Grey, random: Random) -> Grey:
    """Return a whole chest X-ray as another hospital might show it: framed, slightly tilted, with other greys
    and sharpness.
    """
    picture = framed(image, random) if random.random() < 0.7 else image
    rows, columns = picture.shape
    matrix = cv2.getRotationMatrix2D(
        (columns / 2, rows / 2), random.uniform(-7, 7), random.uniform(0.85, 1.1)
    )
    matrix[:, 2] += random.uniform(-0.04, 0.04, 2) * (columns, rows)
    border = cv2.BORDER_CONSTANT if random.random() < 0.5 else cv2.BORDER_REPLICATE
    picture = np.asarray(cv2.warpAffine(picture, matrix, (columns, rows), borderMode=border), np.uint8)
    picture = _windowed(picture, random.uniform(0.0, 0.15), random)
    values = 255.0 * (picture / 255.0) ** (2 ** random.uniform(-0.8, 0.8))
    if random.random() < 0.3:
        values = cv2.GaussianBlur(values, (0, 0), random.uniform(0.3, 1.2) * max(rows, columns) / 256)
    if random.random() < 0.3:
        values = values + random.normal(0.0, random.uniform(2, 8), values.shape)
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _windowed(image: Grey, lost: float, random: Random) -> Grey:
    """Return a copy with a window that makes a share ``lost`` of the pixels black or white, divided at random
    between both.
    """
    below = random.uniform(0.0, lost)
    low, high = np.percentile(image, (100 * below, 100 * (1 - lost + below)))
    return np.asarray(np.clip((image - low) * (255.0 / max(high - low, 1.0)), 0, 255), np.uint8)


def files_of_split(folder: Path, split: str) -> list[Path]:
    """The files of ``split`` in the set in ``folder``; an empty list if there is no such split."""
    return [image.path for image in part_of_set(folder, split)]


See = Callable[[Sequence[Grey]], Singles]
"""Displayed pictures of any size, 0 to 255 → the network's pooled features ``[N, C]``."""
INVERTED = Pose(inverted=True)

TRUE_POSITIVE_RATE = 0.99
"""Share of the validation split's adults that the gate lets through."""
WHOLE, VARIED, TRANSFORMED, OTHERS = 2000, 1500, 600, 900
"""Pictures to fit with: as they are, varied, of each transform, of each foreign set (at most)."""
USUAL, MEASURED = 2000, 250
"""Pictures of adults, and of each other kind, to measure with (at most)."""
DIRECTIONS, COMPONENTS, WEAKNESS = 32, 256, 1.0  # the last: scikit-learn's C
RESIDUAL_SHARE, HEAD_SHARE = 0.997, 0.993  # of validation adults inside the limit of each part


def fit_gate(data: Path, see: See, seed: int = 1, report: Report = silent) -> tuple[FeatureGate, float]:
    """Fit the domain gate on the train split of ``data``, and its limits on the adults of the validation
    split. Returns the gate, and the largest distance at which it accepts an image. ``see``: returns the
    features of pictures; ``seed``: of the random changes. Sets that ``data`` lacks are left out, and so are
    the kinds of picture in them. Raises DataMissing if one of the two splits has no chest images of adults.
    """
    random = np.random.default_rng(seed)
    report(0.0, "reading the pictures that the gate learns from")
    whole = drawn_from(_adults(data, "train"), WHOLE, random)
    shown: dict[str, list[Singles]] = {}
    jobs = _training_pictures(data, whole, random)
    for number, (kind, files, change) in enumerate(jobs):
        shown.setdefault(kind, []).append(see(pictures(files, change, random)))
        report((number + 1) / (len(jobs) + 1), f"reading the gate's pictures: {kind}")
    usual = np.concatenate(shown[UPRIGHT.name])
    plain_directions = directions_of(usual, min(DIRECTIONS, len(usual)))
    plain = linear_head({kind: np.concatenate(rows) for kind, rows in shown.items()}, seed)
    checked = see(pictures(_adults(data, "val"), as_it_is, random))
    share = float(np.quantile(plain_directions.unexplained(checked)[1].astype(np.float32), 0.9))
    directions = replace(plain_directions, usual=share)
    limits = (
        float(np.quantile(directions.residual(checked), RESIDUAL_SHARE)),
        float(np.quantile(plain.distance(checked), HEAD_SHARE)),
    )
    gate = replace(directions, head=replace(plain, limits=limits))
    report(1.0, "the gate is fitted")
    return gate, float(np.quantile(gate.distance(checked), TRUE_POSITIVE_RATE))


def directions_of(features: Singles, count: int) -> FeatureGate:
    """Make a domain gate of the ``count`` principal directions of features ``[N, C]`` of proper images;
    without a classifier of kinds.
    """
    mean, spread = features.mean(0), features.std(0) + 1e-3
    rows = np.linalg.svd((features - mean) / spread, full_matrices=False)[2][:count]
    return FeatureGate(mean.astype(np.float32), spread.astype(np.float32), rows.astype(np.float32))


def gate_figures(data: Path, classifier: Classifier, split: str, report: Report = silent) -> dict[str, Any]:
    """How often the domain gate of ``classifier`` accepts every kind of picture of ``split``. ``adults``:
    share of the split's adults that is refused or reoriented. ``kinds``: for each kind
    ``false_positives_at_95`` (share accepted, as shown, at the limit that 95 % of the split's adults pass;
    with its 95 % Wilson interval), then the result at run time: ``accepted`` as shown, ``mended``
    (reoriented, then accepted), ``refused``. Kinds of sets that are missing are left out. Empty without a
    gate.
    """
    if classifier.card.gate is None:
        return {}
    cv2.setNumThreads(1)
    random = np.random.default_rng(1)
    files = _adults(data, split)
    # The whole NIH download would not fit into memory.
    usual = pictures(files[:: max(1, len(files) // USUAL)], as_it_is, random)
    report(0.0, "measuring the gate: adults")
    distances, adults = _seen(classifier, usual)
    limit = float(np.quantile(distances, 0.95))
    asked = _test_pictures(data, split, random)
    kinds: dict[str, Any] = {}
    for number, (name, made) in enumerate(asked):
        report(number / len(asked), f"measuring the gate: {name}")
        if there := made():
            distances, outcome = _seen(classifier, there)
            passed = int((distances <= limit).sum())
            sure = binomtest(passed, len(there)).proportion_ci(method="wilson")
            shares = Interval(passed / len(there), float(sure.low), float(sure.high)).as_list()
            kinds[name] = {"images": len(there), "false_positives_at_95": shares, **outcome}
    return {
        "threshold": classifier.card.gate.threshold,
        "threshold_at_95": round(limit, 4),
        "adults": {"images": len(usual), **adults},
        "kinds": kinds,
    }


def _adults(data: Path, split: str) -> list[Path]:
    """The files of the adults of ``split``. Raises DataMissing."""
    files = [image.path for image in chest_set(data).images if image.is_in(split) and image.adult]
    if not files:
        raise DataMissing(f"{data} has no adults' chest images of split {split}")
    return files


def _training_pictures(
    data: Path, whole: Sequence[Path], random: Random
) -> list[tuple[str, Sequence[Path], Change]]:
    """The pictures from which the domain gate's classifier learns: for each kind its name, files, and the
    change made to them. ``whole``: the adults' files.
    """
    transformed = drawn_from(whole, TRANSFORMED, random)
    hannover = other_chests(data, "hannover", "train")
    small = drawn_from(other_chests(data, "pediatric", "train"), OTHERS, random)
    foreign = [files_of_split(data / name, "train") for name in ULTRASOUND]
    lessons: list[tuple[str, Sequence[Path], Change]] = [
        (UPRIGHT.name, whole, as_it_is),
        (UPRIGHT.name, drawn_from(whole, VARIED, random), varied),
        (UPRIGHT.name, hannover, as_it_is),
        *((pose.name, transformed, posed(pose, framed)) for pose in POSES),
        # The commonest mistake (a MONOCHROME1 image taken for MONOCHROME2) and the hardest to see.
        (INVERTED.name, drawn_from(whole, VARIED, random), posed(INVERTED, varied)),
        (ASKEW, transformed, partial(tilted, least=25, most=65)),
        (CUT_OFF, transformed, cut_off),
        (CLIPPED, transformed, clipped),
        (CHILD, small, as_it_is),
        *((OTHER, drawn_from(files, OTHERS // 3, random), as_it_is) for files in foreign),
    ]
    return [lesson for lesson in lessons if lesson[1]]


def linear_head(shown: Mapping[str, Singles], seed: int) -> Head:
    """Fit the domain gate's classifier of kinds: multinomial logistic regression on principal components, as
    one linear map of the features; its limits are 1. ``shown``: features ``[N, C]`` by kind.
    """
    kinds = tuple(shown)
    features = np.concatenate(list(shown.values())).astype(np.float64)
    truth = np.repeat(np.arange(len(kinds)), [len(rows) for rows in shown.values()])
    mean, spread = features.mean(0), features.std(0) + 1e-3
    standard = (features - mean) / spread
    count = min(COMPONENTS, *standard.shape)
    components = PCA(count, svd_solver="randomized", random_state=seed).fit(standard)
    reduced = components.transform(standard)
    unit = reduced[:, 0].std()
    model = LogisticRegression(C=WEAKNESS, max_iter=300).fit(reduced / unit, truth)
    slopes, offsets = model.coef_, model.intercept_
    if len(kinds) == 2:  # scikit-learn gives one row for two classes
        slopes, offsets = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-offsets, offsets]) / 2
    weights = slopes / unit @ components.components_ / spread
    middle = mean + spread * components.mean_
    biases = offsets - weights @ middle
    return Head(kinds, weights.astype(np.float32), biases.astype(np.float32), (1.0, 1.0))


def _test_pictures(data: Path, split: str, random: Random) -> list[tuple[str, Callable[[], list[Grey]]]]:
    """Functions that make the test pictures, by kind; they are called one by one, so that not all pictures
    are in memory.
    """
    adults = drawn_from(_adults(data, split), MEASURED, random)

    def changed(files: Sequence[Path], change: Change = as_it_is) -> Callable[[], list[Grey]]:
        """A function that reads some of ``files`` and applies ``change``."""
        chosen = drawn_from(files, MEASURED, random)
        return lambda: pictures(chosen, change, random)

    wrong = [pose for pose in POSES if pose != UPRIGHT]
    young = [
        image
        for image in chest_set(data).images
        if image.is_in(split) and not np.isnan(image.age) and not image.adult
    ]
    return [
        *((pose.name, changed(adults, posed(pose))) for pose in wrong),
        ("mirrored", changed(adults, posed(Pose(mirrored=True)))),
        *(
            (f"tilted {turn}", changed(adults, partial(tilted, least=turn, most=turn)))
            for turn in (15, 30, 45)
        ),
        ("cut off: 50 to 75 % of each side", changed(adults, cut_off)),
        *(
            (f"clipped {share:.0%}", changed(adults, partial(clipped, share=share)))
            for share in (0.2, 0.4, 0.6)
        ),
        ("under 16, same hospital", changed([image.path for image in young])),
        ("under 8, same hospital", changed([image.path for image in young if image.age < 8])),
        ("1 to 5, other hospital", changed(other_chests(data, "pediatric", split))),
        ("adults, other hospital", changed(other_chests(data, "hannover", split))),
        *((name, changed(files_of_split(data / name, split))) for name in ULTRASOUND),
        *((f"DICOM {modality}", made) for modality, made in _dicom(data).items()),
    ]


def _dicom(data: Path) -> dict[str, Callable[[], list[Grey]]]:
    """Functions that decode the first frames of the DICOM files in ``data``, by modality: ``CT``, ``MR``,
    ``US``, and ``other`` (no X-rays).
    """
    files: dict[str, list[Path]] = {"CT": [], "MR": [], "US": [], "other": [], "CR": [], "DX": []}
    for path in sorted((data / "dicom" / "files").glob("*.dcm")):
        with suppress(PixelError):
            files.get(open_dicom(path).header.modality, files["other"]).append(path)
    return {modality: partial(_first_frames, files[modality]) for modality in ("CT", "MR", "US", "other")}


def _first_frames(files: Sequence[Path]) -> list[Grey]:
    """The first frame of each file that can be decoded."""
    found: list[Grey] = []
    for path in files:
        with suppress(PixelError):
            display = open_dicom(path).display()
            found.append(display if display.ndim == 2 else np.asarray(display.mean(axis=2), np.uint8))
    return found


def _seen(classifier: Classifier, pictures: Sequence[Grey]) -> tuple[Singles, dict[str, float]]:
    """The distance of each picture as shown, and the shares of pictures that the domain gate accepts,
    reorients and refuses.
    """
    rows = []
    for picture in pictures:
        found = classifier.analyse(picture)
        passes = classifier.in_domain(found) and Exposure.from_image(picture).refusal is None
        rows.append((found.shown_distance, passes and found.pose != UPRIGHT, not passes))
    distances, *judged = np.array(rows, np.float32).T
    mended, refused = (float(part.mean(dtype=np.float64)) for part in judged)
    shares = {"accepted": 1.0 - refused - mended, "mended": mended, "refused": refused}
    return distances, {name: round(share, 4) for name, share in shares.items()}


AT_ONCE = 8


def fit_places(
    network: PlacedClassifier, data: Path, experiment: Experiment, known: Sequence[str] = LABELS
) -> BoxTemplates:
    """Fit the layer of ``network`` that says where a finding lies (``place``, ``place_bias``) to the boxes of
    the train split; returns the box templates, none if the train split of ``data`` has no boxes.
    ``experiment``: settings of the fit; ``known``: the labels of ``network``.
    """
    boxes = tuple(box for box in chest_set(data).boxes if box.image.split == "train" and box.label in known)
    if not boxes:
        torch.nn.init.zeros_(network.place.weight)
        torch.nn.init.zeros_(network.place_bias)
        return BoxTemplates(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    paths = sorted({box.image.path for box in boxes})
    maps = torch.from_numpy(middle_maps(network, paths, experiment.images.chain, experiment.network.size))
    centre, spread, cells = maps.mean(0), maps.std((0, 2, 3)), maps.shape[-1]
    standard = ((maps - centre) / spread[:, None, None]).flatten(2).transpose(1, 2)
    labels = np.array([known.index(box.label) for box in boxes])
    covered = np.stack([box_mask(box, cells) for box in boxes])
    # A hundredth of the average map, so that no place is impossible.
    priors = {int(k): np.log(covered[labels == k].mean(0) + 0.01) for k in np.unique(labels)}
    torch.manual_seed(experiment.seed)
    weight, trust = learn_choices(
        standard[[paths.index(box.image.path) for box in boxes]],
        torch.from_numpy(np.stack([priors[k] for k in labels.tolist()])).flatten(1),
        torch.from_numpy(covered / covered.sum((1, 2), keepdims=True)).flatten(1),
        torch.from_numpy(labels),
        # The decay was chosen on the validation boxes.
        {"rate": 0.01, "steps": 300, "decay": 0.01, "own": 4.0, "trust": 1.0},
    )
    corners = np.array([np.divide(box.corners, box.side) for box in boxes], np.float32)
    usual = np.empty(len(boxes), np.float32)
    network.place.weight.data.zero_()
    for label, prior in priors.items():
        learned = weight[label] / spread
        shift = torch.einsum("c,chw->hw", learned, centre)
        network.place.weight.data[label, :, 0, 0] = learned
        network.place_bias.data[label] = trust * torch.from_numpy(prior) - shift
        rows = labels == label
        usual[rows] = share_inside(np.exp(prior), corners[rows])
    return BoxTemplates(labels.astype(np.int64), corners, usual)


def middle_maps(
    network: PlacedClassifier,
    paths: Sequence[Path],
    chain: Chain,
    size: int,
    levels: tuple[float, float] = (MEAN, SCALE),
    report: Report = silent,
) -> npt.NDArray[np.float32]:
    """The middle layers' output ``[N, C, h, w]`` of ``network`` for the images in ``paths``. ``chain``: the
    preprocessing; ``size``: side of the input; ``levels``: mean and scale of the input. Raises DataMissing if
    an image cannot be read.
    """
    network.eval()
    parts: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(paths), AT_ONCE):
        squares = [prepare(read_grey(path), chain, size)[0] for path in paths[start : start + AT_ONCE]]
        with torch.inference_mode():
            parts.append(network.maps(torch.from_numpy(normalise(np.stack(squares), *levels)))[1].numpy())
        report((start + len(squares)) / len(paths), "reading images")
    return np.concatenate(parts)


def learn_choices(
    inputs: Tensor, prior: Tensor, wanted: Tensor, labels: Tensor, how: Mapping[str, Any]
) -> tuple[Tensor, float]:
    """Learn weights by which, of M choices, the right ones get the highest scores; returns the weights of the
    features ``[labels, F]``, and the weight of ``prior``. ``inputs [N, M, F]``: features of the choices;
    ``prior`` and ``wanted`` (a distribution): ``[N, M]``; ``labels [N]``. ``how``: settings of the optimiser.
    All labels share one weight vector, and each adds its own, whose decay is ``own`` times as strong.
    """
    shared = torch.zeros(inputs.shape[2], requires_grad=True)
    own = torch.zeros(int(labels.max()) + 1, inputs.shape[2], requires_grad=True)
    trust = torch.full((1,), how["trust"], requires_grad=True)
    optimiser = torch.optim.Adam([shared, own, trust], lr=how["rate"])
    for _ in range(how["steps"]):
        scores = torch.einsum("nmf,nf->nm", inputs, shared + own[labels]) + trust * prior
        loss = -(wanted * torch.log_softmax(scores, 1)).sum(1).mean()
        loss = loss + how["decay"] * (shared.square().sum() + how["own"] * own.square().sum())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (shared + own).detach(), float(trust.detach())


def box_mask(box: TruthBox, cells: int) -> npt.NDArray[np.float32]:
    """The share of each cell of a grid that lies in the box: ``[cells, cells]``, 0 to 1."""
    fine = 16 * cells
    mask = np.zeros((fine, fine), np.float32)
    left, top, right, bottom = (edge * fine / box.side for edge in box.corners)
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 1.0
    return np.asarray(cv2.resize(mask, (cells, cells), interpolation=cv2.INTER_AREA), np.float32)


COMPARED = (
    "mean_auc",
    "mean_auc_hog",
    "difference_to_hog",
    "mean_auc_age_sex_view",
    "difference_to_age_sex_view",
)
OPERATING = ("sensitivity_present", "specificity_present", "sensitivity_not_absent", "specificity_not_absent")


def card_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """The table ``[metrics]`` of a model card from the result of an evaluation: plain values, without None,
    which TOML lacks.
    """
    main = result["main"]
    boxes = result["boxes"] or {}
    called = result["called"]
    metrics: dict[str, Any] = {
        "set": (
            f"{result['data']['main']}, {result['split']}: {main['images']} images of "
            f"{main['patients']} adults; [value, low, high], 95 % by bootstrap over patients"
        ),
        "images": main["images"],
        "patients": main["patients"],
        "mean_auc_labels": main["labels_counted"],
        **{key: main.get(key) for key in COMPARED},
        "mean_average_precision": main["mean_average_precision"],
        "permuted_labels": result["permuted_labels"],
        "with_children": {key: result["with_children"][key] for key in ("images", "mean_auc")},
        "within_source": result["within_source"],
        "source_probe": result["probes"].get("source"),
        "teacher": result["teacher"],
        "top3": called["top3"],
        "all_findings": called.get("all_findings"),
        "operating_points": result["operating_points"]["tested"],
        **{key: boxes.get(key) for key in ("pointing", "iou_at_least_0.3")},
        "gate": result["gate"],
        "labels": {
            row["label"]: ({key: row[key] for key in ("positives", "auc", "average_precision", *OPERATING)})
            for row in main["labels"]
        },
        "sources": {
            row["source"]: (
                {key: row[key] for key in ("images", "patients", "mean_auc", "labels", "left_out")}
            )
            for row in result["sources"]
        },
        "calibration": {name: _calibration(found) for name, found in result["calibration"].items()},
        "subgroups": [
            {"set": name, **row}
            for name, rows in result["subgroups"].items()
            for row in rows
            if row["labels"]
        ],
    }
    return {
        key: known for key, value in metrics.items() if (known := known_only(value)) not in (None, {}, [])
    }


def _calibration(found: Mapping[str, Any]) -> dict[str, Any]:
    """The calibration figures that go into the model card, from ``found``, those of an evaluation."""
    labels = {name: {"prevalence": found["prevalence"][name], **row} for name, row in found["labels"].items()}
    known = ("natural_prevalence", "images", "mean_ece", "mean_brier")
    return {**{key: found[key] for key in known if key in found}, "labels": labels}


def known_only(value: Any) -> Any:
    """A copy of ``value`` without the figures that are None."""
    if isinstance(value, Mapping):
        known = {key: known_only(item) for key, item in value.items()}
        return {key: item for key, item in known.items() if item is not None}
    if isinstance(value, list):
        return None if None in value else [known_only(item) for item in value]
    return value


ID = "chest-efficientnet-lite0"
TOLD_OF_SHIPPED = ("mined from", "224 pixels", "another network", "NIH Clinical Center", "from a detector")
"""Words of the shipped card's limits that are true of its own training alone."""


def export_onnx(network: PlacedClassifier, size: int, path: Path) -> None:
    """Write ``network`` as ONNX: input ``images`` with a free batch size, outputs as ``OUTPUTS`` names them.

    The batch normalisations of EfficientNet-Lite0 are folded in (``network`` is changed), the parameters keep
    their names.
    """
    fuse(network.eval())
    export(
        network.to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
        (torch.zeros(2, 3, size, size),),
        {"images": {0: torch.export.Dim("batch")}},
        OUTPUTS,
        path,
        path.stem,
    )


def forget_detector(card: Any) -> None:
    """Remove the box detector from ``card`` (a model card as TOML document): it was fitted to the layers of
    other weights.
    """
    forget_roles(card, NETWORK, CANDIDATES, YOLO)
    card.pop("detection", None)
    for row in card["labels"]:
        row.pop("detector", None)


def forget_roles(card: Any, *roles: str) -> None:
    """Remove the weights with these ``roles`` from ``card`` (a model card as TOML document)."""
    kept = [weights for weights in card["weights"] if weights["role"] not in roles]
    card["weights"] = tomlkit.aot()
    card["weights"].extend(kept)


def write_metrics(path: Path, result: dict[str, Any]) -> None:
    """Put the test figures of ``ai-pipeline evaluate chest`` into the model card at ``path``. A label is
    supported if its test images hold at least 15 positives and the lower end of its AUC's interval is above
    .5, there and in external measurements (``[external]``, which stays). If the card lacks operating points,
    those of the validation split are added. The card counts how often the test split was used.
    """
    shown = {row["label"]: row["supported"] for row in result["main"]["labels"]}
    with changed_card(path) as card:
        looks = card.get("metrics", {}).get("looks", 0) + (result["split"] == "test")
        card["metrics"] = {"looks": looks, **card_metrics(result)}
        if chosen := result["operating_points"]["chosen"]:
            card["operating_points"] = chosen
        for row in card["labels"]:
            row["supported"] = shown.get(row["name"], False)


def ship(
    data: Path, out: Path, trained: Trained, cache: Path, report: Report = silent, *, gated: bool = True
) -> Path:
    """Export the network of a training run with its model card; returns the card's path. Calibration,
    thresholds and domain gate come from the validation split. ``trained``: the run; ``cache``: folder of
    reduced images. ``out`` becomes a folder of models. Labels and codes are those of the shipped card, no
    label is supported until ``ai-pipeline evaluate`` says so. Without ``gated`` the card has no domain gate,
    and says so. Raises DataMissing.
    """
    out.mkdir(parents=True, exist_ok=True)
    experiment, found = trained.experiment, chest_set(data)
    size, start = experiment.network.size, experiment.network
    material = Material.gather(data, experiment, cache, report)
    labels, columns = material.labels, [LABELS.index(label) for label in material.labels]
    network = trained.network if len(labels) == len(LABELS) else trained.network.narrowed(columns)
    places = fit_places(network, data, experiment, labels)

    def see(pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return infer(network, np.stack([reduce(one, experiment.images.chain)[0] for one in pictures]), size)[
            1
        ]

    learned, validated = material.rows("train", experiment.images.smallest), material.rows("val")
    truth = label_matrix([material.images[row] for row in validated], unknown=np.nan)[:, columns]
    logits, pooled = infer(network, material.pixels[validated], size)
    points = [calibrated(truth[:, k], logits[:, k]) for k in range(len(labels))]
    odds = [point.slope * logits[:, k] + point.intercept for k, point in enumerate(points)]
    chances, refused = 1 / (1 + np.exp(-np.stack(odds, axis=1))), np.zeros(len(pooled), bool)
    if gated:
        gate, limit = fit_gate(data, see, experiment.seed, report)
        refused = gate.distance(pooled) > limit
        (out / f"{ID}.gate.npz").write_bytes(gate.to_bytes())
    export_onnx(network, size, out / f"{ID}.onnx")
    (out / f"{ID}.boxes.npz").write_bytes(places.to_bytes())
    best = max(trained.history, key=lambda entry: entry["validation_auc"])
    about, path = start_described(start.initial, start.licence or ""), out / f"{ID}.toml"
    with changed_card(SHIPPED / f"{ID}.toml", path) as card:
        forget_detector(card)
        if gated:
            card["gate"].update({"threshold": round(limit, 6), "true_positive_rate": TRUE_POSITIVE_RATE})
        else:
            forget_roles(card, card.pop("gate")["role"])
            card["limits"].append(NO_GATE)
        for weights in card["weights"]:
            weights.update(weights_row(weights["role"], out / weights["file"]))
        if start.initial != IMAGENET:
            card["licence"] = licence_from(about)
        card["input"]["size"] = size
        card["input"]["chain"].update(asdict(experiment.images.chain))
        rows = [row for row in card["labels"] if row["name"] in labels]
        for row, point in zip(rows, points, strict=True):
            row.update({**point.rounded(), "supported": False})
        if len(rows) < len(card["labels"]):
            card["labels"] = tomlkit.aot()
            card["labels"].extend(rows)
        card["calibration"] = {
            "calibrated": True,
            "method": "Platt scaling of each label on the adults of the validation split",
            "thresholds": THRESHOLDS,
            "prevalence": prevalence(truth, labels),
        }
        card["reference"] = reference("the adults of the validation split", labels, chances, refused)
        card["training"] = {
            "data": [found.title, *found.notes],
            "images": len(learned),
            "patients": len({material.images[row].patient for row in learned}),
            "chosen_iteration": int(best["iteration"]),
            "validation_auc_within_sources": round(best["validation_auc"], 4),
            "validation_images": len(validated),
            "start": about,
            "experiment": experiment.described(),
        }
        if found.name != SHIPPED_SET:  # task and limits of a network that another set has taught
            card["task"] = f"findings in frontal chest X-rays of adults: {', '.join(labels)}"
            kept = [text for text in card["limits"] if not any(words in text for words in TOLD_OF_SHIPPED)]
            kept.append(
                f"Taught by {found.title}: its labels may be wrong; other devices, populations and windows "
                "were not tested."
            )
            card["limits"] = tomlkit.item(kept).multiline(True)
        card["metrics"] = {}
        card.pop("operating_points", None)
    return path
