"""Which studies of an archive are compared with a new one, and which question finds them."""

from datetime import date
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from dicom_node.base.dicom.identity import Patient
from dicom_node.deliver.scu import FoundStudy
from dicom_node.studies.priors import ComparedStudy, query_for

WHO = Patient("id", name="hash", birth_date="day", sex="F")
NEW = ComparedStudy("1.2.3", WHO, {"CR", "DX"}, {"HAND"})


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        pytest.param({}, True, id="earlier"),
        pytest.param({"study_date": ""}, False, id="without date"),
        pytest.param({"study_instance_uid": "1.2.3"}, False, id="the new study itself"),
        pytest.param({"modalities": ("US", "CR")}, True, id="one modality in common"),
        pytest.param({"modalities": ("US",)}, False, id="another modality"),
        pytest.param({"modalities": ()}, True, id="modality not named"),
        pytest.param({"patient": Patient(name="other", birth_date="day")}, False, id="another name"),
        pytest.param({"patient": Patient(birth_date="day")}, True, id="birth date alone"),
        pytest.param({"patient": Patient(name="hash", sex="F")}, True, id="name and sex"),
        pytest.param({"patient": Patient(name="hash")}, False, id="name alone"),
        pytest.param({"patient": Patient()}, False, id="nothing beside the ID"),
    ],
)
def test_an_earlier_study_fits_by_date_modality_and_patient(answer: dict[str, Any], fits: bool) -> None:
    found = {"study_instance_uid": "1.2.4", "study_date": "20250101", "modalities": ("DX",), "patient": WHO}
    found |= answer
    assert NEW.fits(FoundStudy(**found)) == fits


@pytest.mark.parametrize(
    ("parts", "newest"),
    [
        pytest.param({25: {"HAND"}, 24: {"HAND"}, 23: {"HAND"}}, [25, 24], id="two newest"),
        pytest.param({24: {"HAND", "FOOT"}, 23: set()}, [24, 23], id="same part or none named"),
        pytest.param({6: {"HAND"}, 5: {"HAND"}}, [6], id="among twenty"),
    ],
)
def test_the_newest_of_the_same_body_part_are_chosen(parts: dict[int, set[str]], newest: list[int]) -> None:
    studies = [FoundStudy(f"1.2.{day}", f"202501{day:02d}") for day in range(1, 26)]
    archive = Mock(body_parts=lambda uid: parts.get(int(uid.removeprefix("1.2.")), {"FOOT"}))
    assert NEW.newest(studies, archive) == [studies[day - 1] for day in newest]


@pytest.mark.parametrize("patient_id", [" ", "A*", "A?", "A\\B"])
def test_an_id_that_is_empty_or_a_pattern_is_not_asked_for(patient_id: str) -> None:
    study: Any = SimpleNamespace(patient_id=patient_id)
    assert query_for(study) is None


def test_the_question_names_patient_and_issuer_and_ends_the_day_before() -> None:
    study: Any = SimpleNamespace(patient_id=" A1", issuer_of_patient_id="H ", study_date="20260301")
    query = query_for(study)
    assert query is not None
    assert (query.patient_id, query.issuer_of_patient_id) == (" A1", "H")
    assert (query.first, query.last) == (date(2021, 3, 1), date(2026, 2, 28))
