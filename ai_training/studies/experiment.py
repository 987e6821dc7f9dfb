"""A study as one typed TOML file: ``[base]``, and arms that each name their changes to another arm.

``[full]`` holds the changes for the full length, in tables named like those of the file, such as
``[full.base.lesson]``. The folder ``experiments`` holds the studies whose reports are under ``docs/studies``.
A key that is left out has the default below; an unknown key is an error.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ai_training.chest.experiment import Augmentation
from ai_training.errors import ExperimentError
from ai_training.experiments import ExperimentPart, NotNegative, Share, checked, laid_over, read_table
from ai_training.networks.start import STARTS
from ai_training.sets.images import LABELS
from ai_training.studies.synthetic.recipe import Synthesis

SHIPPED = Path(__file__).parent / "experiments"
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

    def without(self, arms: Collection[str]) -> ChestStudy:
        """The study without ``arms``. Raises ExperimentError if no arm is left."""
        left = tuple(arm for arm in self.arms if arm.name not in arms)
        if not left:
            raise ExperimentError(f"{self.name}: no arm has the weights that it starts from (--weights)")
        return self.model_copy(update={"arms": left})

    def toy(self) -> ChestStudy:
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
    """The path of the study file with this name that comes with the package."""
    return SHIPPED / f"{name}.toml"
