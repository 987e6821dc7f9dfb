"""What is installed: the run time carries no training, and no weights that it never runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests import wheels
from tests.import_graph import modules
from tests.wheels import ROOT

CARDS = ROOT / "ai_pipeline" / "cards"
RUN_TIME = ("pyproject.toml", "README.md", "LICENSE", "ai_pipeline", "dicom_node")
HIDE_TRAINING = """
from importlib import metadata
found = metadata.Distribution.discover.__func__
metadata.Distribution.discover = classmethod(
    lambda cls, **how: (one for one in found(cls, **how) if one.name != "dicom-ai-node-training")
)
"""


@pytest.fixture(scope="module")
def run_time(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What lies in the wheel of the run time."""
    return zipfile.ZipFile(wheels.build(ROOT, tmp_path_factory.mktemp("run-time"), *RUN_TIME)).namelist()


def programs(*packages: str) -> set[str]:
    """Every module of these packages, migrations among them, as a wheel names it."""
    return {str(path.relative_to(ROOT)) for path in modules(*packages).values()}


def test_the_wheel_of_the_run_time_carries_every_module(run_time: list[str]) -> None:
    found = {name for name in run_time if name.endswith(".py")}
    assert found == programs("ai_pipeline", "dicom_node")


def test_the_wheel_of_the_run_time_carries_no_training(run_time: list[str]) -> None:
    assert {name.split("/")[0] for name in run_time if ".dist-info" not in name} == {
        "ai_pipeline",
        "dicom_node",
    }
    assert {"ai_pipeline/py.typed", "dicom_node/store/migrations/env.py"} < set(run_time)


def test_the_wheel_carries_the_weights_of_its_cards_and_no_others(run_time: list[str]) -> None:
    cards = {Path(name).name for name in run_time if name.startswith("ai_pipeline/cards/")}
    assert cards == {path.name for path in CARDS.glob("*.toml")}
    rows = [row for name in cards for row in tomllib.loads((CARDS / name).read_text())["weights"]]
    ours = {row["file"] for row in rows if "package" not in row}
    assert {Path(name).name for name in run_time if name.startswith("ai_pipeline/weights/")} == ours


def test_every_network_that_the_run_time_carries_is_run_by_a_pipeline_or_by_a_verb() -> None:
    """Networks that lost a study belong to its command."""
    from ai_pipeline import pipelines
    from ai_pipeline.despeckle.despeckler import MODEL as DESPECKLER
    from ai_pipeline.models.registry import cards

    ours = [
        name for name in pipelines.PIPELINES if pipelines.PIPELINES[name].value.startswith("ai_pipeline.")
    ]
    run = {model.id for name in ours for model in pipelines.create(name).models()}
    assert {card.id for card in cards()} == run | {DESPECKLER}


def test_the_wheel_of_the_console_carries_its_pages(tmp_path: Path) -> None:
    inside = zipfile.ZipFile(wheels.build(ROOT / "dicom_console", tmp_path)).namelist()
    assert {name.split("/")[0] for name in inside if ".dist-info" not in name} == {"dicom_console"}
    assert {name for name in inside if name.endswith(".py")} == programs("dicom_console")
    assert {"dicom_console/templates/base.html", "dicom_console/static/live.js"} < set(inside)


def test_the_wheel_of_training_carries_its_experiments_and_what_the_studies_compare(tmp_path: Path) -> None:
    inside = zipfile.ZipFile(wheels.build(ROOT / "ai_training", tmp_path)).namelist()
    assert {name.split("/")[0] for name in inside if ".dist-info" not in name} == {"ai_training"}
    assert {name for name in inside if name.endswith(".py")} == programs("ai_training")
    for name in (
        "ultrasound/inpaint/compared/ultrasound-inpaint-unet",
        "ultrasound/inpaint/compared/ultrasound-inpaint-vae",
        "despeckle/compared/ultrasound-despeckle-diconvae-l1-ms-ssim",
    ):
        assert {f"ai_training/{name}.toml", f"ai_training/{name}.onnx"} < set(inside)
    assert "ai_training/chest/experiments/chest.toml" in inside


@pytest.mark.parametrize("verb", ["train", "evaluate", "calibrate", "split", "export"])
def test_a_verb_of_training_says_what_to_install(verb: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE_TRAINING)
    done = subprocess.run(
        [sys.executable, "-m", "ai_pipeline", verb, "chest", "--data", "none", "--out", "none"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 78
    [line] = done.stderr.splitlines()
    assert line.endswith("pip install -c constraints.txt ./ai_training")
