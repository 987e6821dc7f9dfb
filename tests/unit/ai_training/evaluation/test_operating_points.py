"""Thresholds of operating points keep what they promise on the images that they are chosen on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

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
    shipped = find("chest-efficientnet-lite0")
    return replace(shipped, details={"metrics": {}})


def images(card: Card, seed: int, count: int = IMAGES) -> Scored:
    """Two images a patient, half of them without any finding, and a classifier that is better than chance."""
    random = np.random.default_rng(seed)
    ill = random.random(count) < 0.5
    truth = ((random.random((count, 14)) < 0.25) & ill[:, None]).astype(np.float32)
    logits = random.normal(size=(count, 14)) * 4 + 5 * truth
    made = [
        ChestImage(
            Path(f"{n}.png"), tuple(row.astype(int)), None, str(n // 2), "val", "a", "b", 50.0, "F", "PA"
        )
        for n, row in enumerate(truth)
    ]
    return scored(made, logits, card.labels, LABELS)


def test_at_specific_one_in_ten_healthy_images_gets_a_finding_at_most(card: Card) -> None:
    table = choose_points(images(card, 1), SHOWN)["specific"]

    value, low, high = table["without_finding_called"]
    assert low <= value <= FALSE_ALARMS
    assert value > FALSE_ALARMS - 0.03, "no more is given away than has to be"
    assert low < value < high


def test_at_sensitive_nine_in_ten_are_found_unless_half_of_the_others_were_called(card: Card) -> None:
    found = images(card, 2)
    table = choose_points(found, SHOWN)["sensitive"]["labels"]

    for name in SHOWN:
        assert table[name]["sensitivity"][0] >= 0.9 or table[name]["specificity"][0] == pytest.approx(
            0.5, abs=0.01
        )
        assert table[name]["absent_below"] == table[name]["threshold"][0], "nothing is undetermined"


def test_thresholds_have_intervals_and_lie_in_order(card: Card) -> None:
    found = images(card, 3)
    points = choose_points(found, SHOWN)

    for label in found.labels:
        specific, sensitive = (points[point]["labels"][label.name] for point in ("specific", "sensitive"))
        assert specific["threshold"][0] >= label.threshold == specific["absent_below"]
        for row in (specific, sensitive):
            value, low, high = row["threshold"]
            assert low <= value <= high


def test_of_too_few_images_without_a_finding_nothing_is_made(card: Card) -> None:
    found = images(card, 4)
    few = found.where(number < 120 for number in range(IMAGES))

    assert choose_points(few, SHOWN) == {}
    assert choose_points(found, ()) == {}


def test_other_images_are_judged_by_the_card_s_thresholds_and_by_source(card: Card) -> None:
    points = choose_points(images(card, 5), SHOWN)
    having = replace(card, details={**card.details, "operating_points": points})

    result = measured(images(card, 6), having, SHOWN)

    specific, sensitive = result["specific"], result["sensitive"]
    assert list(specific["labels"]) == list(SHOWN)
    assert specific["without_finding_called"][0] < result["balanced"]["without_finding_called"][0]
    assert result["balanced"]["without_finding_called"][0] < sensitive["without_finding_called"][0]
    assert specific["sources"] == {"a": specific["without_finding_called"]}
    for name in SHOWN:
        assert (
            specific["labels"][name]["present_ratio"][0] > sensitive["labels"][name]["present_ratio"][0] > 1
        )
        assert sensitive["labels"][name]["absent_ratio"][0] < 1


def test_images_on_which_the_model_is_unsure_are_counted_and_ranked_worse(card: Card) -> None:
    found = images(card, 10)
    points = choose_points(found, SHOWN)
    having = replace(card, details={**card.details, "operating_points": points})
    unsure = measured(images(card, 11), having, SHOWN)["unsure"]

    assert points["unsure"]["least_between"] == len(SHOWN) - 1
    value, low, high = unsure["share"]
    assert 0 < low < value < high < 1
    assert unsure["mean_auc"][0] < unsure["mean_auc_others"][0]


def test_a_likelihood_ratio_is_a_number_where_nobody_was_called() -> None:
    truth = np.array([1.0, 0.0, 0.0, 0.0])
    weights = patient_weights(["a", "b", "c", "d"])

    value = likelihood_ratio(np.zeros(4, np.bool_), truth, weights)

    assert np.isfinite([value.value, value.low, value.high]).all()
    assert likelihood_ratio(truth > 0, truth, weights).value == pytest.approx((1.5 / 2) / (0.5 / 4))


def test_a_sensitive_cut_is_the_highest_that_finds_nine_of_ten() -> None:
    truth: Floats = np.repeat([1.0, 0.0], [30, 300])
    chance = np.concatenate([np.linspace(0.6, 1.0, 30), np.linspace(0.0, 0.59, 300)])

    (cut,) = sensitive_cuts(truth, chance, np.ones((1, 330)))

    assert (chance >= cut)[truth > 0].mean() == pytest.approx(0.9)
