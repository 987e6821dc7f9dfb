"""Lines that stay or go whole, and cuts through lines."""

import numpy as np
import pytest

from ai_pipeline.burnin.decide.layout import around, covered, level_box
from ai_pipeline.burnin.decide.writing import holds_lines
from ai_pipeline.burnin.find.annotation import Box, Mask
from ai_pipeline.burnin.find.text import paint
from tests.unit.ai_pipeline.burnin.texts_lab import SHAPE, block, text


def mask_around(residue: Box, *, spare: bool, stays: Mask | None = None) -> Mask:
    line = (100, 40, 180, 56)
    stays = paint([text("Gn 50", line).box], SHAPE, 0.15) if stays is None else stays
    return around([text("KIM", residue).box], [line], stays, 0.6, spare=spare)


@pytest.mark.parametrize(
    ("residue", "spare", "goes"),
    [
        ((100, 22, 180, 40), True, False),  # above the line, which is not cut
        ((100, 24, 180, 42), True, True),  # reaches into it
        ((100, 24, 180, 42), False, True),
        ((60, 38, 120, 58), True, True),  # shares it
        ((160, 38, 260, 58), True, True),
    ],
)
def test_a_line_below_a_name_that_is_found_late_goes_whole_or_stays_whole(
    residue: Box, spare: bool, goes: bool
) -> None:
    found = mask_around(residue, spare=spare)
    line = found[40:56, 100:180]
    assert line.all() if goes else not line.any()
    assert found[residue[1] : 40, residue[0] : residue[2]].all()


def test_a_line_is_not_spared_that_does_not_stay_whole() -> None:
    part = np.zeros(SHAPE, np.bool_)
    part[40:50, 100:180] = True
    assert mask_around((100, 24, 180, 42), spare=True, stays=part)[40:50, 100:180].all()


def test_a_cut_through_lines_that_are_read_is_no_line() -> None:
    texts = [*block(("C 50", 20), ("P Low", 40)), text("7CPH", (100, 20, 140, 58), confidence=0.6)]
    assert [holds_lines(one, texts) for one in texts] == [False, False, True]


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((100, 40, 180, 40), id="without height, as the detector gives at a part's edge"),
        pytest.param((100, 40, 100, 60), id="without width"),
        pytest.param((100, -30, 180, -10), id="above the picture"),
        pytest.param((SHAPE[1], 40, SHAPE[1] + 60, 60), id="right of the picture"),
    ],
)
def test_a_box_without_a_pixel_holds_nothing_to_read(box: Box) -> None:
    assert covered(level_box(box, 0.54), np.zeros(SHAPE, np.bool_))


def test_a_box_with_a_pixel_of_the_source_is_not_covered() -> None:
    assert not covered(level_box((100, 40, 180, 41), 0.54), np.zeros(SHAPE, np.bool_))
