"""What is read off validation images: curves, cuts, deciles; and a site's own calibration."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from typer.testing import CliRunner

from ai_pipeline.errors import CardError
from ai_pipeline.models.reference import BINS, reference_of
from ai_pipeline.models.registry import SHIPPED, find, verify
from ai_training.calibrate import calibrated, deciles, platt, prevalence
from ai_training.cli.measure import calibrate_app
from ai_training.errors import DataMissing
from ai_training.evaluation.recalibrate import Refitted, recalibrate
from tests.unit.ai_training.nih_lab import nih_download

MODEL = "chest-efficientnet-lite0"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nih_download(tmp_path_factory.mktemp("clinic"), patients=64)


@pytest.fixture(scope="module")
def site(clinic: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Refitted]]:
    """The shipped card, fitted to the clinic's images."""
    return recalibrate(clinic, tmp_path_factory.mktemp("models"), find(MODEL), split="train")


def test_platt_scaling_recovers_the_curve_that_made_the_labels() -> None:
    random = np.random.default_rng(2)
    logit = random.normal(size=20000)
    truth = (random.random(20000) < 1 / (1 + np.exp(-(1.5 * logit - 1)))).astype(float)

    assert platt(truth, logit) == pytest.approx((1.5, -1.0), abs=0.1)


def test_a_useless_score_says_the_rate_to_everyone() -> None:
    truth = np.array([1.0, 0, 0, 0] * 50)
    point = calibrated(truth, -truth)

    assert 1 / (1 + np.exp(-point.intercept)) == pytest.approx(0.25)
    assert 0 <= point.absent_below <= point.threshold <= 1


def test_present_is_called_with_the_promised_specificity() -> None:
    random = np.random.default_rng(4)
    truth = (random.random(2000) < 0.2).astype(float)
    logit = random.normal(size=2000) + truth
    point = calibrated(truth, logit)

    called = 1 / (1 + np.exp(-(point.slope * logit + point.intercept))) >= point.threshold
    assert (~called[truth <= 0]).mean() >= 0.90


def test_deciles_cut_into_tenths() -> None:
    chance = np.random.default_rng(0).random((1000, 2))

    edges = deciles(chance)

    for column, row in zip(chance.T, edges, strict=True):
        assert np.histogram(column, [0, *row, 1])[0] == pytest.approx(np.full(BINS, 100), abs=1)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_deciles_of_one_value_still_rise(value: float) -> None:
    edges = deciles(np.full((50, 1), value))[0]

    assert len(edges) == 9
    assert all(low < high for low, high in pairwise(edges))
    assert edges[0] >= 0 and edges[-1] <= 1
    assert edges[0] == pytest.approx(value, abs=1e-5)


def test_prevalence_is_a_number_for_each_label() -> None:
    assert prevalence(np.array([[1, 0], [0, 0], [0, 0], [1, 0]]), ["Mass", "Hernia"]) == {
        "Mass": 0.5,
        "Hernia": 0.0,
    }


def test_a_sites_card_runs_beside_its_weights_and_says_whose_it_is(
    site: tuple[Path, list[Refitted]],
) -> None:
    path, _ = site
    card = find(MODEL, path.parent)

    verify(card)
    assert card.path == path
    assert card.version == f"{find(MODEL).version}-site"
    assert card.calibrated
    assert "Effusion" in card.details["calibration"]["method"]
    assert card.details["calibration"]["prevalence"]["Effusion"] == pytest.approx(0.5, abs=0.15)
    assert "metrics" not in card.details  # they were of other thresholds
    reference = reference_of(card)
    assert reference is not None
    assert {"Effusion", "Cardiomegaly"} <= set(reference.deciles) <= {label.name for label in card.labels}


def test_labels_with_few_positives_keep_their_curve(site: tuple[Path, list[Refitted]]) -> None:
    path, rows = site
    old = {label.name: label for label in find(MODEL).labels}
    new = {label.name: label for label in find(MODEL, path.parent).labels}
    kept = {row.name for row in rows if row.after is None}

    assert "Hernia" in kept and "Effusion" not in kept
    for name in kept:
        assert new[name].slope == old[name].slope
        assert new[name].threshold == old[name].threshold


def test_calibration_on_the_sites_images_makes_probabilities_truer(
    site: tuple[Path, list[Refitted]],
) -> None:
    row = next(row for row in site[1] if row.name == "Effusion")

    assert row.after is not None
    assert row.after < row.before  # on patients that the curve was not fitted to


def test_the_shipped_card_is_never_written_to(clinic: Path) -> None:
    before = (SHIPPED / f"{MODEL}.toml").read_bytes()

    with pytest.raises(CardError, match="another folder"):
        recalibrate(clinic, SHIPPED, find(MODEL), split="train", force=True)
    assert (SHIPPED / f"{MODEL}.toml").read_bytes() == before


def test_a_card_that_is_there_is_replaced_only_when_told_to(
    clinic: Path, site: tuple[Path, list[Refitted]]
) -> None:
    with pytest.raises(FileExistsError, match="--force"):
        recalibrate(clinic, site[0].parent, find(MODEL), split="train")


def test_a_split_without_adults_is_said_to_be_missing(clinic: Path, tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="no image of an adult"):
        recalibrate(clinic, tmp_path / "out", find(MODEL), split="autumn")


def test_the_verb_tells_label_by_label(clinic: Path, tmp_path: Path) -> None:
    arguments = ["--data", clinic, "--out", tmp_path / "site", "--split", "train", "--version", "9"]

    done = CliRunner().invoke(calibrate_app, [str(argument) for argument in arguments])

    assert done.exit_code == 0, done.output
    assert "Hernia" in done.stdout and "unchanged" in done.stdout
    card = tomllib.loads((tmp_path / "site" / f"{MODEL}.toml").read_text())
    assert card["version"] == "9"
