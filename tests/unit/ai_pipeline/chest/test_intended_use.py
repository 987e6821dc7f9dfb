"""Adult, frontal, chest, and readable: what header and grey levels say before any network is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ai_pipeline.chest.domain_gate import CHILD, UNKNOWN, Kind
from ai_pipeline.chest.intended_use import notes, refused_by_header, refused_by_pixels
from ai_pipeline.contract import ImageHeader
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.images.orientation import UPRIGHT, Pose
from tests.unit.ai_pipeline.phantoms import ArrayImage

CHEST = ImageHeader(
    "DX", "1.2.840.10008.5.1.4.1.1.1.1", 512, 512, 1, "MONOCHROME2", 8, "CHEST", "PA", age_years=50
)
READABLE = Exposure(0.0, 120.0)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"SeriesDescription": "Chest LAT"}, "a view that is not frontal"),
        ({"AcquisitionDeviceProcessingDescription": "LATERAL THORAX 0-15cm"}, "a view that is not frontal"),
        ({"ViewCodeSequence": "399198007 SCT right lateral"}, "a view that is not frontal"),
        ({"ProtocolName": "chest_obl"}, "a view that is not frontal"),
        ({"PatientOrientation": "A\\F"}, "Patient Orientation is that of a lateral view"),
        ({"PatientOrientation": "PL\\F"}, "Patient Orientation is that of a lateral view"),
    ],
)
def test_a_lateral_view_is_refused_where_the_header_tells(attributes: dict[str, str], reason: str) -> None:
    said = str(refused_by_header(replace(CHEST, view_position="", attributes=attributes)))

    assert reason in said
    assert not any(value in said for value in attributes.values()), "free text may hold a name"


@pytest.mark.parametrize(
    "attributes",
    [
        {"SeriesDescription": "Chest PA and LAT"},
        {"SeriesDescription": "CHEST", "PatientOrientation": "L\\F"},
        {"ViewCodeSequence": "272479007 SCT postero-anterior projection"},
        {"AnatomicRegionSequence": "51185008 SCT Chest"},
        {},
    ],
)
def test_a_frontal_view_is_taken(attributes: dict[str, str]) -> None:
    assert refused_by_header(replace(CHEST, view_position="", attributes=attributes)) is None


def test_view_position_counts_more_than_a_description() -> None:
    assert refused_by_header(replace(CHEST, attributes={"SeriesDescription": "LAT"})) is None


def test_another_region_is_refused_where_body_part_is_empty() -> None:
    knee = replace(CHEST, body_part="", attributes={"AnatomicRegionSequence": "72696002 SCT Knee"})

    assert "another part of the body" in str(refused_by_header(knee))


@pytest.mark.parametrize(
    ("share", "refused", "noted"),
    [(0.0, False, False), (0.12, False, True), (0.3, True, True), (1.0, True, True)],
)
def test_grey_levels_that_are_cut_off_are_told_or_refused(share: float, refused: bool, noted: bool) -> None:
    picture = np.random.default_rng(1).integers(20, 230, (200, 200)).astype(np.uint8)
    picture.reshape(-1)[np.random.default_rng(2).random(picture.size) < share] = 255

    found = Exposure.from_image(picture)

    assert found.clipped == pytest.approx(share, abs=0.02)
    assert (found.refusal is not None) is refused
    assert (found.note is not None) is noted


def test_black_borders_around_the_chest_are_no_clipping() -> None:
    picture = np.zeros((400, 500), np.uint8)
    picture[60:340, 75:425] = np.random.default_rng(1).integers(20, 230, (280, 350))

    assert Exposure.from_image(picture).note is None


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_an_image_of_one_grey_is_refused(grey: int) -> None:
    assert "almost one grey" in str(Exposure.from_image(np.full((50, 60), grey, np.uint8)).refusal)


def test_a_refusal_says_what_the_gate_saw() -> None:
    turned = str(refused_by_pixels(False, Kind(Pose(90).name, 0.9), READABLE))
    child = str(refused_by_pixels(False, Kind(CHILD, 0.9), READABLE))

    assert "shown turned by 90° clockwise, but put upright it does not look like one either" in turned
    assert "small child" in child
    assert "do not look like a frontal chest X-ray" in str(refused_by_pixels(False, UNKNOWN, READABLE))
    assert refused_by_pixels(True, UNKNOWN, READABLE) is None
    assert "clipped" in str(refused_by_pixels(True, UNKNOWN, Exposure(0.5, 200.0)))


def test_what_was_mended_or_cannot_be_known_is_told() -> None:
    image = ArrayImage(np.zeros((1, 20, 20), np.uint8), "DX")

    told = {note.name: note.text for note in notes(image, Pose(180, True), Exposure(0.1, 90.0))}

    assert "shown turned by 180° and inverted" in told["mended"]
    assert "10%" in told["clipped"]
    assert "unknown" in told["age"]
    assert "mended" not in {note.name for note in notes(image, UPRIGHT, READABLE)}


@pytest.mark.parametrize(
    ("orientation", "mirrored"),
    [("L\\F", False), ("R\\F", True), ("R\\H", False), ("F\\R", False), ("", False)],
)
def test_left_and_right_exchanged_are_told_by_patient_orientation(orientation: str, mirrored: bool) -> None:
    image = ArrayImage(np.zeros((1, 20, 20), np.uint8), "DX", attributes={"PatientOrientation": orientation})

    assert ("mirrored" in {note.name for note in notes(image, UPRIGHT, READABLE)}) is mirrored
