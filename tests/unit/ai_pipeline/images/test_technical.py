"""Technical values of a header: none that equals or contains a part of an identity, none that is too much."""

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from ai_pipeline.images.decode import open_dicom
from ai_pipeline.images.identity import MOST_ELEMENTS, MOST_WORDS, HeaderIdentity, identity_of
from ai_pipeline.images.technical import LONGEST_VALUE, MOST_VALUES, technical_values
from tests.unit.ai_pipeline import phantoms
from tests.unit.ai_pipeline.phantoms import echo, write_dicom


def data_set(**values: Any) -> Dataset:
    """A header of ultrasound, or an item of it."""
    return phantoms.data_set(**{"Modality": "US"} | values)


MACHINE: dict[str, Any] = {
    "TransducerData": ["C5-1", "curved"],
    "ProcessingFunction": "Abd Gen",
    "ProtocolName": "Thyroid",
    "ManufacturerModelName": "LOGIQ E10",
    "MechanicalIndex": "1.12",
    "SoftTissueThermalIndex": "0.4",
    "DepthOfScanField": "163",
}
PERSON: dict[str, Any] = {"PatientName": "Kim^Minjun", "PatientID": "4711815", "StudyDate": "20261201"}


def test_the_machines_values_are_told_as_its_screen_writes_them() -> None:
    region = data_set(TransducerFrequency=3500)
    found = technical_values(data_set(**MACHINE, **PERSON, SequenceOfUltrasoundRegions=[region]))
    assert found == (
        *("C5-1", "curved", "Abd Gen", "Thyroid", "LOGIQ E10", "1.1", "0.4", "0.40", "16.3", "3.5"),
    )


@pytest.mark.parametrize(
    ("typed", "who"),
    [
        ("KIM", {}),
        ("kim 5", {}),
        ("Thyroid Minjun", {}),
        ("KIMMINJUN C5-1", {}),
        ("Minjum", {}),
        ("T4711815", {}),
        ("Abd 20261201", {}),
        ("Huber", {"ReferringPhysicianName": "Huber^Eva"}),
        ("Höller C5", {"OperatorsName": "HOLLER"}),
        ("Nord Abd", {"InstitutionName": "Klinikum Nord"}),
        ("US3", {"StationName": "US3"}),
        ("Room E10", {"StationName": "SONO-ROOM-E10"}),
        ("Weber", {"RequestAttributesSequence": [data_set(ScheduledPerformingPhysicianName="Weber^A")]}),
    ],
)
@pytest.mark.parametrize("keyword", ["ProtocolName", "ManufacturerModelName", "TransducerData"])
def test_a_part_of_the_identity_is_no_technical_value(keyword: str, typed: str, who: dict[str, Any]) -> None:
    dataset = data_set(**{**PERSON, **who, keyword: typed})
    assert technical_values(dataset) == ()


def test_a_name_in_a_private_attribute_is_a_part_of_the_identity() -> None:
    dataset = data_set(ProtocolName="Weber")
    assert technical_values(dataset) == ("Weber",)
    dataset.add(DataElement(Tag(0x0029, 0x1010), "PN", "Weber^Anna"))
    assert technical_values(dataset) == ()


def test_bytes_that_are_no_value_of_their_vr_count_as_a_name() -> None:
    dataset = data_set(ProtocolName="Weber")
    raw = RawDataElement(Tag(0x0028, 0x0011), "US", 5, b"WEBER", 0, False, True)
    dataset[raw.tag] = raw
    assert technical_values(dataset) == ()


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("MechanicalIndex", "12.03"),
        ("MechanicalIndex", "-1"),
        ("MechanicalIndex", "NaN"),
        ("MechanicalIndex", "9" * 60),
        ("DepthOfScanField", "19670309"),
        ("ProtocolName", "12.03.1967"),
        ("ProtocolName", "x" * (LONGEST_VALUE + 1)),
        ("ProtocolName", "M45YO"),
        ("ProcessingFunction", "12LI67"),
        ("TransducerData", ""),
    ],
)
def test_what_no_machine_writes_is_left_out(keyword: str, value: str) -> None:
    dataset = data_set()
    dataset.add(DataElement(keyword, "LO", value))
    assert technical_values(dataset) == ()


def test_values_are_few() -> None:
    many = [f"C{number}-1" for number in range(10, 10 + 2 * MOST_VALUES)]
    assert len(technical_values(data_set(TransducerData=many))) == MOST_VALUES


@pytest.mark.parametrize("elements", [MOST_ELEMENTS - 3, MOST_ELEMENTS + 1])
def test_a_header_too_large_to_know_its_identity_says_nothing(elements: int) -> None:
    dataset = data_set(ProtocolName="Thyroid")
    dataset.RequestAttributesSequence = [phantoms.data_set(StudyID="") for _ in range(elements)]
    assert technical_values(dataset) == (("Thyroid",) if elements < MOST_ELEMENTS else ())


@pytest.mark.parametrize(
    "sequence", ["OperatorIdentificationSequence", "ReferringPhysicianIdentificationSequence"]
)
def test_a_code_of_a_person_is_a_part_of_the_identity(sequence: str) -> None:
    dataset, item, code = data_set(ProtocolName="Hubersohn"), Dataset(), Dataset()
    code.CodeMeaning = "Petra Hubersohn"
    item.PersonIdentificationCodeSequence = [code]
    setattr(dataset, sequence, [item])
    assert technical_values(dataset) == ()


def test_an_identity_of_too_many_words_is_not_known() -> None:
    names = "\\".join(f"Name{number}" for number in range(MOST_WORDS))
    dataset = data_set()
    dataset.add(DataElement("OtherPatientNames", "PN", names))
    assert identity_of(dataset) is None


def test_items_within_items_are_read_to_a_depth() -> None:
    deep = data_set(PatientName="Weber")
    for _ in range(40):
        deep = data_set(RequestAttributesSequence=[deep])
    assert identity_of(deep) == HeaderIdentity()


@pytest.mark.parametrize(
    ("text", "is_part"),
    [
        *[
            (text, True)
            for text in ("KIM", "M. Kim", "4711815", "ID 4711815-2", "01.12.2026", "1/12", "MINJUNK")
        ],
        *[(text, False) for text in ("", "MI 1.1", "Abdomen", "Gn 45", "K", "12")],
    ],
)
def test_a_text_is_a_part_of_the_identity_or_not(text: str, is_part: bool) -> None:
    identity = identity_of(data_set(**PERSON))
    assert identity is not None
    assert identity.is_in(text) is is_part


def test_only_ultrasound_has_technical_values(tmp_path: Path) -> None:
    def header_of(**values: Any) -> tuple[str, ...]:
        given: dict[str, Any] = {"ProtocolName": "Thyroid", **values}
        return open_dicom(write_dicom(tmp_path / "image.dcm", echo()[None], **given)).header.technical

    assert header_of() == ("Thyroid",)
    assert header_of(Modality="DX") == ()


def test_the_words_of_an_identity_are_not_in_its_text() -> None:
    assert "kim" not in repr(identity_of(data_set(**PERSON)))


def test_an_empty_header_has_an_empty_identity() -> None:
    assert identity_of(Dataset()) == HeaderIdentity()
