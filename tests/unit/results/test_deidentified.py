"""De-identified results: nothing of the patient, pseudonyms, and what a destination is told besides."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ImplicitVRLittleEndian

from ai_pipeline.contract import ImageKind, PipelineResult
from dicom_node.base.dicom.header import items, quiet_pydicom
from dicom_node.base.dicom.identity import Patient
from dicom_node.base.dicom.uids import is_own_result
from dicom_node.base.lifecycle import (
    DEIDENTIFIED_KINDS,
    OPTIONS,
    ResultKind,
    Retained,
    is_deidentified,
    retained_by,
)
from dicom_node.results.build import build
from dicom_node.results.deidentified.build import Deidentified, build_deidentified, in_boxes
from dicom_node.results.deidentified.profile import DUMMY_DATE
from dicom_node.results.deidentified.pseudonyms import Pseudonyms, pseudonymised
from dicom_node.results.deidentified.retained import retained
from dicom_node.results.source import SourceObject, read_sources
from tests.deidentified_lab import (
    BIRTH_DATE,
    EXAMINED,
    HERE,
    OTHER_DATE,
    SECRET,
    THERE,
    UID_ROOT,
    deidentified,
    result_of,
    write_named,
)
from tests.modality import assign, data_set
from tests.result_images import context, source
from tests.result_reading import read_result
from tests.unit.results.report_lab import Faces

KINDS = sorted(DEIDENTIFIED_KINDS)


def references(ds: Dataset) -> Iterator[tuple[str, str]]:
    for item in items(ds):
        if "ReferencedSOPInstanceUID" in item:
            yield item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID


def everything(ds: Dataset) -> Iterator[DataElement]:
    for item in items(ds):
        yield from item


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that names its patient everywhere."""
    return write_named(tmp_path_factory.mktemp("named") / "us.dcm")


@pytest.fixture(scope="module")
def image(path: Path) -> SourceObject:
    return source(path)


@pytest.fixture(scope="module")
def once(path: Path) -> Deidentified:
    return deidentified(path)


@pytest.fixture(scope="module")
def built(once: Deidentified) -> Faces:
    """The three objects of the image."""
    found = _objects(once)
    assert sorted(found) == KINDS
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_the_profile_names_is_left_in_the_bytes(
    once: Deidentified, built: Faces, kind: ResultKind
) -> None:
    [data] = [item.data for item in once.objects if item.kind is kind]
    for value in (SECRET, BIRTH_DATE, EXAMINED, OTHER_DATE, UID_ROOT, "12345678", "085Y"):
        assert value.encode() not in data, value
    assert [element.tag for element in everything(built[kind]) if element.tag.is_private] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_done_stands_in_the_object(built: Faces, kind: ResultKind) -> None:
    ds = built[kind]
    assert is_deidentified(ds)
    assert is_own_result(ds)  # so that it starts nothing when it comes back
    codes = [item.CodeValue for item in ds.DeidentificationMethodCodeSequence]
    assert codes == ["113100", *{ResultKind.CLEANED: ["113101"], ResultKind.SR: ["113104"]}.get(kind, [])]
    purposes = [e.PurposeOfReferenceCodeSequence[0].CodeValue for e in ds.ContributingEquipmentSequence]
    assert (purposes.count("109104"), purposes.count("109103")) == (1, kind is ResultKind.CLEANED)
    assert (ds.PatientIdentityRemoved, ds.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
    assert ds.PatientID.startswith("AI-")
    assert str(ds.PatientName).startswith(ds.PatientID)
    assert [ds.PatientBirthDate, ds.PatientSex, ds.StudyDate, ds.AccessionNumber, ds.StudyID] == [""] * 5
    assert ds.StudyInstanceUID.startswith("2.25.")


def test_mask_and_report_refer_to_the_cleaned_image_and_nothing_dangles(
    built: Faces,
) -> None:
    cleaned, mask, report = (built[kind] for kind in (ResultKind.CLEANED, ResultKind.SEG, ResultKind.SR))
    there = (cleaned.SOPClassUID, cleaned.SOPInstanceUID)
    assert {*references(mask)} == {*references(report)} == {there}
    assert list(references(cleaned)) == []
    assert mask.ReferencedSeriesSequence[0].SeriesInstanceUID == cleaned.SeriesInstanceUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == cleaned.StudyInstanceUID
    assert evidence.ReferencedSeriesSequence[0].SeriesInstanceUID == cleaned.SeriesInstanceUID
    assert len({ds.StudyInstanceUID for ds in (cleaned, mask, report)}) == 1
    assert len({ds.SeriesInstanceUID for ds in (cleaned, mask, report)}) == 3


def test_an_image_that_was_not_verified_takes_its_mask_and_report_with_it(path: Path) -> None:
    made = deidentified(path, verified=False)
    assert made.objects == ()
    assert "not verified" in made.withheld[0]
    assert SECRET not in "".join(made.withheld)


def _with_plants(ds: Dataset) -> None:
    """Text and pixels in the items of sequences that are kept, under the VRs that programs let through."""
    region = data_set(
        RegionSpatialFormat=1, RegionFlags=0, PhysicalDeltaX=0.01, TableOfParameterValues=[0.5, 1.5]
    )
    inner = Dataset()
    inner.add_new("ImageType", "CS", f"{SECRET}ERIKA")
    bytes_in, text_in = f"{SECRET}HOSPITAL".encode(), f"{SECRET}ERIKA"
    for keyword, vr, value in (
        ("PixelData", "OW", bytes_in), ("ICCProfile", "OB", bytes_in), ("TableOfPixelValues", "OB", bytes_in),
        ("ImageType", "CS", text_in), ("PatientID", "CS", text_in), ("RegionDataType", "CS", text_in),
        ("SourceImageSequence", "SQ", [inner]),
    ):  # fmt: skip
        region.add_new(keyword, vr, value)
    table = data_set(LUTDescriptor=[2, 0, 8], LUTExplanation=SECRET)
    table.add_new("LUTData", "OW", bytes_in)
    ds.SequenceOfUltrasoundRegions, ds.VOILUTSequence = [region], [table]
    ds.add_new("PixelPaddingValue", "OW", bytes_in)


def test_of_a_region_only_the_numbers_that_it_may_have_are_kept(tmp_path: Path) -> None:
    path = write_named(tmp_path / "us.dcm")
    with quiet_pydicom():
        ds = dcmread(path)
        _with_plants(ds)
        ds.save_as(path)
        (given,) = read_sources([source(path)])
        header = pseudonymised(given, Pseudonyms(HERE)).header
    (region,) = header.SequenceOfUltrasoundRegions
    assert {element.keyword for element in region} == {
        "RegionSpatialFormat",
        "RegionFlags",
        "PhysicalDeltaX",
        "TableOfParameterValues",
    }
    assert "VOILUTSequence" not in header
    assert "PixelPaddingValue" not in header
    made = deidentified(path)
    assert made.objects
    for item in made.objects:
        assert item.data is not None
        assert SECRET.encode() not in item.data


@pytest.mark.parametrize(
    ("keyword", "raw"),
    [
        ("AcquisitionNumber", b"9" * 5000),
        ("AcquisitionNumber", b"1e999 "),
        ("HeartRate", f"1e999{SECRET}".encode()),
        ("LongitudinalTemporalOffsetFromEvent", f"{SECRET}1".encode()),
    ],
)
def test_a_number_that_is_none_stops_nothing_and_its_text_is_looked_for(
    tmp_path: Path, keyword: str, raw: bytes
) -> None:
    path = write_named(tmp_path / "us.dcm")
    with quiet_pydicom():
        ds = dcmread(path)
        ds.add(DataElement(Tag(keyword), "OB", raw))
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds.save_as(path, implicit_vr=True, little_endian=True)
    made = deidentified(path)
    assert made.withheld == ()
    assert made.objects
    assert not any(raw in item.data for item in made.objects if item.data)


def test_a_mask_does_not_spell_what_was_removed(image: SourceObject) -> None:
    mask = next(one for one in result_of(image).images if one.kind is ImageKind.MASK)
    boxes, far = in_boxes(mask).frames[0], np.array(mask.frames)
    assert boxes[6:20, 10:87].all()
    assert boxes.sum() == 14 * 77
    far[0, 100, 150] = 1
    assert int(in_boxes(replace(mask, frames=far)).frames[0].sum()) == 14 * 77 + 1
    sent = read_result(next(item for item in deidentified(image.path).objects if item.kind is ResultKind.SEG))
    assert np.array_equal(sent.pixel_array != 0, boxes)


def test_no_text_that_was_read_in_the_pixels_goes_into_the_report(built: Faces) -> None:
    algorithm = {"Algorithm Name", "Algorithm Version", "Algorithm Parameters"}
    observer = {f"Device Observer {what}" for what in ("Name", "Manufacturer", "Model Name", "Serial Number")}
    texts = {
        item.ConceptNameCodeSequence[0].CodeMeaning
        for item in items(built[ResultKind.SR])
        if item.get("ValueType") == "TEXT"
    }
    assert texts <= {"Comment", "Conclusion", "Short Label", "Tracking Identifier"} | algorithm | observer


def test_without_a_cleaned_image_there_is_nothing_to_send(image: SourceObject) -> None:
    made = build_deidentified(
        context(kinds=tuple(DEIDENTIFIED_KINDS)), [image], PipelineResult(), Pseudonyms(HERE)
    )
    assert (made.objects, made.withheld) == ((), ())


def test_a_patient_has_one_pseudonym_and_the_same_number_of_another_hospital_another() -> None:
    def pseudonym(study: str, *who: str) -> str:
        return Pseudonyms(HERE).patient(Patient.from_values(*who, *("", "", "", "", "")[len(who) :]), study)

    assert pseudonym("1.2", "P1", "A") not in (pseudonym("1.2", "P1", "B"), pseudonym("1.2", "P2", "A"))
    assert pseudonym("1.2", "P1", "A") == pseudonym("1.3", "P1 ", "A")
    assert pseudonym("1.2") != pseudonym("1.3")
    for placeholder in ("UNKNOWN", "0"):
        nobody = placeholder, "A", "Unknown^Male", "19000101", "M"
        somebody = placeholder, "A", "Miller^Jane", "19650312", "F"
        assert pseudonym("1.2", *nobody) != pseudonym("1.3", *nobody)
        assert pseudonym("1.2", *somebody) == pseudonym("1.3", *somebody)
        assert pseudonym("1.2", *somebody) != pseudonym(
            "1.2", placeholder, "A", "Miller^Ann", "19650312", "F"
        )


def test_the_same_key_gives_the_same_bytes_and_another_site_no_uid_in_common(
    path: Path, once: Deidentified
) -> None:
    again, away = deidentified(path), deidentified(path, THERE)
    assert [item.data for item in once.objects] == [item.data for item in again.objects]
    assert uids(once) & uids(away) == set()
    assert read_result(once.objects[0]).PatientID != read_result(away.objects[0]).PatientID


def test_a_tracking_uid_of_a_pipeline_is_not_passed_on(image: SourceObject) -> None:
    result = result_of(image)
    tracked = replace(result, findings=tuple(replace(one, tracking_uid="2.25.77") for one in result.findings))
    ctx = context(kinds=tuple(DEIDENTIFIED_KINDS), pipeline="ultrasound")
    made = build_deidentified(ctx, [image], tracked, Pseudonyms(HERE))
    assert len(made.objects) == 3
    assert all(b"2.25.77" not in item.data for item in made.objects if item.data)


def test_two_domains_of_a_site_share_no_pseudonym_no_uid_and_no_date(path: Path, once: Deidentified) -> None:
    one, other = deidentified(path, domain="one"), deidentified(path, domain="other")
    for left, right in ((one, other), (one, once)):
        assert len(left.objects) == len(right.objects) == 3
        assert not every_uid(left) & every_uid(right)
        assert not patients(left) & patients(right)
        assert dates(left) | dates(right) <= {DUMMY_DATE}
    assert uids(one) == uids(deidentified(path, domain="one"))


def test_an_original_and_its_deidentified_twin_share_no_uid(image: SourceObject, once: Deidentified) -> None:
    twins = uids(once)
    made = build(context(kinds=tuple(DEIDENTIFIED_KINDS), pipeline="ultrasound"), [image], result_of(image))
    assert made
    assert twins
    for item in made:
        ds = read_result(item)
        assert {ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID} & twins == set()
        assert not item.deidentified
        assert not is_deidentified(ds)


def test_a_uid_is_no_plain_hash_of_patient_data(image: SourceObject) -> None:
    """Otherwise anybody could try out names against the UID: it changes with the key alone."""
    (one,) = read_sources([image])
    here, there = (pseudonymised(one, Pseudonyms(key)) for key in (HERE, THERE))
    assert here.stored.identity_sha256 not in {one.stored.identity_sha256, there.stored.identity_sha256}
    assert here.stored.pixels_sha256 not in {one.stored.pixels_sha256, there.stored.pixels_sha256}


def uids(made: Deidentified) -> set[str]:
    found = set()
    for item in made.objects:
        ds = read_result(item)
        found |= {
            ds.SOPInstanceUID,
            ds.SeriesInstanceUID,
            ds.StudyInstanceUID,
            *(str(uid) for _, uid in references(ds)),
        }
    return found


def every_uid(made: Deidentified) -> set[str]:
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


def patients(made: Deidentified) -> set[str]:
    return {
        str(read_result(item)[name].value) for item in made.objects for name in ("PatientID", "PatientName")
    }


def dates(made: Deidentified) -> set[str]:
    found = [element for item in made.objects for element in everything(read_result(item))]
    return {str(element.value)[:8] for element in found if element.VR in ("DA", "DT") and element.value}


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Manufacturer", "Medical Mustermann"),
        ("ManufacturerModelName", "LI"),
        ("ManufacturerModelName", "Model X12345678"),
        ("ManufacturerModelName", "US_MUSTERMANN"),
        ("ManufacturerModelName", "LiMustermann2"),
        ("ManufacturerModelName", "Loeffel"),
        ("ManufacturerModelName", "LOFFEL"),
        ("ManufacturerModelName", "Rose"),
        ("ManufacturerModelName", "01 31 1970"),
        ("InstanceNumber", "31011970"),
        ("Manufacturer", "Clinic of Beispiel Ltd"),
        ("InstanceNumber", "12345678"),
        ("InstanceNumber", "19700131"),
        ("InstanceNumber", "4711"),
    ],
)
def test_no_part_of_the_identity_is_copied_wherever_it_stands(
    tmp_path: Path, keyword: str, value: str
) -> None:
    person = {"PatientName": "Mustermann^Li", "PatientID": "P-012345678", "PatientBirthDate": "31.01.1970"}
    more = {"AccessionNumber": "A.4711", "InstitutionName": "Clinic of Beispiel"}
    more |= {"SpecificCharacterSet": "ISO_IR 192", "OtherPatientNames": "Rose-Löffel"}
    with quiet_pydicom():
        path = _named(tmp_path, **person, **more, **{keyword: value})
        made = _objects(deidentified(path))
    assert len(made) == 3
    held = [str(one.value) for ds in made.values() for one in everything(ds) if one.keyword == keyword]
    assert not any(value.rpartition(" ")[2] in text for text in held)


ALL = frozenset(Retained)


TOLD = {
    "PatientSex": "F", "PatientAge": "085Y", "PatientSize": "1.7", "PatientWeight": "60",
    "DeviceSerialNumber": "SN-4711", "StationName": "ROOM3", "SoftwareVersions": "5.1",
}  # fmt: skip


def _named(folder: Path, name: str = "us.dcm", **more: str) -> Path:
    path = write_named(folder / name, study=name[:1].encode().hex())
    assign(dcmread(path), **{**TOLD, **more}).save_as(path, enforce_file_format=True)
    return path


def _objects(made: Deidentified) -> Faces:
    assert made.withheld == ()
    return {item.kind: read_result(item) for item in made.objects}


def test_each_option_keeps_its_attributes_and_says_so_and_no_name_date_or_uid_comes_with_them(
    tmp_path: Path,
) -> None:
    made = deidentified(_named(tmp_path), options=ALL)
    for value in (SECRET, "19410309", EXAMINED, UID_ROOT):
        assert not [item.kind for item in made.objects if value.encode() in (item.data or b"")], value
    for kind, ds in _objects(made).items():
        assert retained_by(ds) == ALL, kind
        codes = {item.CodeValue: item.CodeMeaning for item in ds.DeidentificationMethodCodeSequence}
        assert dict(OPTIONS.values()).items() <= codes.items()
        assert (ds.PatientSex, ds.PatientAge, ds.PatientSize, ds.PatientWeight) == ("F", "085Y", 1.7, 60)
        assert ds.LongitudinalTemporalInformationModified == "MODIFIED"
        assert len(ds.StudyDate) == 8
        assert ds.StudyDate < EXAMINED
        assert not ds.StudyTime


def test_intervals_of_one_patient_stay_and_another_patient_has_other_days(tmp_path: Path) -> None:
    def day(name: str, examined: str, patient: str = "P1") -> date:
        path = _named(tmp_path, name, StudyDate=examined, PatientID=patient)
        made = _objects(deidentified(path, options={Retained.MODIFIED_DATES}))
        return date.fromisoformat(made[ResultKind.CLEANED].StudyDate)

    first, second = day("a.dcm", "20250227"), day("b.dcm", "20260107")
    assert (second - first).days == (date(2026, 1, 7) - date(2025, 2, 27)).days
    assert day("c.dcm", "20250227", "P2") != first
    assert day("d.dcm", "20250227", " P1") != first


def test_an_object_that_says_more_is_another_one(tmp_path: Path) -> None:
    path = _named(tmp_path)
    plain, more = (
        deidentified(path).objects,
        deidentified(path, options={Retained.PATIENT_CHARACTERISTICS}).objects,
    )
    assert not {item.sop_instance_uid for item in plain} & {item.sop_instance_uid for item in more}
    assert len({read_result(item).StudyInstanceUID for item in (*plain, *more)}) == 1


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("PatientSize", ["1.7", "1.8"]),
        ("PatientWeight", ["60", "61"]),
        ("PatientSize", "nan"),
    ],
)
def test_what_has_not_one_value_is_left_out(keyword: str, values: object) -> None:
    given = data_set(PatientAge="085Y")
    with quiet_pydicom():
        setattr(given, keyword, values)
    kept = retained(given, ALL, 0)
    assert keyword not in kept
    assert kept.PatientAge == "085Y"
