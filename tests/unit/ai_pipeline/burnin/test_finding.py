"""What is found, how it is read, which pixels are strokes, and what a burned-in text is for."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from itertools import product
from typing import Any, cast
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset

from ai_pipeline.burnin.card import UltrasoundOptions
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.axes import as_scales, beside_velocities
from ai_pipeline.burnin.decide.candidates import Candidate
from ai_pipeline.burnin.decide.layout import around, level_box
from ai_pipeline.burnin.decide.letters import (
    OF_LONG,
    SURE_LETTERS,
    TRACED,
    are_letters,
    letter_strokes,
    strokes_in,
)
from ai_pipeline.burnin.decide.meaning import (
    LEAST_CONFIDENCE,
    LEAST_OF_SETTING,
    NOTHING_MORE,
    SETTING_CHARACTERS,
    Allowed,
    meaning_of,
)
from ai_pipeline.burnin.decide.neighbours import by_best_reading, by_their_pair, judged_in_its_line
from ai_pipeline.burnin.decide.outline import blocks
from ai_pipeline.burnin.decide.settings import by_their_block, by_their_rows
from ai_pipeline.burnin.decide.texts import NOTHING_READ, Text
from ai_pipeline.burnin.decide.vocabulary import ALSO_NAMES, LABELS_ALSO_NAMES
from ai_pipeline.burnin.decide.writing import find_texts, holds_lines
from ai_pipeline.burnin.find import networks
from ai_pipeline.burnin.find.annotation import Box, Mask, Picture, dilated, mask_of
from ai_pipeline.burnin.find.area import faint_writing, find_area, strokes, without_panels
from ai_pipeline.burnin.find.drawings import find_bars
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
from ai_pipeline.burnin.find.text import TextBox, TextReader, paint, shared_reader
from ai_pipeline.burnin.find.traces import colour_bars, find_flow, find_strips, find_traces, no_waves
from ai_pipeline.burnin.planning import RIM
from ai_pipeline.burnin.tools import shared_tools, with_background
from ai_pipeline.contract import ImageHeader, Meaning, Reading, UltrasoundRegion
from ai_pipeline.images.header import calibrated_regions, read_header
from tests.unit.ai_pipeline.phantoms import (
    ArrayImage,
    burn,
    cine,
    data_set,
    echo,
    flow,
    image_header,
    linear_echo,
    parts,
    silent,
)

PICTURE = np.zeros((100, 120), np.uint8)


def box(left: float, top: float, right: float, bottom: float, slope: float = 0.0) -> TextBox:
    return TextBox(
        np.array([(left, top), (right, top + slope), (right, bottom + slope), (left, bottom)], np.float32),
        0.9,
    )


def line(words: str, confidence: float = 0.97) -> Line:
    return Line(words, confidence, legible=confidence >= 0.5)


class Reader:
    """The two readers, each with one text; ``asked`` counts how often rapidocr was."""

    def __init__(self, small: Line, large: Line) -> None:
        self.small, self.large, self.asked = small, large, 0

    def read_small(self, _view: Picture, _box: TextBox) -> Line:
        return self.small

    def read(self, _view: Picture, _box: TextBox, _least: int) -> Line:
        self.asked += 1
        return self.large


def judged(reader: Reader, flow: float = 0.0) -> tuple[str, str, Meaning]:
    text = Candidate(PICTURE, box(20, 30, 80, 39), flow).text(cast(TextReader, reader))
    return text.line.text, text.small.text, text.meaning


def test_what_the_reader_of_small_letters_proves_is_read_once_but_in_a_spectrum_it_proves_nothing() -> None:
    reader = Reader(line("Gn -1.4"), line("Kim"))
    assert judged(reader) == ("Gn -1.4", "Gn -1.4", Meaning.ACOUSTIC)
    assert reader.asked == 0
    assert judged(reader, flow=1.0)[2] is Meaning.IDENTITY


@pytest.mark.parametrize("small", [line("Kim"), line("Gn -1.4", 0.4), line("On -1.4"), NOTHING_READ])
@pytest.mark.parametrize(
    ("large", "meaning"), [(line("Gn -1.4"), Meaning.ACOUSTIC), (line("Kim"), Meaning.IDENTITY)]
)
def test_what_it_does_not_prove_is_judged_by_rapidocr(small: Line, large: Line, meaning: Meaning) -> None:
    reader = Reader(small, large)
    assert judged(reader) == (large.text, small.text, meaning)
    assert reader.asked == 1


def test_a_reader_of_small_letters_is_given_rows_and_columns_of_pixels_of_a_nearly_level_line() -> None:
    small = Mock()
    small.read.return_value = line("Gn")
    reader = shared_reader().beside(cast(LineReader, small))
    picture = np.random.default_rng(1).integers(0, 255, PICTURE.shape).astype(np.uint8)
    assert {
        reader.read_small(picture, place).text
        for place in (box(20, 30, 80, 40, slope=1.0), box(20, 30, 80, 40, slope=20.0), box(20, 10, 30, 70))
    } == {"Gn"}
    level, sloping, upright = (call.args[0] for call in small.read.mock_calls)
    assert np.array_equal(level, picture[30:41, 20:80])
    assert (sloping.shape[:2], upright.shape[:2]) == ((10, 63), (10, 60))  # each along its line
    assert not shared_reader().read_small(picture, box(20, 30, 80, 40)).legible  # it has none


@pytest.mark.parametrize("known", [False, True])
def test_a_name_in_a_box_of_two_lines_is_read_by_itself_and_a_setting_where_all_would_go(known: bool) -> None:
    class Page(Reader):
        def find(self, _view: Picture, scale: float = 1.0, within: Box | None = None) -> list[TextBox]:
            boxes = (box(20, 20, 80, 40), box(20, 31, 80, 40)) if scale == 1.0 and within is None else ()
            return [replace(one, confidence=0.4) for one in boxes]

        def find_upright(self, *_: object) -> list[TextBox]:
            return []

        def read(self, _view: Picture, box: TextBox, _least: int) -> Line:
            return line("Gn -1.4" if box.height > 15 else "Kim")

    reader = cast(TextReader, Page(NOTHING_READ, NOTHING_READ))
    assert [
        (text.line.text, text.meaning)
        for text in find_texts(PICTURE, reader, np.full(PICTURE.shape, known), no_waves(PICTURE.shape))
    ] == [
        ("Gn -1.4", Meaning.ACOUSTIC),
        ("Kim", Meaning.IDENTITY),
    ]


@pytest.mark.parametrize("runs_up", [False, True])
@pytest.mark.parametrize("found", [(20, 60), (80, 120), (60, 90)])
def test_an_upright_line_is_followed_to_both_of_its_ends(found: tuple[int, int], runs_up: bool) -> None:
    class Letters(Reader):
        """A letter every 10 rows from row 20 to row 120; above them noise is read as one more."""

        def read(self, _view: Picture, box: TextBox, _least: int = 1) -> Line:
            _, top, _, bottom = box.box
            return line("HANSENPETRA"[: ((min(bottom, 120) - max(top, 20)) // 10)] + "I" * (top < 10))

    rows = found[::-1] if runs_up else found
    place = Candidate(
        np.zeros((200, 120), np.uint8),
        TextBox(np.array([(40, rows[0]), (40, rows[1]), (30, rows[1]), (30, rows[0])], np.float32), 0.9),
        0.0,
    )
    left, top, right, bottom = place.followed(cast(TextReader, Letters(NOTHING_READ, NOTHING_READ))).box.box
    assert (left, right) == (30, 40)
    assert top <= 30
    assert 110 <= bottom <= 150


@pytest.mark.parametrize("turns", [1, 3])
def test_an_upright_line_is_read_the_way_that_is_surer(turns: int) -> None:
    page = np.rot90(burn(np.zeros((120, 200), np.uint8), "HANSEN^PETRA", (40, 50), 255, 20), turns).copy()
    (place,) = shared_reader().find_upright(page)
    assert place.is_upright
    for corners in (place.corners, np.roll(place.corners, 2, axis=0)):
        assert shared_reader().read(page, TextBox(corners, 0.9)).text.startswith("HANSEN")


PLACE = (28, 30, 150, 56)


def text_of(large: Line = NOTHING_READ, small: Line = NOTHING_READ) -> Text:
    return Text(level_box(PLACE, 0.9), large, Meaning.IDENTITY, small)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("one", "other", "drawn", "proven"),
    [
        (NOTHING_READ, NOTHING_READ, 0.0, False),
        (NOTHING_READ, NOTHING_READ, 1.0, False),  # each witness alone
        (line("Kim", SURE_LETTERS - 0.01), NOTHING_READ, 0.0, False),
        (line("Kim", SURE_LETTERS - 0.01), NOTHING_READ, TRACED - 0.01, False),
        (line("Kim", SURE_LETTERS - 0.01), NOTHING_READ, TRACED, True),  # two of three
        (line("Ki", SURE_LETTERS - 0.01), line("Kl", SURE_LETTERS - 0.01), 0.0, True),
        (line("Ki", SURE_LETTERS - 0.01), line("K", SURE_LETTERS - 0.01), 0.0, False),  # one letter is none
        (line("K-", SURE_LETTERS - 0.01), NOTHING_READ, TRACED, False),
        (line("Kim", SURE_LETTERS), NOTHING_READ, 0.0, True),  # one that is sure
        (line("Ki", SURE_LETTERS), NOTHING_READ, 0.0, False),
        (line("Kim 198", OF_LONG), NOTHING_READ, 0.0, True),  # one that reads many letters
        (line("Kim 198", OF_LONG - 0.01), NOTHING_READ, 0.0, False),
        (line("Kim 19", SURE_LETTERS - 0.01), NOTHING_READ, 0.0, False),
        (
            line("\ufffd\ufffd\ufffd", SURE_LETTERS),
            NOTHING_READ,
            0.0,
            True,
        ),  # in a script that it does not know
        (Line("Kim", SURE_LETTERS, legible=False), NOTHING_READ, TRACED, False),
    ],
)
def test_two_of_three_witnesses_or_one_reader_that_is_sure(
    one: Line, other: Line, drawn: float, *, proven: bool, turned: bool
) -> None:
    assert are_letters(text_of(other, one) if turned else text_of(one, other), drawn) == proven


def speckle(level: int) -> Picture:
    return np.clip(np.random.default_rng(7).normal(level, level / 10, (90, 180)), 0, 255).astype(np.uint8)


def written_over(level: int, colour: int) -> tuple[Picture, Mask]:
    """A name over speckle, and the pixels of its letters."""
    burned = burn(speckle(level), "KIM MINJUN", (30, 32), colour, 18)
    return burned, np.abs(burned.astype(int) - speckle(level)) > 40


@pytest.mark.parametrize(("level", "colour"), [(0, 255), (50, 255), (120, 255), (200, 10)])
def test_strokes_are_found_over_speckle_and_pixels_beside_them_are_not(level: int, colour: int) -> None:
    picture, ink = written_over(level, colour)
    found = strokes_in(picture, level_box(PLACE, 0.9))
    assert found[ink].mean() >= 0.99
    assert (found & ~dilated(ink, 7)).sum() <= 0.02 * found.sum()  # specks of speckle


@pytest.mark.parametrize(
    "drawn",
    [np.zeros_like, lambda ink: dilated(ink, 3), lambda ink: ink & (np.arange(ink.shape[1]) < 90)],
    ids=["nothing", "all", "half"],
)
def test_all_letters_go_whatever_the_mark_network_has_drawn(drawn: Callable[[Mask], Mask]) -> None:
    picture, ink = written_over(50, 255)
    found = letter_strokes([text_of()], drawn(ink), picture, 0.15)
    assert found[ink].mean() >= 0.99
    assert found[drawn(ink)].all()
    assert not (found & ~dilated(ink, 7)).any()


def test_strokes_of_other_places_are_not_taken_nor_any_beyond_the_picture() -> None:
    picture, ink = written_over(50, 255)
    elsewhere = np.zeros_like(ink)
    elsewhere[70:80, 20:60] = True
    assert not letter_strokes([text_of()], elsewhere, picture, 0.15)[elsewhere].any()
    assert not letter_strokes([], ink, picture, 0.15).any()
    assert not strokes_in(picture, level_box((400, 300, 450, 320), 0.9)).any()


def shares(outputs: Sequence[str], sure: float = 0.9) -> np.ndarray:
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
    line = prepared(np.random.default_rng(1).integers(0, 255, (rows, columns)).astype(np.uint8))
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


PICTURES = {"convex": echo(), "linear": linear_echo()}


# Width of the rim of the phantoms (pixels); what filling leaves there, at most (grey levels).
RIM_ROWS, MOST_IN_RIM = round(RIM * 360), 16


BACKGROUNDS = {"black": (0, 0, 0), "grey": (12, 12, 12), "blue": (18, 24, 48)}


def shown(picture: Picture) -> Mask:
    """Where a phantom shows tissue."""
    return np.asarray(picture > 0, np.bool_)


def on(background: tuple[int, int, int], picture: Picture) -> Picture:
    return np.where(shown(picture)[..., None], picture[..., None], np.array(background)).astype(np.uint8)


def nothing(picture: Picture) -> Mask:
    return np.zeros(picture.shape[:2], np.bool_)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("form", PICTURES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_area_is_where_tissue_is(form: str, background: str) -> None:
    picture, truth = on(BACKGROUNDS[background], PICTURES[form]), shown(PICTURES[form])
    area = find_area(picture, nothing(picture))
    assert (area & truth).sum() >= 0.97 * truth.sum()
    assert not (area & ~dilated(truth, 7)).any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("form", "place"),
    [("convex", (60, 150)), ("linear", (20, 335))],
)
def test_outside_the_area_the_colour_is_the_background_exactly(form: str, place: tuple[int, int]) -> None:
    background = BACKGROUNDS["blue"]
    burned = burn(on(background, PICTURES[form]), "KIM MINJUN", place, WHITE, 18)
    after, mask = parts(clean(ArrayImage(burned[None], photometric="RGB"), silent))
    rim, outside = (~dilated(shown(PICTURES[form]), side) for side in (7, 7 + 2 * RIM_ROWS))
    assert mask.any()
    assert np.array_equal(after[~mask], burned[~mask])
    assert (after[outside] == background).all()  # no structure at all, the name's included
    assert (np.abs(after[rim].astype(int) - background) <= MOST_IN_RIM).all()


@pytest.mark.usefixtures("less_enlarged")
def test_text_across_the_border_leaves_the_border_where_it_was() -> None:
    after, mask = parts(
        clean(ArrayImage(burn(linear_echo(), "KIM MINJUN", (60, 150), 255, 18)[None]), silent)
    )
    left = 480 // 5
    assert mask[:, : left - 3].any()
    assert mask[:, left + 3 :].any()
    assert not after[:, : left - 3 - RIM_ROWS].any()
    assert after[:, : left - 3].max() <= MOST_IN_RIM
    assert (after[:, left + 3 :][mask[:, left + 3 :]] > 0).mean() > 0.95


@pytest.mark.usefixtures("less_enlarged")
def test_a_full_bladder_is_of_the_area_and_a_panel_is_not() -> None:
    picture = linear_echo()
    picture[150:220, 200:280] = 0
    picture[:40] = np.random.default_rng(1).integers(56, 65, (40, 480))  # the noise of compression
    area = without_panels(find_area(picture, nothing(picture)), picture, nothing(picture))
    assert area[150:220, 200:280].all()
    assert not area[:40].any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_picture_without_background_is_all_area() -> None:
    tissue = linear_echo(1, (720, 960))[200:600, 240:720]
    assert find_area(tissue, nothing(tissue)).all()


@pytest.mark.usefixtures("less_enlarged")
def test_where_no_area_is_found_nothing_is_made_up() -> None:
    dark = burn(np.zeros((200, 300), np.uint8), "KIM MINJUN", (60, 80), 255, 18)
    assert not find_area(dark, strokes(dark)).any()
    assert not clean(ArrayImage(dark[None]), silent).image.frames.any()


@pytest.mark.usefixtures("less_enlarged")
def test_tissue_shows_between_the_strokes_of_letters() -> None:
    burned = burn(linear_echo(), "KIM MINJUN", (110, 150), 255, 18)
    assert find_area(burned, strokes(burned))[150:170, 110:200].all()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("region", "bounds"), [((90, 70, 390, 330), True), ((0, 0, 200, 200), False)])
def test_regions_bound_the_area_where_they_hold_the_tissue(
    region: tuple[int, int, int, int], bounds: bool
) -> None:
    picture = linear_echo()
    picture[0:60, 0:60] = linear_echo(2, (720, 960))[300:360, 450:510]  # a thumbnail
    free = find_area(picture, nothing(picture))
    area = find_area(picture, nothing(picture), (UltrasoundRegion(region),))
    assert free[20:40, 20:40].all()
    assert area[20:40, 20:40].any() != bounds
    assert area[150, 240]


@pytest.mark.usefixtures("less_enlarged")
def test_the_background_beside_a_hole_is_a_panels_or_the_pictures() -> None:
    source = np.zeros((100, 200), np.uint16)
    source[:60], source[60:, 100:] = 900, np.arange(4000).reshape(100, 40).T
    source[80:, :50], source[26:50, :80] = 2, 1300
    mask = np.zeros(source.shape, np.bool_)
    mask[20:30, 20:60] = mask[75:85, 140:160] = mask[95:, :40] = True
    source[mask] = 4095
    filled = with_background(source, mask, ~mask, 0.0)
    assert (filled[20:30, 20:60] == np.where(np.arange(20, 30) < 26, 900, 1300)[:, None]).all()
    assert (filled[75:85, 140:160] == 900).all()
    assert np.array_equal(filled[~mask], source[~mask])
    assert len(np.unique(filled[95:, :40])) == 1
    assert (with_background(source, mask, np.zeros_like(mask), 7.0)[mask] == 7).all()


LINES = (("Name: KIM MINJUN", (8, 4), 18), ("ID 48271935", (374, 4), 14), ("1957-08-23", (8, 30), 12))


def inked(shape: tuple[int, ...]) -> Picture:
    """How much of each pixel the letters of the lines take, 0 to 255."""
    ink: Picture = np.zeros(shape[:2], np.uint8)
    for text, place, size in LINES:
        ink = np.maximum(ink, burn(np.zeros_like(ink), text, place, 255, size))
    return ink


def written(form: str, background: tuple[int, ...], contrast: tuple[int, ...]) -> tuple[Picture, Mask]:
    """A picture on a coloured background with lines of so much contrast in each channel; where tissue is."""
    tissue = PICTURES[form]
    ground = np.where((tissue > 0)[..., None], tissue[..., None], np.array(background)).astype(np.float64)
    shares = inked(tissue.shape)[..., None] / 255
    return np.clip(np.rint(ground + shares * np.array(contrast)), 0, 255).astype(np.uint8), tissue > 0


def compressed(picture: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def found(picture: Picture, shown: Mask) -> Mask:
    writing, strong = faint_writing(picture, shown, np.zeros_like(shown))
    return blocks(writing) & ~strong


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("form", PICTURES)
@pytest.mark.parametrize(
    ("background", "level"),
    [
        *((ground, level) for ground in BACKGROUNDS for level in (1, 2, 3, 6, 12)),
        ("grey", -1),
        ("blue", -4),
    ],
)
def test_letters_of_any_faint_level_are_found(form: str, background: str, level: int) -> None:
    picture, shown = written(form, BACKGROUNDS[background], (level, level, level))
    mask, letters = found(picture, shown), (picture != BACKGROUNDS[background]).any(axis=2) & ~shown
    assert letters.any()
    assert mask[letters].all()
    assert not (mask & dilated(shown, 5)).any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("contrast", [(0, 0, 6), (5, 0, 0), (4, 4, 0), (-6, 6, 0)])
def test_coloured_letters_are_found_in_any_channel(contrast: tuple[int, ...]) -> None:
    picture, shown = written("convex", BACKGROUNDS["blue"], contrast)
    assert found(picture, shown)[((picture != BACKGROUNDS["blue"]).any(axis=2) & ~shown)].all()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("quality", [75, 92])
@pytest.mark.parametrize("level", [3, 6, 12])
def test_letters_that_were_compressed_are_found(quality: int, level: int) -> None:
    picture, shown = written("convex", BACKGROUNDS["black"], (level, level, level))
    assert found(compressed(picture, quality), shown)[(inked(shown.shape) >= 128) & ~shown].mean() >= 0.95


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_letters_that_8_bits_do_not_show_are_found_in_the_stored_levels(dtype: type) -> None:
    tissue = PICTURES["convex"]
    letters = (inked(tissue.shape) >= 128) & (tissue == 0)
    assert found(tissue.astype(dtype) * 128 + letters.astype(dtype) * 3, tissue > 0)[letters].all()


@pytest.mark.usefixtures("less_enlarged")
def test_dim_tissue_beside_the_area_and_noise_are_no_letters() -> None:
    tissue = PICTURES["linear"]
    shown, noise = tissue > 0, np.random.default_rng(4).integers(0, 6, tissue.shape).astype(np.uint8)
    assert not found(tissue, shown).any()
    assert not found(np.where(dilated(shown, 61) & ~shown, noise, tissue), shown).any()
    assert found(np.where(shown, tissue, noise), shown).mean() < 0.02


@pytest.mark.usefixtures("less_enlarged")
def test_what_compression_leaves_around_a_known_line_is_no_writing_unless_it_continues_one() -> None:
    tissue = PICTURES["linear"]
    shown, faint = tissue > 0, inked(tissue.shape) // 32
    bright = burn(tissue, "Gn -2", (8, 10), 255, 18)
    assert not faint_writing(compressed(bright, 85), shown, dilated((bright > 0) & ~shown, 5))[0].any()
    continued = np.maximum(burn(tissue, "|", (60, 4), 255, 18), np.where(shown, 0, faint))
    rule = dilated((continued > 100) & ~shown, 3)
    mask, _ = faint_writing(continued, shown, rule)
    assert mask[(faint > 0) & ~shown & ~rule].all()
    assert not (mask & rule).any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_strong_curve_among_faint_letters_stays() -> None:
    picture, shown = written("convex", BACKGROUNDS["black"], (4, 4, 4))
    curve = np.zeros(shown.shape, np.bool_)
    curve[13:15, 60:90] = True
    mask = found(np.where(curve[..., None], (0, 200, 0), picture).astype(np.uint8), shown)
    assert mask.any()
    assert not (mask & curve).any()


@pytest.mark.usefixtures("less_enlarged")
def test_many_faint_lines_are_no_tissue_where_the_image_area_is_found() -> None:
    tissue, ink = PICTURES["linear"], np.zeros_like(PICTURES["linear"])
    for place in ((x, y) for y in (2, 22, 336) for x in (4, 240)):
        ink = burn(ink, "Name: KIM MINJUN", place, 255, 18)
    letters = (ink >= 128) & (tissue == 0)
    after, _ = parts(clean(ArrayImage(np.where(letters, 4, tissue).astype(np.uint8)[None]), silent))
    assert not after[letters].any()


@pytest.mark.usefixtures("less_enlarged")
def test_tissue_too_dim_for_its_area_to_be_found_is_not_removed_as_writing() -> None:
    picture = echo() // 16
    assert np.mean(parts(clean(ArrayImage(picture[None]), silent))[0] != picture) < 0.06


@pytest.mark.usefixtures("less_enlarged")
def test_a_still_leaves_nothing_of_faint_lines_but_the_background() -> None:
    picture, tissue = written("linear", BACKGROUNDS["blue"], (4, 4, 4))
    result = clean(ArrayImage(picture[None], photometric="RGB"), silent)
    after, _ = parts(result)
    rim, levels = dilated(tissue, 2 * RIM_ROWS + 3), BACKGROUNDS["blue"]
    assert (after[~rim] == levels).all()
    assert (np.abs(after[~tissue].astype(int) - levels) <= 24).all()  # filled from both sides
    assert (after != picture).any(axis=2)[tissue].mean() < 0.005
    assert any(note.name == "burned_in" and "banner" in note.text for note in result.notes)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("shown_in", [(0, 1, 2, 3), (1,)], ids=["all", "one that is not sampled"])
def test_a_cine_leaves_nothing_of_faint_lines(shown_in: tuple[int, ...]) -> None:
    tissue = PICTURES["linear"] > 0
    ink = (inked(tissue.shape) >= 128) * 3
    frames = np.stack([np.where(tissue, linear_echo(at), ink * (at in shown_in)) for at in range(4)])
    assert not np.asarray(clean(ArrayImage(frames.astype(np.uint8)), silent).image.frames)[:, ~tissue].any()


STRIP = (40, 200, 440, 340)


GREEN, WHITE = (40, 230, 60), (255, 255, 255)


def spectrum(seed: int = 4) -> Picture:
    """A small fan above a strip with the waves of a Doppler spectrum, in RGB."""
    picture, random = np.zeros((360, 480, 3), np.uint8), np.random.default_rng(seed)
    picture[:180, 120:360] = echo(seed, (180, 240))[..., None]
    left, _, right, bottom = STRIP
    for column in range(right - left):
        height = int(20 + 80 * abs(np.sin(column / 40)) ** 3)
        picture[bottom - 20 - height : bottom - 20, left + column] = np.clip(
            random.rayleigh(60, height) + 40, 0, 255
        ).astype(np.uint8)[:, None]
    picture[bottom - 20, left:right] = (200, 200, 60)
    return picture


def with_ecg(picture: Picture, colour: tuple[int, int, int] = GREEN, row: int = 340) -> tuple[Picture, Mask]:
    """The picture in RGB with an ECG, and where that is."""
    rgb, x = np.repeat(picture[..., None], 3, axis=2), np.arange(30, 450)
    beat = (x % 90).astype(float)
    y = row - 32 * np.exp(-(((beat - 30) / 2.0) ** 2)) - 5 * np.exp(-(((beat - 55) / 6.0) ** 2))
    cv2.polylines(rgb, [np.stack([x, np.rint(y)], axis=1).astype(np.int32)[:, None]], False, colour, 2)
    return rgb, (rgb != picture[..., None]).any(axis=2)


@pytest.mark.usefixtures("less_enlarged")
def test_a_name_in_a_spectrum_is_blacked_out_and_the_rest_stays() -> None:
    before = spectrum()
    picture = burn(before, "KIM MINJUN", (60, 205), WHITE, 18)
    image = ArrayImage(
        picture[None],
        photometric="RGB",
        ultrasound_regions=(
            UltrasoundRegion((0, 0, 480, 190), spatial_format=1, data_type=1),
            UltrasoundRegion(STRIP, spatial_format=3, data_type=3),
        ),
    )
    after, mask = parts(clean(image, silent))
    assert mask[(picture != before).any(axis=2)].mean() >= 0.97
    inside = (after != picture).any(axis=2) & (np.arange(360) >= STRIP[1])[:, None]
    assert inside.any()
    assert not after[inside].any()
    assert mask[inside].all()
    assert inside.sum() < 0.15 * (STRIP[2] - STRIP[0]) * (STRIP[3] - STRIP[1])


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("colour", "row"), [(GREEN, 340), ((240, 220, 30), 351)])
def test_an_ecg_below_a_sector_is_a_trace_and_tissue_is_none(colour: tuple[int, int, int], row: int) -> None:
    picture, ecg = with_ecg(echo(), colour, row)
    trace = find_traces(picture, find_area(picture, nothing(picture)))
    assert trace[ecg].mean() > 0.95
    assert not trace[: row - 60].any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("modality", ["US", "OT"])
def test_a_name_across_an_ecg_cannot_be_read_and_the_ecg_stays(modality: str) -> None:
    picture, ecg = with_ecg(echo())
    burned = burn(picture, "KIM MINJUN", (30, 322), WHITE, 18)
    after, mask = parts(clean(ArrayImage(burned[None], modality=modality, photometric="RGB"), silent))
    trace = find_traces(burned, find_area(burned, nothing(burned)))
    stays = trace & ((np.arange(480) > 160) | (modality == "US"))  # elsewhere the name's box goes whole
    assert trace[ecg].mean() > 0.95
    assert np.array_equal(after[stays], burned[stays])
    assert mask[(burned != picture).any(axis=2) & ~trace].all()
    assert not any(shared_reader().read(after, box, 2).legible for box in shared_reader().find(after))


@pytest.mark.usefixtures("less_enlarged")
def test_an_ecg_that_grows_in_a_cine_stays() -> None:
    drawn = [with_ecg(frame) for frame in cine(2, size=(360, 480))]
    for index, (full, ecg) in enumerate(drawn):
        ecg[:, 200 + 165 * index :] = False
        full[(full == GREEN).all(axis=2) & ~ecg] = 0
    frames = [burn(full, "KIM MINJUN", (4, 4), WHITE, 18) for full, _ in drawn]
    masks = np.asarray(clean(ArrayImage(np.stack(frames), photometric="RGB"), silent).mask.frames)
    assert masks.any()
    assert not masks[0][drawn[-1][1]].any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("size", [10, 14, 18, 30])
@pytest.mark.parametrize(
    "text", ["KIM MINJUN 12.03.1967 SEOUL NATIONAL", "illimitable williamll mini lullaby"]
)
def test_a_line_of_text_is_no_trace(text: str, size: int) -> None:
    black = np.zeros((360, 480, 3), np.uint8)
    for colour in (GREEN, (255, 255, 255), (255, 230, 0)):
        assert not find_traces(burn(black, text, (4, 300), colour, size), black[..., 0] > 0).any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("spatial_format", "data_type", "is_strip"),
    [
        (1, 1, False),
        (1, 2, False),
        (2, 1, True),
        (3, 3, True),
        (3, 4, True),
        (4, 10, True),
        (5, 13, False),
        (5, 14, False),
        (0, 0, False),
    ],
)
def test_strips_are_told_by_format_and_type(spatial_format: int, data_type: int, is_strip: bool) -> None:
    region = UltrasoundRegion(STRIP, spatial_format=spatial_format, data_type=data_type)
    assert find_strips((region,), (360, 480))[250, 100] == is_strip
    assert not find_strips((region, UltrasoundRegion((0, 0, 900, 90))), (360, 480)).any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_bar_is_seen_by_its_form_and_letters_on_it_or_on_a_panel_are_not() -> None:
    picture = np.zeros((360, 480, 3), np.uint8)
    picture[40:240, 6:30] = np.linspace(255, 20, 200).astype(np.uint8)[:, None, None]
    picture[40:120, 440:464, 0] = np.linspace(250, 60, 80).astype(np.uint8)[:, None]
    picture[300:330, 100:300] = 180  # a panel of one colour
    cv2.putText(picture, "KIM MINJUN", (105, 322), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 2)
    found = find_bars(picture)
    assert found[60:200, 8:28].all()
    assert found[50:110, 444:460].all()
    assert not found[280:].any()
    cv2.putText(picture, "KIM", (6, 140), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
    assert not find_bars(picture)[128:142, 8:28].all()


def power() -> tuple[Picture, np.ndarray]:
    """A vessel of power Doppler: yellow inside, orange, red at its rim."""
    picture = np.repeat(echo()[..., None], 3, axis=2)
    y, x = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]]
    depth = ((x - 240) / 60) ** 2 + ((y - 190) / 14) ** 2
    shade = np.stack([np.full_like(depth, 250), 230 * np.clip(1 - depth, 0, 1), 0 * depth], axis=2)
    return np.where(depth[..., None] < 1, shade, picture).astype(np.uint8), depth < 1


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("made", [flow(echo()), power()], ids=["colour", "power"])
def test_flow_is_found(made: tuple[Picture, np.ndarray]) -> None:
    picture, vessel = made
    assert find_flow(picture)[vessel].mean() > 0.95


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("colour", [(255, 230, 0), (60, 80, 255), (255, 40, 40), WHITE])
def test_text_is_no_flow_whatever_its_colour(colour: tuple[int, int, int]) -> None:
    assert not find_flow(
        burn(np.repeat(echo()[..., None], 3, axis=2), "KIM MINJUN 1970", (12, 10), colour, 20)
    ).any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_colour_bar_is_no_flow_in_one_piece_or_in_two_halves() -> None:
    whole = np.repeat(echo()[..., None], 3, axis=2)
    halves = whole.copy()
    whole[40:140, 6:18] = np.linspace((255, 0, 0), (0, 0, 255), 100)[:, None].astype(np.uint8)
    upper = np.linspace((250, 240, 0), (150, 20, 0), 32)[:, None].astype(np.uint8)
    halves[40:72, 6:32], halves[72:76, 6:32], halves[76:108, 6:32] = upper, (20, 0, 0), upper[::-1]
    assert not any(find_flow(picture).any() for picture in (whole, halves, echo()))


@pytest.mark.usefixtures("less_enlarged")
def test_specks_in_flows_colours_are_flow_beside_it_alone() -> None:
    picture, vessel = power()
    last = np.flatnonzero(vessel.any(axis=1)).max()
    near, far = np.s_[last + 6 : last + 11, 240:245], np.s_[20:25, 20:25]
    picture[near] = picture[far] = (220, 90, 0)
    flows = find_flow(picture)
    assert flows[near].all()
    assert not flows[far].any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_colour_bar_is_one_and_a_vessel_or_letters_are_none() -> None:
    picture, vessel = flow(echo())
    picture[40:100, 440:456] = 0
    picture[40:100, 440:456, 0] = np.linspace(70, 255, 60).astype(np.uint8)[:, None]
    bars = colour_bars(burn(picture, "KIM MINJUN", (4, 4), (255, 30, 30), 24))
    assert bars[42:98, 441:455].all()
    assert not bars[vessel].any()
    assert not bars[:40, :200].any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("rows", "columns"), [(400, 601), (560, 300)])
def test_tiles_say_what_the_whole_picture_says(
    monkeypatch: pytest.MonkeyPatch, rows: int, columns: int
) -> None:
    picture, finder = echo(7, (rows, columns)), shared_tools().finder
    picture[rows // 3 :: 97, 5:200] = 255  # lines across the tiles' borders
    picture[20:60, columns // 2 :: 31] = 200
    whole = finder.find(picture)
    monkeypatch.setattr(networks, "WHOLE", 0)
    monkeypatch.setattr(networks, "TILE", 384)
    tiled, drawn = finder.find(picture), whole.marked > 0.01  # where nothing is drawn the kinds are equal
    np.testing.assert_allclose(tiled.marked, whole.marked, atol=1e-4)
    assert (whole.marked > 0.5).any()
    assert (tiled.classes[drawn] == whole.classes[drawn]).mean() > 0.9999


HARMLESS = {
    Meaning.ACOUSTIC: (
        "MI 0.9", "MI0.9", "Ml 0.9", "TIs 0.3", "TIB 0.5", "TIS0.1 MI 1.2", "MI0.9TIs0.3", "Gn 50",
        "Gn50", "DR 70", "Frq 5.0 MHz", "Frq5.0MHz", "FR 32Hz", "FR 32 fps", "PRF 1.3kHz", "PRF 4000Hz",
        "WF 88Hz", "2D", "THI", "70dB", "AO% 100", "AO 100%", "P90%", "S/A 1/2", "Map F/0", "C5-1",
        "C5-1 19Hz", "ML6-15", "H4.00MHz -10dB", "WF Low", "Z 1.0", "4.0 MHz", "COLOR DOPPLER",
        "SRI II 3/CRI 2", "SRIⅡ2", "C5 / M4", "Gn-0.6", "PRF-0.9kHz",
        "C6 / M7*", "FF2/E3*", "Frą mid",
        "Qúal norm", "WMF 10W1", "/PRF 0.6kHz", "Routine 2 Trim./OB", "Routine HI",
        "2+3.Trim.", "2. Trim.", "3.Trim", "Har-high", "Har-intermedia", "Adult Echo", "Gen OB",
        "47/56", "62/73", "MIm:1.5", "Qscan:85",
        "60°/28Hz", "60/ 21Hz", "65°/1.7", "25Hz/15.6cm", "3 Trim./OB", "Penetration", "HL 6.40 - 4.03",
        "HM PI 6.80 - 2.80",
        "HM PI 11.80 - 2.50", "-6cmis", "6cmls", "Har-alta",
        "IM 0.8", "ITm 0.2", "HPén-HGén", "PRC 16/4/1 PRS 4", "PST 0", "RES-A", "XV C3",
        "PRC 12-3-L PRS 3", "XV 1", "BG:21 75/+/4/5/2/A/6", "TCD", "Abd Vasc",
        "TAC1", "DVA: 94%", "G 54%", "P 30mm", "T4.4", "Qscan:80 /MDR:50/MFT4.4",
        "Mlm:1.5", "81 kVp", "81kV 2.5mAs", "4Gray Map;5", "3HI REZ+;4", "6R-Filter;A", "B-Dyn.;75",
        "Frec. 10.0", "FR:42", "G66 DR60 FR32", "Line Density Med", "Verstärkung 60 dB", "Profondeur 12 cm",
        "动态范围 60", "L25xp/13-6 Ophthalmic", "C5-1/FETAL HEART", "1.7/3.4 MHz", "Dyn R 58",
        "9123 5.0 R15 G66 C6 A2", "EDGE 50%", "2D Gain 48", "Color Gain 45%", "977:977", "No.84/84",
        "[2D]G50/128dB/FA10/P90/FSI 1", "[PW]G50/F1/2.50 kHz/1.00@11.00 mm/0°", "B161°/V120°/5.0cm",
        "15 Hz/1.6", "HL5-12ED", "P2-4AH", "18L7", "M3 M4", "Général /Basic", "F 1.5~3.5", "DTCE Hoch",
        "Ris./Vel.", "SoS 1500", "F# 2", "138/38", "Gen.", "58%", "Hand/Foot|",
        "C5/M4", "C5 / M4", "FF3/E2", "SRI II 3 / CRI 2", "Qual norm", "WMF low1", "Frq mid",
    ),
    Meaning.MEASUREMENT: (
        "Lt Ut-PS 70.64cm/s", "Umb-RI 0.52", "Umb-HR 171bpm",
        "D 3.45 cm", "D3.45cm", "1 L 23.1mm", "1L23.1mm", "1D2.31cm", "1.D.9.92cm",
        "+ Dist 2.31 cm", "+Dist2.31cm",
        "Dist 1 2.31cm", "D1: 3.45 cm", "2.31 x 1.45 x 3.20 cm", "2.31x1.45cm", "2,31 cm", "Vol 12.3 ml",
        "Vol12.3ml", "RI 0.65", "PSV 43.2 cm/s", "HC 245.3mm GA 26w3d", "BPD64.5mm", "EFW 1234g",
        "D1", "D2:", "Volumen A351.4 cm3", "Calip", "EF 58%",
        "HR 72 bpm", "12.3cm", "ENDO 8.2mm", "1 D 2.31cm 2 D 1.45cm", "Area 3.21 cm²",
        "Asc Ao Diam 3.3 cm", "\ue000 Asc Ao Diam 3.3 cm", "Asc Ao Index 2.0", "LVIDd 4.5 cm", "IVSd 1.1cm",
        "÷ Asc Ao Diam 3.3 cm", "Asc Ao Index", "Index 2.0", "+ Cist Mag", "Cist Mag 5.1 mm", "4.0 cm-",
        "MV E 80 cm/s", "LA Diam 3.4 cm", "RT OVARY D1 2.34 cm", "D", "+", "Dist",
        "距离 2.28 cm", "1距离3.26cm", "面积 3.2 cm2", "+ Abstand 2.3 cm", "Largo 31 mm", "周长 12.3 cm",
    ),
    Meaning.SCALE: ("0", "5", "10", "15", "45", "100", "120", "-60", "-4.0", "38.5", "0.5", "+20", "10 •",
        "-10"),
    Meaning.ORIENTATION: (
        "L", "R", "LT", "Rt", "LEFT", "Right", "SAG", "TRANS", "TRV", "Transverse", "OVARY", "UTERUS",
        "Bladder", "LIVER", "RT KIDNEY", "LT OV CYST", "L-OV", "R-OV", "RT OVARY",
        "Rt Ovary", "RTOVARY", "LUNG BASE",
        "LONG AXIS", "RT KIDNEY LONG", "GALLBLADDER", "IVC", "GB", "ROV", "CYST 2", "rt axilla",
        "LOWER POLE",
        "PORTABLE", "SUPINE", "Semi-Upright", "L UPRIGHT", "STEHEND",
        "CODO", "RODILLA", "ELLENBOGEN", "GENOU",
        "IZQ", "OVARIO DERECHO", "OVARIO IZQUIERDO", "Ovaire gauche", "FÍGADO", "左卵巢", "右侧",
        "HARNBLASE", "LI NIERE RENAL", "feto b", "FETUS A", "자궁", "좌측 난소",
        "PERIPHERAL ZONE LEFT PROSTATE", "PAROI CAECUM", "VEJIGA PREMICCION", "3CH",
        "Spleen Length", "颈动脉血管",
    ),
    Meaning.LOGO: ("GE", "GE Healthcare", "SIEMENS", "PHILIPS", "SAMSUNG MEDISON", "Mindray",
        "'Voluson", "·Voluson"),
}  # fmt: skip


NAMES = """
    Kim Lee Park Choi Jung Kang Cho Yoon Jang Lim Han Oh Seo Shin Kwon Hwang Ahn Song Ryu Hong Jeon Moon
    Yang Bae 김영희 이순자 박지우 최민서 정하은 김 이 박 최 홍길동 남궁민수
    Smith Johnson Williams Brown Jones Garcia Miller Davis
    Rodriguez Martinez Hernandez Lopez Gonzalez Wilson Anderson Thomas Taylor Moore Jackson Martin
    Thompson White Harris Sanchez Clark Ramirez Lewis Robinson Walker Young Allen King Wright Scott Torres
    Nguyen Hill Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter Roberts Long Stone
    Head Lung Endo Colon Power Short Base Wall Bone Foote Hand Cross Post Rose Sage Lowe Mass Chin Cord
    Gall Leber Herz Mays Hart Art Sal Sid Ed Len Tad Lea Mia Max Cy Cor Ute Bea Ada Ida Dean Major Müller
    Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch Bauer Richter Klein
    Wolf Schröder Neumann Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Werner Krause Lehmann
    Köhler Herrmann Dubois Moreau Laurent Lefebvre Leroy Roux Fournier Girard Bonnet Dupont Lambert
    Rousseau Blanc Guérin Chevalier Rossi Russo Ferrari Esposito Bianchi Romano Colombo Ricci Marino Greco
    Bruno Gallo Conti Costa Giordano Mancini Ivanov Petrov Sidorova Kuznetsova Смирнова Иванова Попова
    Соколов Kowalski Nowak Wiśniewska Wójcik Novák Svoboda Tanaka Suzuki Takahashi Watanabe Ito Yamamoto
    Nakamura Kobayashi Kato 田中 佐藤 鈴木 王 李 张伟 Wang Li
    Zhang Liu Chen Yang Zhao Huang Zhou Wu Xu Sun Hu Zhu
    Gao Lin He Guo Ma Luo Liang Zheng Tran Pham Hoang Phan Vu Dang Bui Ngo Ho Singh Kaur Sharma Verma
    Patel Gupta Khan Ahmed Hussain Ali Fatima Aisha Mohammed Haddad Yilmaz Kaya Demir Çelik Okafor Mensah
    Diallo Traoré Mbeki Abebe Silva Santos Oliveira Souza Pereira Lima Ferreira Alves Svensson Hansen
    Jensen Nielsen Virtanen Korhonen Papadopoulos O'Brien Al-Sayed van-Dijk Min-ji McDonald Mary Linda
    Anna Maria Emma Olivia Sophia Isabella Amelia Grace Hannah Elif Yuki Hana Priya Ananya Lena Ingrid
    Olga Natalia Chi Live Har
""".split()  # noqa: SIM905 - they are read as words


HOSPITALS = (
    "CITY HOSPITAL",
    "St. Vera Clinic",
    "Klinikum Nord",
    "Praxis am Markt",
    "한빛여성병원",
    "OB/GYN DEPT",
    "DIAGNOSTIC IMAGING",
    "VASCULAR SURGERY",
    "REGIONAL SURGICAL",
)


DATE_FORMATS = (
    "%Y%m%d", "%Y-%m-%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%m/%d/%y", "%d/%m/%Y", "%d-%b-%Y",
    "%d %b %Y", "%b %d, %Y", "%d%b%y", "%Y/%m/%d", "%Y.%m.%d", "%d %m %y", "%d %m %Y", "%B %d %Y",
    "%Y년 %m월 %d일", "%d.%m.", "%m/%d", "%d-%m-%y", "%H:%M", "%H:%M:%S", "%I:%M %p", "%Y", "DOB %d/%m/%Y",
    "LMP %d.%m.%y", "EDD %d-%b", "%H.%M",
)  # fmt: skip


UNSAFE_LABELS = frozenset({"ENDO", "LONG", "COLON", "MAX"})  # labels of values, or words beside a noun


OTHERS = (
    "45Y", "045Y", "45 yrs", "F/45", "45F", "M 45", "F 45", "M", "F", "072", "72 kg", "165 cm", "165cm",
    "1967", "99", "Dr. Long", "R LONG", "Lt Long", "Op: JK", "ID", "Name", "Acc", "R10:15", "Tech RN",
    "Room 3", "12 03", "0 5 10 15", "Ｋｉｍ", "K I M", "A B", "J D", "LIVER KIM", "MI 0.9 KIM",
    "D 3.45 cm Lee", "PHILIPS ANNA", "Harlow", "HARLOW", "Har Low", "P Max", "P Low", "Pers Max", "Sens Low",
    "Fr 45", "FR 45", "SRI 45", "Sri 45", "C5/M45", "HU L 12.03 - 9.30", "H M 12.03-14.05", "HM 12.03-9.30",
    "Sri Bo Gri 4", "Sri Win", "Sri Dwi 3", "SRI INDRA 3 / CRI 2", "SRI WIN / CRI", "C5/M45*", "CS/M4",
    "C57M4", "P47E3", "100G", "/45", "/KIM", "/MAG.1.67", "/THI", "/KIM 3", "Fra mid", "Frą Kim", "Routine 2",
    "Routine Kim",
    "Lee 2 Trim.", "Quan Low", "Saul Low", "Qual", "WMF Low 45",
    "R 12 M 45", "JONES 45 R 15 G 66", "Kim 4 Lee 5 Ng 6",
    "24/123", "123/24", "12/124", "115/122", "045/123", "045/046", "HM P 12.03 - 9.30", "HM PI 12.03 - 9.30",
    "Kidney B", "Der", "Feto Kim", "Feto Kim B", "Feto Long", "R Stone Feto", "Largo", "Alto B", "Largo 45 s",
    "Kim-PS", "Kim-RI 0.52", "12/3/4/5/6/7",
    "EDGE 45", "PROF 45", "D GAIN 45", "Dr. GAIN", "DR GAIN", "MI 45 ANNA", "LONG DR 60", "DMR 123",
    "Map KIM", "KIM Map 45", "SMITH 50%", "Map 12.03", "Map 01.02.1967", "Focus 45Y", "余辉 45",
    "POWER 45", "M 12.03", "No.84/97", "GATE 52 cm", "S 1/2/3", "MIX 12/67",
    "D12/M03/Y67", "A12/B34/C56", "C 12/03/67", "M45/F32/K12", "12/12", "M3 45", "F3", "RD", "S12-345",
    "FC 62 s", "FC 62%", "Höhe 52 cm", "高度 99 cm", "Longitud 52 cm", "6cmKs",
)  # fmt: skip


harmless = st.sampled_from([text for texts in HARMLESS.values() for text in texts])


@pytest.mark.parametrize("meaning", HARMLESS)
def test_what_machines_write_is_known_for_what_it_is(meaning: Meaning) -> None:
    assert [text for text in HARMLESS[meaning] if meaning_of(text, 0.97) is not meaning] == []


@pytest.mark.parametrize("meaning", HARMLESS)
def test_what_is_not_read_with_confidence_is_identity(meaning: Meaning) -> None:
    def is_long_setting(text: str) -> bool:
        return meaning is Meaning.ACOUSTIC and sum(map(str.isalnum, text)) >= SETTING_CHARACTERS

    for text in HARMLESS[meaning]:
        assert meaning_of(text, LEAST_CONFIDENCE - 0.001) is (
            meaning if is_long_setting(text) else Meaning.IDENTITY
        ), text
        assert meaning_of(text, LEAST_OF_SETTING - 0.001) is Meaning.IDENTITY, text
        assert meaning_of(text, float("nan")) is Meaning.IDENTITY, text


def test_a_name_alone_is_identity() -> None:
    written = {
        spelling
        for name in (*NAMES, *HOSPITALS, *OTHERS)
        for spelling in (
            *(name, name.upper(), name.lower(), name.title()),
            *(f"{name},", f"{name}^{name}", f"1 {name}"),
        )
    }
    assert [name for name in sorted(written) if meaning_of(name, 1.0) is not Meaning.IDENTITY] == []


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(NAMES).filter(lambda name: name.upper() not in UNSAFE_LABELS),
    known=harmless,
    write=st.sampled_from([str, str.upper, str.lower, str.title]),
    joint=st.sampled_from([" ", "  ", ": ", ", ", "/", " - ", "\n"]),
    first=st.booleans(),
)
def test_a_name_beside_harmless_text_makes_all_of_it_identity(
    name: str, known: str, write: Callable[[str], str], joint: str, first: bool
) -> None:
    text = joint.join((write(name), known) if first else (known, write(name)))
    # "LIVER LONG": the noun says what the word is
    a_word = name.upper() in ALSO_NAMES and meaning_of(known, 1.0) is Meaning.ORIENTATION
    assert a_word or meaning_of(text, 1.0) is Meaning.IDENTITY


@settings(max_examples=100, deadline=None)
@given(
    day=st.dates(date(1900, 1, 1), date(2035, 12, 31)),
    form=st.sampled_from(DATE_FORMATS),
    known=harmless | st.just(""),
    first=st.booleans(),
)
@example(day=date(2000, 12, 3), form="%d.%m.", known="", first=True)
def test_a_date_or_time_is_identity_alone_and_beside_harmless_text(
    day: date, form: str, known: str, first: bool
) -> None:
    written = day.strftime(form)
    text = f"{written} {known}" if first else f"{known} {written}"
    assert meaning_of(text.strip(), 1.0) is Meaning.IDENTITY


@settings(max_examples=100, deadline=None)
@given(
    number=st.from_regex(r"[A-Z]{0,3}[-_ ]?\d{5,14}", fullmatch=True)
    | st.from_regex(r"\d{1,4}[-/.]\d{4,8}", fullmatch=True)
    | st.from_regex(r"[A-Z]{2,4}\d{3,8}[A-Z]?", fullmatch=True)
    | st.from_regex(r"\d{3} \d{2} \d{4}", fullmatch=True),
    known=harmless | st.just(""),
    first=st.booleans(),
)
def test_a_number_of_a_person_is_identity(number: str, known: str, first: bool) -> None:
    shown = meaning_of((f"{number} {known}" if first else f"{known} {number}").strip(), 1.0)
    setting = number[:2] in {"DR", "FR", "AO", "GN"} and len(number.strip("ADFGNOR ")) <= 3
    assert shown is Meaning.IDENTITY or setting


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40), confidence=st.floats(allow_nan=True))
@example(text="MI 0.9 " * 40, confidence=1.0)
def test_any_text_has_a_meaning_and_takes_no_time(text: str, confidence: float) -> None:
    found = meaning_of(text, confidence)
    assert found in Meaning
    assert len(text) < 200 or found is Meaning.IDENTITY  # so long: prose


HEADER = image_header(
    age_years=40.0,
    attributes={"StudyDate": "20260107", "AcquisitionDate": "20260108", "ContentDate": "x"},
)


ALLOWED = Allowed.from_options(["R-CY", "rt3"], "keep", HEADER)


STAYS = (
    "07.01.2026", "7/1/26", "01/07/2026", "2026-01-07", "20260107", "07-Jan-2026", "Jan 7, 2026",
    "08 JANUARY 2026 10:32:11", "07.01.2026 10:32", "10:32:11 AM", "R-CY", "r-cy:", "RT3", "R-CY 5.2 cm",
    "rt3 LONG LIVER",
)  # fmt: skip


GOES = (
    "09.01.2026", "07.01.1956", "07.01.2026 09.03.1941", "R-CY SMITH", "DOB 07.01.2026", "107.01.20263",
    "20260107123", "SMITH 10:32", "4071-R-CY", "26:61",
    "20260107-12", "20260107 45", "2026-01-07-12", "20260107.12", "A20260107", "20260107 B",
    "20260107 12/56", "07.01.2026 10:32 45", "D 20260107-12",
)  # fmt: skip


def test_what_is_allowed_stays_where_it_is_surely_read_and_nothing_beside_it_or_like_it() -> None:
    stays = [text for text in STAYS + GOES if meaning_of(text, 0.99, ALLOWED) is not Meaning.IDENTITY]
    assert stays == list(STAYS)
    assert meaning_of("R-CY", 0.8, ALLOWED) is Meaning.IDENTITY
    assert {meaning_of(text, 0.99) for text in ("07.01.2026", "10:32:11", "R-CY", "RT3")} == {
        Meaning.IDENTITY
    }


def test_dates_are_those_of_the_header_and_none_of_a_newborn() -> None:
    assert ALLOWED.dates == {date(2026, 1, 7), date(2026, 1, 8)}
    for age in (0.0, None):
        assert Allowed.from_options([], "keep", replace(HEADER, age_years=age)).dates == frozenset()
    assert Allowed.from_options([], "remove", HEADER) == Allowed()


@pytest.mark.parametrize(
    ("options", "option", "remedy"),
    [
        ({"dates": "yes"}, "dates", "must be remove or keep"),
        ({"keep_words": "R-CY"}, "keep_words", "must be a list of words"),
        ({"keep_words": ["R CY"]}, "keep_words", "'R CY' is not one word"),
        ({"keep_words": [""]}, "keep_words", "of 1 to 24 characters"),
        ({"keep_words": ["x"] * 201}, "keep_words", "at most 200 words"),
    ],
)
def test_a_faulty_option_is_told(options: dict[str, object], option: str, remedy: str) -> None:
    assert remedy in UltrasoundOptions.faults(options)[option]


def test_under_research_nothing_stays_and_the_options_say_so() -> None:
    keep = {"dates": "keep", "keep_words": ["R-CY"]}
    assert sorted(UltrasoundOptions.faults({"policy": "research", **keep})) == ["dates", "keep_words"]
    assert UltrasoundOptions.faults(keep) == {}


def test_in_a_picture_the_date_of_the_examination_stays_and_the_name_goes() -> None:
    picture = burn(echo(), "KIM MINJUN 09.03.1967", (10, 8), 255, 18)
    picture = burn(picture, "07.01.2026 10:32:11", (250, 330), 255, 18)
    removed = {
        one.text[:10]: one.removed
        for one in clean(ArrayImage(picture[None]), silent, allowed=ALLOWED).readings
    }
    assert removed["07.01.2026"] is False
    assert any("KIM" in text and removed[text] for text in removed)


SHAPE = (200, 300)


LINE: Box = (100, 40, 180, 60)


def text(words: str, box: Box = LINE, *, confidence: float = 0.95, legible: bool = True) -> Text:
    return Text(
        level_box(box, 0.9),
        Line(words, confidence, legible=legible),
        meaning_of(words, confidence) if legible else Meaning.IDENTITY,
    )


def block(*lines: tuple[str, int], left: int = 100, right: int = 180, high: int = 18) -> list[Text]:
    """Lines below each other, each with its top."""
    return [text(words, (left, top, right, top + high)) for words, top in lines]


def meanings(texts: list[Text]) -> list[Meaning]:
    return [one.meaning for one in texts]


def test_a_worse_reading_of_a_setting_is_a_setting() -> None:
    assert (
        meanings(by_best_reading([text("C6 / M7"), text("C6Y M7"), text("", legible=False)]))
        == [Meaning.ACOUSTIC] * 3
    )


@pytest.mark.parametrize(
    ("proven", "other", "place"),
    [
        ("45", "45Y", LINE),
        ("MI 1.2", "MI 1.2 JK", LINE),
        ("MI 1.2", "KIM MI", LINE),
        ("12.3cm", "LEE JI", LINE),
        ("D 12cm", "12.03", LINE),
        ("MI 1.2 TIS 0.4", "M 1.2", (150, 40, 240, 60)),  # beside it
    ],
)
def test_a_reading_that_says_more_or_else_is_no_second_reading(proven: str, other: str, place: Box) -> None:
    assert by_best_reading([text(proven), text(other, place)])[1].meaning is Meaning.IDENTITY


@pytest.mark.parametrize(
    ("above", "below", "meaning"),
    [
        ("Har-mid", "Gn -2", Meaning.ACOUSTIC),
        ("KIM", "Gn -2", Meaning.IDENTITY),
        ("Har-mid", "", Meaning.IDENTITY),
    ],
)
@pytest.mark.parametrize("between", ["97", "Nr 32", "B Max", "CHI", "Gain", "L/B"])
def test_what_stands_between_two_settings_is_one(
    between: str, above: str, below: str, meaning: Meaning
) -> None:
    lines = zip((above, between, below), (20, 40, 60), strict=True)
    assert by_their_block(block(*filter(all, lines)))[1].meaning is meaning


MISREAD, NO_SETTINGS = (
    ("C57M4", "CS/M4", "CB/M8", "CB/M11", "P47E3", "SRIB", "WMF 16W1", "PRF 0.3kH2", "21Hz1", "Qual nofn"),
    (
        *("EHR 45", "Sua 45", "Dru45", "MEI 3.5", "Q Low 4"),
        *("P4VE3", "100Y", "1004", "1006", "#100", "WM LOW", "WM LOW 45", "Fr. Omid", "FR AMID", "QUAN NORM"),
        *("CS M45", "Wolf Low", "Qualen M", "Quan Low", "Saul Low", "JM/4"),
        *("M 45", "F45", "Kim 4", "Ng 45", "JS", "12.03", "12/03"),
    ),
)


SURNAMES = """
    KIM Kim Lee LI Li Yu NG Ng Wu Ma Ali EVA Eva Ito Bo Jo Al An Ha Ono Ana Omar Noor Dang Thi Wang Anna
    Peng POWERS Carter Jean Åse Zoë Łuka O'Neil Mc McCoy deVries DiMaria LeRoy vanDyk Öz Ivo Gray Wall Line
    Smith J.KIM KIM,EVA Kim-Lee 김민준 李娜 Иван محمد
""".split()  # noqa: SIM905 - they are read as words
TAILS = (
    *("", " 4", " 45", ": 45", " 45Y", " 102", " 3.5", ": 7.4", " 0.80", " 3.5M", " D/0", " 3/4"),
    *(" 1/2/4", " Off", " 12.03", " 12/03/67", " 01.02.1967", " 123456", " F", " M 45", " H10.0MHz", " 50%"),
)


@pytest.mark.parametrize("front", ["", "Map ", "DR ", "D ", "MI 0.9 ", "Frame Rate 25 "])
def test_no_name_is_a_label_or_a_value(front: str) -> None:
    known = UNSAFE_LABELS | {"THI"} | {label.upper() for label in LABELS_ALSO_NAMES}
    texts = {
        f"{front}{write(name)}{tail}"
        for name in (*NAMES, *SURNAMES)
        if name.upper() not in known
        for write in (str, str.upper, str.title)
        for tail in TAILS
    }
    assert [text for text in texts if meaning_of(text, 1.0) is not Meaning.IDENTITY] == []


def test_a_misread_setting_between_two_settings_is_one_and_no_name_initials_age_or_number_is() -> None:
    meanings = {
        between: by_their_block(block(("MI 0.9", 20), (between, 40), ("TIS 0.2", 60)))[1].meaning
        for between in (*NO_SETTINGS, *(name + tail for name in SURNAMES for tail in TAILS), *MISREAD)
    }
    assert [between for between, found in meanings.items() if found is not Meaning.IDENTITY] == list(MISREAD)


def columns(*rows: tuple[str, str]) -> list[Text]:
    """Labels around one middle, their values around another."""
    return [
        text(words, (middle - 6 * len(words), 28 * row, middle + 6 * len(words), 28 * row + 30))
        for row, pair in enumerate(rows, start=1)
        for words, middle in zip(pair, (130, 220), strict=True)
    ]


def test_label_and_value_in_two_columns_stay_or_go_together_and_no_name_is_a_label() -> None:
    rows = (("FR", "27"), ("AO%", "100"), ("Frq", "12.0"), ("Map", "D/0"), ("D", "3.5"), ("DR", "75"))
    assert meanings(by_their_rows(columns(*rows))) == [Meaning.ACOUSTIC] * 12
    for setting in (
        "F 8.5M",
        "D 7.4",
        "iClear 3",
        "iBeam",
        "F: H10.0MHz",
        "Enh 0.80",
        "Map D/0",
        "WMF 60 Hz",
    ):
        beside_a_name = by_their_block(block(("DR 60", 20), (setting, 40), ("KIM 45", 60)))
        assert [one.meaning is Meaning.IDENTITY for one in beside_a_name] == [False, False, True]
    for name, value in product(SURNAMES, ("4", "45", "102", "3.5", "0.80", "D/0", "3/4", "Off", "50%")):
        assert (
            meanings(as_scales(by_their_rows(columns(*rows[:2], (name, value), *rows[4:])), []))[4:6]
            == [Meaning.IDENTITY] * 2
        )


@pytest.mark.parametrize(
    ("numbers", "rows"),
    [
        ((("+20", 100), ("-10", 250), ("-20", 300)), range(45, 375)),
        ((("+20", 100), ("-20", 300)), ()),  # a colour bar
        ((("45", 0), ("+20", 100), ("67", 560)), ()),
    ],
)
def test_rows_beside_an_axis_of_velocities_are_a_spectrum(
    numbers: Sequence[tuple[str, int]], rows: Sequence[int]
) -> None:
    texts = [text(words, (400, y, 440, y + 20)) for words, y in (("cm/s", 200), *numbers)]
    assert np.flatnonzero(beside_velocities(texts, (600, 480)).all(axis=1)).tolist() == list(rows)


@pytest.mark.parametrize("name", ["KIM MINJUN", "01.02.", "Fr. Omid"])
@pytest.mark.parametrize("place", [(80, 40, 146, 58), (80, 75, 300, 93)])
def test_a_name_beside_an_age_or_in_another_column_proves_the_contrary(name: str, place: Box) -> None:
    lines = block(("Gn -3", 20), ("95", 40), ("DR 60", 60), left=150)
    assert by_their_block(lines)[1].meaning is Meaning.ACOUSTIC
    assert by_their_block([*lines, text(name, place)])[1].meaning is Meaning.IDENTITY


@pytest.mark.parametrize("between", ["95", "Edge 92", "B Low"])
@pytest.mark.parametrize(
    "lines",
    [
        ("ABDOMEN", "{}", "THYROID"),  # presets and frame counters stand beside a patient's name, too
        ("47/56", "{}", "62/73"),
        ("Gn -3", "{}", "ABDOMEN"),
        ("EF 64%", "{}", "FF3/E2"),  # a result, which may stand beside a name
        ("Gn -3", "{}", "EF 64%"),
    ],
)
def test_presets_frame_counters_and_results_prove_no_setting(between: str, lines: tuple[str, ...]) -> None:
    assert (
        by_their_block(block(*((words.format(between), 20 * n) for n, words in enumerate(lines))))[1].meaning
        is Meaning.IDENTITY
    )


@pytest.mark.parametrize(("name", "meaning"), [([("KIM", 50)], Meaning.IDENTITY), ([], Meaning.ACOUSTIC)])
def test_a_name_within_reach_proves_the_contrary(name: list[tuple[str, int]], meaning: Meaning) -> None:
    # Boxes of close lines overlap.
    assert (
        by_their_block(block(("DR 60", 15), ("95", 30), ("Gn 10", 45), *name, high=19))[1].meaning is meaning
    )


def mask_around(residue: Box, *, spare: bool, stays: Mask | None = None) -> Mask:
    line: Box = (100, 40, 180, 56)
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


def test_settings_below_settings_prove_what_is_a_setting_only_there() -> None:
    settings = ("Gn 60", "C 61", "FR 71", "E3/P3", "VPS 1.6", "3/3/4")
    _, *rest = lines = block(*zip(settings, range(40, 172, 22), strict=True), right=150, high=20)
    assert meanings(by_their_block(lines)) == [Meaning.ACOUSTIC] * 6
    assert meanings(by_their_block(rest)) == [Meaning.IDENTITY] * 5
    assert meanings(by_their_block([text("KIM MINJUN", (100, 40, 150, 60)), *rest])) == [Meaning.IDENTITY] * 6


def test_a_cut_through_lines_that_are_read_is_no_line() -> None:
    texts = [*block(("C 50", 20), ("P Low", 40)), text("7CPH", (100, 20, 140, 58), confidence=0.6)]
    assert [holds_lines(one, texts) for one in texts] == [False, False, True]


def test_regions_are_calibrated_by_their_deltas() -> None:
    regions = [region((0, 0, 399, 599), delta=(0.02, -0.03)), region((400, 0, 799, 599), units=4)]
    (found,) = calibrated_regions(read_header(image(regions)))
    assert found.box == (0, 0, 400, 600)
    assert (found.column_spacing, found.row_spacing) == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize("regions", [False, True])
def test_pixel_spacing_counts_where_there_are_no_regions(regions: bool) -> None:
    given = image([region((0, 0, 799, 599), units=4)] * regions, PixelSpacing=[0.2, 0.2])
    assert bool(calibrated_regions(read_header(given))) is not regions


def caliper(x: float, y: float) -> Reading:
    return Reading("1.2.3", None, "caliper", Meaning.MEASUREMENT, (x - 5, y - 5, x + 5, y + 5), 0.9, False)


def header() -> ImageHeader:
    return read_header(image([region((0, 0, 799, 599))]))


def region(
    box: tuple[int, int, int, int], *, units: int = 3, delta: tuple[float, float] = (0.02, 0.02)
) -> Dataset:
    corners = zip(("MinX0", "MinY0", "MaxX1", "MaxY1"), box, strict=True)
    return data_set(
        **{f"RegionLocation{name}": place for name, place in corners},
        PhysicalUnitsXDirection=units,
        PhysicalUnitsYDirection=units,
        PhysicalDeltaX=delta[0],
        PhysicalDeltaY=delta[1],
    )


def image(regions: list[Dataset], **more: Any) -> Dataset:
    size = {"Rows": 600, "Columns": 800, "BitsAllocated": 8, "BitsStored": 8}
    known = {"Modality": "US", "PhotometricInterpretation": "MONOCHROME2", **size}
    return data_set(**known, **({"SequenceOfUltrasoundRegions": regions} if regions else {}), **more)


def test_numbers_of_an_axis_and_of_a_bar_are_a_scale_where_their_values_put_them() -> None:
    rows = (("-20", 40), ("10·", 100), ("cm/s", 160), ("-10", 220), ("95", 250), ("410", 222))
    named = [replace(text(one, (300, top, 324, top + 18)), meaning=Meaning.IDENTITY) for one, top in rows]
    no_bar, bar, half = (mask_of([(305, 60, 318, end)], (400, 400)) for end in (0, 216, 150))
    assert [one.meaning is Meaning.SCALE for one in as_scales(named, no_bar)] == [
        True,
        True,
        False,
        True,
        False,
        True,  # its tick was read as a digit
    ]
    assert Meaning.SCALE not in meanings(as_scales(named[:2], no_bar))
    ends = [replace(one, line=Line("62.5", 0.9, legible=True)) for one in (named[0], named[3])]
    bar[130:150] = False  # in two halves
    assert meanings(as_scales(ends, bar)) == [Meaning.SCALE] * 2
    assert Meaning.SCALE not in meanings(as_scales(ends, half))


@pytest.mark.parametrize(
    ("words", "sure", "stays"),
    [
        ("4n", 0.85, True),
        ("Rn-", 0.6, True),
        ("45", 0.6, False),
        ("45", 1.0, False),
        ("4n5Y", 0.6, False),
        *((name, 1.0, False) for name in ("Li", "Kim", "Ng", "Ax", "RL")),
    ],
)
def test_a_misread_number_between_two_of_an_axis_is_one_and_no_age_or_name_is(
    words: str, sure: float, stays: bool
) -> None:
    rows = (("60", 1.0, 40), ("50", 1.0, 100), (words, sure, 160), ("30", 1.0, 220), ("LEE", 1.0, 310))
    column = [
        replace(
            text(one, (300, top, 324, top + 18)), meaning=Meaning.IDENTITY, line=Line(one, how, legible=True)
        )
        for one, how, top in rows
    ]
    assert [one.meaning is Meaning.SCALE for one in as_scales(column, mask_of([], (400, 400)))] == [
        True,
        True,
        stays,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("word", "beside", "stays"),
    [
        ("H", "26.7 mm", True),
        ("10", "T4.4", True),
        ("H", "SMITH", False),
        ("45", "M", False),
        ("12", "03", False),
        ("J", "KIDNEY", False),
    ],
)
def test_a_whole_setting_or_result_beside_a_letter_makes_no_initials_of_it(
    word: str, beside: str, stays: bool
) -> None:
    texts = [text(word, (180, 40, 200, 58)), text(beside, (100, 40, 165, 58))]
    assert (judged_in_its_line(texts[0], texts, NOTHING_MORE).meaning is not Meaning.IDENTITY) == stays


@pytest.mark.parametrize(
    ("first", "second", "below", "stays"),
    [
        ("PRF", "2.8k", True, True),
        ("Pancreas", "TR", False, True),
        ("96", "HR", True, True),  # a rate above its label
        ("60", "KIM", True, False),
        ("STONE", "ABDOMEN", True, False),  # a name above an examination
        ("DR", "KIM", True, False),
        ("MI", "45Y", False, False),
    ],
)
def test_a_label_and_its_value_or_a_place_and_its_plane_stay_together(
    first: str, second: str, below: bool, stays: bool
) -> None:
    place = (100, 60, 150, 78) if below else (160, 40, 200, 58)
    found = meanings(by_their_pair([text(first, (100, 40, 150, 58)), text(second, place)]))
    assert (Meaning.IDENTITY not in found) == stays


@pytest.mark.parametrize(
    ("words", "stays"),
    [
        *((one, True) for one in ("LT UOQ", "ROV-CY", "LT BREAST 2:00", "RT BREAST 10:00 4 CM FN", "左乳")),
        *((one, False) for one in ("LT UOQ SMITH", "SMITH-CY", "2:00", "RT BREAST SMITH 2:00", "LT LONG")),
    ],
)
def test_a_side_and_its_address_are_one_thing(words: str, stays: bool) -> None:
    assert (meaning_of(words, 1.0) is Meaning.ORIENTATION) == stays


@pytest.mark.parametrize(
    ("flat", "steep"),
    # The second as in video of an ATL HDI 5000, which has too few lines of colour for a wave of one pixel.
    [((76, 140, 139), (140, 190, 188)), ((100, 249, 182), (159, 220, 189))],
)
def test_steep_waves_of_an_ecg_that_are_paler_are_of_its_curve_and_letters_beside_it_are_not(
    flat: tuple[int, int, int], steep: tuple[int, int, int]
) -> None:
    picture = np.zeros((360, 480, 3), np.uint8)
    picture[300:303, 60:260] = flat
    for left in (100, 200):
        picture[[*range(262, 282), *range(283, 302)], left : left + 4] = steep
    burned = burn(picture, "KIM MINJUN", (70, 312), flat, 14)
    trace = find_traces(burned, nothing(burned))
    assert trace[picture[..., 1] == steep[1]].all()
    assert trace[(burned != picture).any(axis=2)].mean() < 0.3
