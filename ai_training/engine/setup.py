"""How a run is carried out: the device, the precision, when it saves, where it logs."""

from __future__ import annotations

import logging
import platform
import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ai_training.errors import ExperimentError

FABRIC_NAMES = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision of each run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The user's choices for a run that no recipe holds.

    ``device`` ``auto``: CUDA if there is one, else the CPU. ``precision`` of the forward pass; ``auto``: that
    of the recipe. ``accumulate``: batches in one step of the optimiser. A checkpoint is written every
    ``save_minutes``, and every ``save_steps`` steps unless 0. ``patience``: validations without a better one
    after which a run stops; 0: it runs to its end. ``log``: where figures go besides ``history.json``.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: int = 1
    save_steps: int = 0
    save_minutes: float = 10.0
    patience: int = 0
    log: Literal["none", "tensorboard", "mlflow"] = "none"

    def fabric(self, precision: str = "fp32") -> Fabric:
        """Device and precision as a Fabric object. ``precision``: the one that ``auto`` means. Raises
        ExperimentError.
        """
        device, wanted = self.chosen_device(), self.precision if self.precision != "auto" else precision
        if wanted == "fp16" and device == "cpu":
            raise ExperimentError("fp16 needs a GPU: on the CPU take bf16 or fp32")
        return Fabric(accelerator=device, devices=1, precision=FABRIC_NAMES[wanted])  # type: ignore[arg-type]

    def chosen_device(self) -> str:
        """``cpu``, ``cuda`` or ``mps``. Raises ExperimentError if the chosen device is not there."""
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if self.device == "auto":
            return "cuda" if there["cuda"] else "cpu"
        if not there[self.device]:
            raise ExperimentError(f"--device {self.device}: torch finds no such device on this machine")
        return self.device


_chosen: ContextVar[RunOptions] = ContextVar("run options", default=RunOptions())  # noqa: B039 - frozen


@contextmanager
def carried_out(options: RunOptions) -> Iterator[None]:
    """A context in which all runs that start are carried out with ``options``."""
    token = _chosen.set(options)
    try:
        yield
    finally:
        _chosen.reset(token)


def run_options() -> RunOptions:
    """The user's options, or the defaults."""
    return _chosen.get()


def seed_all(seed: int) -> None:
    """Seed the global random numbers of Python, NumPy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's name with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor() if device.type == "cpu" else f"{_processor()}, {device.type}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(models, platform.processor() or platform.machine())
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def input_of(network: nn.Module, values: npt.NDArray[np.float32]) -> Tensor:
    """``values`` on the device of ``network``."""
    return torch.from_numpy(values).to(next(network.parameters()).device)
