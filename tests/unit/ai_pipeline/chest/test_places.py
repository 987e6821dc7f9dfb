"""Where things are in a chest X-ray: outlines and the ratio they give, maps, boxes, places and zones."""

from dataclasses import replace

import numpy as np
import pytest

from ai_pipeline.chest.anatomy import HEART, LEFT_LUNG, RIGHT_LUNG, Anatomy, AnatomyModel, anatomy_of
from ai_pipeline.chest.detector import detections_by_label
from ai_pipeline.chest.explain import (
    PARTS,
    Activation,
    BoxHead,
    BoxTemplates,
    Candidates,
    ScoredBox,
    activation,
    heatmap,
    region,
)
from ai_pipeline.chest.places import LungPlace, contradicted, lung_places
from ai_pipeline.chest.ratio import EFFUSION_NOTE, Projections, Ratio, measure
from ai_pipeline.contract import Code, ModelRef, Origin, Region
from ai_pipeline.images.coordinates import POSES, UPRIGHT, Affine, Pose, shown
from ai_pipeline.models.card import Chain, Input
from ai_pipeline.models.inputs import network_input, prepare
from tests.unit.ai_pipeline.phantoms import ArrayImage
from tests.unit.chests import drawn_chest

SIDE = 160


INPUT = Input(SIDE, 3, (127.0,), (128.0,), "MONOCHROME2", Chain(side=SIDE, blur=0, jpeg_quality=95))


def by_darkness(values: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that knows a drawn chest's organs by their grey, wherever they are."""
    grey = values[:, 0] * 128 + 127
    bright, dark = grey > 195, grey < 115
    right = dark & ((np.arange(SIDE) + 0.5) < SIDE / 2)
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
    ratio, heart, thorax = ratio_of(drawn_chest(480, heart=0.4)[0]).measurements
    assert [(one.name, one.unit.value) for one in (ratio, heart, thorax)] == [
        ("Cardiothoracic ratio", "{ratio}"),
        ("Heart width", "{pixels}"),
        ("Thoracic width", "{pixels}"),
    ]
    assert ratio.lines == heart.lines + thorax.lines and heart.value == pytest.approx(0.4 * 480, abs=6)
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
    found = measure(image, MODEL.outline(picture), UPRIGHT, MODEL, Projections.ALL, effusion=effusion)
    said = found.measurements[0].statement
    assert said.startswith(statement) and len(said) <= 110
    assert (found.judges_size, "not comparable" in said) == (view == "PA", view == "AP")
    assert ("too large" in said) is (effusion and heart > 0.5)
    assert [note.text for note in found.notes[1:]] == [EFFUSION_NOTE] * effusion


@pytest.mark.parametrize("projection", ["AP", ""])
def test_other_projections_are_measured_only_where_a_rule_wants_it_and_say_so(projection: str) -> None:
    picture, _ = drawn_chest(480)
    refused = ratio_of(picture, view=projection)
    wanted, frontal = (ratio_of(picture, wanted=Projections.ALL, view=view) for view in (projection, "PA"))
    assert refused.measurements == () and "PA" in refused.notes[0].text
    assert wanted.measurements and "Not comparable" in wanted.notes[0].text
    assert "Not comparable" not in frontal.notes[0].text
    nothing = ratio_of(np.full((480, 480), 170, np.uint8))
    assert nothing.measurements == () and nothing.notes[0].text.startswith("not measured: ")


def test_a_box_is_on_an_organ_only_if_it_lies_on_its_outline() -> None:
    picture, _ = drawn_chest(480)
    for pose, left, top in ((UPRIGHT, 0, 0), (Pose(90), 440, 0), (Pose(180), 440, 440)):
        corner, anatomy = (left, top, left + 40, top + 40), MODEL.outline(shown(picture, pose), pose)
        assert not anatomy.touches(corner, (HEART, RIGHT_LUNG, LEFT_LUNG))
    upright, heart, right = MODEL.outline(picture), (220, 280, 280, 320), (-50, 150, 120, 250)
    assert upright.touches(heart, (HEART,)) and not upright.touches(heart, (RIGHT_LUNG,))
    assert upright.touches(right, (RIGHT_LUNG,)) and not upright.touches(right, (LEFT_LUNG,))


SAME = Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


TOLERANCE = 0.03


def found(masks: np.ndarray, *more: np.ndarray) -> Anatomy:
    """What is made of outlines that are ``masks`` in the first variant, ``more`` in the others."""
    variants = np.stack([masks, *(more or (masks, masks))]).astype(np.float32)
    return anatomy_of(variants, [SAME] * len(variants), SAME, TOLERANCE)


@pytest.mark.parametrize("heart", [0.3, 0.4, 0.5])
def test_the_ratio_is_the_width_of_the_heart_over_that_of_the_lungs(heart: float) -> None:
    measured = found(drawn_chest(SIDE, heart=heart)[1]).measured
    assert measured is not None and measured.ratio == pytest.approx(heart / 0.8, abs=0.02)
    assert measured.heart.length == pytest.approx(heart * SIDE, abs=2)
    assert measured.thorax.points[0][0] == pytest.approx(0.1 * SIDE, abs=1.5)


def test_lines_lie_in_the_source_whatever_its_size() -> None:
    picture, organs = drawn_chest(600)
    _, to_model = network_input(picture[:480], INPUT)
    rows = round(480 * SIDE / 600)
    padded, top = np.zeros((3, SIDE, SIDE), np.float32), (SIDE - rows) // 2
    padded[:, top : top + rows] = drawn_chest(SIDE)[1][:, :rows]
    measured = anatomy_of(padded[None], [SAME], to_model, TOLERANCE).measured
    columns, ends = np.flatnonzero(organs[0].any(axis=0)), measured.heart.points
    assert (ends[0][0], ends[-1][0]) == pytest.approx((columns[0], columns[-1] + 1), abs=5)


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
        "not that of a heart": [tail],
    }[change]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        *((change, "") for change in ("no lung", "mirrored", "a small lung", "cut off")),
        *((change, change) for change in ("small changes", "not that of a heart")),
    ],
)
def test_outlines_that_are_no_chest_are_not_measured(change: str, fault: str) -> None:
    anatomy = found(*spoilt(change))
    assert anatomy.measured is None and anatomy.fault and fault in anatomy.fault


def test_a_chest_with_one_white_lung_is_no_place_for_boxes() -> None:
    _, organs = drawn_chest(SIDE)
    white = organs * np.array([1, 1, 0], bool)[:, None, None]
    white[2, 30:50, 115:125] = True
    assert [found(masks).is_chest for masks in (organs, white, organs & False)] == [True, False, False]


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

    assert drawn.shape == (3, 180, 220) and not drawn[[0, 2]].any()
    rows, columns = np.nonzero(drawn[1])
    edges = (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
    assert edges == pytest.approx((left, right, top, bottom), abs=1)
    assert (drawn[1] > 0).sum() == pytest.approx((right - left) * (bottom - top), rel=0.05)


def _head() -> BoxHead:
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.12, 0.1, 0.4, 0.42], [0.6, 0.6, 0.9, 0.9]], np.float32)
    return BoxHead({"Mass": Candidates(boxes, np.zeros(3, np.float32))})


def _maps(row: int, column: int) -> np.ndarray:
    maps = np.zeros((1, len(PARTS), 14, 14), np.float32)
    maps[0, 0, row - 2 : row + 2, column - 2 : column + 2] = 8.0
    return maps


def test_the_box_lies_where_the_maps_speak_for_it() -> None:
    low, high = (_head().find(_maps(at, at), "Mass") for at in (10, 3))
    assert low.corners == pytest.approx((0.6, 0.6, 0.9, 0.9))
    assert high.corners[0] < 0.2 and high.corners[0] <= high.point[0] <= high.corners[2]


def test_a_drawn_box_counts_as_much_as_it_is_trusted() -> None:
    plain, trusting = _head(), BoxHead(_head().candidates, trust=6.0)
    maps, nothing = np.zeros((1, len(PARTS), 14, 14), np.float32), np.zeros((0, 5), np.float32)
    drawn = np.array([[0.62, 0.6, 0.9, 0.9, 0.3], [0.1, 0.1, 0.4, 0.4, 0.03]], np.float32)
    assert trusting.find(maps, "Mass", drawn).corners == pytest.approx((0.6, 0.6, 0.9, 0.9))
    assert plain.find(maps, "Mass", drawn) == plain.find(maps, "Mass")
    assert trusting.find(maps, "Mass", nothing) == trusting.find(maps, "Mass")
    assert BoxHead.from_bytes(trusting.to_bytes()).trust == 6.0


def test_a_yolos_rows_are_told_by_label_in_shares_of_the_picture() -> None:
    rows = np.array([[-4, 22.4, 112, 224, 0.5, 1.0], [0, 0, 224, 224, 0.2, 0.0]], np.float32)
    drawn = detections_by_label(rows, ("Effusion", "Mass", "Nodule"), 224)
    assert drawn["Mass"].tolist() == pytest.approx(np.array([[0, 0.1, 0.5, 1.0, 0.5]]))
    assert (drawn["Effusion"].shape, drawn["Nodule"].shape) == ((1, 5), (0, 5))


def test_a_region_is_in_the_source_and_says_that_a_detector_drew_it() -> None:
    # A source of 1,000 × 800 that fills 224 × 179 of the model's square, 22 pixels from its top.
    to_model = Affine(0.224, 0, 0, 0, 0.224, 22.4)
    inside, above = (0.5, 0.05, 0.75, 0.5), (0.5, 0.0, 0.75, 0.05)
    found, none = (
        region(ScoredBox(box, (0.6, 0.3), 0.5), 224, to_model, 800, 1000) for box in (inside, above)
    )
    assert found is not None and found.origin is Origin.DETECTOR and none is None
    assert found.bounds == pytest.approx((500, 0, 750, 400), abs=0.01)


SIZE = 160


SHAPES = [(512, 512), (2500, 2048), (300, 900)]


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_heat_maps_peak_is_the_hot_cell_in_the_source(rows: int, columns: int) -> None:
    _, to_model = prepare(np.zeros((rows, columns), np.uint8), Chain(), SIZE)
    places = np.zeros((10, 10), np.float32)
    places[4, 6] = 8.0
    heat = heatmap(activation(places, SIZE, to_model, rows, columns)).values
    assert (heat.shape, heat.dtype) == ((rows, columns), np.float32)
    assert 0.0 <= heat.min() <= heat.max() <= 1.0
    down, across = np.unravel_index(int(heat.argmax()), heat.shape)
    (expected,) = to_model.inverse()([(6.5 * 16, 4.5 * 16)])
    assert (across + 0.5, down + 0.5) == pytest.approx(expected, abs=max(rows, columns) / 100)


def test_the_box_follows_the_hot_cell_into_source_coordinates() -> None:
    boxes = np.array([(0.1, 0.4, 0.3, 0.6), (0.6, 0.4, 0.8, 0.6)], np.float32)
    templates = BoxTemplates(np.zeros(2, np.int64), boxes, np.full(2, 0.04, np.float32))
    _, to_model = prepare(np.zeros((1000, 1000), np.uint8), Chain(), SIZE)
    places = np.zeros((10, 10), np.float32)
    places[4:6, 6:8] = 5.0
    region = templates.box(activation(places, SIZE, to_model, 1000, 1000), 0)
    assert region is not None and region.bounds == pytest.approx((600, 400, 800, 600), abs=0.1)


PLEURA = Code("3120008", "SCT", "Pleura")


OF_HEART = Code("80891009", "SCT", "Heart")


LEFT_IN_THE_PICTURE = Region("box", ((150.0, 650.0), (350.0, 790.0)), Origin.DETECTOR)


def half_activation(share_on_the_right: float) -> Activation:
    """A map of 4 × 4 cells over an input of 200 pixels, a share of it right of the middle."""
    values = np.full((4, 4), 1 - share_on_the_right, np.float32)
    values[:, 2:] = share_on_the_right
    return Activation(values, 200, Affine(0.2, 0.0, 0.0, 0.0, 0.2, 0.0), 1000, 1000)


@pytest.mark.parametrize(
    ("share", "wrong"), [(0.0, False), (0.5, False), (0.6, False), (0.7, True), (1.0, True)]
)
def test_a_box_on_the_other_side_than_most_of_its_map_is_not_drawn(share: float, wrong: bool) -> None:
    assert contradicted(half_activation(share), drawn_lungs(), PLEURA, LEFT_IN_THE_PICTURE) is wrong


def test_a_heart_lies_on_both_sides_and_a_finding_without_a_map_is_not_contradicted() -> None:
    assert not contradicted(half_activation(1.0), drawn_lungs(), OF_HEART, LEFT_IN_THE_PICTURE)
    assert not contradicted(None, drawn_lungs(), PLEURA, LEFT_IN_THE_PICTURE)


AS_USUAL = "L\\F"


def drawn_lungs(left_lung_from: int = 20) -> Anatomy:
    """A right lung of rows 20 to 80 and a left one down to 80, on a grid of 100; the source has 1000."""
    masks = np.zeros((3, 100, 100), np.bool_)
    masks[0, 50:75, 45:60] = masks[1, 20:80, 10:40] = masks[2, left_lung_from:80, 60:90] = True
    return Anatomy(masks, Affine(10.0, 0.0, 0.0, 0.0, 10.0, 0.0), None)


def words(box: tuple[float, float, float, float], orientation: str = AS_USUAL, **lungs: int) -> list[str]:
    return [place.words for place in lung_places(box, drawn_lungs(**lungs), orientation)]


def test_the_right_lung_lies_on_the_left_of_a_frontal_film() -> None:
    assert lung_places((150, 650, 350, 790), drawn_lungs(), AS_USUAL) == (LungPlace("R", "right lower zone"),)
    assert lung_places((650, 650, 850, 790), drawn_lungs(), AS_USUAL) == (LungPlace("L", "left lower zone"),)


@pytest.mark.parametrize("orientation", ["R\\F", "F\\R", "L\\H", "", "L", "A\\F", "x\\y"])
def test_nothing_is_said_where_the_header_contradicts_the_outlines_or_says_nothing(orientation: str) -> None:
    assert words((150, 650, 350, 790), orientation) == []


def test_zones_are_thirds_of_the_lung_not_of_the_picture() -> None:
    box = (650.0, 520.0, 850.0, 590.0)
    assert words(box) == ["left middle zone"] and words(box, left_lung_from=50) == ["left upper zone"]
    # over both lungs, and beside them
    assert words((150, 650, 850, 790)) == ["right lower zone", "left lower zone"]
    assert words((420, 300, 580, 400)) == []
