"""The commands that train and measure the ultrasound networks, from the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("HersheyFonts")

from ai_pipeline.burnin.tools import shared_tools
from ai_training.base import silent
from ai_training.cli import verbs
from ai_training.cli.verbs import evaluate_app, train_app
from ai_training.text import figures_text

EXIT_DATA, EXIT_CONFIG, EXIT_USAGE = 66, 78, 2


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.add_typer(train_app, name="train")
    app.add_typer(evaluate_app, name="evaluate")
    return app


def test_training_without_images_ends_with_one_line(app: typer.Typer, tmp_path: Path) -> None:
    choices = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "0", "--threads", "1"]
    result = CliRunner().invoke(app, ["train", "marks", *choices])

    assert result.exit_code == EXIT_DATA
    assert len(result.stderr.strip().splitlines()) == 1


def test_measuring_a_detector_that_is_not_there_says_so(app: typer.Typer, tmp_path: Path) -> None:
    choices = ["--data", str(tmp_path), "--models-dir", str(tmp_path / "none")]
    result = CliRunner().invoke(app, ["evaluate", "marks", *choices])

    assert result.exit_code == EXIT_CONFIG


@pytest.mark.parametrize("option", [("--split", "train"), ("--style", "gothic")])
def test_a_wrong_choice_is_wrong_usage(app: typer.Typer, tmp_path: Path, option: tuple[str, str]) -> None:
    result = CliRunner().invoke(app, ["evaluate", "marks", "--data", str(tmp_path), *option])

    assert result.exit_code == EXIT_USAGE


@pytest.mark.data
def test_the_filling_of_the_node_is_measured_beside_the_plain_one(data: Path) -> None:
    result = verbs._filling(data, shared_tools(), 2, silent)

    assert {row["mask"] for row in result["rows"]} == {"given", "detected"}
    for row in result["rows"]:
        value, low, high = row["inside"]["psnr"]
        assert low <= value <= high
    assert result["reference"] == "navier-stokes"
    assert any("difference" in row["inside"] for row in result["rows"])


@pytest.mark.data
def test_the_table_of_inpainters_names_places_figures_and_intervals(app: typer.Typer, data: Path) -> None:
    choices = ["--data", str(data), "--split", "val", "--pictures", "2", "--threads", "1", "--json"]
    result = CliRunner().invoke(app, ["evaluate", "inpaint", *choices])

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    printed = figures_text(told)
    for part in ("telea", "difference", "uncleaned", "psnr", "kid"):
        assert part in printed
    assert {len(row["inside"]["psnr"]) for row in told["rows"]} == {3}
