"""Figures are scikit-learn's, by patient, inside sources; operating points keep what they promise."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ai_pipeline.models.reference import BINS
from ai_pipeline.models.registry import Card, find
from ai_training import metrics
from ai_training.calibration import calibrated, calibration, deciles, platt, slope_and_intercept
from ai_training.evaluation.figures import Scored, scored
from ai_training.evaluation.operating_points import (
    FALSE_ALARMS,
    choose_points,
    likelihood_ratio,
    measured,
    sensitive_cuts,
)
from ai_training.metrics import Floats, patient_weights
from ai_training.sets.images import LABELS, ChestImage


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
    truth, sources = np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1)), np.repeat(["a", "b"], 20)

    found = metrics.cells(truth, sources, fewest=10, left_out={("b", 1)})

    assert [(cell.source, cell.label) for cell in found] == [("a", 0), ("a", 1), ("b", 0)]


def test_three_of_three_is_not_certainty() -> None:
    everything = np.ones(3, bool)
    found = metrics.share(everything, everything, metrics.patient_weights(["a", "b", "c"]))
    assert (found.value, found.low) == (1.0, pytest.approx(0.025 ** (1 / 3)))


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

    assert found["labels"] == {} and found["prevalence"] == {"Hernia": 0.05}


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
    assert (_logistic(point.slope * logit[truth <= 0] + point.intercept) < point.threshold).mean() >= 0.90


def test_deciles_cut_into_tenths() -> None:
    chance = np.random.default_rng(0).random((1000, 2))
    cut = zip(chance.T, deciles(chance), strict=True)
    counts = np.array([np.histogram(column, [0, *edges, 1])[0] for column, edges in cut])
    assert counts == pytest.approx(np.full((2, BINS), 100), abs=1)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_deciles_of_one_value_still_rise(value: float) -> None:
    edges = deciles(np.full((50, 1), value))[0]
    assert len(edges) == 9 and all(low < high for low, high in pairwise(edges))
    assert 0 <= edges[0] == pytest.approx(value, abs=1e-5) and edges[-1] <= 1


SHOWN = ("Cardiomegaly", "Effusion", "Pneumothorax")
IMAGES = 600


@pytest.fixture(scope="module")
def card() -> Card:
    return replace(find("chest-efficientnet-lite0"), details={"metrics": {}})


def images(card: Card, seed: int, count: int = IMAGES) -> Scored:
    """Two images a patient, half of them without any finding, and a classifier that is better than chance."""
    random = np.random.default_rng(seed)
    truth = ((random.random((count, 1)) < 0.5) & (random.random((count, 14)) < 0.25)).astype(np.float32)
    rest = ("val", "a", "b", 50.0, "F", "PA")
    made = [ChestImage(Path(f"{n}.png"), tuple(row), None, str(n // 2), *rest) for n, row in enumerate(truth)]
    return scored(made, random.normal(size=(count, 14)) * 4 + 5 * truth, card.labels, LABELS)


def test_at_specific_one_in_ten_healthy_images_gets_a_finding_at_most(card: Card) -> None:
    value, low, high = choose_points(images(card, 1), SHOWN)["specific"]["without_finding_called"]
    assert low <= value <= FALSE_ALARMS and low < value < high
    assert value > FALSE_ALARMS - 0.03, "no more is given away than has to be"


def test_at_sensitive_nine_in_ten_are_found_unless_half_of_the_others_were_called(card: Card) -> None:
    table = choose_points(images(card, 2), SHOWN)["sensitive"]["labels"]
    for row in (table[name] for name in SHOWN):
        assert row["sensitivity"][0] >= 0.9 or (row["specificity"][0] == pytest.approx(0.5, abs=0.01))
        assert row["absent_below"] == row["threshold"][0], "nothing is undetermined"


def test_thresholds_have_intervals_and_lie_in_order(card: Card) -> None:
    found = images(card, 3)
    points = choose_points(found, SHOWN)
    for label in found.labels:
        rows = [points[point]["labels"][label.name] for point in ("specific", "sensitive")]
        assert rows[0]["threshold"][0] >= label.threshold == rows[0]["absent_below"]
        assert all(low <= value <= high for value, low, high in (row["threshold"] for row in rows))


def test_of_too_few_images_without_a_finding_nothing_is_made(card: Card) -> None:
    found = images(card, 4)
    few = found.where(number < 120 for number in range(IMAGES))
    assert choose_points(few, SHOWN) == choose_points(found, ()) == {}


def test_other_images_are_judged_by_the_card_s_thresholds_and_by_source(card: Card) -> None:
    result = measured(images(card, 6), with_points(card, choose_points(images(card, 5), SHOWN)), SHOWN)
    specific, balanced, sensitive = (result[point] for point in ("specific", "balanced", "sensitive"))
    called = [point["without_finding_called"][0] for point in (specific, balanced, sensitive)]
    assert called == sorted(set(called)) and list(specific["labels"]) == list(SHOWN)
    assert specific["sources"] == {"a": specific["without_finding_called"]}
    for rare, often in ((specific["labels"][name], sensitive["labels"][name]) for name in SHOWN):
        assert rare["present_ratio"][0] > often["present_ratio"][0] > 1 > often["absent_ratio"][0]


def with_points(card: Card, points: dict[str, Any]) -> Card:
    return replace(card, details={**card.details, "operating_points": points})


def test_images_on_which_the_model_is_unsure_are_counted_and_ranked_worse(card: Card) -> None:
    points = choose_points(images(card, 10), SHOWN)
    unsure = measured(images(card, 11), with_points(card, points), SHOWN)["unsure"]
    value, low, high = unsure["share"]
    assert points["unsure"]["least_between"] == len(SHOWN) - 1 and 0 < low < value < high < 1
    assert unsure["mean_auc"][0] < unsure["mean_auc_others"][0]


def test_a_likelihood_ratio_is_a_number_where_nobody_was_called() -> None:
    truth, weights = np.array([1.0, 0.0, 0.0, 0.0]), patient_weights(["a", "b", "c", "d"])
    value = likelihood_ratio(np.zeros(4, np.bool_), truth, weights)
    assert np.isfinite([value.value, value.low, value.high]).all()
    assert likelihood_ratio(truth > 0, truth, weights).value == pytest.approx((1.5 / 2) / (0.5 / 4))


def test_a_sensitive_cut_is_the_highest_that_finds_nine_of_ten() -> None:
    truth: Floats = np.repeat([1.0, 0.0], [30, 300])
    chance = np.concatenate([np.linspace(0.6, 1.0, 30), np.linspace(0.0, 0.59, 300)])

    (cut,) = sensitive_cuts(truth, chance, np.ones((1, 330)))

    assert (chance >= cut)[truth > 0].mean() == pytest.approx(0.9)
