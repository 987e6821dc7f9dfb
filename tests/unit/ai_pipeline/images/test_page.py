"""The summary page as a picture: its letters are read from a distance, and nothing is written over it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFont

from ai_pipeline.contract import Code, Decision, Finding, ModelRef, Origin, Region
from ai_pipeline.images import page
from ai_pipeline.images.page import PagePicture, draw_page, drawable

Picture = npt.NDArray[np.uint8]
MODEL = ModelRef("model", "1", "a" * 64, "b" * 64)
BLUE = (0, 90, 200)  # no letter has it, nor its edges
TITLE, HEAD, FOOT = "AI summary", ["Test, Ann", "ID: 1"], ["AI result"]


def finding(*boxes: tuple[float, float, float, float]) -> Finding:
    regions = tuple(Region("box", (box[:2], box[2:]), Origin.DETECTOR) for box in boxes)
    code = Code("1", "SCT", "Nodule")
    return Finding("Nodule", code, 0.9, 0.5, Decision.PRESENT, "1.2", MODEL, regions=regions)


def drawn(
    shown: PagePicture | str = "no picture", results: Sequence[str] = (), **given: Sequence[str]
) -> Picture:
    usual = {"head": HEAD, "captions": ["View: PA"], "foot": FOOT} | given
    return draw_page(TITLE, usual["head"], shown, usual["captions"], results, usual["foot"])


def blue(rows: int, columns: int, *boxes: tuple[float, float, float, float]) -> PagePicture:
    return PagePicture(np.full((rows, columns, 3), BLUE, np.uint8), [finding(*boxes)] if boxes else [])


def written(picture: Picture) -> int:
    """Pixels that are not black."""
    return int(picture.any(axis=-1).sum())


def place_of_picture(whole: Picture) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of what is exactly as blue as the picture."""
    rows, columns = np.nonzero((whole == BLUE).all(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def words(count: int) -> list[str]:
    return [f"image {number}: AI: Suspected: left pleural effusion." for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("rows", "columns", "upright"),
    [
        (256, 224, False),
        (2500, 2048, False),
        (3000, 100, False),
        (1, 1, False),
        (300, 800, True),
        (100, 3000, True),
    ],
)
def test_a_page_is_upright_below_a_wide_picture(rows: int, columns: int, upright: bool) -> None:
    whole = drawn(blue(rows, columns), words(2))
    assert whole.shape == ((1600, 1200, 3) if upright else (1200, 1600, 3))
    assert whole.dtype == np.uint8
    left, top, right, bottom = place_of_picture(whole)
    assert (right - left) * rows == pytest.approx((bottom - top) * columns, abs=max(rows, columns))


def test_letters_are_read_from_a_distance() -> None:
    """Capitals of the smallest letters are 22 pixels high at least."""
    whole = drawn("no picture", ["H" * 12] * 60)
    column = whole[:, 700:].any(axis=(1, 2))[200:1000]
    edges = np.flatnonzero(np.diff(column.astype(int)))
    heights = edges[1::2] - edges[::2][: len(edges[1::2])]
    assert set(heights[:5]) == {min(heights[:5])}
    assert min(heights[:5]) >= 22


def test_more_words_take_more_room_and_none_is_cut_in_silence() -> None:
    few, more = (written(drawn("no picture", words(count))[:, 700:]) for count in (1, 6))
    assert more > few
    full, fuller = (drawn("no picture", words(count)) for count in (60, 61))
    assert (full != fuller).any(), "the number of what is left out is another"


def test_what_has_no_room_is_counted() -> None:
    blocks = [["a"], ["b", "c"], ["d"], ["e"]]
    assert page._cut(blocks, 5) == ["a", "b", "c", "d", "e"]
    assert page._cut(blocks, 4) == ["a", "b", "c", "and 2 more: see the report"]
    assert page._cut(blocks, 3) == ["a", "and 3 more: see the report"]
    assert page._cut([["a", "b", "c", "d"], ["e"]], 3) == ["a", "b", "and 3 more lines: see the report"]
    assert page._cut([], 3) == []


@pytest.mark.parametrize(
    "shown", [blue(400, 380, (10, 10, 90, 90), (100, 100, 300, 300)), blue(100, 3000), "none"]
)
@pytest.mark.parametrize("count", [1, 12, 100])
def test_nothing_is_written_at_the_edges_or_over_the_picture(shown: PagePicture | str, count: int) -> None:
    long = ["W" * 200, *words(count), "word " * 200]
    whole = drawn(
        shown, long, head=["Ü" * 64, "9" * 64, "word " * 90], foot=["m" * 300, "n" * 300], captions=["c" * 99]
    )
    for edge in (whole[:5], whole[-5:], whole[:, :20], whole[:, -20:]):
        assert not edge.any()
    if isinstance(shown, PagePicture):
        left, top, right, bottom = place_of_picture(whole)
        inside = whole[top:bottom, left:right]
        assert not (inside == 255).all(axis=-1).any(), "no white letters in the picture"


def test_boxes_are_drawn_where_they_are_in_the_picture() -> None:
    """The box from a quarter to three quarters of the picture, which is enlarged."""
    whole = drawn(blue(200, 200, (50, 50, 150, 150)))
    left, top, right, bottom = place_of_picture(whole)
    inside = whole[top:bottom, left:right]
    rows, columns = np.nonzero((inside == (255, 214, 0)).all(axis=-1))
    size = right - left
    assert size > 400
    for found, wanted in (
        (columns.min(), 0.25),
        (rows.min(), 0.25),
        (columns.max(), 0.75),
        (rows.max(), 0.75),
    ):
        assert found / size == pytest.approx(wanted, abs=0.01)


def test_pixels_that_are_no_squares_are_shown_as_they_are_in_the_body() -> None:
    shown = PagePicture(np.full((100, 200, 3), BLUE, np.uint8), pixel_height=2.0)
    left, top, right, bottom = place_of_picture(drawn(shown))
    assert right - left == bottom - top


def test_letters_with_accents_greek_and_cyrillic_are_drawn_and_no_other() -> None:
    """A letter that the font lacks would be an empty frame."""
    font = ImageFont.truetype(page.FONT, page.LETTERS, layout_engine=ImageFont.Layout.BASIC)
    frame = bytes(font.getmask("\uffff"))
    given = [chr(one) for one in range(sys.maxunicode // 16) if drawable(chr(one)) and chr(one).isprintable()]
    assert [one for one in given if bytes(font.getmask(one)) == frame] == []
    assert all(map(drawable, ("Müller-Øster, Łukasz", "Иванова", "Παπαδόπουλος", "Nguyễn", "Mu\u0308ller")))
    assert not any(map(drawable, ("홍길동", "洪吉洞", "عمر", "山田")))


def test_the_page_needs_no_font_of_the_machine() -> None:
    assert (page.FONT.parent / "LICENCE.txt").is_file()
    assert Image.fromarray(drawn()).size == (1600, 1200)


def test_the_layout_is_that_of_the_drawn_page() -> None:
    """Where it says that text, pictures and lines are, the page has some; the picture is in it as it is."""
    shown = PagePicture(np.full((300, 400), 90, np.uint8))
    content = ("Title", ["Name, Given", "ID: 1"], shown, ["View: PA"], ["AI: nothing found."], ["foot"])
    laid, drawn = page.lay_out_page(*content), page.draw_page(*content)
    assert (laid.height, laid.width) == drawn.shape[:2]
    assert [one.text for one in laid.texts][:3] == ["Title", "Name, Given", "ID: 1"]
    for one in laid.texts:
        letters = drawn[one.baseline - one.size // 2 : one.baseline, one.left : one.left + one.size]
        assert letters.max() > 200, one
    [(pixels, left, top)] = laid.pictures
    rows, columns = pixels.shape[:2]
    assert (drawn[top : top + rows, left : left + columns] == pixels).all()
    assert laid.rules and all(drawn[row, page.MARGIN].any() for row in laid.rules)
