"""The figures of an evaluation are what they say: equal to scikit-learn's, by patient, inside sources."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ai_pipeline.models.reference import BINS
from ai_training import metrics
from ai_training.calibration import calibrated, calibration, deciles, platt, slope_and_intercept


def _case(images: int = 80, seed: int = 0) -> tuple[metrics.Floats, metrics.Floats]:
    random = np.random.default_rng(seed)
    truth = (random.random(images) < 0.3).astype(float)
    return truth, np.round(random.normal(size=images) + truth, 1)  # rounded: with ties


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (metrics.resampled_auc, roc_auc_score),
        (metrics.resampled_average_precision, average_precision_score),
    ],
)
def test_weighted_figures_are_scikit_learns(
    ours: Callable[..., object], theirs: Callable[..., object]
) -> None:
    truth, score = _case()
    weights = np.random.default_rng(1).integers(0, 4, (5, 80)).astype(float)
    expected = [theirs(truth, score, sample_weight=row) for row in weights]
    assert ours(truth, score, weights) == pytest.approx(expected)


def test_the_bootstrap_draws_patients_not_images() -> None:
    weights = metrics.patient_weights(["a", "b", "a", "c"], resamples=50)

    assert (weights[:, 0] == weights[:, 2]).all()
    assert weights[:, [0, 1, 3]].sum(1) == pytest.approx(np.full(50, 3.0))


def test_a_score_differs_from_itself_by_nothing_and_from_noise_by_much() -> None:
    truth, score = (column[:, None] for column in _case(400))
    noise, one = np.random.default_rng(5).normal(size=(400, 1)), np.full(400, "one source")
    patients = [str(i // 2) for i in range(400)]
    same, better = (
        metrics.within_source_difference(truth, score, other, one, patients) for other in (score, noise)
    )
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0) and better.low > 0


def test_a_score_that_only_knows_the_source_is_worth_nothing_within_it() -> None:
    random, ill = np.random.default_rng(7), np.repeat([True, False], 300)
    truth = (random.random(600) < np.where(ill, 0.8, 0.1)).astype(float)
    score, patients = ill + random.normal(scale=1e-3, size=600), [str(i) for i in range(600)]
    within = metrics.within_source_interval(truth[:, None], score[:, None], ill.astype(str), patients)
    assert metrics.auc(truth, score) > 0.8 and within.low < 0.5 < within.high


def test_cells_that_are_no_result_are_left_out() -> None:
    truth = np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1))
    sources = np.repeat(["a", "b"], 20)

    found = metrics.cells(truth, sources, fewest=10, left_out={("b", 1)})

    assert [(cell.source, cell.label) for cell in found] == [("a", 0), ("a", 1), ("b", 0)]


def test_three_of_three_is_not_certainty() -> None:
    everything = np.ones(3, bool)
    found = metrics.share(everything, everything, metrics.patient_weights(["a", "b", "c"]))
    assert (found.value, found.low) == (1.0, pytest.approx(0.025 ** (1 / 3)))


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
    slope, intercept, error = (found["labels"]["Effusion"][name] for name in ("slope", "intercept", "ece"))
    assert slope[1] < 1 < slope[2] and intercept[1] < 0 < intercept[2]
    assert error[1] <= error[0] <= error[2] < 0.06
    assert found["prevalence"]["Effusion"] == pytest.approx(truth.mean(), abs=1e-4)


def test_a_label_with_few_positives_has_no_calibration() -> None:
    truth = np.zeros((100, 1))
    truth[:5] = 1

    found = calibration(truth, np.full((100, 1), 0.1), ["Hernia"], np.ones((3, 100)), fewest=15)

    assert found["labels"] == {}
    assert found["prevalence"] == {"Hernia": 0.05}


def _logistic(value: metrics.Floats) -> metrics.Floats:
    return np.asarray(1 / (1 + np.exp(-value)))


def test_platt_scaling_recovers_the_curve_that_made_the_labels() -> None:
    random = np.random.default_rng(2)
    logit = random.normal(size=20000)
    truth = (random.random(20000) < _logistic(1.5 * logit - 1)).astype(float)
    assert platt(truth, logit) == pytest.approx((1.5, -1.0), abs=0.1)


def test_a_useless_score_says_the_rate_to_everyone() -> None:
    truth = np.array([1.0, 0, 0, 0] * 50)
    point = calibrated(truth, -truth)

    assert 1 / (1 + np.exp(-point.intercept)) == pytest.approx(0.25)
    assert 0 <= point.absent_below <= point.threshold <= 1


def test_present_is_called_with_the_promised_specificity() -> None:
    random = np.random.default_rng(4)
    truth = (random.random(2000) < 0.2).astype(float)
    point = calibrated(truth, logit := random.normal(size=2000) + truth)
    called = _logistic(point.slope * logit + point.intercept) >= point.threshold
    assert (~called[truth <= 0]).mean() >= 0.90


def test_deciles_cut_into_tenths() -> None:
    chance = np.random.default_rng(0).random((1000, 2))

    edges = deciles(chance)

    for column, row in zip(chance.T, edges, strict=True):
        assert np.histogram(column, [0, *row, 1])[0] == pytest.approx(np.full(BINS, 100), abs=1)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_deciles_of_one_value_still_rise(value: float) -> None:
    edges = deciles(np.full((50, 1), value))[0]
    assert len(edges) == 9 and all(low < high for low, high in pairwise(edges))
    assert 0 <= edges[0] == pytest.approx(value, abs=1e-5) and edges[-1] <= 1
