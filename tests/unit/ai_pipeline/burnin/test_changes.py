"""What a picture of a cine shows that those before it do not."""

import numpy as np
import pytest

from ai_pipeline.burnin.find.annotation import Picture
from ai_pipeline.burnin.find.changes import may_hold_another_code, new_strokes
from tests.unit.ai_pipeline.phantoms import burn, echo

PLACE, AT = np.s_[100:128, 100:260], (100, 100)
NOTHING_MOVES = np.zeros((240, 320), np.bool_)


def noisy(seed: int, level: int = 60) -> Picture:
    """Speckle about one grey level."""
    return np.clip(np.random.default_rng(seed).normal(level, 6, (240, 320)), 0, 255).astype(np.uint8)


def code(picture: Picture, light: int, dark: int) -> Picture:
    """The picture with a code of 21 × 21 modules of two pixels."""
    modules = np.random.default_rng(5).random((21, 21)) > 0.5
    found = picture.copy()
    found[80:122, 80:122] = np.kron(np.where(modules, light, dark), np.ones((2, 2))).astype(np.uint8)
    return found


@pytest.mark.parametrize("ink", [255, 0], ids=["light", "dark"])
@pytest.mark.parametrize("moves", [False, True], ids=["beside tissue", "over tissue"])
def test_a_name_that_appears_is_new(ink: int, moves: bool) -> None:
    before = noisy(1, 120)
    written = burn(noisy(2, 120), "KIM MINJUN", AT, ink, 18)
    found = new_strokes(written, before, np.full(before.shape, moves))
    assert found[PLACE].mean() > 0.5


def test_what_was_there_is_not_new() -> None:
    before, now = (burn(noisy(seed), "KIM MINJUN", AT, 255, 18) for seed in (1, 2))
    assert not new_strokes(now, before, NOTHING_MOVES).any()


def test_a_name_in_the_place_of_a_word_is_new_where_nothing_moves() -> None:
    before, now = (burn(noisy(1), word, AT, 255, 18) for word in ("LONG AXIS", "KIM MINJUN"))
    assert new_strokes(now, before, NOTHING_MOVES)[PLACE].any()


def test_a_small_letter_is_new_where_nothing_moves() -> None:
    before = noisy(1)
    assert new_strokes(burn(before, "M", AT, 255, 12), before, NOTHING_MOVES).any()


def test_echoes_that_sway_are_not_new_over_tissue() -> None:
    before = echo(size=(240, 320))
    now = np.roll(before, 2, axis=1)
    assert new_strokes(now, before, ~NOTHING_MOVES).mean() < 0.1


@pytest.mark.parametrize(("light", "dark"), [(255, 0), (120, 20)], ids=["black on white", "grey"])
def test_a_code_that_appears_is_searched(light: int, dark: int) -> None:
    searched = [noisy(1), noisy(2)]
    assert may_hold_another_code(code(noisy(3), light, dark), searched)


def test_pictures_without_another_code_are_not_searched() -> None:
    with_code = [code(noisy(seed), 255, 0) for seed in (1, 2)]
    assert not may_hold_another_code(with_code[1], with_code[:1])


def test_the_first_picture_is_searched() -> None:
    assert may_hold_another_code(noisy(1), [])


def test_a_code_goes_unseen_in_no_frame_however_many_were_searched() -> None:
    searched = [noisy(seed, level) for seed, level in enumerate((20, 90, 60, 30, 200))]
    assert may_hold_another_code(code(noisy(9), 255, 0), searched)
