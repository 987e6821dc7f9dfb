"""Bars are seen by their form."""

from __future__ import annotations

import cv2
import numpy as np

from ai_pipeline.burnin.find.bars import find_bars


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
