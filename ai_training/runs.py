"""Resumable training runs: the loop that all of them share, and checkpoints that are whole or not there."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset

from ai_training.errors import ExperimentError
from ai_training.progress import Report, silent

CHECKPOINT, BEST, HISTORY = "checkpoint.pt", "best.pt", "history.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how a run trains. ``warm_up``: share of the iterations with a rising learning rate.

    ``validate_every`` in iterations; ``ema``: weight of the past in the moving average, 0 to 1; ``clip``:
    largest norm of the gradients.
    """

    iterations: int
    learning_rate: float
    warm_up: float
    validate_every: int
    ema: float
    clip: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Plan):
    """The settings of a run whose network is not chosen by a file. Each network adds its own settings.

    ``betas`` of AdamW; ``half``: convolutions in bfloat16; ``threads`` of the network; ``workers``: processes
    that draw batches.
    """

    seed: int = 1
    warm_up: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    half: bool = False
    threads: int = 2
    workers: int = 1

    def described(self) -> dict[str, Any]:
        """The recipe in the form of a card's table."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        found.pop("start", None)  # may be a path of this machine; cards have its origin beside the recipe
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """The outcome of one validation: figures for the history, a line for a person, the weights to ship.

    ``arrays``: arrays that ``validation.npz`` stores for the best validation.
    """

    figures: Mapping[str, float]
    text: str
    weights: Mapping[str, Tensor]
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class TrainingRun:
    """The state of one run: network, its moving average, optimiser, schedule, iterations done, history.

    A subclass defines its batches (:meth:`batches`), the loss of a batch and how to validate, and names
    further contents of a checkpoint in :data:`PARTS`. ``out`` receives ``checkpoint.pt``, ``history.json``,
    ``best.pt`` (the weights with the highest :data:`CHOSEN_BY`) and ``validation.npz``, if there are arrays.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("network", "average", "optimiser", "schedule")
    CHOSEN_BY: ClassVar[str]
    KIND: ClassVar[str] = "recipe"
    MEMORY: ClassVar[torch.memory_format] = torch.channels_last

    def __init__(
        self,
        out: Path,
        recipe: str,
        plan: Plan,
        network: nn.Module,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        """``recipe``: all that shapes the run, as text; a checkpoint of another one is refused.

        ``weight_decay``, ``betas`` of AdamW.
        """
        self.out, self.recipe_text, self.plan = out, recipe, plan
        network.to(memory_format=self.MEMORY)  # type: ignore[call-overload]
        self.network, self.average = network, copy.deepcopy(network)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, plan.learning_rate, betas, weight_decay=weight_decay)
        self.schedule = OneCycleLR(
            self.optimiser, plan.learning_rate, total_steps=plan.iterations, pct_start=plan.warm_up
        )
        self.done = 0
        self.history: list[dict[str, float]] = []

    def batches(self, iterations: range) -> Iterable[Any]:
        """One batch for each of ``iterations``."""
        raise NotImplementedError

    def loss(self, batch: Any) -> Tensor:
        """The loss of one batch, in training mode."""
        raise NotImplementedError

    def validate(self) -> Validation:
        """Measure the moving average on the validation split."""
        raise NotImplementedError

    def train(self, report: Report = silent, until: int | None = None) -> None:
        """Train up to iteration ``until`` (default: the end), validating and saving on the way."""
        self.out.mkdir(parents=True, exist_ok=True)
        last = self.plan.iterations
        losses: list[float] = []
        for batch in self.batches(range(self.done, min(until or last, last))):
            losses.append(self._step(batch))
            self.done += 1
            report(self.done / last, f"iteration {self.done}, loss {losses[-1]:.4f}")
            if self.done % self.plan.validate_every == 0 or self.done == last:
                self._validate(float(np.mean(losses)), report)
                losses.clear()

    def finish(self, report: Report = silent, *, resume: bool = False) -> Mapping[str, Tensor]:
        """Train to the end, with ``resume`` from the checkpoint on; returns the best weights."""
        if resume:
            self.load()
        self.train(report)
        best: Mapping[str, Tensor] = torch.load(self.out / BEST, weights_only=True)
        return best

    def load(self) -> None:
        """Go on from the checkpoint. ExperimentError when it is of another recipe, OSError without one."""
        device = next(self.network.parameters()).device
        state = torch.load(self.out / CHECKPOINT, weights_only=True, map_location=device)
        if state[self.KIND] != self.recipe_text:
            raise ExperimentError(f"{CHECKPOINT} was made by another {self.KIND}: train into a new folder")
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.done, self.history = state["done"], state["history"]

    def save(self) -> None:
        """Write the checkpoint in one step, so that an interrupted run leaves the one before."""
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        partial = self.out / "checkpoint.partial"
        torch.save(
            {self.KIND: self.recipe_text, **parts, "done": self.done, "history": self.history}, partial
        )
        partial.replace(self.out / CHECKPOINT)

    def _step(self, batch: Any) -> float:
        self.network.train()
        loss = self.loss(batch)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip)
        self.optimiser.step()
        self.schedule.step()
        move_average(self.average, self.network, self.done, self.plan.ema)
        return float(loss.detach())

    def _validate(self, loss: float, report: Report) -> None:
        found = self.validate()
        self.history.append({"iteration": self.done, "loss": loss, **found.figures})
        text = f"iteration {self.done}, loss {loss:.4f}, {found.text}\n"
        report(self.done / self.plan.iterations, text)
        if not found.figures[self.CHOSEN_BY] < self.best[self.CHOSEN_BY]:  # NaN: too few images to measure
            torch.save(found.weights, self.out / BEST)
            if found.arrays:
                np.savez(self.out / "validation.npz", allow_pickle=False, **found.arrays)
        (self.out / HISTORY).write_text(json.dumps(self.history, indent=1))
        self.save()

    @property
    def best(self) -> dict[str, float]:
        """The history's entry with the highest :data:`CHOSEN_BY`."""
        return max(self.history, key=lambda entry: entry[self.CHOSEN_BY])


R = TypeVar("R", bound=Recipe)


class RecipeRun(TrainingRun, Generic[R]):
    """A run that is defined by a recipe alone. A subclass defines the network and the batches."""

    def __init__(self, out: Path, recipe: R) -> None:
        torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        super().__init__(
            out, json.dumps(asdict(recipe)), recipe, self.new_network(), recipe.weight_decay, recipe.betas
        )

    def new_network(self) -> nn.Module:
        """The network before its first step."""
        raise NotImplementedError

    def examples(self) -> Dataset[Any]:
        """Batch i of the run as item i, drawn from the seed and i alone."""
        raise NotImplementedError

    def batches(self, iterations: range) -> DataLoader[Any]:
        """Batches that other processes draw."""
        workers = self.recipe.workers
        return DataLoader(self.examples(), batch_size=None, sampler=list(iterations), num_workers=workers)

    def trained(self, report: Report = silent, *, resume: bool = False) -> nn.Module:
        """Train to the end; returns the network with the best weights, ready for inference."""
        best = self.finish(report, resume=resume)
        network = self.new_network()
        network.load_state_dict(best)
        return network.eval()


def move_average(average: nn.Module, network: nn.Module, done: int, keep: float) -> None:
    """Move ``average`` towards ``network``; quickly in the first iterations (``keep``: 0 to 1)."""
    keep = min(keep, (1 + done) / (10 + done))
    current = network.state_dict()
    with torch.no_grad():
        for name, value in average.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(current[name], 1 - keep)
            else:
                value.copy_(current[name])
