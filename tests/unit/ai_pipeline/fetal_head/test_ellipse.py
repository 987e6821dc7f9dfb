"""The ellipse of a head's outline: found to a fraction of a pixel, also where the head leaves the picture."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ai_pipeline.fetal_head.ellipse import Ellipse, ellipse_of
from ai_pipeline.images.coordinates import Affine
from tests.unit.heads import HEAD

HERE = Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.2, 2.0, 3.0])
@pytest.mark.parametrize("short", [120.0, 170.0, 215.0])
def test_the_ellipse_of_a_mask_is_the_one_it_was_drawn_by(turn: float, short: float) -> None:
    drawn = replace(HEAD, turn=turn, short=short)

    found = ellipse_of(drawn.mask(345, 512), HERE)

    assert found is not None
    assert (found.x, found.y) == pytest.approx((drawn.x, drawn.y), abs=0.2)
    assert (found.long, found.short) == pytest.approx((drawn.long, drawn.short), abs=0.6)
    assert abs(math.sin(found.turn - turn)) < 0.05
    assert found.circumference == pytest.approx(drawn.circumference, rel=0.003)


def test_a_head_that_leaves_the_picture_is_continued_and_not_cut_off() -> None:
    drawn = replace(HEAD, y=70.0)

    found = ellipse_of(drawn.mask(345, 512), HERE)

    assert found is not None
    assert min(y for _, y in drawn.polygon()) < -5
    assert found.circumference == pytest.approx(drawn.circumference, rel=0.01)


def test_the_ellipse_lies_in_the_coordinates_of_the_source() -> None:
    found = ellipse_of(HEAD.mask(345, 512), Affine(2.0, 0.0, 10.0, 0.0, 2.0, -4.0))

    assert found is not None
    assert (found.x, found.y) == pytest.approx((2 * HEAD.x + 10, 2 * HEAD.y - 4), abs=0.4)
    assert found.circumference == pytest.approx(2 * HEAD.circumference, rel=0.003)


@pytest.mark.parametrize("mask", [np.zeros((50, 50), bool), np.eye(50, dtype=bool), np.ones((50, 50), bool)])
def test_what_has_no_outline_has_no_ellipse(mask: np.ndarray) -> None:
    found = ellipse_of(mask, HERE)

    assert found is None or found.short < 3


def test_the_circumference_of_a_circle_is_that_of_a_circle_and_the_polygon_lies_on_it() -> None:
    circle = Ellipse(50.0, 50.0, 80.0, 80.0, 0.0)

    assert circle.circumference == pytest.approx(math.pi * 80)
    assert all(math.hypot(x - 50, y - 50) == pytest.approx(40) for x, y in circle.polygon())
    long, short = HEAD.long_axis(), HEAD.short_axis()
    assert math.dist(*long) == pytest.approx(HEAD.long)
    assert math.dist(*short) == pytest.approx(HEAD.short)
