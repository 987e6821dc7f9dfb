"""The reader of small letters at run time: what it is shown, what its outputs say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from ai_pipeline.burnin.find.line_network import (
    HEIGHT,
    LEGIBLE,
    NARROWEST,
    STEP,
    WIDEST,
    Line,
    LineReader,
    decoded,
    prepared,
)
from ai_pipeline.burnin.find.symbols import SYMBOLS, UNKNOWN, known


def shares(outputs: Sequence[str], sure: float = 0.9) -> npt.NDArray[np.float32]:
    """``[columns, symbols]``; "" is the blank."""
    found = np.full((len(outputs), len(SYMBOLS) + 1), (1 - sure) / len(SYMBOLS), np.float32)
    for column, symbol in enumerate(outputs):
        found[column, SYMBOLS.index(symbol) + 1 if symbol else 0] = sure
    return found


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
    read, sure = decoded(shares(outputs).reshape(-1, len(SYMBOLS) + 1))
    assert read == text and sure == pytest.approx(0.9 if text else 0.0)


def test_the_confidence_is_that_of_the_symbols_and_not_of_the_blanks() -> None:
    outputs = np.concatenate([shares(["G"], 0.6), shares([""] * 9, 1.0), shares(["n"], 0.8)])
    assert decoded(outputs)[1] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("rows", "columns", "wide"),
    [(10, 50, 160), (10, 51, 164), (32, 3, NARROWEST), (3, 4000, WIDEST), (200, 400, 64)],
)
def test_a_line_is_made_32_high_and_no_wider_than_the_limit(rows: int, columns: int, wide: int) -> None:
    crop = np.random.default_rng(1).integers(0, 255, (rows, columns)).astype(np.uint8)
    line = prepared(crop)
    assert line.shape == (HEIGHT, wide) and line.dtype == np.float32 and wide % STEP == 0
    assert (line.min(), line.max()) == (-1, pytest.approx(1))


def test_dark_is_minus_one_faint_letters_stand_out_and_colour_is_its_brightest_channel() -> None:
    crop = np.full((HEIGHT, 64), 40, np.uint8)
    assert (prepared(crop) == -1).all()
    crop[:, 20:24] = 44
    assert prepared(crop).max() == pytest.approx(4 * 2 / 20 - 1)  # four levels are not made to twenty
    blue = np.stack([np.zeros_like(crop), np.zeros_like(crop), crop], axis=2)
    assert np.array_equal(prepared(blue), prepared(crop))


def reading(outputs: Sequence[str], sure: float, crop: npt.NDArray[np.uint8]) -> tuple[Line, int]:
    """What is read, and how often the network was run."""
    runs = []

    def run(lines: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        runs.append(lines.shape)
        return {"symbols": shares(outputs, sure)[None]}

    return LineReader(run).read(crop), len(runs)


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
    assert line.text == f"Gn {UNKNOWN * 2} -" and line.letters == 4
    assert "Gn" not in repr(line)
