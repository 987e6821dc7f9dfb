"""The training engine: one loop on Lightning Fabric for all networks, resumable to the bit on a CPU."""

import copy
import csv
import json
import logging
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader, Dataset

from ai_training.base import ExperimentError, Report, silent

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision of each run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The user's choices for a training run that do not change its result by design and are no part of its
    settings. ``device`` ``auto``: CUDA if there is one, else the CPU. ``precision`` of the forward pass;
    ``auto``: that of the recipe. A checkpoint is written every ``save_minutes``. ``accumulate``: batches
    whose gradients make one step. ``patience``: validations without a better one after which a run stops;
    0: it runs to its end. ``log``: what the figures of each step are written for, besides ``history.json``.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    save_minutes: float = 10.0
    accumulate: int = 1
    patience: int = 0
    log: Literal["none", "csv", "tensorboard"] = "none"

    def fabric(self, precision: str = "fp32") -> Fabric:
        """A Fabric object (Lightning) for the chosen device and precision. ``precision``: used if the user
        chose ``auto``. Raises ExperimentError.
        """
        device, wanted = self.chosen_device(), self.precision if self.precision != "auto" else precision
        if wanted == "fp16" and device == "cpu":
            raise ExperimentError("fp16 needs a GPU: on the CPU take bf16 or fp32")
        return Fabric(
            accelerator=device,
            devices=1,
            precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[wanted],  # type: ignore[arg-type]
        )

    def chosen_device(self) -> str:
        """``cpu`` or ``cuda``. Raises ExperimentError if the machine lacks the chosen device."""
        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise ExperimentError("--device cuda: torch finds no such device on this machine")
        return "cuda" if there and self.device == "auto" else self.device.replace("auto", "cpu")


_chosen: ContextVar[RunOptions] = ContextVar("run options", default=RunOptions())  # noqa: B039 - frozen


@contextmanager
def carried_out(options: RunOptions) -> Iterator[None]:
    """A context manager in which all training runs that start use ``options``."""
    token = _chosen.set(options)
    try:
        yield
    finally:
        _chosen.reset(token)


def run_options() -> RunOptions:
    """The user's options for training runs (:func:`carried_out`), or the defaults."""
    return _chosen.get()


def seed_all(seed: int) -> None:
    """Seed the global random numbers of Python, NumPy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def input_of(network: nn.Module, values: npt.NDArray[np.float32]) -> Tensor:
    """Move ``values`` to the device of ``network``."""
    return torch.from_numpy(values).to(next(network.parameters()).device)


N = TypeVar("N", bound=nn.Module)


def best_of(network: N, folder: Path) -> N:
    """Load the best weights of the training run in ``folder`` into ``network``; returns it, ready for
    inference.
    """
    network.load_state_dict(torch.load(folder / BEST, map_location="cpu", weights_only=True))
    return network.eval()


def save_whole(state: Mapping[str, Any], path: Path) -> None:
    """Write ``state`` to ``path`` in one step: a run that is killed meanwhile leaves the previous file."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def random_state() -> dict[str, Any]:
    """The state of the global random numbers of Python, NumPy and torch, as a checkpoint holds it."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the random numbers of :func:`random_state`; states of devices that this machine does not have
    are ignored.
    """
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


History = list[dict[str, float]]
"""One entry for each validation: ``iteration``, mean ``loss`` since the one before, figures."""
STEP, LOSS = "iteration", "loss"


def write_history(folder: Path, history: History) -> None:
    """Write ``history.json`` and ``history.png``, each complete or unchanged."""
    partial = folder / "history.partial"
    partial.write_text(json.dumps(history, indent=1))
    partial.replace(folder / "history.json")
    names = sorted({name for entry in history for name in entry} - {STEP})
    figure = Figure(figsize=(6, 1.8 * max(1, len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(max(1, len(names)), sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=False):
        axes.plot(
            *zip(*((entry[STEP], entry[name]) for entry in history if name in entry), strict=True),
            marker="o",
            markersize=3,
        )
        axes.set_ylabel(name)
    panels[-1].set_xlabel(STEP)
    figure.savefig(partial, format="png", dpi=80)
    partial.replace(folder / "history.png")


CHECKPOINT, BEST = "checkpoint.pt", "best.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how a training run trains. ``warm_up``: share of the iterations with a rising learning
    rate. ``iterations``: steps of the optimiser; ``validate_every``: after how many of them it validates (0:
    never); ``ema``: weight of the past in the moving average of the weights, 0 to 1; ``clip``: largest norm
    of the gradients (0: any); ``weight_decay``, ``betas`` of AdamW.
    """

    iterations: int
    learning_rate: float
    warm_up: float
    validate_every: int
    ema: float
    clip: float = 2.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Plan):
    """The settings of a training run; each network adds its own. ``half``: convolutions in bfloat16, unless
    the user chooses a precision; ``threads`` of the network; ``workers``: processes that draw batches.
    """

    seed: int = 1
    learning_rate: float = 2e-3
    warm_up: float = 0.1
    ema: float = 0.995
    half: bool = False
    threads: int = 2
    workers: int = 1

    def described(self) -> dict[str, Any]:
        """The recipe as a table for a model card."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        found.pop("start", None)  # may be a path of this machine; cards have its origin beside the recipe
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """The result of one validation: ``figures`` for the history, a ``text`` for a person, the ``weights`` to
    export if it is the best. ``arrays``: arrays that ``validation.npz`` stores for the best validation.
    """

    figures: Mapping[str, float]
    text: str
    weights: Mapping[str, Tensor]
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class TrainingRun:
    """The state of one run: network, its moving average, optimiser, schedule, steps done, history.

    A subclass defines its batches (:meth:`examples`), the loss of a batch and how to validate, and names
    further contents of a checkpoint in :data:`PARTS`. ``out`` receives ``checkpoint.pt``, ``history.json``,
    ``history.png``, ``best.pt`` (the weights with the highest :data:`CHOSEN_BY`) and
    ``validation.npz``, if there are arrays; without ``out`` nothing is written and nothing can be resumed.

    A run on the CPU that is killed and resumed ends with the same weights, to the bit, as one that was not: a
    checkpoint holds all of the state, including the global random numbers, and batch i depends on i alone.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("network", "average", "optimiser", "schedule")
    KEPT: ClassVar[tuple[str, ...]] = ("done", "history", "losses")
    CHOSEN_BY: ClassVar[str]
    KIND: ClassVar[str] = "recipe"
    MEMORY: ClassVar[torch.memory_format] = torch.channels_last
    workers: int = 0

    def __init__(
        self, out: Path | None, recipe: str, plan: Plan, network: nn.Module, precision: str = "fp32"
    ) -> None:
        """``recipe``: all that shapes the run, as text; a checkpoint of another one is refused.

        ``precision``: ``fp32`` or ``bf16``, unless the user chooses another. Raises ExperimentError where the
        device that the user chose is not there.
        """
        self.options = run_options()
        self.fabric = self.options.fabric(precision)
        self.device = self.fabric.device
        self.out, self.recipe_text, self.plan = out, recipe, plan
        self.network = network.to(self.device, memory_format=self.MEMORY)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimiser = self.new_optimiser(trained)
        self.schedule = self.new_schedule(self.optimiser)
        self.done = 0
        self.drawn = 0  # number of the batch in hand
        self.history: History = []
        self.losses: list[float] = []  # since the last validation

    def new_optimiser(self, parameters: list[nn.Parameter]) -> Optimizer:
        """An AdamW optimiser with the plan's learning rate, betas and weight decay."""
        plan = self.plan
        return AdamW(parameters, plan.learning_rate, plan.betas, weight_decay=plan.weight_decay)

    def new_schedule(self, optimiser: Optimizer) -> LRScheduler:
        """A one-cycle schedule over the whole run."""
        plan = self.plan
        rising = 0.0 if plan.warm_up * plan.iterations <= 1 else plan.warm_up  # torch divides by the rest
        return OneCycleLR(optimiser, plan.learning_rate, total_steps=plan.iterations, pct_start=rising)

    def examples(self) -> Dataset[Any]:
        """The training batches: a data set whose item i is batch i of the run, drawn from the seed and i
        alone. Subclasses define it.
        """
        raise NotImplementedError

    def loss(self, batch: Any) -> Tensor:
        """The loss of one batch, in training mode; ``batch`` is on the run's device. Subclasses define it."""
        raise NotImplementedError

    def validate(self) -> Validation:
        """Measure the moving average of the weights on the validation split. Subclasses define it."""
        raise NotImplementedError

    def batches(self, numbers: range) -> Iterable[Any]:
        """The batches with these numbers, drawn by :attr:`workers` processes (0: by this process)."""
        own = torch.Generator()  # else a resumed loader would take a number from the global ones
        return DataLoader(
            self.examples(), batch_size=None, sampler=numbers, num_workers=self.workers, generator=own
        )

    def autocast(self) -> AbstractContextManager[None]:
        """A context manager with the run's precision, for forward passes."""
        return self.fabric.autocast()

    def train(self, report: Report = silent, until: int | None = None) -> None:
        """Train up to step ``until`` (default: the end); validates and saves checkpoints meanwhile."""
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
        last = min(until or self.plan.iterations, self.plan.iterations)
        if self.done >= last or self.stopped:
            return
        logger, saved, each = self._logger(), time.monotonic(), self.options.accumulate
        batches = iter(self.batches(range(self.done * each, last * each)))
        while self.done < last and not self.stopped:
            self.network.train()
            rate = float(self.schedule.get_last_lr()[0])
            self.losses.append(self.step(batches))
            self.done += 1
            report(self.done / self.plan.iterations, f"iteration {self.done}, loss {self.losses[-1]:.4f}")
            if logger:
                logger.log_metrics({"step_loss": self.losses[-1], "learning_rate": rate}, self.done)
            if self.validation_due():
                self._validate(report)
                if logger:
                    logger.log_metrics(_figures(self.history[-1]), self.done)
            elif time.monotonic() - saved <= 60 * self.options.save_minutes:
                continue
            if logger:
                logger.save()  # before the checkpoint: what it has done has been logged
            self.save()
            saved = time.monotonic()
        if logger:
            logger.finalize("success")
        if self.stopped:
            report(1.0, f"stopped: no better validation among the last {self.options.patience}\n")

    def _logger(self) -> Logger | None:
        """Lightning's logger that the user chose, in the folder ``log``; what a killed run logged after its
        last checkpoint is forgotten. Raises ModuleNotFoundError without the package ``tensorboard``.
        """
        if self.out is None or self.options.log == "none":
            return None
        if self.options.log == "tensorboard":
            return TensorBoardLogger(self.out, "log", "", purge_step=self.done + 1)
        file, kept = self.out / "log" / "metrics.csv", []
        if file.is_file():
            with file.open(newline="", encoding="utf-8") as opened:
                kept = [row for row in csv.DictReader(opened) if int(row["step"]) <= self.done]
            file.unlink()
        logger = CSVLogger(self.out, "log", "")
        for row in kept:
            step = int(row.pop("step"))
            logger.log_metrics({name: float(value) for name, value in row.items() if value}, step)
        return logger

    @property
    def stopped(self) -> bool:
        """Whether the last :attr:`RunOptions.patience` validations were no better than one before; False
        without a patience. A function of the history, so a resumed run stops where an unbroken one does.
        """
        if not (self.options.patience and self.history):
            return False
        first = int(np.argmax([self._chosen_by(entry) for entry in self.history]))
        return len(self.history) - 1 - first >= self.options.patience

    @property
    def begun(self) -> bool:
        """Whether the run has a checkpoint from which it can resume."""
        return self.out is not None and (self.out / CHECKPOINT).is_file()

    def validation_due(self) -> bool:
        """Whether the run validates after the step that was just done."""
        each = self.plan.validate_every
        return bool(each) and (self.done % each == 0 or self.done == self.plan.iterations)

    def step(self, batches: Iterator[Any]) -> float:
        """Do one step of the optimiser; returns its loss."""
        self.optimiser.zero_grad()
        each, mean = self.options.accumulate, 0.0
        for number in range(self.done * each, (self.done + 1) * each):
            self.drawn = number
            loss = self.loss(self.fabric.to_device(next(batches))) / each
            self.fabric.backward(loss)
            mean += float(loss.detach())
        self.apply(self.optimiser, self.plan.clip)
        self.schedule.step()
        move_average(self.average, self.network, self.done, self.plan.ema)
        return mean

    def descend(self, optimiser: Optimizer, loss: Tensor) -> None:
        """Do one step of ``optimiser`` to reduce ``loss`` alone."""
        optimiser.zero_grad()
        self.fabric.backward(loss)
        self.apply(optimiser)

    def apply(self, optimiser: Optimizer, clip: float = 0.0) -> None:
        """Step with the present gradients, their norm limited to ``clip``; 0: no limit."""
        if clip:  # float16 may overflow in its first steps: the scaler leaves these out
            self.fabric.clip_gradients(self.network, optimiser, max_norm=clip, error_if_nonfinite=False)
        self.fabric.strategy.optimizer_step(optimiser)

    def finish(self, report: Report = silent, *, resume: bool = False) -> None:
        """Train to the end; with ``resume``, starting from the checkpoint."""
        if resume:
            self.load()
        self.train(report)

    def load(self) -> None:
        """Continue from the checkpoint in ``out``. Raises ExperimentError if it belongs to another recipe, or
        if there is none.
        """
        assert self.out is not None
        if not self.begun:
            raise ExperimentError(
                f"{self.out / CHECKPOINT} is not there: no run was begun there that was saved "
                "(--save-minutes); leave out --resume"
            )
        state = torch.load(self.out / CHECKPOINT, weights_only=True, map_location="cpu")
        if state.get(self.KIND) != self.recipe_text:
            raise ExperimentError(f"{CHECKPOINT} was made by another {self.KIND}: train into a new folder")
        if state.get("carried out") != self._carried_out:
            raise ExperimentError(
                f"{CHECKPOINT} was made with another precision or --accumulate, or by an older version: take "
                "a new folder"
            )
        for name in (*self.PARTS, *self.KEPT):
            part = getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state[name])
            else:
                setattr(self, name, self.fabric.to_device(state[name]))
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        set_random_state(state["random"])

    def save(self) -> None:
        """Write the checkpoint and, if it has grown, the history, each in one step."""
        if not self.out:
            return
        parts = {name: getattr(self, name) for name in (*self.PARTS, *self.KEPT)}
        state = {
            name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()
        }
        state |= {
            self.KIND: self.recipe_text,
            "carried out": self._carried_out,
            "random": random_state(),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }
        save_whole(state, self.out / CHECKPOINT)
        if self.validation_due():  # to draw it takes longer than to save
            write_history(self.out, self.history)

    @property
    def _carried_out(self) -> str:
        """The user's options that shape a run, as a checkpoint holds them."""
        precision, each = self.fabric.strategy.precision.precision, self.options.accumulate
        return f"{precision}, {each} batches a step" if each > 1 else precision

    @property
    def best(self) -> dict[str, float]:
        """The history's entry with the highest :data:`CHOSEN_BY`; of equal entries the last."""
        return max(reversed(self.history), key=self._chosen_by)

    def _chosen_by(self, entry: Mapping[str, float]) -> float:
        """By what ``entry`` of the history is chosen; NaN, of too few images to measure, is the lowest."""
        return float(np.nan_to_num(entry[self.CHOSEN_BY], nan=-np.inf))

    def _validate(self, report: Report) -> None:
        """Validate, add the figures to the history, and store the weights if they are the best so far."""
        found = self.validate()
        loss = float(np.mean(self.losses))
        self.losses.clear()
        self.history.append({STEP: self.done, LOSS: loss, **found.figures})
        text = f"iteration {self.done}, loss {loss:.4f}, {found.text}\n"
        report(self.done / self.plan.iterations, text)
        if self.out and self.best is self.history[-1]:
            save_whole(found.weights, self.out / BEST)
            if found.arrays:
                np.savez(self.out / "validation.npz", allow_pickle=False, **found.arrays)


def _figures(entry: Mapping[str, float]) -> dict[str, float]:
    """The figures of an entry of the history, as a logger names them."""
    return {name.replace(" ", "_"): value for name, value in entry.items() if name != STEP}


R = TypeVar("R", bound=Recipe)


class RecipeRun(TrainingRun, Generic[R]):
    """A training run whose settings are a Recipe. A subclass defines the network and the batches."""

    def __init__(self, out: Path, recipe: R) -> None:
        """Prepare the run of ``recipe``; ``out``: its folder."""
        torch.set_num_threads(recipe.threads)
        seed_all(recipe.seed)
        self.recipe, self.workers = recipe, recipe.workers
        precision = "bf16" if recipe.half else "fp32"
        super().__init__(out, json.dumps(asdict(recipe)), recipe, self.new_network(), precision)

    def new_network(self) -> nn.Module:
        """The network before its first step."""
        raise NotImplementedError

    def trained(self, report: Report = silent, *, resume: bool = False) -> nn.Module:
        """Train to the end; returns the network with the best weights, ready for inference on the CPU."""
        self.finish(report, resume=resume)
        return best_of(self.new_network(), cast(Path, self.out))


def move_average(average: nn.Module, network: nn.Module, done: int, keep: float) -> None:
    """Move the weights of ``average`` towards those of ``network``. ``keep``: weight of the past, 0 to 1; it
    is less in the first iterations. ``done``: steps done.
    """
    keep = min(keep, (1 + done) / (10 + done))
    current = network.state_dict()
    with torch.no_grad():
        for name, value in average.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(current[name], 1 - keep)
            else:
                value.copy_(current[name])
