"""The figures of boxes are what they say."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from ai_training.detect.locating.scores import (
    PLACE_NAMES,
    Detection,
    Place,
    detection_figures,
    means,
    place_figures,
)


def test_a_box_reaches_the_cuts_that_it_overlaps_enough() -> None:
    truth = [(0.0, 0.0, 0.2, 0.2)] * 3
    said = [
        Place((0.0, 0.0, 0.2, 0.2), (0.1, 0.1), 1.0),
        Place((0.1, 0.0, 0.3, 0.2), (0.25, 0.1), 1.0),  # a third
        None,
    ]

    rows = place_figures(truth, said)

    assert rows[0].tolist() == pytest.approx([1, 1, 1, 1, 1, 1])
    assert rows[1].tolist() == pytest.approx([1, 1, 0, 2 / 3, 1 / 3, 0])
    assert rows[2].tolist() == [0] * len(PLACE_NAMES)


def test_the_interval_of_a_difference_is_paired() -> None:
    random = np.random.default_rng(0)
    easy = random.random(80)
    worse = np.repeat(easy[:, None], len(PLACE_NAMES), 1)

    found = means((worse + 0.1) - worse, [str(n) for n in range(80)])

    assert found["mean T"] == pytest.approx([0.1, 0.1, 0.1])


def _case() -> tuple[list[Detection], np.ndarray, np.ndarray, list[str]]:
    # Three images: a box in the first two; one hit, one miss, one false box that is surest of all.
    positives = np.array([[True], [True], [False]])
    found = [Detection(0, 0, 0.8, 0.6), Detection(0, 1, 0.7, 0.2), Detection(0, 2, 0.9, 0.0)]
    return found, positives, np.ones((3, 1), bool), ["a", "b", "c"]


def test_average_precision_ends_at_the_share_of_the_truth_that_is_reached() -> None:
    found, positives, asked, patients = _case()

    figures = detection_figures({"a": found}, positives, asked, patients)

    # The hit comes second of two: precision 1/2, recall 1/2.
    assert figures["a"]["mAP@.4"][0] == pytest.approx(0.25)


def test_a_false_box_uses_up_what_froc_allows() -> None:
    found, positives, asked, patients = _case()

    figures = detection_figures({"a": found}, positives, asked, patients)["a"]

    assert figures["sensitivity at 0.25 false boxes an image"][0] == 0.0
    assert figures["sensitivity at 0.5 false boxes an image"][0] == pytest.approx(0.5)


def test_only_the_best_of_several_boxes_on_one_truth_is_a_hit() -> None:
    found, positives, asked, patients = _case()
    doubled = [*found, Detection(0, 0, 0.6, 0.9)]

    once = detection_figures({"a": found}, positives, asked, patients)["a"]
    twice = detection_figures({"a": doubled}, positives, asked, patients)["a"]

    assert twice["mAP@.4"][0] == once["mAP@.4"][0]


def test_an_image_that_says_a_label_without_a_box_is_left_out_of_it() -> None:
    found, positives, asked, patients = _case()
    asked[2, 0] = False

    figures = detection_figures({"a": found}, positives, asked, patients)

    assert figures["a"]["mAP@.4"][0] == pytest.approx(0.5)


def test_differences_are_told_of_the_first_arm_to_the_others() -> None:
    found, positives, asked, patients = _case()
    better = [*found[:2], Detection(0, 2, 0.1, 0.0)]

    figures = detection_figures({"a": better, "b": found}, positives, asked, patients)

    assert figures["a - b"]["mAP@.4"][0] == pytest.approx(0.25)
