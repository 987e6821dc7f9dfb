"""Patient, study, equipment and UIDs of a program's objects (gate.md B)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.base.dicom.header import items
from dicom_node.base.dicom.uids import MANUFACTURER, MODEL_NAME, is_own_result
from dicom_node.results.foreign.verdict import Verdict
from tests.modality import assign, data_set
from tests.unit.results.foreign.foreign_lab import (
    MR,
    SERIES,
    STUDY,
    ct_slice,
    ct_study,
    derived_slice,
    judged,
    said,
    verdict_on,
    with_meta,
)

_PATIENT_AND_STUDY = ("PatientID", "PatientName", "AccessionNumber", "StudyDate", "StudyInstanceUID")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "PID-2"),
        ("IssuerOfPatientID", "CLINIC"),
        ("PatientName", "Ōta^John"),
        ("PatientBirthDate", "19710101"),
        ("PatientSex", "M"),
        ("AccessionNumber", "ACC-2"),
        ("StudyID", "2"),
        ("ReferringPhysicianName", "Other^Ann"),
        ("StudyInstanceUID", "1.2.3"),
    ],
)
def test_a_contradiction_refuses_the_whole_answer(keyword: str, value: str) -> None:
    answer = judged(derived_slice(1), derived_slice(2, **{keyword: value}))
    assert answer.verdict is Verdict.REFUSED
    assert [one.verdict for one in answer.objects] == [Verdict.REFUSED] * 2
    assert keyword in answer.reasons[0] or "Study Instance UID" in answer.reasons[0]
    assert value not in "\n".join(map(said, answer.objects))


@pytest.mark.parametrize(("keyword", "value"), [("StudyDate", "20250103"), ("StudyTime", "111500")])
def test_another_time_of_the_study_contradicts_only_where_no_uid_names_it(keyword: str, value: str) -> None:
    """GDCM and SimpleITK write the day on which they run beside the right Study Instance UID."""
    named = verdict_on(derived_slice(**{keyword: value}))
    assert named.dataset is not None, said(named)
    assert named.dataset[keyword].value == ct_slice(1)[keyword].value
    assert verdict_on(derived_slice(**{keyword: value, "StudyInstanceUID": ""})).verdict is Verdict.REFUSED


def test_an_empty_study_time_contradicts_nothing_without_a_uid() -> None:
    found = verdict_on(derived_slice(StudyTime="", StudyInstanceUID=""))
    assert found.verdict is Verdict.GOES, said(found)


def test_other_patient_ids_that_the_call_has_not_are_another_patient() -> None:
    item = data_set(PatientID="PID-7", TypeOfPatientID="TEXT")
    answer = judged(derived_slice(OtherPatientIDsSequence=[item]))
    assert "another patient" in answer.reasons[0]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(dict.fromkeys(_PATIENT_AND_STUDY[:4], ""), id="empty"),
        pytest.param({"PatientName": "ōTA^JANE^^", "PatientID": "PID-1 "}, id="spelled differently"),
        pytest.param({"PatientID": "ANONYMOUS", "PatientName": "Anonymized"}, id="anonymous"),
        pytest.param({"StudyTime": "101500.000"}, id="with fraction"),
    ],
)
def test_what_says_nothing_or_the_same_is_copied_from_the_call(values: dict[str, Any]) -> None:
    found = verdict_on(derived_slice(**values))
    assert found.verdict is Verdict.GOES, said(found)
    assert found.dataset is not None
    assert [str(found.dataset[word].value) for word in _PATIENT_AND_STUDY] == [
        "PID-1", "Ōta^Jane", "ACC-1", "20250102", STUDY
    ]  # fmt: skip


def test_a_name_in_a_forced_character_set_is_written_from_the_call() -> None:
    """MONAI's SDK forces ISO_IR 100 whatever the source has."""
    dataset = derived_slice(SpecificCharacterSet="ISO_IR 100", PatientName="?ta^Jane")
    found = verdict_on(dataset)
    assert found.verdict is Verdict.GOES, said(found)
    assert found.dataset is not None
    assert str(found.dataset.PatientName) == "Ōta^Jane"


def test_the_pseudonym_that_the_program_was_sent_is_no_contradiction() -> None:
    sent = ct_slice(1, PatientID="P-77", PatientName="P-77", StudyInstanceUID="2.25.7", AccessionNumber="")
    wrote = derived_slice(PatientID="P-77", PatientName="P-77", StudyInstanceUID="2.25.7")
    assert verdict_on(wrote).verdict is Verdict.REFUSED
    found = verdict_on(wrote, replace(ct_study(), sent_as=sent))
    assert found.verdict is Verdict.GOES, said(found)
    assert found.dataset is not None
    assert found.dataset.StudyInstanceUID == STUDY


def test_people_and_steps_are_left_out() -> None:
    step = data_set(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.3", ReferencedSOPInstanceUID="1.2.3")
    found = verdict_on(
        derived_slice(
            OperatorsName="Somebody^Else",
            PerformingPhysicianName="Somebody^Else",
            ReferencedPerformedProcedureStepSequence=[step],
            PatientIdentityRemoved="YES",
        )
    )
    assert found.dataset is not None
    left = {element.keyword for element in found.dataset}
    assert not left & {"OperatorsName", "PerformingPhysicianName", "PatientIdentityRemoved"}
    assert "ReferencedPerformedProcedureStepSequence" not in left


def test_the_header_of_the_file_names_the_object() -> None:
    """mercure's test module leaves the source's UID there."""
    wrote = derived_slice()
    assert wrote.file_meta.MediaStorageSOPInstanceUID != wrote.SOPInstanceUID
    found = verdict_on(wrote)
    assert found.dataset is not None
    assert found.dataset.file_meta.MediaStorageSOPInstanceUID == found.dataset.SOPInstanceUID
    assert found.maker_uid == wrote.SOPInstanceUID


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda one: assign(one, Modality="SR"), id="modality"),
        pytest.param(lambda one: assign(one.file_meta, MediaStorageSOPClassUID=MR), id="file header"),
    ],
)
def test_a_class_that_the_object_contradicts_is_refused(change: Callable[[Dataset], object]) -> None:
    wrote = derived_slice()
    change(wrote)
    assert "class" in verdict_on(wrote).reasons[0]


def test_an_object_in_a_source_series_gets_a_series_of_its_own() -> None:
    found = verdict_on(derived_slice(SeriesInstanceUID=SERIES))
    assert found.dataset is not None
    assert found.dataset.SeriesInstanceUID.startswith("2.25.")
    assert found.dataset.SeriesInstanceUID != SERIES


def test_an_object_with_the_uid_of_its_source_gets_its_own() -> None:
    wrote = with_meta(derived_slice(SOPInstanceUID=ct_slice(1).SOPInstanceUID))
    found = verdict_on(wrote)
    assert found.dataset is not None
    assert found.dataset.SOPInstanceUID != ct_slice(1).SOPInstanceUID


def test_uids_that_are_drawn_anew_in_each_run_do_not_make_other_objects() -> None:
    first = judged(derived_slice(1), derived_slice(2))
    again = judged(
        derived_slice(2, SeriesInstanceUID=generate_uid(), SeriesNumber=7341),
        derived_slice(1, SeriesInstanceUID=generate_uid(), ContentDate="20250109"),
    )
    uids = [
        {str(one.dataset.SOPInstanceUID) for one in answer.objects if one.dataset}
        for answer in (first, again)
    ]
    assert uids[0] == uids[1]
    assert len(uids[0]) == 2
    assert first.content_sha256 == again.content_sha256


def test_other_content_makes_another_object_at_the_same_position() -> None:
    first, other = verdict_on(derived_slice()), verdict_on(derived_slice(PixelData=b"\1\2" * 1280))
    assert first.dataset is not None
    assert other.dataset is not None
    assert first.dataset.SOPInstanceUID != other.dataset.SOPInstanceUID
    assert first.position == other.position == 0


@pytest.mark.parametrize("changed", ["rule", "version", "patient"])
def test_another_rule_version_or_corrected_patient_makes_another_object(changed: str) -> None:
    study = ct_study()
    others = {
        "rule": replace(study, rule="second"),
        "version": replace(study, context=replace(study.context, pipeline_version="1.1")),
        "patient": replace(study, source=ct_slice(1, PatientWeight="70")),
    }
    one, other = verdict_on(derived_slice(), study), verdict_on(derived_slice(), others[changed])
    assert one.dataset is not None
    assert other.dataset is not None
    assert one.dataset.SOPInstanceUID != other.dataset.SOPInstanceUID


def test_one_series_of_the_maker_with_two_modalities_becomes_two() -> None:
    mr = with_meta(derived_slice(2, SOPClassUID=MR, Modality="MR"))
    found = judged(derived_slice(1), mr).objects
    series = {str(one.dataset.SeriesInstanceUID) for one in found if one.dataset}
    assert len(series) == 2


def test_two_objects_with_one_uid_are_refused() -> None:
    uid = generate_uid()
    found = judged(derived_slice(1, SOPInstanceUID=uid), derived_slice(2, SOPInstanceUID=uid)).objects
    assert {one.verdict for one in found} == {Verdict.REFUSED}


def test_the_node_is_the_equipment_and_names_the_makers() -> None:
    wrote = derived_slice(DeviceUID="0.0.1")  # MONAI's own example of a model's UID
    maker = data_set(
        Manufacturer="Tool Maker",
        DeviceUID="0.0.1",
        PurposeOfReferenceCodeSequence=[
            data_set(
                CodeValue="Newcode1", CodingSchemeDesignator="99IHE", CodeMeaning='"Processing Algorithm'
            )
        ],
    )
    wrote.ContributingEquipmentSequence = [maker]
    found = verdict_on(wrote).dataset
    assert found is not None
    assert (found.Manufacturer, found.ManufacturerModelName) == (MANUFACTURER, MODEL_NAME)
    assert is_own_result(found)
    contributors = found.ContributingEquipmentSequence
    assert {str(one.Manufacturer) for one in contributors} >= {"Scanner Maker", "Tool Maker", "lung tool"}
    assert not any(str(one.get("DeviceUID", "2.")).startswith("0") for one in items(found))
    assert all(one.PurposeOfReferenceCodeSequence[0].CodingSchemeDesignator == "DCM" for one in contributors)


def test_the_series_says_that_it_is_of_an_ai_and_not_for_diagnosis() -> None:
    found = verdict_on(derived_slice()).dataset
    assert found is not None
    assert found.SeriesDescription == "AI FILTER(thin) - not for diagnostic use"
    assert int(found.SeriesNumber) >= 9000


def test_dates_outside_of_the_study_and_the_call_are_set_and_noted() -> None:
    found = verdict_on(derived_slice(ContentDate="20990101", ContentTime="000000"))
    assert "its date was before the study or in the future" in found.notes
    assert found.dataset is not None
    assert found.dataset.ContentDate == "20250102"


def test_a_phantom_is_no_patient() -> None:
    assert verdict_on(derived_slice(QualityControlSubject="YES")).verdict is Verdict.REFUSED


def test_what_the_node_says_in_reasons_names_nobody() -> None:
    found = verdict_on(derived_slice(PatientName="Hidden^Person", PatientID="H-1"))
    assert not any(word in said(found) for word in ("Hidden", "H-1", "PID-1", "Jane"))


@pytest.mark.parametrize("keyword", ["OperatorsName", "RequestingPhysician", "PhysiciansOfRecord"])
def test_people_whom_the_header_took_over_from_its_source_are_left_out(keyword: str) -> None:
    found = verdict_on(derived_slice(**{keyword: "Doctor^Who"}))
    assert found.verdict is Verdict.GOES, said(found)
    assert found.dataset is not None
    assert keyword not in found.dataset or found.dataset[keyword].value != "Doctor^Who"


def test_an_image_that_states_its_side_gets_no_side_of_the_series() -> None:
    """Laterality may not be present beside Image Laterality (PS3.3 C.7.3.1)."""
    found = verdict_on(derived_slice(BodyPartExamined="KNEE", ImageLaterality="R"))
    assert found.dataset is not None, said(found)
    assert "Laterality" not in found.dataset
