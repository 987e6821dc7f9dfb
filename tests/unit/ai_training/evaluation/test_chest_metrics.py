"""The figures of an evaluation are what they say: equal to scikit-learn's, by patient, inside sources."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from ai_training import metrics
from ai_training.reliability import calibration, reliability_curve, slope_and_intercept


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


def test_working_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, score = _case()
    weights = metrics.patient_weights([str(i // 2) for i in range(80)], resamples=50)
    whole = metrics.resampled_auc(truth, score, weights)
    monkeypatch.setattr(metrics, "BLOCK", 7 * 80)

    assert metrics.resampled_auc(truth, score, weights) == pytest.approx(whole)


def test_the_bootstrap_draws_patients_not_images() -> None:
    weights = metrics.patient_weights(["a", "b", "a", "c"], resamples=50)

    assert (weights[:, 0] == weights[:, 2]).all()
    assert weights[:, [0, 1, 3]].sum(1) == pytest.approx(np.full(50, 3.0))


def test_permuted_labels_score_chance() -> None:
    random = np.random.default_rng(1)
    score = random.normal(size=400)
    truths = [random.permutation(np.repeat([0.0, 1.0], 200)) for _ in range(50)]

    assert np.mean([metrics.auc(truth, score) for truth in truths]) == pytest.approx(0.5, abs=0.02)


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


def test_a_pair_is_told_apart_where_two_intervals_overlap() -> None:
    truth, score = _case(300)
    worse = score + np.random.default_rng(6).normal(scale=0.4, size=300)
    patients = [str(i) for i in range(300)]
    weights = metrics.patient_weights(patients)
    alone = [
        metrics.interval(metrics.auc(truth, s), metrics.resampled_auc(truth, s, weights))
        for s in (score, worse)
    ]

    columns = [a[:, None] for a in (truth, score, worse)]
    paired = metrics.within_source_difference(*columns, np.full(300, "one source"), patients)

    assert alone[1].high > alone[0].low
    assert paired.high - paired.low < alone[0].high - alone[0].low


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


def test_the_difference_within_sources_is_that_of_the_means() -> None:
    truth, score = _case(200)
    noise = np.random.default_rng(8).normal(size=200)
    sources = np.array(["a", "b"] * 100)
    arguments = (truth[:, None], score[:, None], noise[:, None])

    found = metrics.within_source_difference(*arguments, sources, [str(i) for i in range(200)])

    means = [metrics.within_source_auc(truth[:, None], s, sources) for s in arguments[1:]]
    assert found.value == pytest.approx(means[0] - means[1])
    assert found.low <= found.value <= found.high


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


def test_slope_is_that_of_a_logistic_regression() -> None:
    truth, logit = _case(300, seed=9)
    weights = np.random.default_rng(3).integers(0, 3, (4, 300)).astype(float)

    slopes, _ = slope_and_intercept(truth, _logistic(logit), weights)

    expected = [
        LogisticRegression(C=1e9, tol=1e-9).fit(logit[:, None], truth, row).coef_[0, 0] for row in weights
    ]
    assert slopes == pytest.approx(expected, rel=1e-3)


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


def test_the_bins_of_a_reliability_curve_hold_every_image_once() -> None:
    truth, score = _case(105)

    points = reliability_curve(truth, _logistic(score))

    assert sum(count for _, _, count in points) == 105
    assert sum(rate * count for _, rate, count in points) == pytest.approx(truth.sum())


def _logistic(value: metrics.Floats) -> metrics.Floats:
    return np.asarray(1 / (1 + np.exp(-value)))
