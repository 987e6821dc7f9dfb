"""What is read off validation images: curves, cuts, deciles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("sklearn")

from ai_pipeline.models.reference import BINS
from ai_training.calibration import calibrated, deciles, platt, prevalence


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
