"""All settings of a training run, as one typed TOML file.

The folder ``experiments`` holds the files with which the shipped weights were made. A key that is left out
has the default below; an unknown key is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ai_pipeline.models.registry import Chain
from ai_training.errors import ExperimentError
from ai_training.experiments import ExperimentPart, NotNegative, Share, checked, laid_over, read_table
from ai_training.networks.start import StartWeights

SHIPPED = Path(__file__).parent / "experiments"


class Network(ExperimentPart):
    """The network to train. ``architecture``: a backbone (:func:`ai_training.networks.pyramids.unfilled`).

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
    mixup: NotNegative = 0.0


class Loss(ExperimentPart):
    """Weights of the parts of the loss.

    ``hard``: the NIH labels. ``soft``: a teacher's probabilities, if there are any. ``teacher``: a second
    head learns the teacher's log-odds, in units of their spread; ``teacher_share``: the weight of that head,
    against 1 for the first, when both are merged into the one head that ships. ``header``: predicting age,
    sex and view from the picture. ``boxes``: predicting the place of the radiologists' boxes of the train
    split.
    """

    hard: NotNegative = 1.0
    soft: NotNegative = 0.7
    teacher: NotNegative = 0.0
    teacher_share: NotNegative = 1.0
    header: NotNegative = 0.0
    boxes: NotNegative = 0.0


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

    @property
    def chain(self) -> Chain:
        """The preprocessing chain for every image."""
        return self.images.chain

    def on_backbone(self, backbone: str, weights: str = "", licence: str = "") -> Experiment:
        """This experiment on another ``backbone``, with ``weights`` as in :class:`StartWeights`."""
        initial = StartWeights(weights).of(backbone)
        network = {"architecture": backbone, "initial": initial, "licence": licence or None}
        return self.changed(self.name, {"network": network})

    def changed(self, name: str, change: Mapping[str, Any]) -> Experiment:
        """This experiment with the values of ``change`` (nested tables, as in TOML) in place of its own."""
        return checked(Experiment, {**laid_over(self.model_dump(), change), "name": name}, name)


class Variant(ExperimentPart):
    """An experiment, and the name of the experiment ``against`` which it is compared: they differ in one
    setting.
    """

    experiment: Experiment
    against: str


class Levers(ExperimentPart):
    """A comparison of settings: a base experiment, and variants that each change one more setting of another
    one.
    """

    base: Experiment
    variants: tuple[Variant, ...]


def load(path: Path) -> Experiment:
    """Read an experiment. Raises ExperimentError, which names every wrong key, or OSError if there is no
    file.
    """
    return checked(Experiment, read_table(path), str(path))


def load_levers(path: Path) -> Levers:
    """Read a comparison: ``[base]``, and ``[variants.NAME]`` with the changes ``against`` another variant.

    Raises ExperimentError, or OSError if there is no file.
    """
    table = read_table(path)
    if set(table) - {"base", "variants"}:
        raise ExperimentError(f"{path}: only [base] and [variants.NAME] are known")
    known = {"base": checked(Experiment, {**table.get("base", {}), "name": "base"}, f"{path}: base")}
    variants: list[Variant] = []
    for name, change in table.get("variants", {}).items():
        against = change.pop("against", "base")
        if against not in known:
            raise ExperimentError(f"{path}: variants.{name}: against {against!r}, which is not before it")
        known[name] = known[against].changed(name, change)
        variants.append(Variant(experiment=known[name], against=against))
    return Levers(base=known["base"], variants=tuple(variants))


def shipped(name: str) -> Path:
    """The path of the experiment file with this name that comes with the package."""
    return SHIPPED / f"{name}.toml"
