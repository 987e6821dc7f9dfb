"""Files of a run for people: ``history.json``, ``history.png``, and TensorBoard or MLflow on request."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

History = list[dict[str, float]]
"""One entry for each validation: ``iteration``, mean ``loss`` since the one before, figures."""
Curve = list[tuple[int, float]]
"""Steps and the mean loss of the steps up to each."""
POINTS = 200
"""Points of a loss curve, at most."""
STEP, LOSS = "iteration", "loss"
TIMES = "time.json"
"""The file with the milliseconds of a step on each device that a run was carried out on."""


class Tracker(Protocol):
    """A log that receives figures during a run."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Record ``figures`` of ``step``."""

    def close(self) -> None:
        """Write what is not written yet, and close the log."""


def tracker(kind: str, folder: Path, recipe: str) -> Tracker | None:
    """The tracker for ``--log``, or None. Raises ModuleNotFoundError if its package is not installed."""
    if kind == "tensorboard":
        return _TensorBoard(folder)
    return _Mlflow(folder, recipe) if kind == "mlflow" else None


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name.replace(" ", "_"), value, step)

    def close(self) -> None:
        self._writer.close()


class _Mlflow:
    """A run on the server that ``MLFLOW_TRACKING_URI`` names, else in ``mlflow.db`` of the run's folder."""

    def __init__(self, folder: Path, recipe: str) -> None:
        from mlflow import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self._client = MlflowClient(address)
        name = "ai-pipeline train"
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._run = self._client.create_run(experiment, run_name=folder.name).info.run_id
        self._client.set_tag(self._run, "recipe", recipe[:5000])

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


def write_history(folder: Path, history: History, curve: Sequence[tuple[int, float]]) -> None:
    """Write ``history.json`` and ``history.png``, each complete or unchanged."""
    partial = folder / "history.partial"
    partial.write_text(json.dumps(history, indent=1))
    partial.replace(folder / "history.json")
    _plot(partial, history, curve)
    partial.replace(folder / "history.png")


def write_time(folder: Path, device: str, seconds: Sequence[float]) -> None:
    """Write to :data:`TIMES` the median of ``seconds`` per step on ``device``."""
    times = read_times(folder) | {device: round(statistics.median(seconds) * 1000, 1)}
    (folder / TIMES).write_text(json.dumps(times, indent=1))


def read_times(folder: Path) -> dict[str, float]:
    """Milliseconds of a step by device, from the file of :func:`write_time`; empty without the file."""
    path = folder / TIMES
    found: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _plot(path: Path, history: History, curve: Sequence[tuple[int, float]]) -> None:
    names = sorted({name for entry in history for name in entry} - {STEP, LOSS})
    figure = Figure(figsize=(6, 1.8 * (1 + len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1 + len(names), sharex=True, squeeze=False)[:, 0]
    panels[0].plot(*zip(*curve, strict=True) if curve else ((), ()))
    panels[0].set_ylabel(LOSS)
    for axes, name in zip(panels[1:], names, strict=True):
        found = [(entry[STEP], entry[name]) for entry in history if name in entry]
        axes.plot(*zip(*found, strict=True), marker="o", markersize=3)
        axes.set_ylabel(name)
    panels[-1].set_xlabel(STEP)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, format="png", dpi=80)
