"""The box head at run time: maps in, the box that overlaps best with all that they speak for out."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.chest.boxes import (
    PARTS,
    BoxHead,
    Candidates,
    ScoredBox,
    mean_over,
    nearness,
    part_rectangles,
    region,
)
from ai_pipeline.chest.detector import detections_by_label
from ai_pipeline.contract import Origin
from ai_pipeline.images.coordinates import Affine


def _head() -> BoxHead:
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.12, 0.1, 0.4, 0.42], [0.6, 0.6, 0.9, 0.9]], np.float32)
    return BoxHead({"Mass": Candidates(boxes, np.zeros(3, np.float32))})


def _maps(row: int, column: int) -> np.ndarray:
    maps = np.zeros((1, len(PARTS), 14, 14), np.float32)
    maps[0, 0, row - 2 : row + 2, column - 2 : column + 2] = 8.0
    return maps


def test_the_box_lies_where_the_maps_speak_for_it() -> None:
    head = _head()

    assert head.find(_maps(10, 10), "Mass").corners == pytest.approx((0.6, 0.6, 0.9, 0.9))
    found = head.find(_maps(3, 3), "Mass")
    assert found.corners[0] < 0.2
    assert found.corners[0] <= found.point[0] <= found.corners[2]


def test_maps_that_say_nothing_leave_it_to_what_is_usual() -> None:
    found = _head().find(np.zeros((1, len(PARTS), 14, 14), np.float32), "Mass")

    assert found.corners[0] < 0.2  # two of three candidates are there
    assert 0.0 < found.score < 1.0


def test_a_drawn_box_counts_as_much_as_it_is_trusted() -> None:
    trusting = BoxHead(_head().candidates, trust=6.0)
    maps, nothing = np.zeros((1, len(PARTS), 14, 14), np.float32), np.zeros((0, 5), np.float32)
    drawn = np.array([[0.62, 0.6, 0.9, 0.9, 0.3], [0.1, 0.1, 0.4, 0.4, 0.03]], np.float32)

    assert trusting.find(maps, "Mass", drawn).corners == pytest.approx((0.6, 0.6, 0.9, 0.9))
    assert _head().find(maps, "Mass", drawn) == _head().find(maps, "Mass")
    assert trusting.find(maps, "Mass", nothing) == trusting.find(maps, "Mass")
    assert BoxHead.from_bytes(trusting.to_bytes()).trust == 6.0


def test_what_is_drawn_without_area_or_score_is_near_nothing() -> None:
    boxes = _head().candidates["Mass"].boxes
    drawn = np.array([[0.1, 0.1, 0.1, 0.4, 0.9], [0.1, 0.1, 0.4, 0.4, 0.0]], np.float32)

    assert not nearness(boxes, drawn).any()
    assert nearness(boxes, np.array([[0.6, 0.6, 0.9, 0.9, 0.01]], np.float32)).tolist() == [0.0, 0.0, 1.0]


def test_a_yolos_rows_are_told_by_label_in_shares_of_the_picture() -> None:
    rows = np.array([[-4, 22.4, 112, 224, 0.5, 1.0], [0, 0, 224, 224, 0.2, 0.0]], np.float32)

    drawn = detections_by_label(rows, ("Effusion", "Mass", "Nodule"), 224)

    assert drawn["Mass"].tolist() == pytest.approx(np.array([[0, 0.1, 0.5, 1.0, 0.5]]))
    assert drawn["Effusion"].shape == (1, 5)
    assert drawn["Nodule"].shape == (0, 5)


def test_a_label_without_boxes_is_unknown() -> None:
    with pytest.raises(KeyError):
        _head().find(_maps(3, 3), "Hernia")


def test_the_mean_over_a_rectangle_counts_parts_of_cells() -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 0, 0] = 1.0

    means = mean_over(
        maps, np.array([[0, 0, 0.25, 0.25], [0, 0, 0.375, 0.25], [0.5, 0.5, 0.5, 1]], np.float32)
    )

    assert means[:, 0] == pytest.approx([1.0, 2 / 3, 0.0], abs=1e-6)


def test_the_parts_of_a_box_touch_it_and_stay_in_the_picture() -> None:
    parts = part_rectangles(np.array([[0.0, 0.2, 0.5, 0.4]], np.float32))[:, 0]

    assert parts[1, 0] == parts[1, 2] == 0.0  # nothing is left of the left edge
    assert parts[2, 0] == pytest.approx(0.5)
    assert parts[3, 3] == pytest.approx(0.2)
    assert ((parts >= 0) & (parts <= 1)).all()


def test_the_candidates_survive_being_written() -> None:
    head = _head()

    again = BoxHead.from_bytes(head.to_bytes())

    assert again.labels == ("Mass",)
    assert again.find(_maps(10, 10), "Mass") == head.find(_maps(10, 10), "Mass")
    assert head.to_bytes() == again.to_bytes()


def test_a_region_is_in_the_source_and_says_that_a_detector_drew_it() -> None:
    # A source of 1,000 × 800 that fills 224 × 179 of the model's square, 22 pixels from its top.
    to_model = Affine(0.224, 0, 0, 0, 0.224, 22.4)

    found = region(ScoredBox((0.5, 0.05, 0.75, 0.5), (0.6, 0.3), 0.5), 224, to_model, 800, 1000)

    assert found is not None
    assert found.bounds == pytest.approx((500, 0, 750, 400), abs=0.01)
    assert found.origin is Origin.DETECTOR
    assert region(ScoredBox((0.5, 0.0, 0.75, 0.05), (0.6, 0.0), 0.5), 224, to_model, 800, 1000) is None
