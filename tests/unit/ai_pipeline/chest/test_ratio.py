"""The cardiothoracic ratio: measured on PA films, in the coordinates of the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ai_pipeline.chest.anatomy import HEART, LEFT_LUNG, RIGHT_LUNG, AnatomyModel
from ai_pipeline.chest.card import ChestOptions
from ai_pipeline.chest.ratio import EFFUSION_NOTE, Projections, Ratio, measure
from ai_pipeline.contract import ModelRef
from ai_pipeline.images.orientation import POSES, UPRIGHT, Pose, shown
from ai_pipeline.models.card import Chain, Input
from tests.unit.ai_pipeline.phantoms import ArrayImage
from tests.unit.chests import drawn_chest

SIDE = 160
INPUT = Input(SIDE, 3, (127.0,), (128.0,), "MONOCHROME2", Chain(side=SIDE, blur=0, jpeg_quality=95))


def by_darkness(values: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that knows a drawn chest's organs by their grey, wherever they are."""
    grey = values[:, 0] * 128 + 127
    bright, dark = grey > 195, grey < 115
    columns = np.arange(SIDE) + 0.5
    right = dark & (columns < SIDE / 2)
    return {"organs": np.stack([bright, right, dark & ~right], axis=1).astype(np.float32)}


MODEL = AnatomyModel(INPUT, by_darkness, 0.05, ModelRef("anatomy", "1", "a" * 64, "b" * 64), (-0.03, 0.03))


def ratio_of(
    picture: np.ndarray,
    pose: Pose = UPRIGHT,
    wanted: Projections = Projections.PA,
    attributes: dict[str, str] | None = None,
    view: str = "PA",
) -> Ratio:
    image = ArrayImage(picture[None], modality="DX", attributes=attributes or {}, view_position=view)
    return measure(image, MODEL.outline(picture, pose), pose, MODEL, wanted)


def test_heart_and_thorax_are_measured_with_their_lines() -> None:
    picture, _ = drawn_chest(480, heart=0.4)

    measured = ratio_of(picture).measurements

    assert [one.name for one in measured] == ["Cardiothoracic ratio", "Heart width", "Thoracic width"]
    ratio, heart, thorax = measured
    assert ratio.value == pytest.approx(0.5, abs=0.02)
    assert ratio.lines == heart.lines + thorax.lines
    assert heart.value == pytest.approx(0.4 * 480, abs=6)
    assert (heart.unit.value, ratio.unit.value) == ("{pixels}", "{ratio}")
    assert ratio.value == pytest.approx(heart.value / thorax.value, abs=0.001)
    assert (ratio.model, heart.site.meaning) == (MODEL.ref, "Heart")  # type: ignore[union-attr]


@pytest.mark.parametrize("pose", [pose for pose in POSES if not pose.inverted or pose.turned == 0])
def test_lines_lie_on_the_organs_however_the_picture_is_shown(pose: Pose) -> None:
    picture, organs = drawn_chest(480, heart=0.44)
    seen = shown(picture, pose)
    masks = [shown(organ.astype(np.uint8), replace(pose, inverted=False)) for organ in organs]
    turned = pose.turned in {90, 270}

    heart = ratio_of(seen, pose).measurements[1]

    [line] = heart.lines
    along = sorted(point[1 if turned else 0] for point in (line[0], line[-1]))
    occupied = np.flatnonzero(masks[0].any(axis=1 if turned else 0))
    assert along == pytest.approx([occupied[0], occupied[-1] + 1], abs=4)
    assert heart.value == pytest.approx(along[1] - along[0], abs=0.1)


@pytest.mark.parametrize(
    ("attributes", "unit", "spacing"),
    [
        ({"ImagerPixelSpacing": "0.5\\0.25"}, "mm", 0.25),
        ({"PixelSpacing": "0.5\\0.25"}, "{pixels}", 1.0),
        ({"PixelSpacing": "0.2\\0.2", "ImagerPixelSpacing": "0.5\\0.25"}, "mm", 0.25),
        (
            {
                "PixelSpacing": "0.2\\0.2",
                "PixelSpacingCalibrationType": "GEOMETRY",
                "ImagerPixelSpacing": "0.5\\0.25",
            },
            "mm",
            0.2,
        ),
        ({"ImagerPixelSpacing": "0\\0"}, "{pixels}", 1.0),
    ],
)
def test_widths_are_in_millimetres_only_where_the_header_can_be_trusted(
    attributes: dict[str, str], unit: str, spacing: float
) -> None:
    picture, _ = drawn_chest(480)
    [in_pixels, in_unit] = [ratio_of(picture, attributes=given).measurements[1] for given in ({}, attributes)]
    assert (in_unit.unit.value, in_unit.value) == (unit, pytest.approx(in_pixels.value * spacing, abs=0.1))


def test_a_reader_is_told_where_fluid_may_have_been_taken_for_heart() -> None:
    picture, _ = drawn_chest(480)
    image = ArrayImage(picture[None], modality="DX", view_position="PA")
    anatomy = MODEL.outline(picture, UPRIGHT)
    for effusion in (False, True):
        found = measure(image, anatomy, UPRIGHT, MODEL, Projections.PA, effusion=effusion)
        assert found.measurements
        assert [note.text for note in found.notes[1:]] == [EFFUSION_NOTE] * effusion


@pytest.mark.parametrize(
    ("heart", "view", "effusion", "statement"),
    [
        (0.62, "PA", False, "Heart enlarged, cardiothoracic ratio 0.6"),
        (0.51, "PA", False, "Heart size borderline, cardiothoracic ratio 0.5"),
        (0.42, "PA", False, "Heart not enlarged, cardiothoracic ratio 0.4"),
        (0.62, "PA", True, "Cardiothoracic ratio 0.6"),
        (0.42, "PA", True, "Heart not enlarged, cardiothoracic ratio 0.4"),
        (0.62, "AP", False, "Cardiothoracic ratio 0.6"),
    ],
)
def test_the_statement_says_what_a_reader_would_surely_agree_with(
    heart: float, view: str, effusion: bool, statement: str
) -> None:
    picture, _ = drawn_chest(480, heart=0.8 * heart)  # the lungs take .8 of the width
    image = ArrayImage(picture[None], modality="DX", view_position=view)
    anatomy = MODEL.outline(picture, UPRIGHT)
    found = measure(image, anatomy, UPRIGHT, MODEL, Projections.ALL, effusion=effusion)
    said = found.measurements[0].statement
    assert said.startswith(statement)
    assert len(said) <= 110
    assert found.judges_size is (view == "PA")
    assert ("too large" in said) is (effusion and heart > 0.5)
    assert ("not comparable" in said) is (view == "AP")


def test_a_magnified_width_says_so() -> None:
    picture, _ = drawn_chest(480)
    on_detector = ratio_of(picture, attributes={"ImagerPixelSpacing": "0.5\\0.5"})
    assert "larger than in the body" in on_detector.notes[0].text
    assert "larger" not in ratio_of(picture).notes[0].text


@pytest.mark.parametrize("projection", ["AP", ""])
def test_other_projections_are_measured_only_where_a_rule_wants_it_and_say_so(projection: str) -> None:
    picture, _ = drawn_chest(480)
    refused = ratio_of(picture, view=projection)
    assert refused.measurements == ()
    assert "PA" in refused.notes[0].text
    wanted = ratio_of(picture, wanted=Projections.ALL, view=projection)
    assert wanted.measurements
    assert "Not comparable" in wanted.notes[0].text
    assert "Not comparable" not in ratio_of(picture, wanted=Projections.ALL).notes[0].text


def test_the_view_code_says_the_projection_too() -> None:
    picture, _ = drawn_chest(480)
    given = {"ViewCodeSequence": "272479007 SCT postero-anterior"}
    assert ratio_of(picture, attributes=given, view="").measurements


def test_off_is_off() -> None:
    assert ratio_of(drawn_chest(480)[0], wanted=Projections.OFF) == Ratio()
    assert ChestOptions.faults({"ratio": "off"}) == {}
    assert "PA, all, off" in ChestOptions.faults({"ratio": "sometimes"})["ratio"]


def test_where_no_chest_is_found_nothing_is_measured_and_a_note_says_why() -> None:
    found = ratio_of(np.full((480, 480), 170, np.uint8))
    assert found.measurements == ()
    assert found.notes[0].text.startswith("not measured: ")


def test_a_chest_that_the_picture_cuts_off_is_not_measured() -> None:
    picture, _ = drawn_chest(480)
    found = ratio_of(picture[:, 50:])
    assert found.measurements == ()
    assert found.notes


def test_a_box_is_on_an_organ_only_if_it_lies_on_its_outline() -> None:
    picture, _ = drawn_chest(480)
    for pose in (UPRIGHT, Pose(90), Pose(180)):
        anatomy = MODEL.outline(shown(picture, pose), pose)
        corners = {Pose(): (0, 0, 40, 40), Pose(90): (440, 0, 480, 40), Pose(180): (440, 440, 480, 480)}[pose]
        assert not anatomy.touches(corners, (HEART, RIGHT_LUNG, LEFT_LUNG))
    upright = MODEL.outline(picture)
    assert upright.touches((220, 280, 280, 320), (HEART,))
    assert not upright.touches((220, 280, 280, 320), (RIGHT_LUNG,))
    assert upright.touches((-50, 150, 120, 250), (RIGHT_LUNG,))
    assert not upright.touches((-50, 150, 120, 250), (LEFT_LUNG,))
