"""Everything that shapes a training run, as one typed TOML file.

The folder ``experiments`` holds the ones that the shipped weights were made with. A key that is left out has
the default below; a key that is not known is an error.
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
    """``architecture``: a backbone (:func:`ai_training.networks.pyramids.unfilled`).

    ``initial``: ``imagenet`` (of a package), ``random``, or the path of a file with its weights, such as the
    ``*.pt`` that an earlier run left; ``licence`` of that file.
    """

    architecture: str = "efficientnet-lite0"
    size: Annotated[int, Field(ge=64, multiple_of=32)] = 160
    initial: str = "imagenet"
    licence: str | None = None
    dropout: Share = 0.3
    drop_connect: Share = 0.2


class Images(ExperimentPart):
    """The training images, and how often images with a finding or a teacher's answer are drawn.

    ``smallest``: pixels a side of the file; smaller ones are left out.
    """

    smallest: int = 0
    finding_weight: Annotated[float, Field(gt=0)] = 1.5
    taught_weight: Annotated[float, Field(gt=0)] = 1.0
    chain: Chain = Field(default_factory=Chain)


class Augmentation(ExperimentPart):
    """Angles in degrees; shift, scale and stretch as shares of the side; contrast of grey levels.

    No flips: a flip changes the heart's side, and with it what situs and cardiomegaly look like.
    """

    rotation: Annotated[float, Field(ge=0, le=45)] = 5.0
    shift: Share = 0.06
    scale: Share = 0.12
    stretch: Share = 0.05
    contrast: Share = 0.2
    mixup: NotNegative = 0.0


class Loss(ExperimentPart):
    """Weights of the parts of the loss.

    ``hard``: the NIH labels. ``soft``: a teacher's probabilities, where there are any. ``teacher``: a second
    head learns the teacher's log-odds, in units of their spread; ``teacher_share`` is its share, against 1 of
    the first, when both are merged into the one head that ships. ``header``: age, sex and view, learned from
    the picture. ``boxes``: the place of the radiologists' boxes of the train split.
    """

    hard: NotNegative = 1.0
    soft: NotNegative = 0.7
    teacher: NotNegative = 0.0
    teacher_share: NotNegative = 1.0
    header: NotNegative = 0.0
    boxes: NotNegative = 0.0


class Schedule(ExperimentPart):
    """AdamW with one cycle. ``iterations`` replaces ``epochs``. ``ema``: decay of the weights' average.

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
    """One run. The same experiment on the same machine gives the same weights."""

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
        """The experiment in the form of a card's table, without folders of this machine."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        found["network"]["initial"] = Path(self.network.initial).name
        return found

    @property
    def size(self) -> int:
        """Side of the network's input in pixels."""
        return self.network.size

    @property
    def chain(self) -> Chain:
        """The preprocessing that every image passes first."""
        return self.images.chain

    def on_backbone(self, backbone: str, weights: str = "", licence: str = "") -> Experiment:
        """This experiment on another ``backbone``, with ``weights`` as :class:`StartWeights` says."""
        initial = StartWeights(weights).of(backbone)
        network = {"architecture": backbone, "initial": initial, "licence": licence or None}
        return self.changed(self.name, {"network": network})

    def changed(self, name: str, change: Mapping[str, Any]) -> Experiment:
        """This experiment with ``change`` (nested tables, as in TOML) laid over it."""
        return checked(Experiment, {**laid_over(self.model_dump(), change), "name": name}, name)


class Variant(ExperimentPart):
    """An experiment, and the name of the one that it differs from by one lever."""

    experiment: Experiment
    against: str


class Levers(ExperimentPart):
    """A study: a base, and variants that each pull one lever more than another of them."""

    base: Experiment
    variants: tuple[Variant, ...]


def load(path: Path) -> Experiment:
    """Read an experiment. Raises ExperimentError naming every wrong key, OSError when there is no file."""
    return checked(Experiment, read_table(path), str(path))


def load_levers(path: Path) -> Levers:
    """Read a study: ``[base]``, and ``[variants.NAME]``, each with its changes ``against`` another variant.

    Raises ExperimentError, OSError when there is no file.
    """
    table = read_table(path)
    if set(table) - {"base", "variants"}:
        raise ExperimentError(f"{path}: only [base] and [variants.NAME] are known")
    known = {"base": checked(Experiment, {**table.get("base", {}), "name": "base"}, f"{path}: base")}
    variants: list[Variant] = []
    for name, change in table.get("variants", {}).items():
        against = change.pop("against", "base")
        if against not in known:
            raise ExperimentError(
                f"{path}: variants.{name}: against {against!r}, which does not stand before it"
            )
        known[name] = known[against].changed(name, change)
        variants.append(Variant(experiment=known[name], against=against))
    return Levers(base=known["base"], variants=tuple(variants))


def shipped(name: str) -> Path:
    """The experiment file of this name that comes with the package."""
    return SHIPPED / f"{name}.toml"
