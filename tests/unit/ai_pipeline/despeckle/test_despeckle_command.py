"""``ai-pipeline run --despeckle``, and the network that ships: the node has neither."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ai_pipeline.burnin import pipeline
from ai_pipeline.burnin.pipeline import Ultrasound
from ai_pipeline.cli import app
from ai_pipeline.contract import DerivedImage, ImageHeader, ImageKind, Progress
from ai_pipeline.despeckle.despeckler import MODEL, Despeckler
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.models import registry
from ai_pipeline.pipelines import create
from tests.unit.ai_pipeline.phantoms import ArrayImage
from tests.unit.heads import drawn_head


def silent(share: float, what: str) -> None:
    pass


def speckled() -> np.ndarray:
    noise = np.random.default_rng(1).rayleigh(0.5, (345, 512))
    return np.clip(drawn_head()[0] * noise, 0, 255).astype(np.uint8)


def test_the_network_that_ships_takes_speckle_away_and_keeps_the_size() -> None:
    registry.verify(registry.find(MODEL))
    picture = speckled()[:301, :403].astype(np.float32) / 255

    made = Despeckler.active().picture(picture)

    assert made.shape == picture.shape
    flat = np.s_[:60, :60]  # tissue of one grey
    assert made[flat].std() < 0.8 * picture[flat].std()
    assert made[flat].mean() == pytest.approx(picture[flat].mean(), rel=0.15)


def test_the_command_line_gives_the_cleaned_picture_once_more(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "us.png"), speckled())
    given = ["--pipeline", "ultrasound", "--modality", "US", "--json", "--despeckle", "--out", str(tmp_path)]

    done = CliRunner().invoke(app, ["run", str(tmp_path / "us.png"), *given])

    assert done.exit_code == 0, done.output
    images = {image["kind"]: image["path"] for image in json.loads(done.stdout)["images"]}
    cleaned, less = (cv2.imread(images[kind], cv2.IMREAD_GRAYSCALE) for kind in ("cleaned", "despeckled"))
    assert cleaned is not None
    assert less is not None
    assert less.shape == cleaned.shape
    assert np.abs(np.diff(less.astype(int))).mean() < 0.9 * np.abs(np.diff(cleaned.astype(int))).mean()


def test_what_cannot_be_despeckled_is_still_cleaned_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(
        self: Despeckler, cleaned: DerivedImage, header: ImageHeader, report: Progress, kept: object
    ) -> None:
        raise CleaningFailed("speckle is reduced on unsigned samples only")

    monkeypatch.setattr(pipeline.Despeckler, "despeckle", refuses)

    result = Ultrasound(despeckler=Despeckler.active()).run([ArrayImage(speckled()[None])], silent, {})

    assert {image.kind for image in result.images} == {ImageKind.CLEANED, ImageKind.MASK}
    assert "not_despeckled" in {note.name for note in result.quality}
    assert MODEL in {model.id for model in result.models}


def test_the_pipeline_of_a_node_knows_no_despeckler() -> None:
    assert MODEL not in {model.id for model in create("ultrasound").models()}


@pytest.mark.parametrize("option", ["despeckle", "despeckle=false"])
def test_the_former_option_is_refused_with_what_to_do_instead(tmp_path: Path, option: str) -> None:
    cv2.imwrite(str(tmp_path / "us.png"), speckled())
    given = ["--modality", "US", "--out", str(tmp_path), "--option", option]

    done = CliRunner().invoke(app, ["run", str(tmp_path / "us.png"), *given], env={"COLUMNS": "400"})

    assert done.exit_code == 2
    assert "knows no option despeckle" in done.output
    assert "leave it out (`ai-pipeline run --despeckle`" in done.output


def test_a_pipeline_that_cleans_nothing_removes_no_speckle(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "us.png"), speckled())
    given = ["--pipeline", "fetal_head", "--modality", "US", "--despeckle", "--out", str(tmp_path)]

    done = CliRunner().invoke(app, ["run", str(tmp_path / "us.png"), *given], env={"COLUMNS": "400"})

    assert done.exit_code == 2
    assert "fetal_head removes no speckle" in done.output
