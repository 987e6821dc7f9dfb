"""Which images are analysed, and why others are refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ai_pipeline.chest.intended_use import notes, refused_by_header, refused_by_pixels
from ai_pipeline.images.coordinates import UPRIGHT, Pose
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.networks.gate import CHILD, CLIPPED, OTHER, UNKNOWN, Kind
from tests.unit.ai_pipeline.phantoms import CHEST, film, noise

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
        ({"AnatomicRegionSequence": "72696002 SCT Knee"}, "another part of the body"),
        # taken
        ({"SeriesDescription": "Chest PA and LAT"}, "None"),
        ({"SeriesDescription": "CHEST", "PatientOrientation": "L\\F"}, "None"),
        ({"ViewCodeSequence": "272479007 SCT postero-anterior projection"}, "None"),
        ({"AnatomicRegionSequence": "51185008 SCT Chest"}, "None"),
        ({}, "None"),
    ],
)
def test_a_lateral_view_or_another_part_is_refused_where_free_text_tells_and_none_of_it_is_repeated(
    attributes: dict[str, str], reason: str
) -> None:
    said = str(refused_by_header(replace(CHEST, view_position="", body_part="", attributes=attributes)))
    assert reason in said
    assert not any(value in said for value in attributes.values()), "free text may hold a name"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modality": "CT"}, "modality CT"),
        ({"body_part": "KNEE"}, "Body Part Examined is KNEE"),
        ({"view_position": "LL"}, "View Position LL is not frontal"),
        ({"age_years": 9.0}, "younger than 16"),
        ({"presentation_intent": "FOR PROCESSING"}, "for processing"),
        ({"rows": 64, "columns": 64}, "64 × 64 pixels"),
        ({"frames": 12}, "12 frames"),
        ({"attributes": {"SeriesDescription": "LAT"}}, "None"),  # View Position counts more
    ],
)
def test_other_attributes_refuse_with_a_reason(change: dict[str, Any], reason: str) -> None:
    assert reason in str(refused_by_header(replace(CHEST, **change)))


@pytest.mark.parametrize(
    ("share", "refused", "noted"),
    [(0.0, False, False), (0.12, False, True), (0.3, True, True), (1.0, True, True)],
)
def test_grey_levels_that_are_cut_off_are_told_or_refused(share: float, refused: bool, noted: bool) -> None:
    picture = noise((200, 200), 20, 230)
    picture[np.random.default_rng(2).random(picture.shape) < share] = 255
    found = Exposure.from_image(picture)
    assert found.clipped == pytest.approx(share, abs=0.02)
    assert (found.refusal is not None, found.note is not None) == (refused, noted)


@pytest.mark.parametrize(
    ("passed", "kind", "exposure", "said"),
    [
        (
            False,
            Kind(Pose(90).name, 0.9),
            READABLE,
            "shown turned by 90° clockwise, but put upright it does not",
        ),
        (False, Kind(CHILD, 0.9), READABLE, "small child"),
        (False, UNKNOWN, READABLE, "do not look like a frontal chest X-ray"),
        (True, UNKNOWN, READABLE, "None"),
        (True, UNKNOWN, Exposure(0.5, 200.0), "the grey levels are clipped"),
        (
            False,
            Kind(OTHER, 0.9),
            Exposure(0.5, 200.0),
            "adult: they look like no X-ray; the grey levels are",
        ),
        (False, Kind(CLIPPED, 0.9), Exposure(0.5, 200.0), "the grey levels are clipped"),
    ],
)
def test_a_refusal_says_what_the_gate_saw(passed: bool, kind: Kind, exposure: Exposure, said: str) -> None:
    assert said in str(refused_by_pixels(passed, kind, exposure))


def test_a_view_from_the_side_that_looks_like_a_chest_is_refused() -> None:
    assert "a view from the side" in str(refused_by_pixels(True, UNKNOWN, READABLE, lateral=True))


@pytest.mark.parametrize(
    ("orientation", "mirrored"),
    [("L\\F", False), ("R\\F", True), ("R\\H", False), ("F\\R", False), ("", False)],
)
def test_left_and_right_exchanged_are_told_by_patient_orientation(orientation: str, mirrored: bool) -> None:
    image = film(np.zeros((20, 20), np.uint8), attributes={"PatientOrientation": orientation})
    assert ("mirrored" in {note.name for note in notes(image, UPRIGHT, READABLE)}) is mirrored
