"""A picture that is shown turned, inverted or mirrored finds its way back, and so does every place in it."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.chest.explain import Activation, BoxTemplates, heatmap
from ai_pipeline.contract import Point
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.images.orientation import POSES, UPRIGHT, Pose, shown, upright

EVERY = (*POSES, Pose(mirrored=True), Pose(90, mirrored=True), Pose(270, True, True))
NAMES = [pose.name for pose in EVERY]
PICTURE = np.random.default_rng(5).integers(0, 256, (30, 50)).astype(np.uint8)


@pytest.mark.parametrize("pose", EVERY, ids=NAMES)
def test_putting_upright_undoes_the_pose(pose: Pose) -> None:
    np.testing.assert_array_equal(upright(shown(PICTURE, pose), pose)[0], PICTURE)


@pytest.mark.parametrize("pose", EVERY, ids=NAMES)
def test_the_map_leads_every_pixel_to_where_it_has_gone(pose: Pose) -> None:
    picture = shown(PICTURE, pose)
    back, to_upright = upright(picture, pose)

    for row, column in ((0, 0), (3, 7), (picture.shape[0] - 1, picture.shape[1] - 1)):
        ((x, y),) = to_upright([(column + 0.5, row + 0.5)])
        value = picture[row, column]
        assert back[int(y), int(x)] == (255 - value if pose.inverted else value)
        ((left, top),) = to_upright.inverse()([(x, y)])
        assert (left, top) == pytest.approx((column + 0.5, row + 0.5))


def test_turned_90_means_clockwise() -> None:
    assert shown(np.array([[1, 2], [3, 4]], np.uint8), Pose(90)).tolist() == [[3, 1], [4, 2]]


def test_one_map_after_another() -> None:
    first, second = Affine(0, 2, 1, -3, 0, 4), Affine(5, 1, 0, 0, 7, -2)
    points: list[Point] = [(0.0, 0.0), (1.0, 5.0), (-2.0, 3.5)]

    assert second.after(first)(points) == second(first(points))


def test_poses_speak_for_themselves() -> None:
    assert UPRIGHT.name == "upright"
    assert Pose(270, True).name == "turned 270, inverted"
    assert Pose(90).sentence == "shown turned by 90° clockwise"
    assert Pose(180, True).sentence == "shown turned by 180° and inverted (black and white exchanged)"


@pytest.mark.parametrize("pose", POSES, ids=[pose.name for pose in POSES])
def test_boxes_and_heat_maps_land_in_the_picture_as_it_was_shown(pose: Pose) -> None:
    rows, columns, size = 300, 500, 100
    marked = np.zeros((rows, columns), np.uint8)
    marked[60:120, 350:450] = 255  # where the finding is, in the upright picture
    source = shown(marked, Pose(pose.turned))
    to_model = Affine(size / columns, 0, 0, 0, size / rows, 0).after(upright(source, pose)[1])
    values = np.full((10, 10), 1e-3, np.float32)
    values[2:4, 7:9] = 1.0
    found = Activation(values, size, to_model, *source.shape)
    templates = BoxTemplates(
        np.zeros(1, np.int64), np.array([(0.7, 0.2, 0.9, 0.4)], np.float32), np.ones(1, np.float32)
    )

    region = templates.box(found, 0)
    drawn = heatmap(found).values

    inside = np.argwhere(source > 0)
    (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
    assert region is not None
    assert region.bounds == pytest.approx((left, top, right, bottom), abs=0.01)
    assert drawn.shape == source.shape
    assert drawn[source > 0].mean() > 0.7
    assert drawn[source == 0].mean() < 0.1
