"""The figures of an evaluation are what they say: equal to scikit-learn's, by patient, inside sources."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.metrics import average_precision_score, roc_auc_score

from ai_training import metrics
from ai_training.calibration import calibration, slope_and_intercept


def _case(images: int = 80, seed: int = 0) -> tuple[metrics.Floats, metrics.Floats]:
    random = np.random.default_rng(seed)
    truth = (random.random(images) < 0.3).astype(float)
    return truth, np.round(random.normal(size=images) + truth, 1)  # rounded: with ties


def test_the_weighted_auc_is_scikit_learns() -> None:
    truth, score = _case()
    weights = np.random.default_rng(1).integers(0, 4, (5, 80)).astype(float)

    ours = metrics.resampled_auc(truth, score, weights)

    assert ours == pytest.approx([roc_auc_score(truth, score, sample_weight=row) for row in weights])


def test_the_weighted_average_precision_is_scikit_learns() -> None:
    truth, score = _case(seed=3)
    weights = np.random.default_rng(2).integers(0, 4, (5, 80)).astype(float)

    ours = metrics.resampled_average_precision(truth, score, weights)

    expected = [average_precision_score(truth, score, sample_weight=row) for row in weights]
    assert ours == pytest.approx(expected)


def test_the_bootstrap_draws_patients_not_images() -> None:
    weights = metrics.patient_weights(["a", "b", "a", "c"], resamples=50)

    assert (weights[:, 0] == weights[:, 2]).all()
    assert weights[:, [0, 1, 3]].sum(1) == pytest.approx(np.full(50, 3.0))


def test_a_score_differs_from_itself_by_nothing_and_from_noise_by_much() -> None:
    truth, score = _case(400)
    noise = np.random.default_rng(5).normal(size=400)
    patients = [str(i // 2) for i in range(400)]
    columns = [a[:, None] for a in (truth, score, noise)]

    one = np.full(400, "one source")
    same = metrics.within_source_difference(columns[0], columns[1], columns[1], one, patients)
    better = metrics.within_source_difference(*columns, one, patients)

    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert better.low > 0


def test_a_score_that_only_knows_the_source_is_worth_nothing_within_it() -> None:
    random = np.random.default_rng(7)
    sources = np.repeat(["ill", "well"], 300)
    truth = (random.random(600) < np.where(sources == "ill", 0.8, 0.1)).astype(float)
    score = np.where(sources == "ill", 1.0, 0.0) + random.normal(scale=1e-3, size=600)

    assert metrics.auc(truth, score) > 0.8
    within = metrics.within_source_interval(
        truth[:, None], score[:, None], sources, [str(i) for i in range(600)]
    )
    assert within.low < 0.5 < within.high


def test_cells_that_are_no_result_are_left_out() -> None:
    truth = np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1))
    sources = np.repeat(["a", "b"], 20)

    found = metrics.cells(truth, sources, fewest=10, left_out={("b", 1)})

    assert [(cell.source, cell.label) for cell in found] == [("a", 0), ("a", 1), ("b", 0)]


def test_three_of_three_is_not_certainty() -> None:
    weights = metrics.patient_weights(["a", "b", "c"])
    everything = np.ones(3, bool)

    found = metrics.share(everything, everything, weights)

    assert found.value == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 3))


def test_calibration_error_is_zero_for_the_truth_and_large_for_the_opposite() -> None:
    truth = np.repeat([0.0, 1.0], 50)

    assert metrics.calibration_error(truth, truth) == 0.0
    assert metrics.calibration_error(truth, 1 - truth) == 1.0


def test_slope_and_intercept_are_those_of_the_curve_that_made_the_labels() -> None:
    random = np.random.default_rng(2)
    logit = random.normal(size=30000)
    truth = (random.random(30000) < _logistic(0.5 * logit + 0.7)).astype(float)

    slope, intercept = slope_and_intercept(truth, _logistic(logit), np.ones((1, 30000)))

    assert slope[0] == pytest.approx(0.5, abs=0.03)
    assert intercept[0] > 0.5  # the probabilities are too low


def test_well_calibrated_probabilities_have_figures_around_the_perfect_ones() -> None:
    random = np.random.default_rng(4)
    chance = _logistic(random.normal(-1, 1, size=(3000, 1)))
    truth = (random.random((3000, 1)) < chance).astype(float)
    weights = metrics.patient_weights([str(i) for i in range(3000)], resamples=300)

    found = calibration(truth, chance, ["Effusion"], weights, fewest=15)
    row = found["labels"]["Effusion"]

    assert row["slope"][1] < 1 < row["slope"][2]
    assert row["intercept"][1] < 0 < row["intercept"][2]
    assert row["ece"][1] <= row["ece"][0] <= row["ece"][2] < 0.06
    assert found["prevalence"]["Effusion"] == pytest.approx(truth.mean(), abs=1e-4)


def test_a_label_with_few_positives_has_no_calibration() -> None:
    truth = np.zeros((100, 1))
    truth[:5] = 1

    found = calibration(truth, np.full((100, 1), 0.1), ["Hernia"], np.ones((3, 100)), fewest=15)

    assert found["labels"] == {}
    assert found["prevalence"] == {"Hernia": 0.05}


def _logistic(value: metrics.Floats) -> metrics.Floats:
    return np.asarray(1 / (1 + np.exp(-value)))
