"""Lines that stay whole or go whole."""

from unittest.mock import Mock

import numpy as np
import pytest

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.lines import cut_by, letters_of, reads_alike, whole, with_their_rows
from ai_pipeline.burnin.find.annotation import Box, Mask, Picture, mask_of
from ai_pipeline.burnin.find.networks import Line
from tests.unit.ai_pipeline.burnin.cleaning_lab import legible
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, echo, silent

SHAPE = (120, 320)
LINE: Box = (120, 40, 200, 64)
NOWHERE: Mask = np.zeros(SHAPE, np.bool_)


def written(words: str = "4.54 cm") -> Picture:
    return burn(np.zeros(SHAPE, np.uint8), words, (122, 42), 255, 20)


def test_a_mask_that_cuts_a_digit_is_cut_back() -> None:
    picture, going = written(), mask_of([(60, 40, 130, 64)], SHAPE)
    cut, back = cut_by([LINE], going, NOWHERE, picture)
    assert cut == []
    assert ((picture > 128) & going).any()
    assert not ((picture > 128) & going & ~back).any()
    assert not back[:, :118].any(), "what goes beside the digit still goes"


def test_a_line_whose_letter_is_also_of_what_goes_cannot_stay() -> None:
    picture = written()
    picture[52:55, 80:126] = 255  # joins the first digit to what stands before it
    assert cut_by([LINE], mask_of([(60, 40, 110, 64)], SHAPE), NOWHERE, picture)[0] == [LINE]


def test_a_place_that_always_goes_is_not_cut_back() -> None:
    place = mask_of([(60, 40, 130, 64)], SHAPE)
    cut, back = cut_by([LINE], place, place, written())
    assert cut == [LINE]
    assert not back.any()


def test_a_mask_far_from_a_line_takes_nothing_of_it() -> None:
    cut, back = cut_by([LINE], mask_of([(0, 40, 90, 64)], SHAPE), NOWHERE, written())
    assert cut == []
    assert not back.any()


def test_a_letter_that_the_lines_end_cuts_is_of_the_line() -> None:
    own, _ = letters_of(written(), (126, 40, 200, 64))
    assert own[:, :126].any()


def test_a_number_takes_its_label_with_it() -> None:
    label, other = (20, 40, 80, 64), (20, 80, 80, 104)
    assert with_their_rows([LINE], [(label, LINE), (other,)]) == {label, LINE}


def test_over_tissue_a_line_goes_by_its_strokes_and_elsewhere_as_a_box() -> None:
    picture = written()
    everywhere = ~NOWHERE
    strokes, box = (whole([LINE], picture, ground) for ground in (everywhere, NOWHERE))
    assert box[40:64, 120:200].all()
    assert strokes[picture > 128].all()
    assert strokes.sum() < 0.7 * box.sum()


@pytest.mark.parametrize(
    ("small", "large", "alike"),
    [
        (("4.5", "4.5"), ("4", "1"), True),
        (("4.5", "1.5"), ("4", "4"), True),
        (("4.5", "1.5"), ("4", "1"), False),
    ],
)
def test_a_line_reads_as_before_if_one_reader_reads_it_so(
    small: tuple[str, str], large: tuple[str, str], alike: bool
) -> None:
    reader = Mock()
    reader.read_small.side_effect, reader.read.side_effect = (
        [Line(words, 0.9, legible=True) for words in pair] for pair in (small, large)
    )
    assert reads_alike(LINE, written(), written(), reader) == alike


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("gap", [1, 5, 14])
def test_of_a_setting_close_to_a_name_no_other_number_is_left(gap: int) -> None:
    before = echo(size=(200, 320))
    named = burn(before, "KIM MINJUN", (4, 4), 255, 18)
    end = int(np.flatnonzero((named != before).any(axis=0))[-1])
    picture = burn(named, "MI 1.3", (end + gap, 4), 255, 18)
    after = "".join(legible(np.asarray(clean(ArrayImage(picture[None]), silent).image.frames[0]))).replace(
        " ", ""
    )
    assert "KIM" not in after
    assert not any(map(str.isdigit, after.replace("MI1.3", "")))
