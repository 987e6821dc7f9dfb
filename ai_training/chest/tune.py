"""``ai-pipeline tune``: search settings of a chest experiment for the best validation AUC, with Optuna.

The experiment's file has a table ``[search]``: keys of the experiment, each with a range or a list of values.
The test split is not used.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import optuna
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import Field, model_validator

from ai_training.chest.experiment import Experiment
from ai_training.chest.fit import ClassifierRun, fit
from ai_training.errors import ExperimentError
from ai_training.experiments import ExperimentPart, checked, laid_over, read_table
from ai_training.progress import Report, part_of, silent

STORE, TABLE, PLOT = "trials.db", "trials.csv", "trials.png"
Value = bool | int | float | str


class Range(ExperimentPart):
    """Values from ``low`` to ``high``, whole numbers if both are; ``log``: evenly spaced in the logarithm."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _has_values(self) -> Range:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 with log")
        return self

    def suggested(self, trial: Trial, key: str) -> Value:
        """The value that ``trial`` proposes for ``key``, within this range."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)


class SearchSpace(ExperimentPart):
    """The experiment that trials start from, and the keys that they change, such as ``augment.rotation``."""

    base: Experiment
    search: Annotated[dict[str, Range | tuple[Value, ...]], Field(min_length=1)]

    def of(self, values: Mapping[str, Any]) -> Experiment:
        """The base experiment with ``values`` in place of its own. Raises ExperimentError, which names a
        wrong key or value.
        """
        change: dict[str, Any] = {}
        for key, value in values.items():
            change = laid_over(change, _nested(key.split("."), value))
        return self.base.changed(self.base.name, change)

    def suggested(self, trial: Trial) -> Experiment:
        """The base experiment with the values that ``trial`` proposes."""
        return self.of(
            {
                key: one.suggested(trial, key)
                if isinstance(one, Range)
                else trial.suggest_categorical(key, one)
                for key, one in self.search.items()
            }
        )


def _nested(keys: Sequence[str], value: Value) -> dict[str, Any]:
    """``{"augment": {"rotation": 5}}`` of the keys ``augment``, ``rotation``."""
    first, *rest = keys
    return {first: _nested(rest, value) if rest else value}


def load(path: Path) -> SearchSpace:
    """Read an experiment with ``[search]``. Raises ExperimentError for each wrong key or value, OSError."""
    table = read_table(path)
    search = table.pop("search", {})
    base = checked(Experiment, table, str(path))
    found = checked(SearchSpace, {"base": base, "search": search}, str(path))
    for key, one in found.search.items():
        for value in (one.low, one.high) if isinstance(one, Range) else one:
            found.of({key: value})
    return found


def tune(
    data: Path,
    out: Path,
    search: SearchSpace,
    trials: int,
    *,
    threads: int = 0,
    cache: Path | None = None,
    report: Report = silent,
) -> FrozenTrial:
    """Run trials until ``out`` holds ``trials`` of them; returns the one with the highest validation AUC.

    An interrupted search continues with the next trial. Writes the trials as a table, as a plot and as
    Optuna's database, and each run into a folder of its own. Raises DataMissing, ExperimentError.
    """
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{(out / STORE).resolve()}",
        sampler=optuna.samplers.TPESampler(seed=search.base.seed),
        study_name="search",
        load_if_exists=True,
        direction="maximize",
    )
    text = search.model_dump_json()
    if study.user_attrs.get("search", text) != text:
        raise ExperimentError(f"{out} holds trials of another search: take another folder")
    study.set_user_attr("search", text)

    def value(trial: Trial) -> float:
        part = part_of(report, len(_finished(study)), trials, f"trial {trial.number}")
        run = fit(
            data,
            out / f"trial-{trial.number}",
            search.suggested(trial),
            threads=threads,
            cache=cache or out / "cache",
            report=part,
        )
        return max(entry[ClassifierRun.CHOSEN_BY] for entry in run.history)

    while len(_finished(study)) < trials:
        study.optimize(value, n_trials=1)
        _write(out, _finished(study), list(search.search))
    return study.best_trial


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _write(out: Path, trials: list[FrozenTrial], keys: list[str]) -> None:
    with (out / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("trial", *keys, ClassifierRun.CHOSEN_BY))
        writer.writerows((one.number, *(one.params[key] for key in keys), one.value) for one in trials)
    figure = Figure(figsize=(3 * len(keys), 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, keys, strict=True):
        axes.plot([one.params[key] for one in trials], [one.value for one in trials], "o", markersize=4)
        axes.set_xlabel(key)
    panels[0].set_ylabel("validation AUC")
    figure.savefig(out / PLOT, dpi=80)
