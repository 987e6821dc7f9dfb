"""The marks network on a large picture: in tiles, which say what the whole would."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.burnin.find import mark_network
from ai_pipeline.burnin.tools import shared_tools
from tests.unit.ai_pipeline.phantoms import echo


@pytest.mark.parametrize(("rows", "columns"), [(700, 1001), (512, 1300), (900, 500)])
def test_tiles_say_what_the_whole_picture_says(
    monkeypatch: pytest.MonkeyPatch, rows: int, columns: int
) -> None:
    picture = echo(7, (rows, columns))
    picture[rows // 3 :: 97, 5:200] = 255  # lines across the tiles' borders
    picture[20:60, columns // 2 :: 31] = 200
    finder = shared_tools().finder
    whole = finder.find(picture)
    monkeypatch.setattr(mark_network, "WHOLE", 0)
    monkeypatch.setattr(mark_network, "TILE", 512)

    tiled = finder.find(picture)

    assert (whole.marked > 0.5).any()
    np.testing.assert_allclose(tiled.marked, whole.marked, atol=1e-4)
    drawn = whole.marked > 0.01  # where nothing is drawn the kinds are as good as equal
    assert (tiled.classes[drawn] == whole.classes[drawn]).mean() > 0.9999


@pytest.mark.parametrize("length", [1, 100, 1280, 1281, 1296, 2304, 2305, 4096, 16384])
def test_tiles_give_each_pixel_once_and_see_what_is_around_it(length: int) -> None:
    given = np.zeros(length, int)
    for seen, own in mark_network._tiles(length):
        assert seen.start % mark_network.STEP == 0
        assert 0 <= seen.start <= own.start < own.stop <= seen.stop <= length
        assert seen.stop - seen.start <= mark_network.TILE
        assert own.start == 0 or own.start - seen.start >= mark_network.MARGIN
        assert own.stop == length or seen.stop - own.stop >= mark_network.MARGIN
        given[own] += 1
    assert (given == 1).all()
