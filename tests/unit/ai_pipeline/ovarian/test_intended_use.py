"""The ovarian pipeline takes only single frames of which something says that they are of a female pelvis."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ai_pipeline.contract import UltrasoundRegion
from ai_pipeline.ovarian.intended_use import refused_by_header
from tests.unit.ai_pipeline.phantoms import image_header

PELVIS = image_header(body_part="PELVIS")


def said(**change: object) -> str:
    return refused_by_header(replace(PELVIS, **change)) or ""  # type: ignore[arg-type]


def test_a_single_frame_of_a_pelvis_is_taken() -> None:
    assert refused_by_header(PELVIS) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modality": "CT"}, "modality CT is not ultrasound"),
        ({"frames": 40}, "40 frames"),
        ({"body_part": "BREAST"}, "Body Part Examined is BREAST"),
        ({"body_part": ""}, "nothing says that this is a pelvis"),
        ({"body_part": "ABDOMEN", "attributes": {"StudyDescription": "Liver"}}, "another organ"),
        ({"body_part": "ABDOMEN", "attributes": {"StudyDescription": "Upper"}}, "neither pelvis nor ovary"),
        ({"rows": 90}, "fewer than 128"),
        ({"attributes": {"PatientSex": "M"}}, "male"),
        ({"attributes": {"PatientSex": "male"}}, "male"),
        ({"age_years": 3.0}, "younger than 12"),
        ({"attributes": {"StudyDescription": "Fetal biometry"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "US OB TRANSVAGINAL"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "OB/GYN early preg"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "Échographie obstétrique"}}, "pregnancy"),
        ({"attributes": {"SeriesDescription": "1. Trimester"}}, "pregnancy"),
        ({"attributes": {"PregnancyStatus": "3"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "US BREAST LEFT"}}, "another organ"),
        ({"attributes": {"StudyDescription": "KIDNEY, RENAL PELVIS"}}, "another organ"),
        ({"attributes": {"AnatomicRegionSequence": "76752008 SCT Breast"}}, "Anatomic Region is neither"),
        ({"body_part": "UTERUS"}, "nothing says that this is a pelvis"),
        ({"body_part": "ABDOMENPELVIS"}, "nothing says that this is a pelvis"),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 9, 9), None, 3, 3),)}, "a Doppler spectrum"),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 9, 9), None, 1, 3),)}, "a Doppler spectrum"),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 9, 9), None, 2, 1),)}, "an M-mode trace"),
    ],
)
def test_the_header_alone_refuses_with_a_reason(change: dict[str, object], reason: str) -> None:
    assert reason in said(**change)


@pytest.mark.parametrize(
    "attributes",
    [
        {"AnatomicRegionSequence": "15497006 SCT Ovary"},
        {"StudyDescription": "OB/GYN, US pelvis"},
        {"ProtocolName": "Transvaginal"},
    ],
)
@pytest.mark.parametrize("body_part", ["", "ABDOMEN"])
def test_region_or_procedure_may_say_that_it_is_a_pelvis(body_part: str, attributes: dict[str, str]) -> None:
    assert said(body_part=body_part, attributes=attributes) == ""


def test_a_rule_may_say_it_but_not_that_a_pregnancy_is_none() -> None:
    unknown = replace(PELVIS, body_part="")
    assert refused_by_header(unknown, rule_says_pelvis=True) is None
    fetus = replace(unknown, attributes={"SeriesDescription": "obstetric"})
    assert "pregnancy" in str(refused_by_header(fetus, rule_says_pelvis=True))
