"""Boxes and maps lie in the source where the findings are."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai_pipeline.chest import ratio
from ai_pipeline.chest.anatomy import Anatomy
from ai_pipeline.chest.classifier import (
    PARTS,
    YOLO,
    Activation,
    BoxDetector,
    BoxHead,
    BoxTemplates,
    Candidates,
    ScoredBox,
    activation,
    heatmap,
    region,
)
from ai_pipeline.chest.pipeline import contradicted, side_of
from ai_pipeline.contract import Code, Origin, Region
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import UPRIGHT, Affine
from ai_pipeline.models.registry import Chain, Weights, find, prepare
from tests.unit.ai_pipeline.chest.chest_lab import SIDE
from tests.unit.ai_pipeline.phantoms import film
from tests.unit.ai_training.small_models import parsed


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
    assert high.corners[0] < 0.2
    assert high.corners[0] <= high.point[0] <= high.corners[2]


def test_a_sites_yolo_locates_in_place_of_the_head_and_never_beside_it(tmp_path: Path) -> None:
    # Of label 2, effusions, that of the highest score that has an area, cut at the picture's edge.
    network = parsed("""
        same (float[1, 3, 224, 224] images) => (float[1, 3, 6] boxes) <float zero = {0}, float[1, 3, 6] box =
            {0, 0, 9, 9, 0.1, 2, -4, 112, 112, 168, 0.5, 2, 8, 8, 8, 99, 0.9, 2}>
        { most = ReduceMax <keepdims = 0> (images) nothing = Mul (most, zero) boxes = Add (box, nothing) }
    """).SerializeToString()
    (path := tmp_path / "yolo.onnx").write_bytes(network)
    yolo, shipped = Weights(YOLO, path, hashlib.sha256(network).hexdigest()), find("chest-efficientnet-lite0")
    detector = BoxDetector(replace(shipped, weights=(yolo,)))
    seen = detector.prepare(np.zeros((448, 448), np.uint8))
    assert detector.find(seen, "Effusion") == ScoredBox((0.0, 0.5, 0.5, 0.75), (0.25, 0.625), 0.5)
    (shown,) = [box for name in ("Effusion", "Cardiomegaly") if (box := detector.region(seen, name))]
    assert shown.bounds == pytest.approx((0, 224, 224, 336))
    few = BoxDetector(replace(shipped, weights=(yolo,), labels=shipped.labels[:2]))
    with pytest.raises(CardError, match="other labels"):
        few.find(few.prepare(np.zeros((448, 448), np.uint8)), "Cardiomegaly")
    with pytest.raises(CardError, match="never both"):
        BoxDetector(replace(shipped, weights=(*shipped.weights, yolo)))


def test_a_region_is_in_the_source_and_says_that_a_detector_drew_it() -> None:
    # A source of 1,000 × 800 that fills 224 × 179 of the model's square, 22 pixels from its top.
    to_model = Affine(0.224, 0, 0, 0, 0.224, 22.4)
    inside, above = (0.5, 0.05, 0.75, 0.5), (0.5, 0.0, 0.75, 0.05)
    found, none = (
        region(ScoredBox(box, (0.6, 0.3), 0.5), 224, to_model, 800, 1000) for box in (inside, above)
    )
    assert found is not None
    assert found.origin is Origin.DETECTOR
    assert none is None
    assert found.bounds == pytest.approx((500, 0, 750, 400), abs=0.01)


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (2500, 2048), (300, 900)])
def test_the_heat_maps_peak_is_the_hot_cell_in_the_source(rows: int, columns: int) -> None:
    _, to_model = prepare(np.zeros((rows, columns), np.uint8), Chain(), SIDE)
    places = np.zeros((10, 10), np.float32)
    places[4, 6] = 8.0
    heat = heatmap(activation(places, SIDE, to_model, rows, columns)).values
    assert (heat.shape, heat.dtype) == ((rows, columns), np.float32)
    assert 0.0 <= heat.min() <= heat.max() <= 1.0
    down, across = np.unravel_index(int(heat.argmax()), heat.shape)
    (expected,) = to_model.inverse()([(6.5 * 16, 4.5 * 16)])
    assert (across + 0.5, down + 0.5) == pytest.approx(expected, abs=max(rows, columns) / 100)


def test_the_box_follows_the_hot_cell_into_source_coordinates() -> None:
    boxes = np.array([(0.1, 0.4, 0.3, 0.6), (0.6, 0.4, 0.8, 0.6)], np.float32)
    templates = BoxTemplates(np.zeros(2, np.int64), boxes, np.full(2, 0.04, np.float32))
    _, to_model = prepare(np.zeros((1000, 1000), np.uint8), Chain(), SIDE)
    places = np.zeros((10, 10), np.float32)
    places[4:6, 6:8] = 5.0
    region = templates.box(activation(places, SIDE, to_model, 1000, 1000), 0)
    assert region is not None
    assert region.bounds == pytest.approx((600, 400, 800, 600), abs=0.1)


PLEURA = Code("3120008", "SCT", "Pleura")


LEFT_IN_THE_PICTURE = Region("box", ((150.0, 650.0), (350.0, 790.0)), Origin.DETECTOR)


def half_activation(share_on_the_right: float) -> Activation:
    """A map of 4 × 4 cells over an input of 200 pixels, a share of it right of the middle."""
    values = np.full((4, 4), 1 - share_on_the_right, np.float32)
    values[:, 2:] = share_on_the_right
    return Activation(values, 200, Affine(0.2, 0.0, 0.0, 0.0, 0.2, 0.0), 1000, 1000)


@pytest.mark.parametrize(
    ("share", "site", "wrong"),
    [
        *((share, PLEURA, share > 2 / 3) for share in (0.0, 0.5, 0.6, 0.7, 1.0)),
        (1.0, ratio.HEART, False),
        (None, PLEURA, False),
    ],
)
def test_a_box_on_the_other_side_than_most_of_its_map_is_not_drawn_unless_it_is_a_hearts(
    share: float | None, site: Code, wrong: bool
) -> None:
    seen = half_activation(share) if share is not None else None
    assert contradicted(seen, drawn_lungs(), site, LEFT_IN_THE_PICTURE) is wrong


AS_USUAL = "L\\F"


def drawn_lungs() -> Anatomy:
    """A right lung of rows 20 to 80 and a left one down to 80, on a grid of 100; the source has 1000."""
    masks = np.zeros((3, 100, 100), np.bool_)
    masks[0, 50:75, 45:60] = masks[1, 20:80, 10:40] = masks[2, 20:80, 60:90] = True
    return Anatomy(masks, Affine(10.0, 0.0, 0.0, 0.0, 10.0, 0.0), None)


def side(box: tuple[float, float, float, float], orientation: str = AS_USUAL) -> str:
    image = film(np.zeros((1000, 1000), np.uint8), attributes={"PatientOrientation": orientation})
    region, lung = Region("box", (box[:2], box[2:]), Origin.DETECTOR), Code("39607008", "SCT", "Lung")
    return side_of(image, UPRIGHT, drawn_lungs(), lung, region)


def test_the_right_lung_lies_on_the_left_of_a_frontal_film() -> None:
    boxes = ((150, 650, 350, 790), (650, 650, 850, 790), (150, 650, 850, 790), (420, 300, 580, 400))
    assert [side(box) for box in boxes] == ["R", "L", "", ""]


@pytest.mark.parametrize("orientation", ["R\\F", "F\\R", "L\\H", "", "L", "A\\F", "x\\y"])
def test_no_side_is_given_where_the_header_contradicts_the_outlines_or_says_nothing(orientation: str) -> None:
    assert side((150, 650, 350, 790), orientation) == ""
