"""The reader of small letters."""

from collections.abc import Sequence
from unittest.mock import Mock

import numpy as np
import pytest

from ai_pipeline.burnin.find.networks import (
    HEIGHT,
    LEGIBLE,
    NARROWEST,
    STEP,
    SYMBOLS,
    UNKNOWN,
    WIDEST,
    Line,
    LineReader,
    decoded,
    known,
    prepared,
)
from tests.unit.ai_pipeline.phantoms import noise


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (["G", "G", "", "n", "n", "n"], "Gn"),
        (["1", "", "1", "1"], "11"),  # a blank parts two equal letters
        (["", "", ""], ""),
        ([" ", "G", " ", "", " ", "5", " "], "G 5"),
        ([" ", "", " "], ""),
        ([], ""),
    ],
)
def test_repeated_symbols_are_one_and_blanks_none(outputs: Sequence[str], text: str) -> None:
    assert decoded(shares(outputs)) == (text, pytest.approx(0.9 if text else 0.0))


def test_the_confidence_is_that_of_the_symbols_and_not_of_the_blanks() -> None:
    assert decoded(np.concatenate([shares(["G"], 0.6), shares([""] * 9, 1.0), shares(["n"], 0.8)]))[
        1
    ] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("rows", "columns", "wide"),
    [(10, 50, 160), (10, 51, 164), (32, 3, NARROWEST), (3, 4000, WIDEST), (200, 400, 64)],
)
def test_a_line_is_made_32_high_and_no_wider_than_the_limit(rows: int, columns: int, wide: int) -> None:
    line = prepared(noise((rows, columns)))
    assert line.shape == (HEIGHT, wide)
    assert line.dtype == np.float32
    assert wide % STEP == 0
    assert (line.min(), line.max()) == (-1, pytest.approx(1))


def test_dark_is_minus_one_faint_letters_stand_out_and_colour_is_its_brightest_channel() -> None:
    crop = np.full((HEIGHT, 64), 40, np.uint8)
    assert (prepared(crop) == -1).all()
    crop[:, 20:24] = 44
    assert prepared(crop).max() == pytest.approx(4 * 2 / 20 - 1)  # four levels are not made to twenty
    assert np.array_equal(prepared(np.stack([0 * crop, 0 * crop, crop], axis=2)), prepared(crop))


def reading(outputs: Sequence[str], sure: float, crop: np.ndarray) -> tuple[Line, int]:
    """What is read, and how often the network was run."""
    run = Mock(return_value={"symbols": shares(outputs, sure)[None]})
    return LineReader(run).read(crop), run.call_count


@pytest.mark.parametrize("shape", [(0, 40), (40, 0), (2, 40), (40, 2), (2, 40, 3)])
def test_an_empty_crop_holds_no_line_and_asks_no_network(shape: tuple[int, ...]) -> None:
    assert reading(["G"], 0.99, np.zeros(shape, np.uint8)) == (Line("", 0.0, legible=False), 0)


@pytest.mark.parametrize(
    ("outputs", "sure", "legible"),
    [
        (["G", "n"], LEGIBLE + 0.01, True),
        (["G", "n"], LEGIBLE - 0.01, False),
        (["-", "", "-"], 0.99, False),  # signs alone
        ([UNKNOWN, "", UNKNOWN], 0.99, True),  # letters of another script are letters
        ([""], 0.99, False),
    ],
)
def test_a_line_is_legible_with_a_letter_that_is_read_surely(
    outputs: Sequence[str], sure: float, *, legible: bool
) -> None:
    assert reading(outputs, sure, np.zeros((10, 40), np.uint8))[0].legible == legible


def test_unknown_letters_count_and_no_line_is_shown_in_a_repr() -> None:
    line = Line(known("Gn 한글 -"), 0.9, legible=True)
    assert line.text == f"Gn {UNKNOWN * 2} -"
    assert line.letters == 4
    assert "Gn" not in repr(line)


def shares(outputs: Sequence[str], sure: float = 0.9) -> np.ndarray:
    """``[columns, symbols]``; "" is the blank."""
    found = np.full((len(outputs), len(SYMBOLS) + 1), (1 - sure) / len(SYMBOLS), np.float32)
    for column, symbol in enumerate(outputs):
        found[column, SYMBOLS.index(symbol) + 1 if symbol else 0] = sure
    return found
