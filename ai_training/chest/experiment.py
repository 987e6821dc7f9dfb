"""What an experiment file says, key by key: network, images, augmentation, loss, schedule."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_pipeline.mistakes import mistakes
from ai_pipeline.models.registry import Chain
from ai_training.backbones import default_start
from ai_training.base import ExperimentError

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


EXPERIMENTS = Path(__file__).parents[1] / "experiments"


class Network(ExperimentPart):
    """The table ``[network]`` of an experiment file: the network to train. ``architecture``: its backbone,
    ``efficientnet-lite0`` or a name of timm. ``initial``: its first weights: ``imagenet`` (of a package),
    ``random``, or the path of a file, such as the ``*.pt`` of an earlier run; ``licence`` of that file.
    ``frozen``: the backbone keeps these weights. ``drop_connect``: of EfficientNet-Lite0 alone.
    """

    architecture: str = "efficientnet-lite0"
    frozen: bool = False
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

    def on_backbone(self, backbone: str, weights: str, licence: str, *, frozen: bool) -> Experiment:
        """This experiment on another ``backbone`` (``""``: its own), which starts from ``weights`` (``""``:
        ImageNet weights if a package has them, else random ones) of this ``licence``.
        """
        name = backbone or self.network.architecture
        start = default_start(name, weights) if backbone or weights else self.network.initial
        known = licence or (None if weights else self.network.licence)
        change = {"architecture": name, "initial": start, "licence": known, "frozen": frozen}
        return self.changed(self.name, {"network": change})

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
