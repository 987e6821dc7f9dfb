"""What a de-identified destination is told besides: cleaned, by its options only, and said in the object."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.dicom.header import quiet_pydicom
from dicom_node.model.deidentified import OPTIONS, Retained, retained_by
from dicom_node.model.kinds import ResultKind
from dicom_node.results import Deidentified
from dicom_node.results.deidentify.retained import known_words, retained
from tests.deidentified_lab import EXAMINED, SECRET, UID_ROOT, deidentified, write_named
from tests.result_reading import read_result

ALL = frozenset(Retained)
TOLD = {
    "PatientSex": "F", "PatientAge": "085Y", "PatientSize": "1.7", "PatientWeight": "60",
    "StudyDescription": f"US Abdomen {SECRET}Mustermann, left kidney",
    "DeviceSerialNumber": "SN-4711", "StationName": "ROOM3", "SoftwareVersions": "5.1",
}  # fmt: skip


def _named(folder: Path, name: str = "us.dcm", **more: str) -> Path:
    path = write_named(folder / name, study=name[:1].encode().hex())
    dataset = dcmread(path)
    for keyword, value in {**TOLD, **more}.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _objects(made: Deidentified) -> dict[ResultKind, Dataset]:
    assert made.withheld == ()
    return {item.kind: read_result(item) for item in made.objects}


def test_each_option_keeps_its_attributes_and_says_so(tmp_path: Path) -> None:
    for kind, ds in _objects(deidentified(_named(tmp_path), options=ALL)).items():
        assert retained_by(ds) == ALL, kind
        codes = {item.CodeValue: item.CodeMeaning for item in ds.DeidentificationMethodCodeSequence}
        assert dict(OPTIONS.values()).items() <= codes.items()
        assert (ds.PatientSex, ds.PatientAge, ds.PatientSize, ds.PatientWeight) == ("F", "085Y", 1.7, 60)
        assert ds.StudyDescription == "US Abdomen left kidney"
        machine = ds.ContributingEquipmentSequence[-1]
        assert machine.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
        assert (machine.DeviceSerialNumber, machine.StationName) == ("SN-4711", "ROOM3")
        assert ds.LongitudinalTemporalInformationModified == "MODIFIED"
        assert len(ds.StudyDate) == 8
        assert ds.StudyDate < EXAMINED
        assert ds.StudyTime is None or ds.StudyTime == ""


@pytest.mark.parametrize("option", sorted(ALL))
def test_one_option_keeps_nothing_of_another(tmp_path: Path, option: Retained) -> None:
    ds = _objects(deidentified(_named(tmp_path), options={option}))[ResultKind.CLEANED]
    found = {
        Retained.MODIFIED_DATES: bool(ds.StudyDate),
        Retained.PATIENT_CHARACTERISTICS: bool(ds.PatientSex) or "PatientAge" in ds or "PatientSize" in ds,
        Retained.DEVICE: "SN-4711" in str(ds),
        Retained.DESCRIPTORS: "StudyDescription" in ds,
    }
    assert {kept for kept, there in found.items() if there} == {option} == retained_by(ds)
    assert ds.LongitudinalTemporalInformationModified == (
        "MODIFIED" if option is Retained.MODIFIED_DATES else "REMOVED"
    )


@pytest.mark.parametrize("kind", [ResultKind.CLEANED, ResultKind.SEG, ResultKind.SR])
def test_no_name_date_or_uid_comes_with_them(tmp_path: Path, kind: ResultKind) -> None:
    made = deidentified(_named(tmp_path), options=ALL)
    (data,) = [item.data for item in made.objects if item.kind is kind]
    assert data is not None
    for value in (SECRET, "19410309", EXAMINED, UID_ROOT):
        assert value.encode() not in data, value


def test_intervals_of_one_patient_stay_and_another_patient_has_other_days(tmp_path: Path) -> None:
    def day(name: str, examined: str, patient: str = "P") -> date:
        path = _named(tmp_path, name, StudyDate=examined, PatientID=patient)
        made = deidentified(path, options={Retained.MODIFIED_DATES})
        return date.fromisoformat(_objects(made)[ResultKind.CLEANED].StudyDate)

    first, second = day("a.dcm", "20250227"), day("b.dcm", "20260107")
    assert (second - first).days == (date(2026, 1, 7) - date(2025, 2, 27)).days
    assert day("c.dcm", "20250227", "ANOTHER") != first


def test_an_object_that_says_more_is_another_one(tmp_path: Path) -> None:
    path = _named(tmp_path)
    plain, more = deidentified(path), deidentified(path, options={Retained.DEVICE})
    assert {item.sop_instance_uid for item in plain.objects}.isdisjoint(
        item.sop_instance_uid for item in more.objects
    )
    assert {read_result(item).StudyInstanceUID for item in (*plain.objects, *more.objects)} == {
        read_result(plain.objects[0]).StudyInstanceUID
    }


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("PatientSize", ["1.7", "1.8"]),
        ("PatientWeight", ["60", "61"]),
        ("PatientSize", "nan"),
        ("DeviceSerialNumber", ["A", "B"]),
        ("StationName", ["A", "B"]),
    ],
)
def test_what_has_not_one_value_is_left_out(keyword: str, values: object) -> None:
    given = Dataset()
    given.PatientAge, given.SoftwareVersions = "085Y", ["5.1", "2"]
    with quiet_pydicom():
        setattr(given, keyword, values)
    kept = retained(given, ALL, 0)
    assert keyword not in kept
    assert (kept.PatientAge, list(kept.SoftwareVersions)) == ("085Y", ["5.1", "2"])


def test_what_a_machine_is_called_like_its_hospital_is_withheld(tmp_path: Path) -> None:
    path = _named(tmp_path, InstitutionName="Klinik am Park", StationName="KLINIK AM PARK")
    made = deidentified(path, options={Retained.DEVICE})
    assert made.objects == ()
    assert any("StationName holds what identifies the source" in reason for reason in made.withheld)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20260231"), ("StudyDate", "00010101"), ("PatientSex", "Smith"), ("PatientAge", "85"),
        ("PatientSize", "170"), ("PatientWeight", "-1"), ("StudyDescription", "Smith 1956-02-03 X7"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_left_out(keyword: str, value: str) -> None:
    given = Dataset()
    with quiet_pydicom():
        setattr(given, keyword, value)
    assert list(retained(given, ALL, 400)) == []


def test_the_very_old_are_ninety() -> None:
    given = Dataset()
    given.PatientAge = "101Y"
    assert retained(given, ALL, 400).PatientAge == "090Y"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("CHEST PA/LAT portable", "CHEST PA LAT portable"),
        ("Obstetric ultrasound, 2nd trimester (Dr. Jones)", "Obstetric ultrasound trimester"),
        ("Willis, Bruce: circle of", "circle of"),
        ("", ""),
    ],
)
def test_only_words_of_anatomy_and_examination_stay_of_a_description(text: str, kept: str) -> None:
    assert known_words(text) == kept
