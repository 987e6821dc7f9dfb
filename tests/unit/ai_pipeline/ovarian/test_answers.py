"""What probabilities and masks come to: one class or none, one outline or none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ai_pipeline.contract import Code, Decision
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.registry import Label
from ai_pipeline.ovarian.classifier import NORMAL, decisions, grey_of, in_source, probabilities
from ai_pipeline.ovarian.outline import dice, of_mask

LABELS = tuple(
    Label(name, Code(name, "99TEST", name), "test", None, name != "Malignant", 0.6, 0.05, 1.5, intercept)
    for name, intercept in (("Cyst", 0.0), ("Teratoma", 0.5), ("Malignant", -1.0), (NORMAL, 0.0))
)
PRESENT, ABSENT, UNCLEAR = Decision.PRESENT, Decision.ABSENT, Decision.INDETERMINATE


@pytest.mark.parametrize(
    ("found", "hidden", "wanted"),
    [
        ((0.88, 0.08, 0.02, 0.02), True, (PRESENT, UNCLEAR, UNCLEAR, ABSENT)),
        ((0.48, 0.46, 0.04, 0.02), True, (UNCLEAR, UNCLEAR, UNCLEAR, ABSENT)),
        ((0.10, 0.02, 0.86, 0.02), True, (UNCLEAR, UNCLEAR, UNCLEAR, UNCLEAR)),  # hidden: nothing is said
        ((0.10, 0.02, 0.86, 0.02), False, (UNCLEAR, ABSENT, PRESENT, ABSENT)),
        ((0.90, 0.08, 0.01, 0.01), False, (PRESENT, UNCLEAR, UNCLEAR, ABSENT)),  # no cancer is excluded
        ((0.02, 0.06, 0.02, 0.90), True, (ABSENT, UNCLEAR, UNCLEAR, UNCLEAR)),  # no ovary is called normal
    ],
)
def test_one_class_is_present_or_none(
    found: tuple[float, ...], hidden: bool, wanted: tuple[Decision, ...]
) -> None:
    assert decisions(np.array(found, np.float32), LABELS, hidden=hidden) == wanted


def test_probabilities_are_the_scaled_softmax() -> None:
    logits = np.array([[2.0, 1.0, -3.0], [800.0, -800.0, 0.0]], np.float32)
    found = probabilities(logits, LABELS[:3])
    odds = np.exp(np.array([3.0, 2.0, -5.5]))
    assert np.allclose(found[0], odds / odds.sum(), atol=1e-6)
    assert np.allclose(found.sum(1), 1.0)
    assert np.isfinite(found).all()


def test_the_outline_follows_the_mask() -> None:
    mask = np.zeros((120, 160), np.bool_)
    cv2.ellipse(view := mask.view(np.uint8), (80, 60), (40, 25), 20.0, 0, 360, 1, -1)
    assert view.any()
    found = of_mask(mask)
    assert found.region is not None and found.mask is not None
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(drawn, [np.floor(np.array(found.region.points)).astype(np.int32)], 1)
    assert dice(drawn > 0, mask) > 0.97
    assert len(found.region.points) < 60


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (np.zeros((64, 64), np.bool_), "no lesion"),
        (np.ones((64, 64), np.bool_), "too small or too large"),
        (np.indices((64, 64)).sum(0) % 32 < 4, "falls apart"),
    ],
)
def test_what_cannot_be_a_lesion_has_no_outline(mask: np.ndarray, fault: str) -> None:
    found = of_mask(np.asarray(mask))
    assert found.region is None and found.mask is None
    assert fault in found.fault


def test_a_map_of_the_input_comes_back_to_its_place_in_the_source() -> None:
    layer = np.zeros((64, 64), np.float32)
    layer[20:40, 10:30] = 1.0
    # A source of 128 × 96, halved, in the middle of the square.
    shown = in_source(layer, Affine(0.5, 0.0, 0.0, 0.0, 0.5, 8.0), 96, 128) >= 0.5
    rows, columns = np.nonzero(shown)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (24, 64, 20, 60)


def test_colour_becomes_grey_by_luminance() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[..., 1] = 100
    assert int(grey_of(picture)[0, 0]) == 59
    assert grey_of(picture[..., 1]) is not None and grey_of(picture[..., 1]).ndim == 2
