"""Thresholds of operating points keep what they promise on the images that they are chosen on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai_pipeline.models.registry import Card, find
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

SHOWN = ("Cardiomegaly", "Effusion", "Pneumothorax")
IMAGES = 600


@pytest.fixture(scope="module")
def card() -> Card:
    return replace(find("chest-efficientnet-lite0"), details={"metrics": {}})


def images(card: Card, seed: int, count: int = IMAGES) -> Scored:
    """Two images a patient, half of them without any finding, and a classifier that is better than chance."""
    random = np.random.default_rng(seed)
    ill = random.random(count) < 0.5
    truth = ((random.random((count, 14)) < 0.25) & ill[:, None]).astype(np.float32)
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
        at_the_end = row["specificity"][0] == pytest.approx(0.5, abs=0.01)
        assert row["sensitivity"][0] >= 0.9 or at_the_end
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
    points = choose_points(images(card, 5), SHOWN)
    result = measured(images(card, 6), with_points(card, points), SHOWN)
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
