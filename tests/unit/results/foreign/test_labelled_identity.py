"""Labelled names, IDs and birth dates in pictures, reports and documents of programs (gate.md 33, 38, 40)."""

import pytest

from dicom_node.results.foreign.candidate import Readers
from dicom_node.results.foreign.verdict import Verdict
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import said, verdict_on

OF_ANOTHER = [
    pytest.param(["Name: MUSTERMANN, ERIKA"], id="name"),
    pytest.param(["Name:", "MUSTERMANN"], id="name in the next line"),
    pytest.param(["Patient: Mustermann, Erika"], id="patient"),
    pytest.param(["Patient ID: 99887766"], id="ID"),
    pytest.param(["MRN 99887766"], id="record number"),
    pytest.param(["left lung, ID 99887766, seen"], id="ID within a sentence"),
    pytest.param(["DOB: 12.08.1964"], id="birth date"),
    pytest.param(["Frau Muster, geb. am 12.8.64"], id="birth date in German"),
    pytest.param(["Name: OTA JANE DOB: 12.08.1964"], id="right name, other birth date"),
]
OF_THIS_OR_NOBODY = [
    pytest.param(["Name: OTA, JANE", "Patient ID: PID-1", "DOB: 01/01/1970"], id="the patient"),
    pytest.param(["born 1970-01-01"], id="the patient's birth date"),
    pytest.param(["Patient name: Anonymous"], id="nobody"),
    pytest.param(["Model name: lung finder", "Lesion ID: 12345", "ID 3"], id="no patient's"),
    pytest.param(["Patient with a nodule of 12 mm"], id="a sentence"),
]


@pytest.mark.parametrize("lines", OF_ANOTHER)
def test_a_picture_with_the_identity_of_another_is_held(lines: list[str]) -> None:
    found = verdict_on(makers.picture(), readers=Readers(lambda _picture: lines))
    assert found.verdict is Verdict.HELD, said(found)
    assert not any(line in said(found) for line in lines)


@pytest.mark.parametrize("lines", OF_THIS_OR_NOBODY)
def test_a_picture_with_the_identity_of_the_study_goes(lines: list[str]) -> None:
    found = verdict_on(makers.picture(), readers=Readers(lambda _picture: lines))
    assert found.verdict is Verdict.GOES, said(found)


def test_a_document_with_the_identity_of_another_is_held() -> None:
    found = verdict_on(makers.pdf(), readers=Readers(read_document=lambda _pdf: ["DOB: 12.08.1964"]))
    assert found.verdict is Verdict.HELD, said(found)


def test_a_report_with_the_identity_of_another_is_held() -> None:
    found = verdict_on(makers.text_report("Patient MUSTERMANN, ERIKA, ID 99887766, DOB 1964-08-12: see lung"))
    assert found.verdict is Verdict.HELD, said(found)
