"""The commands that train and measure the ultrasound networks, from the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from ai_pipeline.burnin.tools import shared_tools
from ai_training.base import silent
from ai_training.cli import verbs
from ai_training.cli.verbs import evaluate_app, train_app

EXIT_DATA, EXIT_CONFIG, EXIT_USAGE = 66, 78, 2


def run(*words: str | Path) -> Result:
    app = typer.Typer()
    app.add_typer(train_app, name="train")
    app.add_typer(evaluate_app, name="evaluate")
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("train", "marks", "--out", "out", "--workers", "0", "--threads", "1"), EXIT_DATA),
        (("evaluate", "marks", "--models-dir", "none"), EXIT_CONFIG),
        (("evaluate", "marks", "--split", "train"), EXIT_USAGE),
        (("evaluate", "marks", "--style", "gothic"), EXIT_USAGE),
    ],
    ids=["no images", "no detector", "no such split", "no such style"],
)
def test_what_is_missing_or_wrong_is_told_by_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words, "--data", tmp_path)
    assert done.exit_code == status
    assert status != EXIT_DATA or len(done.stderr.strip().splitlines()) == 1


@pytest.mark.data
def test_the_filling_of_the_node_is_measured_beside_the_plain_one(data: Path) -> None:
    result = verbs._filling(data, shared_tools(), 2, silent)
    assert ({row["mask"] for row in result["rows"]}, result["reference"]) == (
        {"given", "detected"},
        "navier-stokes",
    )
    intervals = [row["inside"]["psnr"] for row in result["rows"]]
    assert all(low <= value <= high for value, low, high in intervals)
    assert any("difference" in row["inside"] for row in result["rows"])
