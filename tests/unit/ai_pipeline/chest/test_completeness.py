"""Films that are cut off: which parts of the chest lie outside the picture, and what may be stated then."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.chest import ratio
from ai_pipeline.chest.anatomy import Anatomy
from ai_pipeline.chest.completeness import (
    Completeness,
    Edge,
    figures_at,
    film_of,
    missing_notes,
    without_missing,
)
from ai_pipeline.contract import Code, Decision, Finding, ModelRef
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.registry import find
from ai_pipeline.summary import MOST, short_result

SIDE = 400
MODEL = ModelRef("chest", "1", sha256="0" * 64, card_sha256="0" * 64)


def chest() -> np.ndarray:
    """Heart and lungs ``[3, 400, 400]`` of a drawn chest, whose lungs are half ellipses with broad bases."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    masks = []
    for middle, across, top, bottom in ((225, 55, 190, 305), (130, 60, 60, 320), (290, 60, 60, 320)):
        height = bottom - top
        inside = ((columns - middle) / across) ** 2 + ((rows - bottom) / height) ** 2 <= 1
        base = rows <= bottom - 25 * np.abs(columns - middle) / across * (columns > middle)
        masks.append(inside & base)
    return np.stack(masks)


def missing(top: int, bottom: int, left: int, right: int, border: int = 0) -> tuple[Edge, ...]:
    """The edges at which the part of the drawn chest within these limits is cut off."""
    masks = chest()[:, top:bottom, left:right]
    masks = np.pad(masks, ((0, 0), (border, border), (border, border)))
    picture = np.random.default_rng(1).integers(60, 200, (bottom - top, right - left)).astype(np.uint8)
    anatomy = Anatomy(masks, Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None)
    return Completeness.from_card(find(ratio.MODEL)).missing(np.pad(picture, border), anatomy)


@pytest.mark.parametrize("border", [0, 40])
def test_each_end_of_the_lungs_that_lies_outside_is_named(border: int) -> None:
    assert missing(0, SIDE, 0, SIDE, border) == ()
    assert missing(0, 270, 0, SIDE, border) == (Edge.BOTTOM,)
    assert missing(135, SIDE, 0, SIDE, border) == (Edge.TOP,)
    assert missing(0, SIDE, 110, SIDE, border) == (Edge.SIDE,)
    assert missing(0, SIDE, 0, 310, border) == (Edge.SIDE,)


def test_the_film_in_a_picture_is_what_is_not_plain() -> None:
    picture = np.zeros((100, 80), np.uint8)
    picture[20:90, 10:70] = 20 + np.arange(60, dtype=np.uint8) * 3
    assert film_of(picture) == (20, 90, 10, 70)
    assert film_of(np.zeros((100, 80), np.uint8)) == (0, 100, 0, 80)


def test_an_empty_lung_touches_the_edge() -> None:
    lungs = np.zeros((2, 50, 50), bool)
    assert figures_at(lungs) == (0.0, 0.0, 1.0, 1.0, 1.0, 0.0)


def finding(label: str, meaning: str, decision: Decision) -> Finding:
    return Finding(label, Code("1", "SCT", meaning), 0.2, 0.3, decision, "1.2", MODEL)


def test_of_a_film_without_bases_no_effusion_is_excluded_and_nothing_is_not_found() -> None:
    effusion = finding("Effusion", "Pleural effusion", Decision.ABSENT)
    mass = finding("Mass", "Lung mass", Decision.ABSENT)
    found = [effusion, mass]
    assert without_missing(found, ()) == found
    assert [(one.label, one.decision) for one in without_missing(found, [Edge.BOTTOM])] == [
        ("Mass", Decision.INDETERMINATE)
    ]
    lines = short_result(
        without_missing(found, [Edge.BOTTOM]), (), missing_notes("1.2", found, [Edge.BOTTOM])
    )
    assert lines == (
        "AI: Nothing suspected. Cannot exclude: lung mass.",
        "Not assessed: bases of the lungs (outside the picture), pleural effusion.",
    )
    assert all(len(line) <= MOST for line in lines)


def test_what_is_suspected_stays() -> None:
    seen = finding("Effusion", "Pleural effusion", Decision.PRESENT)
    assert without_missing([seen], [Edge.BOTTOM]) == [seen]
    [note] = missing_notes("1.2", [seen], [Edge.BOTTOM, Edge.TOP])
    assert note.text == "Apices of the lungs and bases of the lungs: outside the picture."
    assert note.names == (
        "apices of the lungs (outside the picture)",
        "bases of the lungs (outside the picture)",
    )
