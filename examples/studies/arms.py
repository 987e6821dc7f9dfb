"""A study as one typed TOML file: arms that each name their changes, their images, and their training."""

import hashlib
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from synthetic import RealImages, Synthesis, synthesise
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from ai_pipeline.models.registry import Chain, normalise
from ai_training.base import CannotAdapt, DataMissing, ExperimentError, Report, part_of, silent
from ai_training.chest.experiment import (
    Augmentation,
    ExperimentPart,
    NotNegative,
    Share,
    checked,
    laid_over,
    read_table,
)
from ai_training.chest.training import augment
from ai_training.engine import BEST, CHECKPOINT, Plan, TrainingRun, Validation, seed_all
from ai_training.networks import (
    HEADS,
    IMAGENET,
    MEAN,
    SCALE,
    STARTS,
    TIMM,
    PlacedClassifier,
    classifier,
    fill_from,
    timm_network,
    torchvision_network,
)
from ai_training.sets.chest import chest_set, label_matrix, reduced_images
from ai_training.sets.images import LABELS, SetImage

SHIPPED = Path(__file__).parent
ARM = "arm:"
TOY_IMAGES, TOY_SIZE, TOY_ARMS = 24, 32, 2


class StudyNetwork(ExperimentPart):
    """The network of an arm. ``initial``: ``random``, ``imagenet`` (EfficientNet-Lite0 only), ``arm:NAME``
    (the weights that an earlier arm has with the same seed), or a ``.safetensors`` or ``.pt`` file below
    ``--data``.

    ``precision``: of the forward pass in training; measuring is in float32.
    """

    architecture: str = "efficientnet-lite0"
    initial: str = "random"
    size: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def from_arm(self) -> str:
        """The arm whose weights the network starts from; "" if there is none."""
        return self.initial.removeprefix(ARM) if self.initial.startswith(ARM) else ""


class Split(ExperimentPart):
    """The images for training and the images for measuring.

    ``by``: ``given`` uses the manifest's splits, ``learned`` and ``held_out``; synthetic images are in the
    splits ``dcgan`` and ``pggan``. The others divide the images of all splits anew, with the share ``test``
    to measure on: ``patient`` takes whole patients; ``image`` takes half of the images of twice as many
    patients. The other half is learned from first with ``shared_patients``, and is left out without it.
    ``train``: share of the patients to learn from, none of whom is measured on. ``per_patient``: most
    training images of one patient; ``most``: most training images; 0: no limit.
    """

    by: Literal["given", "image", "patient"] = "given"
    learned: tuple[Literal["train", "val", "dcgan", "pggan"], ...] = ("train",)
    held_out: tuple[Literal["val", "test"], ...] = ("test",)
    train: Share = 0.6
    test: Share = 0.2
    shared_patients: bool = True
    per_patient: Annotated[int, Field(ge=0)] = 0
    most: Annotated[int, Field(ge=0)] = 0


class Task(ExperimentPart):
    """The labels to learn. ``against_normal``: only images that have one of ``labels``, or no finding at all.

    ``normals``: the most images without any finding to learn from, ``positives``: the most with one; 0: all.
    """

    labels: tuple[str, ...] = LABELS
    against_normal: bool = False
    normals: Annotated[int, Field(ge=0)] = 0
    positives: Annotated[int, Field(ge=0)] = 0


class Alteration(Augmentation):
    """Random changes of a training image, each up to its value; none by default.

    ``blur``: largest sigma of a Gaussian; ``noise``: largest standard deviation, in grey levels of 255;
    ``flip_sides``, ``flip_upside_down``: whether half of the images are mirrored in that direction.
    """

    rotation: Annotated[float, Field(ge=0, le=45)] = 0.0
    shift: Share = 0.0
    scale: Share = 0.0
    stretch: Share = 0.0
    contrast: Share = 0.0
    blur: NotNegative = 0.0
    noise: NotNegative = 0.0
    flip_sides: bool = False
    flip_upside_down: bool = False


class Lesson(ExperimentPart):
    """How an arm trains: AdamW with one cycle over ``iterations``.

    ``copies``: how many times as often each positive is drawn as a normal image. ``altered``: ``all`` alters
    every image; ``copies`` leaves the first drawing of a positive, and normals, unaltered.
    """

    iterations: Annotated[int, Field(gt=0)] = 180
    batch: Annotated[int, Field(gt=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: NotNegative = 0.02
    warm_up: Share = 0.2
    copies: Annotated[float, Field(ge=1.0)] = 1.0
    altered: Literal["all", "copies"] = "all"


class Arm(ExperimentPart):
    """One arm of a study; ``against`` names the one that it is compared with, image by image."""

    name: str = "base"
    block: str = ""
    against: str = ""
    network: StudyNetwork = Field(default_factory=StudyNetwork)
    split: Split = Field(default_factory=Split)
    task: Task = Field(default_factory=Task)
    alter: Alteration = Field(default_factory=Alteration)
    lesson: Lesson = Field(default_factory=Lesson)


class ChestStudy(ExperimentPart):
    """Arms, and the seeds with which each is trained. ``images``: how many of each split are read, 0: all.

    ``synthesis``: synthetic images that arms may learn from.
    """

    name: str
    seeds: tuple[int, ...] = (1, 2, 3)
    arms: tuple[Arm, ...]
    images: int = 0
    synthesis: Synthesis | None = None

    def without_weights(self, folder: Path) -> dict[str, str]:
        """The arms whose file of weights is not in ``folder``, and arms that depend on such an arm, each with
        the reason.
        """
        found: dict[str, str] = {}
        for arm in self.arms:
            network = arm.network
            if network.from_arm in found:
                found[arm.name] = f"which starts from {network.from_arm}"
            elif not (network.from_arm or network.initial in STARTS or (folder / network.initial).is_file()):
                found[arm.name] = f"whose weights {network.initial} are not in the folder (--weights)"
        against = {arm.name: arm.against for arm in self.arms if arm.against in found}
        return found | {name: f"which is compared with {other}" for name, other in against.items()}

    def without(self, arms: Collection[str]) -> "ChestStudy":
        """The study without ``arms``. Raises ExperimentError if no arm is left."""
        left = tuple(arm for arm in self.arms if arm.name not in arms)
        if not left:
            raise ExperimentError(f"{self.name}: no arm has the weights that it starts from (--weights)")
        return self.model_copy(update={"arms": left})

    def toy(self) -> "ChestStudy":
        """A tiny copy to test whether the study runs: one seed, two arms per network, few
        images, one step.
        """
        small = {"network": {"size": TOY_SIZE}, "lesson": {"iterations": 1, "batch": 4}}
        networks: dict[StudyNetwork, int] = {}
        arms: list[Arm] = []
        for arm in self.arms:
            networks[arm.network] = networks.get(arm.network, 0) + 1
            if networks[arm.network] <= TOY_ARMS:
                arms.append(Arm.model_validate(laid_over(arm.model_dump(), small)))
        synthesis = self.synthesis.toy() if self.synthesis else None
        change = {"seeds": self.seeds[:1], "arms": tuple(arms), "images": TOY_IMAGES, "synthesis": synthesis}
        return self.model_copy(update=change)


def load(path: Path, *, full: bool = False) -> ChestStudy:
    """Read a study file. ``full``: with the changes of its table ``[full]``, for the longer run.

    Raises ExperimentError, which names every wrong key or a missing ``[full]``; OSError if there is no file.
    """
    table = read_table(path)
    longer = table.pop("full", None)
    if full and longer is None:
        raise ExperimentError(f"{path}: no table [full]: the study has one length only")
    table = laid_over(table, longer) if full and longer else table
    known = ("seeds", "base", "arms", "synthesis")
    if unknown := sorted(set(table) - set(known)):
        raise ExperimentError(f"{path}: {', '.join(unknown)}: only {', '.join(known)}")
    arms = tuple(
        checked(Arm, {**laid_over(table.get("base", {}), change), "name": name}, f"{path}: arms.{name}")
        for name, change in table.get("arms", {}).items()
    )
    names = [arm.name for arm in arms]
    for number, arm in enumerate(arms):
        if arm.against and arm.against not in names:
            raise ExperimentError(f"{path}: arms.{arm.name}: against {arm.against!r}, which is no arm")
        if arm.network.from_arm and arm.network.from_arm not in names[:number]:
            start = arm.network.from_arm
            raise ExperimentError(f"{path}: arms.{arm.name}: {start!r} is not before it")
    seeds = {"seeds": tuple(table["seeds"])} if "seeds" in table else {}
    synthesis = checked(Synthesis, table["synthesis"], f"{path}: synthesis") if "synthesis" in table else None
    return ChestStudy(name=path.stem, arms=arms, synthesis=synthesis, **seeds)


def shipped(name: str) -> Path:
    """The path of the study file with this name in this folder."""
    return SHIPPED / f"{name}.toml"


Bytes = npt.NDArray[np.uint8]


def altered(image: Bytes, how: Alteration, random: np.random.Generator) -> Bytes:
    """One altered copy of ``image [size, size]``. Without any alteration the copy is the image."""
    made = augment(image, image.shape[0], how, random)
    if how.blur:
        made = np.asarray(cv2.GaussianBlur(made, (0, 0), max(random.uniform(0, how.blur), 1e-3)), np.uint8)
    if how.noise:
        noisy = made + random.normal(0, random.uniform(0, how.noise), made.shape)
        made = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    if how.flip_sides and random.random() < 0.5:
        made = made[:, ::-1]
    if how.flip_upside_down and random.random() < 0.5:
        made = made[::-1]
    return made


Rows = npt.NDArray[np.intp]
DEALT = 20240601  # one fixed deal of images and patients: arms and seeds are measured on the same ones


def chest_images(data: Path) -> tuple[SetImage, ...]:
    """All images of ``data`` with all 14 labels, as studies need them.

    Raises DataMissing as :func:`chest_set` does, and when a label is missing.
    """
    found = chest_set(data)
    missing = [label for label in LABELS if label not in found.labels]
    if missing:
        raise DataMissing(f"{data} says nothing of {', '.join(missing)}: all 14 labels are needed")
    return found.images


@dataclass(frozen=True, slots=True, eq=False)
class StudyMaterial:
    """The images of a study. ``images``: the adults' of all splits; ``pixels [N, side, side]`` uint8; ``truth
    [N, names]``.

    ``left_out``: pairs of source and label number that the set does not measure. ``names``: the labels.
    """

    images: tuple[SetImage, ...]
    pixels: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.float32]
    left_out: frozenset[tuple[str, int]] = frozenset()
    names: tuple[str, ...] = LABELS

    @staticmethod
    def gather(data: Path, study: ChestStudy, cache: Path, report: Report = silent) -> "StudyMaterial":
        """Read ``data`` once, at the largest size that an arm needs. Raises DataMissing."""
        cv2.setNumThreads(1)
        images = tuple(image for image in chest_images(data) if image.adult)
        if study.images:
            images = _few(images, study.images)
        if not images:
            raise DataMissing(f"{data} holds no image of an adult")
        side = max(arm.network.size for arm in study.arms)
        pixels = reduced_images(images, Chain(side=side), cache, report)
        left_out = {(source, LABELS.index(label)) for source, label in chest_set(data).left_out}
        return StudyMaterial(images, pixels, label_matrix(images), frozenset(left_out))

    def with_synthetic(self, kind: str, label: str, made: npt.NDArray[np.uint8]) -> "StudyMaterial":
        """A copy with the synthetic images ``made [n, any, any]`` added, all with ``label``, in a split named
        ``kind``.
        """
        side = self.pixels.shape[1]
        marks = tuple(int(name == label) for name in self.names)
        added = tuple(
            SetImage("", Path(), f"{kind}-{k}", kind, source=kind, marks=marks) for k in range(len(made))
        )
        sized = [cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in made]
        return replace(
            self,
            images=self.images + added,
            pixels=np.concatenate([self.pixels, np.stack(sized).astype(np.uint8)]),
            truth=np.concatenate([self.truth, label_matrix(added)]),
        )

    def sized(self, size: int) -> npt.NDArray[np.uint8]:
        """All images at ``size`` pixels a side."""
        if size == self.pixels.shape[1]:
            return self.pixels
        small = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in self.pixels]
        return np.stack(small).astype(np.uint8)

    def rows(self, arm: Arm) -> tuple[Rows, Rows]:
        """The indices of the images that ``arm`` learns from, and of those it is measured on.

        Raises DataMissing if there are none.
        """
        train, test = _dealt(self.images, arm.split)
        train, test = (self._of_task(rows, arm.task) for rows in (train, test))
        train = self._limited(_thinned(self.images, train, arm.split), arm.task)
        if not len(train) or not len(test):
            raise DataMissing(f"{arm.name}: {len(train)} images to learn from, {len(test)} to measure on")
        return train, test

    def labels(self, task: Task) -> npt.NDArray[np.float32]:
        """The labels of ``task`` as ``[N, labels]`` of 0 and 1."""
        return self.truth[:, [self.names.index(label) for label in task.labels]]

    def _of_task(self, rows: Rows, task: Task) -> Rows:
        if not task.against_normal:
            return rows
        wanted = self.labels(task)[rows].any(1) | ~self.truth[rows].any(1)
        return rows[wanted]

    def _limited(self, rows: Rows, task: Task) -> Rows:
        positive = self.labels(task)[rows].any(1)
        parts = (rows[positive], task.positives), (rows[~positive], task.normals)
        return np.sort(np.concatenate([_drawn(part, most) for part, most in parts]))


def _few(images: Sequence[SetImage], each: int) -> tuple[SetImage, ...]:
    """So many images of each split, in turn one with a finding and one without."""
    found: list[SetImage] = []
    for split in ("train", "val", "test"):
        inside = [image for image in images if image.split == split]
        kinds = [[i for i in inside if any(i.marks)], [i for i in inside if not any(i.marks)]]
        found += [image for kind in kinds for image in kind[: each // 2]]
    return tuple(found)


def _dealt(images: Sequence[SetImage], split: Split) -> tuple[Rows, Rows]:
    if split.by == "given":
        given = np.array([image.split for image in images])
        return np.flatnonzero(np.isin(given, split.learned)), np.flatnonzero(np.isin(given, split.held_out))
    names, owner = np.unique([image.patient for image in images], return_inverse=True)
    random = np.random.default_rng(DEALT)
    place = random.permutation(len(names))[owner] / len(names)
    second = random.random(len(images)) < 0.5
    if split.by == "patient":
        return np.flatnonzero(place >= 1 - split.train), np.flatnonzero(place < split.test)
    torn = place < 2 * split.test
    further = np.flatnonzero(torn & ~second) if split.shared_patients else np.array([], np.intp)
    train = np.flatnonzero(~torn & (place >= 1 - split.train))
    return np.concatenate([further, random.permutation(train)]), np.flatnonzero(torn & second)


def _thinned(images: Sequence[SetImage], rows: Rows, split: Split) -> Rows:
    """At most so many of one patient, at most so many in all: the first of ``rows``."""
    kept: list[int] = []
    taken: dict[str, int] = {}
    for row in rows:
        patient = images[row].patient
        taken[patient] = taken.get(patient, 0) + 1
        if not split.per_patient or taken[patient] <= split.per_patient:
            kept.append(int(row))
    return np.sort(np.array(kept[: split.most] if split.most else kept, np.intp))


def _drawn(rows: Rows, most: int) -> Rows:
    return np.random.default_rng(DEALT).permutation(rows)[:most] if most else rows


LITE0, TORCHVISION = "efficientnet-lite0", "torchvision/"
PLACED_HEADS = ("head.", "place")  # beginnings of names in a PlacedClassifier


class Logits(nn.Module):
    """This project's EfficientNet-Lite0, reduced to its logits."""

    def __init__(self, network: PlacedClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features, _ = self.network.maps(images)
        logits: Tensor = self.network.head(self.network.dropout(features.mean((2, 3))))
        return logits


def study_network(architecture: str, initial: str, labels: int, size: int) -> nn.Module:
    """The network named ``architecture``: ``efficientnet-lite0``, ``timm/NAME``, else torchvision's.

    ``initial``: one of ``STARTS``. Raises ExperimentError for an unknown name.
    """
    try:
        return _built(architecture, initial, labels, size)
    except CannotAdapt as error:
        raise ExperimentError(str(error)) from error


def _built(architecture: str, initial: str, labels: int, size: int) -> nn.Module:
    if architecture == LITE0:
        return Logits(classifier(initial, labels, size, 0.2, 0.0))
    if initial == IMAGENET:
        raise ExperimentError(f"{architecture}: no ImageNet weights come with a package: name a file")
    if architecture.startswith(TIMM):
        found: nn.Module = timm_network(architecture.removeprefix(TIMM), labels, 3)
        return found
    return torchvision_network(architecture.removeprefix(TORCHVISION), labels)


def fill(network: nn.Module, architecture: str, path: Path) -> None:
    """Load the parameters in ``path``; those of a head for other labels need not fit.

    Raises DataMissing, or ExperimentError, which says what does not fit.
    """
    if not isinstance(network, Logits):
        fill_from(network, path, architecture, HEADS)
        return
    try:
        fill_from(network.network, path, architecture, PLACED_HEADS)
    except ExperimentError:
        fill_from(network.network.backbone, path, architecture, HEADS)


PREDICTIONS = "predictions.npz"
TIMED, AT_ONCE = 10, 64
GPU_WORKERS = 2  # a step of a GPU takes as long as to draw its batch
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
        torch.manual_seed(hash((self.seed, self.done)) % 2**31)  # dropout
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


def folded(network: nn.Module) -> bool:
    """Whether the network's batch normalisations were folded into its convolutions and have no statistics."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    variances = [norm.running_var for norm in norms if norm.running_var is not None]
    return bool(variances) and all(bool((variance == 1).all()) for variance in variances)


def restore_normalisation(network: nn.Module, images: Tensor) -> None:
    """Give folded batch normalisations statistics of ``images`` without changing the network's output.

    A normalisation that was folded into its convolution is the identity but for its bias. Training would
    normalise by the batch, and lose the scale of each channel, which is now in the convolution's weights. So
    its mean and variance are set to those of ``images [N, 3, size, size]``, and its weight and bias so that
    they cancel the normalisation.
    """
    seen: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def keep(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        seen[norm] = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(keep) for norm in norms]
    network.eval()
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for norm, (mean, variance) in seen.items():
            assert norm.running_mean is not None and norm.running_var is not None
            slope = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias.copy_(norm.bias + slope * (mean - norm.running_mean))
            norm.weight.copy_(slope * (variance + norm.eps).sqrt())
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)


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


Answers = Mapping[str, tuple[HeldAnswers, ...]]
"""Of each arm's name what it said with each seed."""


def run_study(
    data: Path,
    out: Path,
    study: ChestStudy,
    *,
    weights: Path | None = None,
    left_out: Mapping[str, str] = MappingProxyType({}),
    threads: int = 0,
    cache: Path | None = None,
    report: Report = silent,
) -> tuple[StudyMaterial, Answers]:
    """Train every arm with every seed into folders of ``out``; a finished one is not trained again.

    ``weights``: the folder of the files that arms start from, ``data`` if None. ``left_out``: arms that do
    not run, and why; they can be run later into the same ``out``.

    Raises DataMissing, or ExperimentError, also if ``out`` holds another study or one on other images.
    """
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    material = StudyMaterial.gather(data, study, cache or out / "cache", report)
    _claim(out, study, material)
    study = study.without(left_out)
    for name, why in left_out.items():
        report(0.0, f"left out: {name}, {why}\n")
    if study.synthesis:
        material = _with_synthetic(material, study.synthesis, out, report)
    runs = [(seed, arm) for seed in study.seeds for arm in study.arms]
    answers: dict[str, list[HeldAnswers]] = {arm.name: [] for arm in study.arms}
    for number, (seed, arm) in enumerate(runs):
        part = part_of(report, number, len(runs), f"{arm.name}, seed {seed}")
        of_arm = out / f"{arm.network.from_arm}-{seed}" / BEST if arm.network.from_arm else None
        start, to = of_arm or weights or data, out / f"{arm.name}-{seed}"
        answers[arm.name].append(run_arm(arm, seed, material, start, to, part))
    return material, {name: tuple(found) for name, found in answers.items()}


def _claim(out: Path, study: ChestStudy, material: StudyMaterial) -> None:
    """Name the study and the images that ``out`` is of, or compare them: runs must not be mixed."""
    of = hashlib.sha256(study.model_dump_json().encode())
    for image in material.images:
        of.update(f"{image.path.name}|{image.patient}|{image.split}\n".encode())
    named = out / "study.sha256"
    if named.is_file() and named.read_text() != of.hexdigest():
        raise ExperimentError(f"{out} holds another study, or one on other images: take another folder")
    out.mkdir(parents=True, exist_ok=True)
    named.write_text(of.hexdigest())


def _with_synthetic(material: StudyMaterial, how: Synthesis, out: Path, report: Report) -> StudyMaterial:
    splits = np.array([image.split for image in material.images])
    labelled = material.truth[:, material.names.index(how.label)] > 0
    source = RealImages(material.pixels, splits == "train", np.isin(splits, ("val", "test")), labelled)
    images = synthesise(how, source, out, report)
    for kind, made in images.items():
        material = material.with_synthetic(kind, how.label, made)
    return material
