"""The cardiothoracic ratio, its lines, and signs that a film is unusual."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ai_pipeline.chest.anatomy import HEART, LEFT_LUNG, RIGHT_LUNG, Anatomy, AnatomyModel, Look, look_at
from ai_pipeline.chest.ratio import EFFUSION_NOTE, Projections, Ratio, measure
from ai_pipeline.images.coordinates import POSES, UPRIGHT, Affine, Pose, shown
from ai_pipeline.models.registry import Card
from tests.unit.ai_pipeline.chest.chest_lab import INPUT, MODEL, SAME, SIDE, anatomy, found
from tests.unit.ai_pipeline.phantoms import film
from tests.unit.chests import drawn_chest


def ratio_of(
    picture: np.ndarray,
    pose: Pose = UPRIGHT,
    wanted: Projections = Projections.PA,
    attributes: dict[str, str] | None = None,
    view: str = "PA",
) -> Ratio:
    image = film(picture, attributes=attributes or {}, view_position=view)
    return measure(image, MODEL.outline(picture, pose), pose, MODEL, wanted)


def test_heart_and_thorax_are_measured_with_their_lines() -> None:
    ratio, heart, thorax = ratio_of(drawn_chest(480, heart=0.4)[0]).measurements
    assert [(one.name, one.unit.value) for one in (ratio, heart, thorax)] == [
        ("Cardiothoracic ratio", "{ratio}"),
        ("Heart width", "{pixels}"),
        ("Thoracic width", "{pixels}"),
    ]
    assert ratio.lines == heart.lines + thorax.lines
    assert heart.value == pytest.approx(0.4 * 480, abs=6)
    assert heart.value / thorax.value == pytest.approx(ratio.value, abs=0.001)
    assert ratio.value == pytest.approx(0.5, abs=0.02)
    assert (ratio.model, heart.site.meaning) == (MODEL.ref, "Heart")  # type: ignore[union-attr]


@pytest.mark.parametrize("pose", [pose for pose in POSES if not pose.inverted or pose.turned == 0])
def test_lines_lie_on_the_organs_however_the_picture_is_shown(pose: Pose) -> None:
    picture, organs = drawn_chest(480, heart=0.44)
    organ, turned = shown(organs[0].astype(np.uint8), replace(pose, inverted=False)), pose.turned in {90, 270}
    heart = ratio_of(shown(picture, pose), pose).measurements[1]
    [line] = heart.lines
    along = sorted(point[1 if turned else 0] for point in (line[0], line[-1]))
    occupied = np.flatnonzero(organ.any(axis=1 if turned else 0))
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


@pytest.mark.parametrize(
    ("heart", "view", "effusion", "statement"),
    [
        (0.62, "PA", False, "Heart enlarged, cardiothoracic ratio 0.6"),
        (0.51, "PA", False, "Heart size borderline, cardiothoracic ratio 0.5"),
        (0.485, "PA", False, "Heart not enlarged, cardiothoracic ratio 0.4"),
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
    image = film(picture, view_position=view)
    found = measure(image, MODEL.outline(picture), UPRIGHT, MODEL, Projections.ALL, effusion=effusion)
    said = found.measurements[0].statement
    assert said.startswith(statement)
    assert len(said) <= 110
    assert (found.judges_size, "not comparable" in said) == (view == "PA", view == "AP")
    assert ("too large" in said) is (effusion and heart > 0.5)
    assert [note.text for note in found.notes[1:]] == [EFFUSION_NOTE] * effusion


@pytest.mark.parametrize("projection", ["AP", ""])
def test_other_projections_are_measured_only_where_a_rule_wants_it_and_say_so(projection: str) -> None:
    picture, _ = drawn_chest(480)
    refused = ratio_of(picture, view=projection)
    wanted, frontal = (ratio_of(picture, wanted=Projections.ALL, view=view) for view in (projection, "PA"))
    assert refused.measurements == ()
    assert "PA" in refused.notes[0].text
    assert wanted.measurements
    assert "Not comparable" in wanted.notes[0].text
    assert "Not comparable" not in frontal.notes[0].text
    nothing = ratio_of(np.full((480, 480), 170, np.uint8))
    assert nothing.measurements == ()
    assert nothing.notes[0].text.startswith("not measured: ")


def test_a_box_is_on_an_organ_only_if_it_lies_on_its_outline() -> None:
    picture, _ = drawn_chest(480)
    for pose, left, top in ((UPRIGHT, 0, 0), (Pose(90), 440, 0), (Pose(180), 440, 440)):
        corner, anatomy = (left, top, left + 40, top + 40), MODEL.outline(shown(picture, pose), pose)
        assert not anatomy.touches(corner, (HEART, RIGHT_LUNG, LEFT_LUNG))
    upright, heart, right = MODEL.outline(picture), (220, 280, 280, 320), (-50, 150, 120, 250)
    assert upright.touches(heart, (HEART,))
    assert not upright.touches(heart, (RIGHT_LUNG,))
    assert upright.touches(right, (RIGHT_LUNG,))
    assert not upright.touches(right, (LEFT_LUNG,))


def spoilt(change: str) -> list[np.ndarray]:
    """Outlines of a chest in their variants, with a fault."""
    organs = drawn_chest(SIDE)[1]
    small, tail = organs.copy(), organs.copy()
    small[1, : round(0.55 * SIDE)] = False
    tail[0, 118:124, 80:135] = True
    narrow, wide = (drawn_chest(SIDE, heart=heart)[1] for heart in (0.36, 0.44))
    return {
        "no lung": [organs * np.array([1, 0, 1], bool)[:, None, None]],
        "mirrored": [organs[:, :, ::-1]],
        "a small lung": [small],
        "cut off": [np.roll(organs, -round(0.13 * SIDE), axis=2)],
        "small changes": [narrow, narrow, wide],
        "ragged": [tail],
    }[change]


def look(heart: int = 220, left: int = 60, small: float = 1.0) -> Look:
    """At a drawn chest, whose heart and left lung are so bright, and that lung so much smaller."""
    grey, organs = drawn_chest(300)
    grey[organs[0]], grey[organs[2] & ~organs[0]], organs[2, : round(300 * (1 - small))] = heart, left, False
    return look_at(grey, Anatomy(organs, SAME, None))


def test_a_white_lung_hides_the_border_of_the_heart() -> None:
    seen, white, none = look(), look(left=215, small=0.7), look(heart=62)
    assert (seen.hidden, white.hidden, none.hidden, white.white) == (
        (),
        ("right",),
        ("left", "right"),
        "right",
    )


@pytest.mark.parametrize(
    ("seen", "chance", "is_chest", "marked", "said"),
    [
        (Look(), 0.05, True, False, ""),
        (Look(), 0.5, True, False, "Unsure: possible consolidation."),
        (Look(("right",)), 0.05, True, False, "Unsure: the heart's border is hidden."),
        (
            Look(("right",), "right"),
            0.5,
            True,
            False,
            "the lung on the right of the picture is opaque",
        ),
        (Look(("right",), "right"), 0.5, True, True, "the left lung is opaque or small. Look at it first."),
        (Look(("left", "right")), 0.5, True, True, "the borders of heart or lungs are hidden."),
        (Look(), 0.05, False, False, "This film is not a usual chest: "),
        (Look(("left",), gone=True), 0.05, True, False, "This film is not a usual chest: "),
    ],
)
def test_two_signs_make_an_unusual_film_and_a_side_is_the_patient_s_only_with_a_marker(
    shipped: Card, seen: Look, chance: float, is_chest: bool, marked: bool, said: str
) -> None:
    doubt = seen.doubt(
        shipped, {"Consolidation": chance}, replace(anatomy(), is_chest=is_chest), marked=marked
    )
    assert said in doubt
    assert bool(doubt) is bool(said)


@pytest.mark.parametrize(
    ("view", "seen", "fault", "cut_off", "statement", "missed"),
    [
        ("PA", Look(shallow=True), "", (), "Heart enlarged, cardiothoracic ratio 0.61, shallow breath", ""),
        ("PA", Look(("right",)), "", (), "", "No ratio: the heart's border is hidden."),
        ("PA", Look(("right",)), "", ["bases of the lungs"], "", "No ratio: the heart's border is hidden."),
        ("PA", Look(), "the heart is ragged", ["bases of the lungs"], "", "No ratio: the heart is ragged."),
        ("PA", Look(), "", ["bases of the lungs"], "", "No ratio: bases of the lungs outside the picture."),
        ("AP", Look(), "the heart is ragged", (), "", ""),
    ],
)
def test_a_pa_film_without_ratio_says_why_and_first_what_may_be_ill(
    view: str, seen: Look, fault: str, cut_off: Sequence[str], statement: str, missed: str
) -> None:
    picture = drawn_chest(480, heart=0.8 * 0.62)[0]
    found = measure(
        film(picture, view_position=view),
        replace(MODEL.outline(picture), fault=fault),
        UPRIGHT,
        MODEL,
        Projections.PA,
        cut_off=cut_off,
        look=seen,
    )
    assert ("".join(one.statement for one in found.measurements), found.missed) == (statement, missed)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        *((change, "") for change in ("no lung", "mirrored", "a small lung", "cut off")),
        *((change, change) for change in ("small changes", "ragged")),
    ],
)
def test_outlines_that_are_no_chest_are_not_measured(change: str, fault: str) -> None:
    anatomy = found(*spoilt(change))
    assert anatomy.measured is None
    assert anatomy.fault
    assert fault in anatomy.fault


def test_a_chest_with_one_white_lung_is_no_place_for_boxes() -> None:
    _, organs = drawn_chest(SIDE)
    white = organs * np.array([1, 1, 0], bool)[:, None, None]
    white[2, 30:50, 115:125] = True
    assert [found(masks).is_chest for masks in (organs, white, organs & False)] == [True, False, False]


@pytest.mark.parametrize(
    ("moved", "missing", "lateral"),
    [(0.0, (), False), (0.3, (), True), (0.0, (1,), False)],
    ids=["lungs side by side", "lungs over each other", "a white lung"],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_lungs_that_lie_over_each_other_are_seen_from_the_side(
    moved: float, missing: tuple[int, ...], lateral: bool, mirrored: bool
) -> None:
    organs = drawn_chest(SIDE)[1].copy()
    organs[2] = np.roll(organs[2], -round(moved * SIDE), axis=1)
    organs[list(missing)] = False
    seen = found(organs[:, :, ::-1] if mirrored else organs)
    assert seen.is_from_the_side is lateral


@pytest.mark.parametrize(
    "way",
    [Affine(4.0, 0.0, 10.0, 0.0, 4.0, -6.0), Affine(0.0, -4.0, 200.0, 4.0, 0.0, 10.0)],
    ids=["larger and moved", "turned by a quarter"],
)
def test_outlines_lie_in_the_image_where_the_grid_says(way: Affine) -> None:
    masks = np.zeros((3, 40, 40), np.bool_)
    masks[1, 10:20, 5:30] = True
    corners = way([(5.0, 10.0), (30.0, 20.0)])
    (left, right), (top, bottom) = (sorted(edges) for edges in zip(*corners, strict=True))

    drawn = Anatomy(masks, way, None).in_image(180, 220)

    assert drawn.shape == (3, 180, 220)
    assert not drawn[[0, 2]].any()
    rows, columns = np.nonzero(drawn[1])
    edges = (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
    assert edges == pytest.approx((left, right, top, bottom), abs=1)
    assert (drawn[1] > 0).sum() == pytest.approx((right - left) * (bottom - top), rel=0.05)


@pytest.mark.parametrize(
    ("heart", "batches"),
    [((70, 110), [1, 2]), ((65, 105), [1, 1, 2]), ((50, 90), [1, 1, 2])],
    ids=["three quarters on the left", "less than seven tenths", "on the right, as in a mirrored film"],
)
def test_the_mirror_image_is_analysed_only_where_the_heart_is_not_surely_on_the_left(
    heart: tuple[int, int], batches: list[int]
) -> None:
    seen: list[int] = []

    def engine(values: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(len(values))
        organs = np.zeros((3, SIDE, SIDE), np.float32)
        organs[HEART, 60:110, slice(*heart)] = 1
        organs[RIGHT_LUNG, 30:130, 20:50] = organs[LEFT_LUNG, 30:130, 110:140] = 1
        return {"organs": np.repeat(organs[None], len(values), axis=0)}

    AnatomyModel(INPUT, engine, 0.05, MODEL.ref).outline(np.full((SIDE, SIDE), 90, np.uint8))
    assert seen == batches
