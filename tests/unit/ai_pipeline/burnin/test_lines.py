"""Dotted lines between calipers are found by where they must be, and nowhere else."""

from __future__ import annotations

import numpy as np

from ai_pipeline.burnin.annotation.kinds import Annotation, AnnotationKind
from ai_pipeline.burnin.annotation.pixels import Picture
from ai_pipeline.burnin.find.lines import lines_between
from tests.unit.ai_pipeline.phantoms import echo

ENDS = [Annotation(AnnotationKind.CALIPER, (x - 6, 174, x + 6, 186), 0.9) for x in (160, 320)]
YELLOW = (255, 230, 0)


def dotted(colour: tuple[int, int, int]) -> tuple[Picture, np.ndarray]:
    """A phantom with dots of one pixel, every fourth column, from end to end; and where they are."""
    picture = np.repeat(echo()[..., None], 3, axis=2)
    dots = np.zeros(picture.shape[:2], np.bool_)
    dots[180, 168:314:4] = True
    picture[dots] = colour
    return picture, dots


def test_a_coloured_line_is_found() -> None:
    picture, dots = dotted(YELLOW)
    found = lines_between(picture, ENDS)
    assert found[dots].mean() > 0.8
    assert found.mean() < 0.01


def test_where_there_is_none_nothing_is_taken() -> None:
    assert not lines_between(np.repeat(echo()[..., None], 3, axis=2), ENDS).any()
    assert not lines_between(echo(), ENDS).any()


def test_ticks_of_a_ruler_are_no_ends() -> None:
    picture, _ = dotted(YELLOW)
    ticks = [Annotation(AnnotationKind.CALIPER, (x - 8, 177, x + 8, 183), 0.9) for x in (160, 320)]
    assert not lines_between(picture, ticks).any()
