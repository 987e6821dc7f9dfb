"""A search of settings: it goes on where it stopped, and refuses what it cannot try before it trains."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("optuna")

import typer
from typer.testing import CliRunner

from ai_training.cli.console import EXIT_CONFIG
from ai_training.commands import add_to
from tests.unit.ai_training.drawn_chests import drawn_chest_set

EXPERIMENT = """
[network]
size = 64
initial = "random"
[images.chain]
side = 64
[schedule]
iterations = 2
batch = 4
[search]
"schedule.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
"augment.rotation" = [0.0, 5.0]
"""


def _tune(file: Path, data: Path, out: Path, trials: int) -> tuple[int, str]:
    app = typer.Typer()
    add_to(app)
    arguments = ["tune", str(file), "--data", str(data), "--out", str(out), "--trials", str(trials)]
    found = CliRunner().invoke(app, [*arguments, "--threads", "1", "--device", "cpu", "--json"])
    return found.exit_code, found.stdout if found.exit_code == 0 else found.output


def test_a_search_goes_on_where_it_stopped_and_names_the_best_run(tmp_path: Path) -> None:
    file, out, data = tmp_path / "search.toml", tmp_path / "out", drawn_chest_set(tmp_path / "data")
    file.write_text(EXPERIMENT)

    first = _tune(file, data, out, 1)
    code, printed = _tune(file, data, out, 3)

    assert first[0] == code == 0, (first, printed)
    with (out / "trials.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert {row["augment.rotation"] for row in rows} <= {"0.0", "5.0"}
    assert all(1e-4 <= float(row["schedule.learning_rate"]) <= 1e-2 for row in rows)
    best = json.loads(printed)
    assert best["validation AUC"] == max(float(row["validation_auc"]) for row in rows)
    assert (Path(best["run"]) / "best.pt").is_file()
    assert (out / "trials.png").read_bytes().startswith(b"\x89PNG")

    file.write_text(EXPERIMENT.replace("1e-2", "1e-3"))
    code, printed = _tune(file, data, out, 4)
    assert code == EXIT_CONFIG
    assert "trials of another search" in printed


@pytest.mark.parametrize(
    ("search", "named"),
    [
        ('"augment.turn" = [1.0]', "augment.turn"),
        ('"augment.rotation" = [5.0, 400.0]', "augment.rotation"),
        ('"schedule.batch" = { low = 8, high = 2 }', "low must be below high"),
        ("", "search"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_it_trains(tmp_path: Path, search: str, named: str) -> None:
    file = tmp_path / "search.toml"
    file.write_text(f"[search]\n{search}\n")

    code, printed = _tune(file, tmp_path / "none", tmp_path / "out", 1)

    assert code == EXIT_CONFIG, printed
    assert named in printed.replace("\n", " ")
