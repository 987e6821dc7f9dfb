"""Drawn results: boxes at their place in an uncovered picture, words that can be read below it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ImageDraw

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
from ai_pipeline.images.render import (
    EDGE_IS_APPROXIMATE,
    MEDIUM_GREY,
    YELLOW,
    _box_captions,
    annotate,
    heatmap_overlay,
    label_text,
    legend_of,
    place_lines,
)

MODEL = ModelRef("model", "1", "0" * 64, "1" * 64, calibrated=True)


def finding(*boxes: tuple[float, float, float, float], decision: Decision = Decision.PRESENT) -> Finding:
    regions = tuple(Region("box", (box[:2], box[2:]), Origin.ACTIVATION) for box in boxes)
    code = Code("8186001", "SCT", "Cardiomegaly")
    return Finding("Cardiomegaly", code, 0.83, 0.4, decision, "1.2", MODEL, regions=regions)


def with_heatmap(values: npt.NDArray[np.float32]) -> Finding:
    return replace(finding(), evidence=Heatmap(values, "CAM"))


@pytest.mark.parametrize("shape", [(60, 80), (240, 320, 3), (1760, 2140), (3, 3), (40, 3000), (2000, 90)])
def test_words_stand_below_the_picture_and_cover_nothing_of_it(shape: tuple[int, ...]) -> None:
    display = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    rows, columns = shape[:2]
    values = np.zeros((rows, columns), np.float32)
    for drawn in (annotate(display, [finding()]), heatmap_overlay(display, with_heatmap(values))):
        assert drawn.dtype == np.uint8
        expected = display if display.ndim == 3 else display[:, :, None]
        assert np.array_equal(drawn[:rows, :columns], np.broadcast_to(expected, (rows, columns, 3)))
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
    assert _box_captions([finding()]) == ["AI: cardiomegaly suspected, 83 % (cut-off 40 %)"]
    other = replace(finding(), code=Code("27925004", "SCT", "Nodule"), label="Nodule", probability=0.5)
    assert _box_captions([finding(), other, finding()]) == [
        "[1, 3] AI: cardiomegaly suspected, 83 % (cut-off 40 %)",
        "[2] AI: nodule suspected, 50 % (cut-off 40 %)",
    ]
    assert _box_captions([finding()] * 12) == ["AI: 12 x Cardiomegaly"]
    boxes = [(0.0, 0.0, 400.0, 250.0), (0.0, 272.0, 400.0, 450.0)]
    drawn = annotate(np.zeros((600, 800), np.uint8), [finding(*boxes)])
    yellow = (drawn == YELLOW).all(axis=2)
    # The first stands below its box, at the left; the second above its own, at the right, where it is free.
    assert yellow[251:271, :30].any() and yellow[251:271, 370:400].any()
    assert not yellow[251:271, 30:370].any()


def test_a_box_is_drawn_on_the_edge_pixels_of_its_area() -> None:
    drawn = annotate(np.zeros((600, 800), np.uint8), [finding((200.0, 300.0, 400.0, 450.0))])
    yellow = (drawn[:600] == YELLOW).all(axis=2)
    assert yellow[400, 199:205].any() and yellow[400, 395:400].any()
    assert not yellow[400, :199].any() and not yellow[310:440, 210:390].any() and not yellow[400, 400:].any()


def test_what_is_absent_is_not_drawn() -> None:
    display = np.zeros((600, 800), np.uint8)
    drawn = annotate(display, [finding((200.0, 300.0, 400.0, 450.0), decision=Decision.ABSENT)])
    assert not drawn[200:460, 190:410].any()
    assert legend_of([finding(decision=Decision.ABSENT)])[0] == "AI: Not found: cardiomegaly."


def test_only_a_calibrated_model_speaks_in_per_cent() -> None:
    assert label_text(finding()) == "AI: cardiomegaly suspected, 83 % (cut-off 40 %)"
    uncalibrated = replace(finding(), model=replace(MODEL, calibrated=False))
    assert label_text(uncalibrated) == "AI: cardiomegaly suspected, score 0.83 (cut-off 0.40)"


@pytest.mark.parametrize(
    ("decision", "probability", "threshold", "said"),
    [
        (Decision.INDETERMINATE, 0.33, 0.34, "AI: cardiomegaly not excluded, 33 % (cut-off 34 %)"),
        (Decision.PRESENT, 0.042, 0.039, "AI: cardiomegaly suspected, 4.2 % (cut-off 3.9 %)"),
        (Decision.PRESENT, 0.0996, 0.039, "AI: cardiomegaly suspected, 10 % (cut-off 3.9 %)"),
        (Decision.PRESENT, 0.83, None, "AI: cardiomegaly suspected, 83 %"),
        (Decision.PRESENT, None, None, "AI: cardiomegaly suspected"),
        (Decision.ABSENT, 0.01, 0.4, "AI: cardiomegaly not found, 1.0 % (cut-off 40 %)"),
    ],
)
def test_a_label_says_the_category_first_and_a_number_only_beside_its_cut_off(
    decision: Decision, probability: float | None, threshold: float | None, said: str
) -> None:
    told = replace(finding(decision=decision), probability=probability, threshold=threshold)
    assert label_text(told) == said


def test_a_label_says_how_far_to_trust_it_in_words_where_that_was_measured() -> None:
    sure = replace(finding(), certainty="low certainty", reliability="of 10 such calls, about 3 are right")
    assert label_text(sure) == "AI: cardiomegaly suspected, low certainty"


def test_the_legend_has_only_the_notes_that_must_be_read_beside_every_picture() -> None:
    everywhere = QualityNote("no outline", "The lung is white.", on_faces=True)
    lines = legend_of([finding()], [everywhere, QualityNote("age", "The patient's age is unknown.")])
    assert "The lung is white." in lines
    assert not any("age is unknown" in line for line in lines)


def test_annotation_to_remove_is_no_suspicion() -> None:
    told = replace(finding(), label="Burned-in text", code=BURNED_IN, probability=None)
    assert label_text(told) == "AI: Burned-in text"


def test_the_legend_warns_and_names_the_model() -> None:
    lines = legend_of([finding((1.0, 1.0, 5.0, 5.0))])
    assert lines[-1] == "AI result - not for diagnostic use"
    assert "Model: model 1" in lines


def test_the_heat_map_changes_the_picture_where_it_is_hot_only() -> None:
    display = np.full((400, 400), 100, np.uint8)
    values = np.zeros((400, 400), np.float32)
    values[150:250, 100:200] = 1.0
    drawn = heatmap_overlay(display, with_heatmap(values))
    assert not np.array_equal(drawn[200, 150], (100, 100, 100))
    assert np.array_equal(drawn[300, 150], (100, 100, 100))


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


def test_the_legend_says_whether_a_detector_or_an_activation_drew_the_box() -> None:
    box = ((1.0, 2.0), (3.0, 4.0))

    said = place_lines([Region("box", box, Origin.DETECTOR), Region("box", box, Origin.DETECTOR)])

    assert said == ["box: detector, approximate place"]
    assert place_lines([Region("box", box, Origin.ACTIVATION)]) == [
        "box: class activation, approximate place"
    ]
    assert place_lines([Region("box", box, Origin.MARK)]) == []


def test_an_outline_is_called_an_outline_and_no_box() -> None:
    triangle = ((10.0, 10.0), (30.0, 10.0), (20.0, 30.0))

    assert place_lines([Region("polygon", triangle, Origin.DETECTOR)]) == [EDGE_IS_APPROXIMATE]
