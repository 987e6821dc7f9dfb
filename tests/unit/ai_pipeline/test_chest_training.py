"""Training and evaluation: the figures are what they say, the runs repeat, the splits are kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from sklearn.metrics import roc_auc_score

from ai_pipeline.registry import find
from ai_pipeline.training import metrics
from ai_pipeline.training.calibrate import operating_point, platt
from ai_pipeline.training.chestdata import LABELS, DataMissing, chest_images
from ai_pipeline.training.evaluate import evaluate_chest


def test_the_weighted_auc_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    truth = (random.random(80) < 0.3).astype(float)
    score = np.round(random.normal(size=80) + truth, 1)  # rounded: with ties
    weights = random.integers(0, 4, (5, 80)).astype(float)

    ours = metrics.resampled_auc(truth, score, weights)

    expected = [roc_auc_score(truth, score, sample_weight=row) for row in weights]
    assert ours == pytest.approx(expected)


def test_the_bootstrap_draws_patients_not_images() -> None:
    weights = metrics.patient_weights(["a", "b", "a", "c"], resamples=50)

    assert (weights[:, 0] == weights[:, 2]).all()
    assert weights[:, [0, 1, 3]].sum(1) == pytest.approx(np.full(50, 3.0))


def test_permuted_labels_score_chance() -> None:
    random = np.random.default_rng(1)
    score = random.normal(size=400)
    truths = [random.permutation(np.repeat([0.0, 1.0], 200)) for _ in range(50)]

    assert np.mean([metrics.auc(truth, score) for truth in truths]) == pytest.approx(0.5, abs=0.02)


def test_calibration_error_is_zero_for_the_truth_and_large_for_the_opposite() -> None:
    truth = np.repeat([0.0, 1.0], 50)

    assert metrics.calibration_error(truth, truth) == 0.0
    assert metrics.calibration_error(truth, 1 - truth) == 1.0


def test_platt_scaling_recovers_the_curve_that_made_the_labels() -> None:
    random = np.random.default_rng(2)
    logit = random.normal(size=20000)
    truth = (random.random(20000) < 1 / (1 + np.exp(-(1.5 * logit - 1)))).astype(float)

    assert platt(truth, logit) == pytest.approx((1.5, -1.0), abs=0.1)


def test_a_useless_score_says_the_rate_to_everyone() -> None:
    truth = np.array([1.0, 0, 0, 0] * 50)
    point = operating_point(truth, -truth)

    assert 1 / (1 + np.exp(-point.intercept)) == pytest.approx(0.25)
    assert 0 <= point.absent_below <= point.threshold <= 1


def test_present_is_called_with_the_promised_specificity() -> None:
    random = np.random.default_rng(4)
    truth = (random.random(2000) < 0.2).astype(float)
    logit = random.normal(size=2000) + truth
    point = operating_point(truth, logit)

    called = 1 / (1 + np.exp(-(point.slope * logit + point.intercept))) >= point.threshold
    assert metrics.specificity(truth, called) >= 0.90


def test_missing_data_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"manifest\.csv"):
        chest_images(tmp_path)


@pytest.mark.data
def test_no_patient_is_in_two_splits_and_labels_are_in_the_cards_order(data: Path) -> None:
    splits: dict[str, set[str]] = {}
    for image in chest_images(data):
        splits.setdefault(image.patient, set()).add(image.split)

    assert all(len(found) == 1 for found in splits.values())
    assert tuple(label.name for label in find("chest-efficientnet-lite0").labels) == LABELS


@pytest.mark.data
def test_the_evaluation_prints_the_figures_of_the_card(data: Path, tmp_path: Path) -> None:
    result = evaluate_chest(data, "test", cache=tmp_path)
    card = find("chest-efficientnet-lite0").details["metrics"]

    assert result["cxr_nih"]["mean_auc"] == pytest.approx(card["mean_auc"], abs=0.002)
    assert result["cxr_nih"]["difference_to_hog"][1] > 0
    for row in result["cxr_nih"]["labels"]:
        assert row["auc"] == pytest.approx(card["labels"][row["label"]]["auc"], abs=0.01)
    assert result["boxes"]["pointing"]["difference"][0] > 0
    assert result["gate"]["refused"]["nih_chests"] <= 0.05
