"""The training engine: resumed to the bit after SIGKILL, averaged over batches, recorded."""

import json
import multiprocessing
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from torch.nn.functional import mse_loss
from torch.utils.data import Dataset
from typer.testing import CliRunner

from ai_training import commands
from ai_training.base import ExperimentError
from ai_training.engine import BEST, CHECKPOINT, Recipe, RecipeRun, RunOptions, Validation, carried_out
from ai_training.sets.files import rows

pytestmark = pytest.mark.smoke

RECIPE = Recipe(
    iterations=12, learning_rate=1e-2, validate_every=5, ema=0.9, weight_decay=0.1, threads=1, workers=0
)


class _Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = torch.from_numpy(np.random.default_rng(number).normal(size=(2, 4, 8)).astype(np.float32))
        return drawn[0], drawn[1, :, :2]


class _Toy(RecipeRun[Recipe]):
    """Draws from all global random numbers, as a network with dropout and a careless loss would."""

    CHOSEN_BY, MEMORY = "choice", torch.contiguous_format
    choices: Iterator[float] | None = None

    def new_network(self) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 2)
        )

    def examples(self) -> _Numbers:
        return _Numbers()

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        with self.autocast():
            made = self.network(batch[0])
        return mse_loss(made.float(), batch[1]) * (1 + random.random() + np.random.random())

    def validate(self) -> Validation:
        choice = next(self.choices) if self.choices else float(self.done)
        return Validation({"choice": choice}, "", self.average.state_dict(), {"drawn": np.array(choice)})


def _until_killed(out: Path, how: RunOptions, stage: Any) -> None:
    """Train up to step 8, then wait to be killed."""

    def report(_share: float, what: str) -> None:
        if what.startswith("iteration 8,"):
            stage.set()
            threading.Event().wait()

    with carried_out(how):
        _Toy(out, RECIPE).train(report)


@pytest.mark.parametrize(
    "chosen",
    [{}, {"precision": "bf16"}, {"accumulate": 3, "log": "csv"}],
    ids=["fp32", "bf16", "three batches a step, logged"],
)
def test_a_run_that_is_killed_and_resumed_ends_as_the_unbroken_one_to_the_bit(
    tmp_path: Path, chosen: dict[str, Any]
) -> None:
    how = RunOptions(device="cpu", save_minutes=0, **chosen)
    with carried_out(how):
        _Toy(tmp_path / "whole", RECIPE).finish()
    forks = multiprocessing.get_context("fork")
    stage = forks.Event()
    child = forks.Process(target=_until_killed, args=(tmp_path / "killed", how, stage), daemon=True)
    child.start()
    assert stage.wait(120)
    child.kill()
    child.join()
    assert torch.load(tmp_path / "killed" / CHECKPOINT, weights_only=True)["done"] == 7

    random.seed(99), np.random.seed(99)
    with carried_out(how):
        _Toy(tmp_path / "killed", RECIPE).finish(resume=True)

    for name in (CHECKPOINT, BEST):
        whole, resumed = (torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "killed"))
        # each number of the checkpoints
        assert json.dumps(whole, default=torch.Tensor.tolist) == json.dumps(
            resumed, default=torch.Tensor.tolist
        )
    assert (tmp_path / "whole/history.json").read_text() == (tmp_path / "killed/history.json").read_text()
    logs = [file.read_text() for file in sorted(tmp_path.glob("*/log/metrics.csv"))]
    assert logs == (logs[:1] * 2 if "log" in chosen else [])


def test_three_batches_a_step_are_one_batch_three_times_as_large(tmp_path: Path) -> None:
    """Of a network without norms and dropout, whose gradients are the mean of the gradients of its parts."""

    class Plain(_Toy):
        def new_network(self) -> torch.nn.Module:
            return torch.nn.Linear(8, 2)

        def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return mse_loss(self.network(batch[0]), batch[1])

    class Joined(Plain):
        def batches(self, numbers: range) -> Any:
            parts = [_Numbers()[number] for number in range(3 * numbers.start, 3 * numbers.stop)]
            for first in range(0, len(parts), 3):
                inputs, wanted = zip(*parts[first : first + 3], strict=True)
                yield torch.cat(inputs), torch.cat(wanted)

    joined = Joined(tmp_path / "joined", RECIPE)
    with carried_out(RunOptions(accumulate=3)):
        apart = Plain(tmp_path / "apart", RECIPE)
    joined.finish()
    apart.finish()
    torch.testing.assert_close(apart.network.weight, joined.network.weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("log", ["csv", "tensorboard"])
def test_a_log_has_each_step_and_each_validation(tmp_path: Path, log: Any) -> None:
    if log == "tensorboard":
        pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    with carried_out(RunOptions(log=log)):
        run = _Toy(tmp_path, RECIPE)
    run.finish()
    if log == "csv":
        found = rows(tmp_path / "log/metrics.csv")
        assert [int(row["step"]) for row in found if row["step_loss"]] == list(range(1, 13))
        assert [float(row["choice"]) for row in found if row["choice"]] == [5.0, 10.0, 12.0]
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "log")).Reload()
        assert [event.step for event in events.Scalars("step_loss")] == list(range(1, 13))
        assert [event.value for event in events.Scalars("choice")] == [5.0, 10.0, 12.0]


def test_another_precision_or_recipe_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    _Toy(tmp_path, RECIPE).train(until=5)

    for other in (RunOptions(precision="bf16"), RunOptions(accumulate=2)):
        with carried_out(other), pytest.raises(ExperimentError, match="another precision or --accumulate"):
            _Toy(tmp_path, RECIPE).load()
    with pytest.raises(ExperimentError, match="another recipe"):
        _Toy(tmp_path, replace(RECIPE, learning_rate=1)).load()


def test_where_no_run_was_begun_none_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="no run was begun there that was saved"):
        _Toy(tmp_path / "new", RECIPE).finish(resume=True)


def test_a_run_stops_early_keeps_the_best_and_is_not_resumed_past_its_end(tmp_path: Path) -> None:
    recipe = Recipe(iterations=12, learning_rate=1e-2, validate_every=2, ema=0.9, threads=1, workers=0)
    with carried_out(RunOptions(patience=2)):
        run, again = _Toy(tmp_path, recipe), _Toy(tmp_path, recipe)
    run.choices = iter([0.5, 0.9, float("nan"), 0.7, 1.0])
    run.finish()
    again.finish(resume=True)
    assert (run.done, again.done, run.best["iteration"]) == (8, 8, 4)
    with np.load(tmp_path / "validation.npz") as arrays:
        assert float(arrays["drawn"]) == 0.9
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry["iteration"] for entry in history] == [2, 4, 6, 8]
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("iterations", [1, 9, 10, 11])  # the tenth is the first that the rate may rise for
def test_a_short_run_has_a_learning_rate_for_each_step(tmp_path: Path, iterations: int) -> None:
    run = _Toy(tmp_path, replace(RECIPE, iterations=iterations, validate_every=20))
    run.finish()
    assert run.done == iterations


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "fp16", "--device", "cpu"], "fp16 needs a GPU"),
        (["--device", "cuda"], "no such device"),
        (["--log", "tensorboard"], "need the extra 'tensorboard'"),
    ],
)
def test_what_is_not_here_ends_a_command_before_it_reads(
    tmp_path: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(commands, "find_spec", lambda _: None)
    app = typer.Typer()

    @app.callback()
    def _several() -> None:
        """Commands have names."""

    @commands.verb(app, "toy")
    def toy(*, out: commands.Out) -> str:
        raise AssertionError(out)

    result = CliRunner().invoke(app, ["toy", "--out", str(tmp_path), *arguments])

    assert result.exit_code == commands.EXIT_CONFIG
    assert said in result.output


def test_off_a_terminal_there_is_a_line_a_minute_beside_milestones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The module's own name for time: pytest reads the clock of this process, too.
    monkeypatch.setattr(
        commands, "time", SimpleNamespace(monotonic=iter([0.0, 5.0, 10.0, 20.0, 61.0, 70.0, 122.0]).__next__)
    )

    with commands.progress() as report:
        for share, what in (
            (0.0, "images left out: 3\n"),
            (0.1, "a"),
            (0.2, "b\n"),
            (0.3, "c"),
            (0.4, "d"),
            (0.5, "e"),
        ):
            report(share, what)

    assert capsys.readouterr().err == "images left out: 3\n20% b\n50% e\n"
