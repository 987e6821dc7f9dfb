"""A grey bar is followed to its dark end, and no farther."""

from __future__ import annotations

import numpy as np

from ai_pipeline.burnin.find.bars import extended_bars
from tests.unit.ai_pipeline.phantoms import echo

PLACE = slice(40, 240), slice(6, 18)


def with_bar() -> np.ndarray:
    picture = echo()
    picture[PLACE] = np.linspace(255, 0, 200).astype(np.uint8)[:, None]
    return picture


def test_the_upper_half_of_a_bar_gives_all_that_is_to_be_seen_of_it() -> None:
    found = np.zeros((360, 480), np.bool_)
    found[40:130, 6:18] = True
    whole = extended_bars(with_bar(), found)
    rows = np.flatnonzero(whole.any(axis=1))
    assert rows[0] == 40
    assert 225 <= rows[-1] <= 240
    assert not whole[:, 18:].any()


def test_what_is_no_bar_stays_as_it_was_found() -> None:
    found = np.zeros((360, 480), np.bool_)
    found[150:230, 230:242] = True
    assert np.array_equal(extended_bars(echo(), found), found)
    wide = np.zeros_like(found)
    wide[40:130, 6:90] = True
    assert np.array_equal(extended_bars(with_bar(), wide), wide)
