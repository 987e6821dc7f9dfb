"""Pictures that are drawn: boxes, legends, heat maps and pages."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import ImageDraw, ImageFont

from ai_pipeline.contract import (
    BURNED_IN,
    Code,
    Decision,
    Finding,
    Heatmap,
    ModelRef,
    Origin,
    QualityNote,
    Region,
)
from ai_pipeline.images import render
from ai_pipeline.images.render import (
    EDGE_IS_APPROXIMATE,
    MEDIUM_GREY,
    YELLOW,
    annotate,
    box_captions,
    heatmap_overlay,
    label_text,
    legend_of,
    place_lines,
)
from tests.unit.ai_pipeline.phantoms import Picture, noise

MODEL = ModelRef("model", "1", "0" * 64, "1" * 64, calibrated=True)


def finding(*boxes: tuple[float, float, float, float], decision: Decision = Decision.PRESENT) -> Finding:
    regions = tuple(Region("box", (box[:2], box[2:]), Origin.ACTIVATION) for box in boxes)
    code = Code("8186001", "SCT", "Cardiomegaly")
    return Finding("Cardiomegaly", code, 0.83, 0.4, decision, "1.2", MODEL, regions=regions)


def with_heatmap(values: np.ndarray) -> Finding:
    return replace(finding(), evidence=Heatmap(values, "CAM"))


@pytest.mark.parametrize("shape", [(60, 80), (240, 320, 3), (1760, 2140), (3, 3), (40, 3000), (2000, 90)])
def test_words_stand_below_the_picture_and_cover_nothing_of_it(shape: tuple[int, ...]) -> None:
    display = noise(shape)
    rows, columns = shape[:2]
    expected = np.broadcast_to(display.reshape(rows, columns, -1), (rows, columns, 3))
    for drawn in (
        annotate(display, [finding()]),
        heatmap_overlay(display, with_heatmap(np.zeros((rows, columns), np.float32))),
    ):
        assert drawn.dtype == np.uint8
        assert np.array_equal(drawn[:rows, :columns], expected)
        assert (drawn[rows + 1 :] > 150).all(axis=2).sum() > 100  # letters


@pytest.mark.parametrize("shape", [(3, 3), (64, 64), (128, 128), (512, 512), (90, 2000), (2000, 90)])
def test_the_whole_warning_is_readable_on_a_picture_of_any_size(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = ImageDraw.ImageDraw.text

    def noted(self: ImageDraw.ImageDraw, place: tuple[float, float], text: str, **how: Any) -> None:
        assert place[0] + how["font"].getlength(text) <= self.im.size[0]
        assert how["font"].size >= max(11, 0.0139 * max(shape))
        written.append(text)
        write(self, place, text, **how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    said = "AI result - not for diagnostic use, model one-with-a-very-long-name-that-fits-no-line version 1.2"
    annotate(np.zeros(shape, np.uint8), [finding()], [said])
    assert "".join(written).replace(" ", "").endswith(said.replace(" ", ""))


def test_several_boxes_are_numbered_and_many_are_counted() -> None:
    one = finding((10.0, 10.0, 20.0, 20.0))
    assert box_captions([one]) == ["AI: cardiomegaly suspected, 83 % (cut-off 40 %)"]
    other = replace(one, code=Code("27925004", "SCT", "Nodule"), label="Nodule", probability=0.5)
    assert box_captions([one, other, one]) == [
        "[1, 3] AI: cardiomegaly suspected, 83 % (cut-off 40 %)",
        "[2] AI: nodule suspected, 50 % (cut-off 40 %)",
    ]
    assert box_captions([one] * 12) == ["AI: 12 x Cardiomegaly"]
    boxes = [(0.0, 0.0, 400.0, 250.0), (0.0, 272.0, 400.0, 450.0)]
    between = (annotate(np.zeros((600, 800), np.uint8), [finding(*boxes)])[251:271] == YELLOW).all(axis=2)
    # The first stands below its box, at the left; the second above its own, at the right, where it is free.
    assert between[:, :30].any()
    assert between[:, 370:400].any()
    assert not between[:, 30:370].any()


def test_a_box_is_drawn_on_the_edge_pixels_of_its_area() -> None:
    drawn = annotate(np.zeros((600, 800), np.uint8), [finding((200.0, 300.0, 400.0, 450.0))])
    yellow = (drawn[:600] == YELLOW).all(axis=2)
    assert yellow[400, 199:205].any()
    assert yellow[400, 395:400].any()
    assert not yellow[400, :199].any()
    assert not yellow[310:440, 210:390].any()
    assert not yellow[400, 400:].any()


def test_what_is_absent_is_not_drawn() -> None:
    display = np.zeros((600, 800), np.uint8)
    drawn = annotate(display, [finding((200.0, 300.0, 400.0, 450.0), decision=Decision.ABSENT)])
    assert not drawn[200:460, 190:410].any()
    assert legend_of([finding(decision=Decision.ABSENT)])[0] == "AI: Not found: cardiomegaly."


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "AI: cardiomegaly suspected, 83 % (cut-off 40 %)"),
        (
            {"decision": Decision.INDETERMINATE, "probability": 0.33, "threshold": 0.34},
            "AI: cardiomegaly not excluded, 33 % (cut-off 34 %)",
        ),
        ({"probability": 0.042, "threshold": 0.039}, "AI: cardiomegaly suspected, 4.2 % (cut-off 3.9 %)"),
        ({"probability": 0.0996, "threshold": 0.039}, "AI: cardiomegaly suspected, 10 % (cut-off 3.9 %)"),
        ({"threshold": None}, "AI: cardiomegaly suspected, 83 %"),
        ({"probability": None, "threshold": None}, "AI: cardiomegaly suspected"),
        (
            {"decision": Decision.ABSENT, "probability": 0.01},
            "AI: cardiomegaly not found, 1.0 % (cut-off 40 %)",
        ),
        # only a calibrated model speaks in per cent
        (
            {"model": replace(MODEL, calibrated=False)},
            "AI: cardiomegaly suspected, score 0.83 (cut-off 0.40)",
        ),
        # in words where it was measured how far to trust it
        (
            {"certainty": "low certainty", "reliability": "of 10 such calls, about 3 are right"},
            "AI: cardiomegaly suspected, low certainty",
        ),
        # annotation to remove is no suspicion
        ({"label": "Burned-in text", "code": BURNED_IN, "probability": None}, "AI: Burned-in text"),
    ],
)
def test_a_label_says_the_category_first_and_a_number_only_beside_its_cut_off(
    changed: dict[str, Any], said: str
) -> None:
    assert label_text(replace(finding(), **changed)) == said


def test_the_legend_warns_names_the_model_and_has_the_notes_for_every_picture() -> None:
    everywhere = QualityNote("no outline", "The lung is white.", on_faces=True)
    lines = legend_of([finding()], [everywhere, QualityNote("age", "The patient's age is unknown.")])
    assert {"The lung is white.", "Model: model 1"} <= set(lines)
    assert not any("age is unknown" in line for line in lines)
    assert lines[-1] == "AI result - not for diagnostic use"


def test_the_heat_map_changes_the_picture_where_it_is_hot_only() -> None:
    values = np.zeros((400, 400), np.float32)
    values[150:250, 100:200] = 1.0
    drawn = heatmap_overlay(np.full((400, 400), 100, np.uint8), with_heatmap(values))
    assert (drawn[200, 150] != 100).any()
    assert (drawn[300, 150] == 100).all()


def test_the_colour_bar_shows_the_colours_as_they_look_over_grey() -> None:
    values = np.tile(np.linspace(0.0, 1.0, 400, dtype=np.float32), (400, 1))
    drawn = heatmap_overlay(np.full((400, 400), MEDIUM_GREY, np.uint8), with_heatmap(values))
    bar = drawn[400 + 5 + 5, 22 : 400 - 22]  # of letters of 11 pixels, behind a gap
    for share in (0.25, 0.5, 0.75):
        in_bar, in_picture = bar[round(share * (len(bar) - 1))], drawn[200, round(share * 399)]
        np.testing.assert_allclose(in_bar.astype(int), in_picture.astype(int), atol=3)


def test_the_heat_map_says_finding_scale_model_and_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, **how: said.append(text))
    heatmap_overlay(np.zeros((900, 900), np.uint8), with_heatmap(np.zeros((900, 900), np.float32)))

    assert said == [
        "0.0",
        "1.0",
        "AI: cardiomegaly suspected, 83 % (cut-off 40 %)",
        "Colours: CAM; 1 = peak; no outline",
        "Model: model 1",
        "AI result - not for diagnostic use",
    ]


@pytest.mark.parametrize("asked", [finding(), with_heatmap(np.zeros((5, 5), np.float32))])
def test_a_missing_heat_map_or_one_of_another_size_is_refused(asked: Finding) -> None:
    with pytest.raises(ValueError, match="heat map"):
        heatmap_overlay(np.zeros((10, 10), np.uint8), asked)


def test_the_legend_says_what_drew_the_box_and_calls_an_outline_no_box() -> None:
    box, triangle = ((1.0, 2.0), (3.0, 4.0)), ((10.0, 10.0), (30.0, 10.0), (20.0, 30.0))
    said = {origin: place_lines([Region("box", box, origin)] * 2) for origin in Origin}
    assert said[Origin.DETECTOR] == ["box: detector, approximate place"]
    assert said[Origin.ACTIVATION] == ["box: class activation, approximate place"]
    assert said[Origin.MARK] == []
    assert place_lines([Region("polygon", triangle, Origin.DETECTOR)]) == [EDGE_IS_APPROXIMATE]


BLUE = (0, 90, 200)  # no letter has it, nor its edges


def drawn(
    shown: render.PagePicture | str = "no picture", results: Sequence[str] = (), **given: Sequence[str]
) -> Picture:
    usual = {"head": ["Test, Ann", "ID: 1"], "captions": ["View: PA"], "foot": ["AI result"]} | given
    return render.draw_page("AI summary", usual["head"], shown, usual["captions"], results, usual["foot"])


def blue(rows: int, columns: int, *boxes: tuple[float, float, float, float]) -> render.PagePicture:
    return render.PagePicture(np.full((rows, columns, 3), BLUE, np.uint8), [finding(*boxes)] if boxes else [])


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
    left, top, right, bottom = place_of_picture(whole)
    assert (right - left) * rows == pytest.approx((bottom - top) * columns, abs=max(rows, columns))


def test_letters_are_read_from_a_distance() -> None:
    """Capitals of the smallest letters are 22 pixels high at least."""
    column = drawn("no picture", ["H" * 12] * 60)[:, 700:].any(axis=(1, 2))[200:1000]
    edges = np.flatnonzero(np.diff(column.astype(int)))
    heights = edges[1:11:2] - edges[:10:2]
    assert len(set(heights)) == 1
    assert heights[0] >= 22


def test_what_has_no_room_is_counted() -> None:
    blocks = [["a"], ["b", "c"], ["d"], ["e"]]
    cut = {
        5: ["a", "b", "c", "d", "e"],
        4: ["a", "b", "c", "and 2 more: see the report"],
        3: ["a", "and 3 more: see the report"],
    }
    assert {lines: render._cut(blocks, lines) for lines in cut} == cut
    assert render._cut([["a", "b", "c", "d"], ["e"]], 3) == ["a", "b", "and 3 more lines: see the report"]


@pytest.mark.parametrize(
    "shown", [blue(400, 380, (10, 10, 90, 90), (100, 100, 300, 300)), blue(100, 3000), "none"]
)
@pytest.mark.parametrize("count", [1, 12, 100])
def test_nothing_is_written_at_the_edges_or_over_the_picture(
    shown: render.PagePicture | str, count: int
) -> None:
    long = ["W" * 200, *words(count), "word " * 200]
    whole = drawn(
        shown, long, head=["Ü" * 64, "9" * 64, "word " * 90], foot=["m" * 300, "n" * 300], captions=["c" * 99]
    )
    assert not any(edge.any() for edge in (whole[:5], whole[-5:], whole[:, :20], whole[:, -20:]))
    if isinstance(shown, render.PagePicture):
        left, top, right, bottom = place_of_picture(whole)
        assert not (whole[top:bottom, left:right] == 255).all(axis=-1).any(), "white letters in the picture"


def test_boxes_are_drawn_where_they_are_in_the_picture() -> None:
    """The box from a quarter to three quarters of the picture, which is enlarged."""
    whole = drawn(blue(200, 200, (50, 50, 150, 150)))
    left, top, right, bottom = place_of_picture(whole)
    rows, columns = np.nonzero((whole[top:bottom, left:right] == YELLOW).all(axis=-1))
    shares = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) / (right - left)
    assert right - left > 400
    assert shares == pytest.approx([0.25, 0.25, 0.75, 0.75], abs=0.01)


def test_pixels_that_are_no_squares_are_shown_as_they_are_in_the_body() -> None:
    shown = render.PagePicture(np.full((100, 200, 3), BLUE, np.uint8), pixel_height=2.0)
    left, top, right, bottom = place_of_picture(drawn(shown))
    assert right - left == bottom - top


def test_letters_with_accents_greek_and_cyrillic_are_drawn_and_no_other() -> None:
    """A letter that the font lacks would be an empty frame."""
    font = ImageFont.truetype(render.FONT, render.LETTERS, layout_engine=ImageFont.Layout.BASIC)
    frame = bytes(font.getmask("\uffff"))
    given = [
        chr(one)
        for one in range(sys.maxunicode // 16)
        if render.drawable(chr(one)) and chr(one).isprintable()
    ]
    assert [one for one in given if bytes(font.getmask(one)) == frame] == []
    assert all(
        map(render.drawable, ("Müller-Øster, Łukasz", "Иванова", "Παπαδόπουλος", "Nguyễn", "Mu\u0308ller"))
    )
    assert not any(map(render.drawable, ("홍길동", "洪吉洞", "عمر", "山田")))


def test_the_layout_is_that_of_the_drawn_page() -> None:
    """Where it says that text, pictures and lines are, the page has some; the picture is in it as it is."""
    shown = render.PagePicture(np.full((300, 400), 90, np.uint8))
    content = ("Title", ["Name, Given", "ID: 1"], shown, ["View: PA"], ["AI: nothing found."], ["foot"])
    laid, drawn = render.lay_out_page(*content), render.draw_page(*content)
    assert (laid.height, laid.width) == drawn.shape[:2]
    for one in laid.texts:
        letters = drawn[one.baseline - one.size // 2 : one.baseline, one.left : one.left + one.size]
        assert letters.max() > 200, one
    [(pixels, left, top)] = laid.pictures
    rows, columns = pixels.shape[:2]
    assert (drawn[top : top + rows, left : left + columns] == pixels).all()
    assert laid.rules
    assert all(drawn[row, render.MARGIN].any() for row in laid.rules)
