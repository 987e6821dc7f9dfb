"""Drawn results: the size of the source, boxes at their place, "AI" always there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from ai_pipeline.contract import Code, Decision, Finding, Heatmap, ModelRef, Origin, Region
from ai_pipeline.render import (
    MEDIUM_GREY,
    YELLOW,
    _Canvas,
    annotate,
    heatmap_overlay,
    label_text,
    legend_of,
    places_told,
)

MODEL = ModelRef("model", "1", "0" * 64, "1" * 64, calibrated=True)


def finding(*boxes: tuple[float, float, float, float], decision: Decision = Decision.PRESENT) -> Finding:
    regions = tuple(Region("box", (box[:2], box[2:]), Origin.ACTIVATION) for box in boxes)
    code = Code("8186001", "SCT", "Cardiomegaly")
    return Finding("Cardiomegaly", code, 0.83, 0.4, decision, "1.2", MODEL, regions=regions)


def with_heatmap(values: npt.NDArray[np.float32]) -> Finding:
    return replace(finding(), evidence=Heatmap(values, "CAM"))


@pytest.mark.parametrize("shape", [(60, 80), (240, 320, 3), (1760, 2140), (3, 3), (40, 3000)])
def test_the_drawing_has_the_size_of_the_picture(shape: tuple[int, ...]) -> None:
    display = np.full(shape, 90, np.uint8)
    rows, columns = shape[:2]
    drawn = annotate(display, [finding((0.0, 0.0, columns / 2, rows / 2))])
    assert drawn.shape == (rows, columns, 3)
    assert drawn.dtype == np.uint8
    values = np.linspace(0, 1, rows * columns, dtype=np.float32).reshape(rows, columns)
    assert heatmap_overlay(display, with_heatmap(values)).shape == (rows, columns, 3)


def test_a_box_is_drawn_on_the_edge_pixels_of_its_area() -> None:
    drawn = annotate(np.zeros((600, 800), np.uint8), [finding((200.0, 300.0, 400.0, 450.0))])
    yellow = (drawn == YELLOW).all(axis=2)
    assert yellow[400, 199:205].any() and yellow[400, 395:400].any()
    assert not yellow[400, :199].any() and not yellow[310:440, 210:390].any() and not yellow[400, 400:].any()


def test_what_is_absent_is_not_drawn() -> None:
    display = np.zeros((600, 800), np.uint8)
    drawn = annotate(display, [finding((200.0, 300.0, 400.0, 450.0), decision=Decision.ABSENT)])
    assert not drawn[200:460, 190:410].any()
    assert legend_of([finding(decision=Decision.ABSENT)])[0] == "AI: nothing found"


def test_only_a_calibrated_model_speaks_in_per_cent() -> None:
    assert label_text(finding()) == "AI: Cardiomegaly 83 %"


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
    values = np.tile(np.linspace(1.0, 0.0, 400, dtype=np.float32)[:, None], (1, 400))
    drawn = heatmap_overlay(np.full((400, 400), MEDIUM_GREY, np.uint8), with_heatmap(values))

    for share in (0.25, 0.5, 0.75):  # of the way from 1 to 0; the bar is 45 % of the picture's height
        in_bar, in_picture = drawn[110 + round(share * 179), 392], drawn[round(share * 399), 200]
        np.testing.assert_allclose(in_bar.astype(int), in_picture.astype(int), atol=2)


def test_the_heat_map_says_finding_scale_model_and_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(_Canvas, "_write", lambda self, text, *place: said.append(text))
    heatmap_overlay(np.zeros((900, 900), np.uint8), with_heatmap(np.zeros((900, 900), np.float32)))

    assert said[:4] == ["1.0", "0.5", "0.0", "AI: Cardiomegaly 83 %"]
    assert said[4:] == [
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

    said = places_told([Region("box", box, Origin.DETECTOR), Region("box", box, Origin.DETECTOR)])

    assert said == ["box: detector, approximate place"]
    assert places_told([Region("box", box, Origin.ACTIVATION)]) == [
        "box: class activation, approximate place"
    ]
    assert places_told([Region("box", box, Origin.MARK)]) == []
