"""Outline and gate: the mean of three variants, refused where it is not a head or changes between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from ai_pipeline.contract import ModelRef
from ai_pipeline.fetal_head.outline import HeadLimits, HeadModel
from tests.unit.heads import HEAD, drawn_head

LIMITS = HeadLimits(present=0.5, shape=0.95, spread=0.05, roundness=(0.5, 1.0), outside=0.1, inset=0.0)
REF = ModelRef("head", "1", "a" * 64, "b" * 64)


def by_brightness(values: np.ndarray) -> Mapping[str, np.ndarray]:
    """An engine that knows a drawn head by its dark brain and bright skull, wherever it is."""
    grey = values[:, 0] * 128 + 127
    head = np.zeros(grey.shape, np.float32)
    for number, picture in enumerate(grey):
        rows, columns = np.nonzero(picture > 150)
        if len(rows):  # all between the skull's ends, row by row
            for row in range(rows.min(), rows.max() + 1):
                across = columns[rows == row]
                head[number, row, across.min() : across.max() + 1] = 1
    return {"head": head, "present": (head.any((1, 2))).astype(np.float32)}


def model(engine=by_brightness, **limits: object) -> HeadModel:  # type: ignore[no-untyped-def]
    return HeadModel(engine, replace(LIMITS, **limits), REF)  # type: ignore[arg-type]


def test_a_drawn_head_is_outlined_where_it_lies() -> None:
    picture, _ = drawn_head()

    found = model().outline(picture)

    assert found.fault == ""
    assert found.measured is not None
    assert found.measured.circumference == pytest.approx(HEAD.circumference, rel=0.02)
    assert (found.measured.x, found.measured.y) == pytest.approx((HEAD.x, HEAD.y), abs=3)
    assert found.shape > 0.97
    assert found.spread < 0.03


def test_the_measured_ellipse_runs_inside_the_outlined_one() -> None:
    picture, _ = drawn_head()

    found = model(inset=0.5).outline(picture)

    assert found.area is not None
    assert found.measured is not None
    assert found.area.long - found.measured.long == pytest.approx(2 * 0.5 * 2, rel=0.01)  # reduced to a half


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"present": 1.1}, "no fetal head"),
        ({"shape": 0.9999}, "not the ellipse"),
        ({"roundness": (0.95, 1.0)}, "not the ellipse"),
        ({"spread": 0.0}, "changes with small changes"),
        ({"outside": -0.1}, "outside the picture"),
    ],
)
def test_each_limit_refuses_with_its_reason(limits: dict[str, object], reason: str) -> None:
    assert reason in model(**limits).outline(drawn_head()[0]).fault


def test_an_empty_picture_has_no_head() -> None:
    assert "no fetal head" in model().outline(np.zeros((345, 512), np.uint8)).fault


def test_an_answer_that_a_mirror_changes_is_refused() -> None:
    def sees_left(values: np.ndarray) -> Mapping[str, np.ndarray]:
        found = by_brightness(values)
        found["head"][1] *= np.linspace(1, 0, found["head"].shape[2]) > 0.55
        return found

    assert model(sees_left, shape=0.0).outline(drawn_head()[0]).fault != ""


def test_a_head_that_is_cut_in_half_is_refused() -> None:
    picture, _ = drawn_head(head=replace(HEAD, y=10.0))

    found = model(shape=0.0, spread=9.0, roundness=(0.0, 1.0)).outline(picture)
    assert found.fault == "too much of the head lies outside the picture"
