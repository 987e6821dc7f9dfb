"""A grey bar is followed to its dark end, and no farther."""

from __future__ import annotations

import cv2
import numpy as np

from ai_pipeline.burnin.find.bars import extended_bars, find_bars
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


def test_a_bar_is_seen_by_its_form_and_letters_on_a_panel_are_not() -> None:
    picture = np.zeros((360, 480, 3), np.uint8)
    picture[40:240, 6:18] = np.linspace(255, 20, 200).astype(np.uint8)[:, None, None]
    picture[40:120, 440:464, 0] = np.linspace(250, 60, 80).astype(np.uint8)[:, None]
    picture[300:330, 100:300] = 180  # a panel of one colour
    cv2.putText(picture, "KIM MINJUN", (105, 322), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 2)
    found = find_bars(picture)
    assert found[60:200, 8:16].all()
    assert found[50:110, 444:460].all()
    assert not found[280:].any()


def test_letters_on_a_bar_are_no_bar() -> None:
    picture = np.zeros((360, 480), np.uint8)
    picture[40:240, 6:30] = np.linspace(255, 120, 200).astype(np.uint8)[:, None]
    cv2.putText(picture, "KIM", (6, 140), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 0, 1)
    assert not find_bars(picture)[128:142, 8:28].all()
