"""Heart, lungs and the cardiothoracic ratio: measured where the outlines are a chest's, else not."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.chest.anatomy import FINER, VARIANTS, Anatomy, AnatomyModel, anatomy_of
from ai_pipeline.chest.changes import changed
from ai_pipeline.contract import ModelRef
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.card import Chain, Input
from ai_pipeline.models.inputs import network_input
from tests.unit.chests import drawn_chest

SIDE = 160
INPUT = Input(SIDE, 3, (127.0,), (128.0,), "MONOCHROME2", Chain(side=SIDE, blur=0, jpeg_quality=95))
SAME = Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
TOLERANCE = 0.03


def found(masks: np.ndarray, *more: np.ndarray) -> Anatomy:
    """What is made of outlines that are ``masks`` in the first variant, ``more`` in the others."""
    variants = np.stack([masks, *(more or (masks, masks))]).astype(np.float32)
    return anatomy_of(variants, [SAME] * len(variants), SAME, TOLERANCE)


@pytest.mark.parametrize("heart", [0.3, 0.4, 0.5])
def test_the_ratio_is_the_width_of_the_heart_over_that_of_the_lungs(heart: float) -> None:
    _, organs = drawn_chest(SIDE, heart=heart)

    measured = found(organs).measured

    assert measured is not None
    assert measured.ratio == pytest.approx(heart / 0.8, abs=0.02)
    assert measured.heart.length == pytest.approx(heart * SIDE, abs=2)
    assert measured.thorax.points[0][0] == pytest.approx(0.1 * SIDE, abs=1.5)


def test_lines_lie_in_the_source_whatever_its_size() -> None:
    picture, organs = drawn_chest(600)
    _, to_model = network_input(picture[:480], INPUT)
    _, at_model = drawn_chest(SIDE)
    rows = round(480 * SIDE / 600)
    padded = np.zeros((3, SIDE, SIDE), np.float32)
    top = (SIDE - rows) // 2
    padded[:, top : top + rows] = at_model[:, :rows]

    measured = anatomy_of(padded[None], [SAME], to_model, TOLERANCE).measured

    assert measured is not None
    columns = np.flatnonzero(organs[0].any(axis=0))
    assert measured.heart.points[0][0] == pytest.approx(columns[0], abs=5)
    assert measured.heart.points[-1][0] == pytest.approx(columns[-1] + 1, abs=5)


def test_the_other_variants_are_mapped_back() -> None:
    picture, _ = drawn_chest(320)
    values, to_model = network_input(picture, INPUT)
    seen = [changed(values[0], change, INPUT) for change in VARIANTS]

    def dark(part: np.ndarray) -> np.ndarray:
        """Lungs by their greys, the heart by its own: a network that is never wrong."""
        grey = part[0] * 128 + 127
        low, high = grey[5:-5, SIDE // 2].min(), grey.max()
        lungs = grey < low + 0.25 * (high - low)
        lungs[:, : SIDE // 20] = lungs[:, -SIDE // 20 :] = False
        heart = grey > low + 0.8 * (high - low)
        right, left = lungs.copy(), lungs.copy()
        right[:, SIDE // 2 :] = False
        left[:, : SIDE // 2] = False
        return np.stack([heart, right, left])

    for part, move in seen:
        masks = dark(part).astype(np.float32)
        one = anatomy_of(masks[None], [move], to_model, TOLERANCE)
        columns = np.flatnonzero(one.masks[0].any(axis=0))
        left, _ = one.from_grid([(float(columns[0]), 0.0)])[0]
        assert left == pytest.approx((0.53 - 0.2) * 320, abs=6)


def no_lung(masks: np.ndarray) -> np.ndarray:
    return masks * np.array([1, 0, 1], bool)[:, None, None]


def mirrored(masks: np.ndarray) -> np.ndarray:
    return masks[:, :, ::-1]


def small_lung(masks: np.ndarray) -> np.ndarray:
    cut = masks.copy()
    cut[1, : round(0.55 * SIDE)] = False
    return cut


def cut_off(masks: np.ndarray) -> np.ndarray:
    return np.roll(masks, -round(0.13 * SIDE), axis=2)


@pytest.mark.parametrize("spoilt", [no_lung, mirrored, small_lung, cut_off])
def test_outlines_that_are_no_chest_are_not_measured(spoilt) -> None:  # type: ignore[no-untyped-def]
    _, organs = drawn_chest(SIDE)

    anatomy = found(spoilt(organs))

    assert anatomy.measured is None
    assert anatomy.fault


def test_variants_that_differ_are_not_measured() -> None:
    narrow, wide = (drawn_chest(SIDE, heart=heart)[1] for heart in (0.36, 0.44))

    anatomy = found(narrow, narrow, wide)

    assert anatomy.measured is None
    assert "small changes" in anatomy.fault


def test_a_heart_with_a_tail_is_not_measured() -> None:
    _, organs = drawn_chest(SIDE)
    organs = organs.copy()
    organs[0, 118:124, 80:135] = True

    anatomy = found(organs)

    assert anatomy.measured is None
    assert "not that of a heart" in anatomy.fault


def test_a_speck_beside_the_heart_changes_nothing() -> None:
    _, organs = drawn_chest(SIDE)
    specked = organs.copy()
    specked[0, 3:6, 3:6] = True

    assert found(specked).measured == found(organs).measured


def test_the_model_measures_a_picture_of_any_shape() -> None:
    _, organs = drawn_chest(SIDE)
    model = AnatomyModel(
        INPUT,
        lambda variants: {"organs": np.stack([organs] * len(variants)).astype(np.float32)},
        9.0,
        ModelRef("m", "1", "", ""),
    )

    anatomy = model.outline(np.zeros((200, 300), np.uint8))

    assert anatomy.masks.shape == (3, FINER * SIDE, FINER * SIDE)
    assert anatomy.measured is not None


def test_a_chest_with_one_white_lung_is_no_place_for_boxes() -> None:
    _, organs = drawn_chest(SIDE)
    white = organs.copy()
    white[2] = 0
    white[2, 30:50, 115:125] = True

    assert found(organs).is_chest
    assert not found(white).is_chest
    assert not found(np.zeros_like(organs)).is_chest


@pytest.mark.parametrize(
    "way",
    [Affine(4.0, 0.0, 10.0, 0.0, 4.0, -6.0), Affine(0.0, -4.0, 200.0, 4.0, 0.0, 10.0)],
    ids=["larger and moved", "turned by a quarter"],
)
def test_outlines_lie_in_the_image_where_the_grid_says(way: Affine) -> None:
    masks = np.zeros((3, 40, 40), np.bool_)
    masks[1, 10:20, 5:30] = True
    corners = way([(5.0, 10.0), (30.0, 20.0)])
    (left, right), (top, bottom) = (sorted(edges) for edges in zip(*corners, strict=True))

    drawn = Anatomy(masks, way, None).in_image(180, 220)

    assert drawn.shape == (3, 180, 220)
    assert not drawn[[0, 2]].any()
    rows, columns = np.nonzero(drawn[1])
    edges = (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
    assert edges == pytest.approx((left, right, top, bottom), abs=1)
    assert (drawn[1] > 0).sum() == pytest.approx((right - left) * (bottom - top), rel=0.05)
