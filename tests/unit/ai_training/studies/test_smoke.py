"""Every study that comes with the package, at toy length: ``make studies-smoke``."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("torch")

from safetensors.torch import save_file

from ai_pipeline.networks.foreign import torchvision_network
from ai_training.cli.console import verb
from ai_training.cli.study import study
from ai_training.errors import ExperimentError
from ai_training.studies import experiment
from ai_training.studies.run import run_study
from tests.unit.ai_training.drawn_chests import drawn_chest_set

pytestmark = pytest.mark.skipif(not (find_spec("timm") and find_spec("torchvision")), reason="needs timm")
WEIGHTS = "weights/mobilenet_v2_imagenet_fp16.safetensors"
STUDIES = sorted(path.stem for path in experiment.SHIPPED.glob("*.toml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn chests, and the folder that the public sets have their weights in."""
    folder = drawn_chest_set(tmp_path_factory.mktemp("drawn")).parent
    (folder / WEIGHTS).parent.mkdir()
    state = torchvision_network("mobilenet_v2", 1).state_dict()
    kept = {name: value.half() for name, value in state.items() if name.startswith("features")}
    save_file(kept, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_from_its_file_to_its_report(name: str, data: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    verb(app, "study")(study)
    command = [name, "--data", str(data), "--out", str(tmp_path), "--toy", "--threads", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    arms = [arm.name for arm in experiment.load(experiment.shipped(name)).toy().arms]
    found = json.loads((tmp_path / "figures.json").read_text())
    assert [arm["name"] for arm in found["arms"]] == arms
    page = (tmp_path / "report.md").read_text()
    assert "Not for diagnostic use" in page
    assert all(f"| {name} |" in page for name in arms)
    assert (tmp_path / "arms.png").stat().st_size > 1000
    one_label = [arm for arm in found["study"]["arms"] if len(arm["task"]["labels"]) == 1]
    for drawn in ("roc.png", "maps.png"):
        assert (tmp_path / drawn).is_file() is (len(one_label) > 1)


def test_a_folder_of_another_study_is_refused(data: Path, tmp_path: Path) -> None:
    leak, other = (experiment.load(experiment.shipped(name)).toy() for name in ("leak", "backbones"))
    (tmp_path / "study.sha256").write_text("another")
    for wanted in (leak, other):
        with pytest.raises(ExperimentError, match="another study"):
            run_study(data, tmp_path, wanted, threads=1)
