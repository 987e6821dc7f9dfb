"""Pseudonyms: the same where they must be, and nothing in common where they must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node import results
from dicom_node.model.deidentified import is_deidentified
from dicom_node.model.kinds import DEIDENTIFIED_KINDS, ResultKind
from dicom_node.results import Pseudonyms, SourceObject, build_deidentified
from dicom_node.results.common.source import read_sources
from dicom_node.results.deidentify.profile import DUMMY_DATE
from dicom_node.results.deidentify.sources import pseudonymised
from tests.deidentified_lab import (
    HERE,
    SECRET,
    THERE,
    deidentified,
    result_of,
    write_named,
)
from tests.result_images import context, source
from tests.result_reading import read_result
from tests.unit.results.deidentified_objects import everything, items, references


def test_two_studies_of_a_patient_have_one_pseudonym_and_two_patients_have_two(tmp_path: Path) -> None:
    first = read_result(deidentified(write_named(tmp_path / "1.dcm", patient="1", study="1")).objects[0])
    second = read_result(deidentified(write_named(tmp_path / "2.dcm", patient="1", study="2")).objects[0])
    other = read_result(deidentified(write_named(tmp_path / "3.dcm", patient="2", study="3")).objects[0])
    assert first.PatientID == second.PatientID != other.PatientID
    assert len({ds.StudyInstanceUID for ds in (first, second, other)}) == 3


def test_the_same_number_of_another_hospital_is_another_patient() -> None:
    pseudonyms = Pseudonyms.of(HERE)
    assert pseudonyms.patient("1", "A", "1.2") != pseudonyms.patient("1", "B", "1.2")
    assert pseudonyms.patient("1", "A", "1.2") == pseudonyms.patient(" 1 ", "A", "1.3")
    assert pseudonyms.patient("", "", "1.2") != pseudonyms.patient("", "", "1.3")


def test_the_same_key_gives_the_same_bytes_and_another_site_no_uid_in_common(tmp_path: Path) -> None:
    path = write_named(tmp_path / "us.dcm")
    once, again, away = deidentified(path), deidentified(path), deidentified(path, THERE)
    assert [item.data for item in once.objects] == [item.data for item in again.objects]
    assert uids(once) & uids(away) == set()
    assert read_result(once.objects[0]).PatientID != read_result(away.objects[0]).PatientID


def test_a_tracking_uid_of_a_pipeline_is_not_passed_on(tmp_path: Path) -> None:
    image = source(write_named(tmp_path / "us.dcm"))
    result = result_of(image)
    tracked = replace(result, findings=tuple(replace(one, tracking_uid="2.25.77") for one in result.findings))
    ctx = context(kinds=tuple(DEIDENTIFIED_KINDS), pipeline="ultrasound", rule="ultrasound")
    made = build_deidentified(ctx, [image], tracked, Pseudonyms.of(HERE))
    assert len(made.objects) == 3
    assert all(b"2.25.77" not in item.data for item in made.objects if item.data)


def test_two_domains_of_a_site_share_no_pseudonym_no_uid_and_no_date(tmp_path: Path) -> None:
    path = write_named(tmp_path / "us.dcm")
    one, other = deidentified(path, domain="one"), deidentified(path, domain="other")
    known = deidentified(path)
    for left, right in ((one, other), (one, known)):
        assert len(left.objects) == len(right.objects) == 3
        assert not every_uid(left) & every_uid(right)
        assert not patients(left) & patients(right)
        assert dates(left) | dates(right) <= {DUMMY_DATE}
    assert uids(one) == uids(deidentified(path, domain="one"))


def test_pseudonyms_of_peers_without_a_domain_are_those_of_all_versions(tmp_path: Path) -> None:
    """Archives hold them: the same patient must not come under another one after an upgrade."""
    assert Pseudonyms.of(HERE).uid("1.2.3") == "2.25.79878503247415956795538665423666141209"
    assert Pseudonyms.of(HERE).patient("PID", "", "1.2.3") == "AI-CJWEOKHV7LYAGR4LSMP7"


def test_an_original_and_its_deidentified_twin_share_no_uid(tmp_path: Path) -> None:
    path = write_named(tmp_path / "us.dcm")
    image = source(path)
    twins = uids(deidentified(path))
    ctx = context(kinds=tuple(DEIDENTIFIED_KINDS), pipeline="ultrasound", rule="ultrasound")
    made = results.build(ctx, [image], result_of(image))
    assert made and twins
    for item in made:
        ds = read_result(item)
        assert {ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID} & twins == set()
        assert not item.deidentified
        assert not is_deidentified(ds)


def test_a_uid_is_no_plain_hash_of_patient_data(tmp_path: Path) -> None:
    """Otherwise anybody could try out names against the UID: it changes with the key alone."""
    (one,) = read_sources([source(write_named(tmp_path / "us.dcm"))])
    here, there = (pseudonymised(one, Pseudonyms.of(key)) for key in (HERE, THERE))
    assert here.stored.identity_sha256 not in {one.stored.identity_sha256, there.stored.identity_sha256}
    assert here.stored.pixels_sha256 not in {one.stored.pixels_sha256, there.stored.pixels_sha256}


def test_a_corrected_name_makes_no_second_object_where_no_name_is(tmp_path: Path) -> None:
    path = write_named(tmp_path / "us.dcm")
    before, after = (
        build_deidentified(
            context(kinds=(ResultKind.CLEANED,)), [given], result_of(given), Pseudonyms.of(HERE)
        ).objects[0]
        for given in (source(path, pixels_sha256="same"), corrected(path))
    )
    assert (before.sop_instance_uid, before.data) == (after.sop_instance_uid, after.data)


def corrected(path: Path) -> SourceObject:
    """The same image after the patient's name was put right."""
    ds = dcmread(path)
    ds.PatientName = f"{SECRET}Mustermann^{SECRET}Erica"
    ds.save_as(path)
    return source(path, pixels_sha256="same", identity_sha256="another")


def uids(made: results.Deidentified) -> set[str]:
    found = set()
    for item in made.objects:
        ds = read_result(item)
        found |= {ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID}
        found |= {str(uid) for _, uid in references(ds)}
    return found


def every_uid(made: results.Deidentified) -> set[str]:
    """Of objects, findings, whatever may come; not those of standards and programs, the same everywhere."""
    of_programs = {"CodingSchemeUID", "DeviceUID"}
    found = set()
    for item in (inner for one in made.objects for inner in items(read_result(one))):
        names = item.get("ConceptNameCodeSequence") or [Dataset()]
        if names[0].get("CodeMeaning") != "Device Observer UID":
            found |= {str(one.value) for one in item if one.VR == "UI" and one.keyword not in of_programs}
    private = {uid for uid in found if UID(uid).is_private}
    assert uids(made) <= private
    return private


def patients(made: results.Deidentified) -> set[str]:
    return {
        str(read_result(item)[name].value) for item in made.objects for name in ("PatientID", "PatientName")
    }


def dates(made: results.Deidentified) -> set[str]:
    found = [element for item in made.objects for element in everything(read_result(item))]
    return {str(element.value)[:8] for element in found if element.VR in ("DA", "DT") and element.value}
