"""A place in the model's grid comes back at the right place of the source image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_pipeline.chest.explain import BoxTemplates, activation, heatmap, overlaps, share_inside
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.preprocess import prepare
from ai_pipeline.models.registry import Chain

SIZE = 160
SHAPES = [(512, 512), (2500, 2048), (300, 900)]


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_a_bright_spot_lands_where_the_affine_says(rows: int, columns: int) -> None:
    image = np.zeros((rows, columns), np.uint8)
    x, y = columns * 0.7, rows * 0.3
    spot = max(rows, columns) // 20
    image[int(y) - spot : int(y) + spot, int(x) - spot : int(x) + spot] = 255

    prepared, to_model = prepare(image, Chain(), SIZE)

    weights = prepared.astype(float) * (prepared > 100)
    down, across = np.indices(prepared.shape) + 0.5
    found = ((weights * across).sum() / weights.sum(), (weights * down).sum() / weights.sum())
    (expected,) = to_model([(x, y)])
    assert found == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_corners_survive_the_round_trip(rows: int, columns: int) -> None:
    _, to_model = prepare(np.zeros((rows, columns), np.uint8), Chain(), SIZE)
    corners = [(0.0, 0.0), (float(columns), float(rows)), (12.5, 40.25)]

    assert np.array(to_model.inverse()(to_model(corners))) == pytest.approx(np.array(corners), abs=1e-6)


def test_the_whole_image_stays_inside_the_model_input() -> None:
    for rows, columns in SHAPES:
        _, to_model = prepare(np.zeros((rows, columns), np.uint8), Chain(), SIZE)
        edges = np.array(to_model([(0.0, 0.0), (float(columns), float(rows))]))
        assert edges.min() >= 0.0
        assert edges.max() <= SIZE


numbers = st.floats(-3, 3).filter(lambda value: abs(value) > 0.05)


affines = st.builds(
    Affine, a=numbers, b=st.floats(-0.01, 0.01), c=numbers, d=st.floats(-0.01, 0.01), e=numbers, f=numbers
)


@given(there=affines)
def test_the_inverse_undoes_every_affine(there: Affine) -> None:

    (back,) = there.inverse()(there([(3.0, -7.0)]))

    assert back == pytest.approx((3.0, -7.0), abs=1e-6)


def test_a_flat_affine_has_no_inverse() -> None:
    with pytest.raises(ValueError, match="inverse"):
        Affine(0, 0, 1, 0, 0, 1).inverse()


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_heat_maps_peak_is_the_hot_cell_in_the_source(rows: int, columns: int) -> None:
    _, to_model = prepare(np.zeros((rows, columns), np.uint8), Chain(), SIZE)
    places = np.zeros((10, 10), np.float32)
    places[4, 6] = 8.0

    heat = heatmap(activation(places, SIZE, to_model, rows, columns)).values

    assert heat.shape == (rows, columns)
    assert heat.dtype == np.float32
    assert 0.0 <= heat.min() <= heat.max() <= 1.0
    down, across = np.unravel_index(int(heat.argmax()), heat.shape)
    (expected,) = to_model.inverse()([(6.5 * 16, 4.5 * 16)])
    assert (across + 0.5, down + 0.5) == pytest.approx(expected, abs=max(rows, columns) / 100)


def test_the_box_follows_the_hot_cell_into_source_coordinates() -> None:
    left, right = (0.1, 0.4, 0.3, 0.6), (0.6, 0.4, 0.8, 0.6)
    boxes = np.array([left, right], np.float32)
    templates = BoxTemplates(np.zeros(2, np.int64), boxes, np.full(2, 0.04, np.float32))
    _, to_model = prepare(np.zeros((1000, 1000), np.uint8), Chain(), SIZE)
    places = np.zeros((10, 10), np.float32)
    places[4:6, 6:8] = 5.0

    region = templates.box(activation(places, SIZE, to_model, 1000, 1000), 0)

    assert region is not None
    assert region.bounds == pytest.approx((600, 400, 800, 600), abs=0.1)


def test_a_box_never_leaves_the_image() -> None:
    templates = BoxTemplates(
        np.zeros(1, np.int64), np.array([(0.0, 0.0, 1.0, 0.5)], np.float32), np.ones(1, np.float32)
    )
    _, to_model = prepare(np.zeros((400, 800), np.uint8), Chain(), SIZE)

    region = templates.box(activation(np.zeros((10, 10), np.float32), SIZE, to_model, 400, 800), 0)

    assert region is not None
    assert region.bounds == pytest.approx((0, 0, 800, 200), abs=0.1)


def test_a_label_without_templates_has_no_box() -> None:
    templates = BoxTemplates(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    assert (
        templates.box(activation(np.zeros((10, 10), np.float32), SIZE, Affine(1, 0, 0, 0, 1, 0), 160, 160), 3)
        is None
    )


def test_overlap_is_intersection_over_union() -> None:
    boxes = np.array([(0, 0, 2, 2), (1, 1, 3, 3), (5, 5, 6, 6)], np.float32)

    assert overlaps(boxes) == pytest.approx(np.array([(1, 1 / 7, 0), (1 / 7, 1, 0), (0, 0, 1)]), abs=1e-6)


def test_the_share_inside_of_a_flat_map_is_the_area() -> None:
    boxes = np.array([(0, 0, 0.5, 0.5), (0, 0, 1, 1)], np.float32)

    assert share_inside(np.ones((10, 10), np.float32), boxes) == pytest.approx([0.25, 1.0], abs=1e-3)
