"""De-identified results: nothing of the patient is in them, and what is in them holds together."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ai_pipeline.contract import ImageKind, PipelineResult
from dicom_node import results
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.dicom.own_objects import is_own_result
from dicom_node.errors import ResultRefused
from dicom_node.model.deidentified import is_deidentified
from dicom_node.model.kinds import DEIDENTIFIED_KINDS, ResultKind
from dicom_node.results import Pseudonyms, SourceObject, build_deidentified, gate
from dicom_node.results.common.source import read_sources
from dicom_node.results.deidentify.leaks import KnownIdentity
from dicom_node.results.deidentify.profile import DUMMY_DATE
from dicom_node.results.deidentify.sources import in_boxes, pseudonymised
from tests.deidentified_lab import (
    BIRTH_DATE,
    EXAMINED,
    HERE,
    OTHER_DATE,
    SECRET,
    THERE,
    UID_ROOT,
    deidentified,
    read,
    result_of,
    write_named,
)
from tests.result_images import US, US_MULTI_FRAME, context, source, speckle, write_image

KINDS = sorted(DEIDENTIFIED_KINDS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[ResultKind, bytes]:
    """The three objects of an image that names its patient everywhere."""
    made = deidentified(write_named(tmp_path_factory.mktemp("named") / "us.dcm"))
    assert made.withheld == ()
    return {item.kind: item.data for item in made.objects if item.data is not None}


def test_cleaned_image_mask_and_report_are_made_and_nothing_else(built: dict[ResultKind, bytes]) -> None:
    assert sorted(built) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_the_profile_names_is_left_in_the_bytes(
    built: dict[ResultKind, bytes], kind: ResultKind
) -> None:
    data = built[kind]
    for value in (SECRET, BIRTH_DATE, EXAMINED, OTHER_DATE, UID_ROOT, "12345678", "085Y"):
        assert value.encode() not in data, value
    assert [element.tag for element in everything(dataset(data)) if element.tag.is_private] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_done_stands_in_the_object(built: dict[ResultKind, bytes], kind: ResultKind) -> None:
    ds = dataset(built[kind])
    assert is_deidentified(ds)
    codes = [item.CodeValue for item in ds.DeidentificationMethodCodeSequence]
    options = {ResultKind.CLEANED: ["113101"], ResultKind.SR: ["113104"]}
    assert codes == ["113100", *options.get(kind, [])]
    purposes = [e.PurposeOfReferenceCodeSequence[0].CodeValue for e in ds.ContributingEquipmentSequence]
    assert purposes.count("109104") == 1
    assert purposes.count("109103") == (kind is ResultKind.CLEANED)
    assert (ds.PatientIdentityRemoved, ds.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
    assert ds.PatientID.startswith("AI-")
    assert str(ds.PatientName).startswith(ds.PatientID)
    assert [ds.PatientBirthDate, ds.PatientSex, ds.StudyDate, ds.AccessionNumber, ds.StudyID] == [""] * 5
    assert ds.StudyInstanceUID.startswith("2.25.")


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_of_the_node_are_still_there(built: dict[ResultKind, bytes], kind: ResultKind) -> None:
    ds = dataset(built[kind])
    assert ds.SeriesDescription.startswith("AI ")
    assert is_own_result(ds)  # so that it starts nothing when it comes back
    said = str(ds.get("DerivationDescription") or ds)
    if kind is not ResultKind.SEG:
        assert "not for diagnostic use" in said or "for measurement" in said
    if kind is ResultKind.CLEANED:
        assert "model chest-lite0 version 1" in ds.DerivationDescription
        assert ds.BurnedInAnnotation == "NO"
        assert ds.SequenceOfUltrasoundRegions[0].PhysicalDeltaX == 0.01


def test_mask_and_report_refer_to_the_cleaned_image_and_nothing_dangles(
    built: dict[ResultKind, bytes],
) -> None:
    cleaned, mask, report = (
        dataset(built[kind]) for kind in (ResultKind.CLEANED, ResultKind.SEG, ResultKind.SR)
    )
    there = (cleaned.SOPClassUID, cleaned.SOPInstanceUID)
    assert {*references(mask)} == {*references(report)} == {there}
    assert list(references(cleaned)) == []
    assert mask.ReferencedSeriesSequence[0].SeriesInstanceUID == cleaned.SeriesInstanceUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == cleaned.StudyInstanceUID
    assert evidence.ReferencedSeriesSequence[0].SeriesInstanceUID == cleaned.SeriesInstanceUID
    assert len({ds.StudyInstanceUID for ds in (cleaned, mask, report)}) == 1
    assert len({ds.SeriesInstanceUID for ds in (cleaned, mask, report)}) == 3


def test_two_studies_of_a_patient_have_one_pseudonym_and_two_patients_have_two(tmp_path: Path) -> None:
    first = read(deidentified(write_named(tmp_path / "1.dcm", patient="1", study="1")).objects[0])
    second = read(deidentified(write_named(tmp_path / "2.dcm", patient="1", study="2")).objects[0])
    other = read(deidentified(write_named(tmp_path / "3.dcm", patient="2", study="3")).objects[0])
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
    assert read(once.objects[0]).PatientID != read(away.objects[0]).PatientID


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
        ds = read(item)
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


def test_an_object_that_exists_is_not_built_again(tmp_path: Path) -> None:
    ctx = context(kinds=tuple(DEIDENTIFIED_KINDS), exists=lambda uid: True)
    made = deidentified(write_named(tmp_path / "us.dcm"), ctx=ctx)
    assert len(made.objects) == 3
    assert all(item.data is None and item.deidentified for item in made.objects)


def test_an_image_that_was_not_verified_takes_its_mask_and_report_with_it(tmp_path: Path) -> None:
    made = deidentified(write_named(tmp_path / "us.dcm"), verified=False)
    assert made.objects == ()
    assert "not verified" in made.withheld[0]
    assert SECRET not in "".join(made.withheld)


def test_of_two_images_only_the_cleaned_one_is_spoken_of(tmp_path: Path) -> None:
    one = source(write_named(tmp_path / "1.dcm", study="1"))
    two = source(write_named(tmp_path / "2.dcm", study="1", SOPInstanceUID=f"{UID_ROOT}.3.2"))
    result = result_of(one)
    both = replace(result, findings=(*result.findings, *result_of(two).findings))
    made = build_deidentified(context(kinds=tuple(DEIDENTIFIED_KINDS)), [one, two], both, Pseudonyms.of(HERE))
    cleaned, report = read(made.objects[0]), read(made.objects[-1])
    assert {*references(report)} == {(cleaned.SOPClassUID, cleaned.SOPInstanceUID)}


def test_a_cine_keeps_its_frames_and_the_mask_names_them(tmp_path: Path) -> None:
    path = write_named(tmp_path / "cine.dcm", pixels=speckle(frames=4), sop_class=US_MULTI_FRAME)
    made = deidentified(path)
    assert made.withheld == ()
    cleaned = read(made.objects[0])
    assert (cleaned.NumberOfFrames, cleaned.FrameTime) == (4, 40)
    assert np.array_equal(cleaned.pixel_array, speckle(frames=4))


def _with_plants(ds: Dataset) -> None:
    """Text and pixels in the items of sequences that are kept, under the VRs that programs let through."""
    region = Dataset()
    region.RegionSpatialFormat, region.RegionFlags, region.PhysicalDeltaX = 1, 0, 0.01
    region.TableOfParameterValues = [0.5, 1.5]
    for keyword, vr in (("PixelData", "OW"), ("ICCProfile", "OB"), ("TableOfPixelValues", "OB")):
        region.add_new(keyword, vr, f"{SECRET}HOSPITAL".encode())
    for keyword, vr in (("ImageType", "CS"), ("PatientID", "CS"), ("RegionDataType", "CS")):
        region.add_new(keyword, vr, f"{SECRET}ERIKA")
    inner = Dataset()
    inner.add_new("ImageType", "CS", f"{SECRET}ERIKA")
    region.add_new("SourceImageSequence", "SQ", [inner])
    ds.SequenceOfUltrasoundRegions = [region]
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [2, 0, 8], SECRET
    table.add_new("LUTData", "OW", f"{SECRET}HOSPITAL".encode())
    ds.VOILUTSequence = [table]
    ds.add_new("PixelPaddingValue", "OW", f"{SECRET}HOSPITAL".encode())


def test_of_a_region_only_the_numbers_that_it_may_have_are_kept(tmp_path: Path) -> None:
    path = write_named(tmp_path / "us.dcm")
    with quiet_pydicom():
        ds = dcmread(path)
        _with_plants(ds)
        ds.save_as(path)
        (given,) = read_sources([source(path)])
        header = pseudonymised(given, Pseudonyms.of(HERE)).header
    (region,) = header.SequenceOfUltrasoundRegions
    assert {element.keyword for element in region} == {
        "RegionSpatialFormat", "RegionFlags", "PhysicalDeltaX", "TableOfParameterValues",
    }  # fmt: skip
    assert "VOILUTSequence" not in header
    assert "PixelPaddingValue" not in header
    made = deidentified(path)
    assert made.objects
    for item in made.objects:
        assert item.data is not None and SECRET.encode() not in item.data


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_a_lookup_table_is_kept_as_numbers(tmp_path: Path, vr: str) -> None:
    path = write_named(tmp_path / "us.dcm")
    with quiet_pydicom():
        ds = dcmread(path)
        table = Dataset()
        table.LUTDescriptor = [2, 0, 8]
        table.add_new("LUTData", vr, [7, 258] if vr == "US" else b"\x07\0\x02\x01")
        ds.VOILUTSequence = [table]
        ds.save_as(path)
        (given,) = read_sources([source(path)])
        (kept,) = pseudonymised(given, Pseudonyms.of(HERE)).header.VOILUTSequence
    assert list(kept.LUTData) == [7, 258]


def test_a_mask_does_not_spell_what_was_removed(tmp_path: Path) -> None:
    image = source(write_named(tmp_path / "us.dcm"))
    mask = next(one for one in result_of(image).images if one.kind is ImageKind.MASK)
    boxes = in_boxes(mask).frames[0]
    assert boxes[6:20, 10:87].all()
    assert int(boxes.sum()) == 14 * 77
    far = np.array(mask.frames)
    far[0, 100, 150] = 1
    two = in_boxes(replace(mask, frames=far)).frames[0]
    assert int(two.sum()) == 14 * 77 + 1
    sent = read(next(item for item in deidentified(image.path).objects if item.kind is ResultKind.SEG))
    assert np.array_equal(sent.pixel_array != 0, boxes)


def test_no_text_that_was_read_in_the_pixels_goes_into_the_report(built: dict[ResultKind, bytes]) -> None:
    algorithm = {"Algorithm Name", "Algorithm Version", "Algorithm Parameters"}
    observer = {f"Device Observer {what}" for what in ("Name", "Manufacturer", "Model Name", "Serial Number")}
    texts = {
        item.ConceptNameCodeSequence[0].CodeMeaning
        for item in items(dataset(built[ResultKind.SR]))
        if item.get("ValueType") == "TEXT"
    }
    assert texts <= {"Comment", "Conclusion", "Tracking Identifier"} | algorithm | observer


def _comment(ds: Dataset) -> None:
    ds.ImageComments = "seen by Dr. ZQXMustermann"


def _in_a_sequence(ds: Dataset) -> None:
    ds.ContributingEquipmentSequence[0].InstitutionName = f"{SECRET}Clinic"


def _the_number(ds: Dataset) -> None:
    ds.SeriesDescription = f"AI cleaned image {SECRET}PID1"


def _private(ds: Dataset) -> None:
    ds.private_block(0x0011, "ANY", create=True).add_new(1, "LO", "harmless")


def _birth_date(ds: Dataset) -> None:
    ds.ContentDate = BIRTH_DATE


def _birth_date_in_words(ds: Dataset) -> None:
    ds.SeriesDescription = "AI cleaned image, born 1941-03-09"


def _uid(ds: Dataset) -> None:
    ds.FrameOfReferenceUID = f"{UID_ROOT}.3.1"


def _hidden_in_bytes(ds: Dataset) -> None:
    ds.add_new("ICCProfile", "OB", f"{SECRET}HOSPITAL".upper().encode())


def _unsaid(ds: Dataset) -> None:
    del ds.PatientIdentityRemoved


def _no_code(ds: Dataset) -> None:
    del ds.DeidentificationMethodCodeSequence


def _still_the_name(ds: Dataset) -> None:
    ds.PatientName = f"{SECRET}Mustermann^{SECRET}Erika"


def _a_station(ds: Dataset) -> None:
    ds.ContributingEquipmentSequence[0].ContributionDateTime = "20260107101500"


BREAKS: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "a name in a comment": (_comment, "ImageComments holds"),
    "an institution in an item": (_in_a_sequence, "InstitutionName holds"),
    "the Patient ID in our own words": (_the_number, "SeriesDescription holds"),
    "a private attribute": (_private, "has to be removed"),
    "the birth date": (_birth_date, "ContentDate is a date of the source"),
    "the birth date as text": (_birth_date_in_words, "SeriesDescription holds"),
    "a UID of the source": (_uid, "FrameOfReferenceUID is a UID of the source"),
    "a value in binary data": (_hidden_in_bytes, "its bytes hold"),
    "no word of what was done": (_unsaid, "PatientIdentityRemoved is not YES"),
    "no code of what was done": (_no_code, "code of the basic"),
    "the name itself": (_still_the_name, "PatientName"),
    "an attribute that has to go": (_a_station, "ContributionDateTime has to be removed"),
}


@pytest.fixture(scope="module")
def at_the_gate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Callable[[bytes, Dataset], None]]:
    """A de-identified image that passes, and the gate for such as it."""
    image = source(write_named(tmp_path_factory.mktemp("gate") / "us.dcm"))
    given = read_sources([image])
    disguised, identity = [pseudonymised(given[0], Pseudonyms.of(HERE))], KnownIdentity.of(given)
    ctx = context(kinds=tuple(DEIDENTIFIED_KINDS), pipeline="ultrasound", station_name="")
    data = deidentified(image.path, ctx=ctx).objects[0].data
    assert data is not None

    def release(data: bytes, ds: Dataset) -> None:
        gate.check_deidentified(data, ds, ctx, ResultKind.CLEANED, disguised, identity)

    release(data, dataset(data))
    return data, release


@pytest.mark.parametrize("fault", BREAKS)
def test_an_object_with_this_fault_does_not_leave(
    at_the_gate: tuple[bytes, Callable[[bytes, Dataset], None]], fault: str
) -> None:
    data, release = at_the_gate
    ds = dataset(data)
    break_it, said = BREAKS[fault]
    with quiet_pydicom():
        break_it(ds)
        buffer = io.BytesIO()
        ds.save_as(buffer)
    with pytest.raises(ResultRefused, match=said) as caught:
        release(buffer.getvalue(), ds)
    assert SECRET not in str(caught.value)
    assert BIRTH_DATE not in str(caught.value)


def test_common_words_of_a_header_hold_nothing_up(tmp_path: Path) -> None:
    """A department called "Ultrasound", a station or a patient called like the scanner are no leaks."""
    path = write_image(
        tmp_path / "us.dcm",
        US,
        speckle(),
        InstitutionalDepartmentName="Ultrasound",
        StationName="SCANNER",
        StudyID="1",
        PatientID="12",
        PatientName="Scanner^No",
        PatientBirthDate="19000101",
        DeviceSerialNumber="1",
    )
    made = deidentified(path)
    assert made.withheld == ()
    assert len(made.objects) == 3


def test_without_a_cleaned_image_there_is_nothing_to_send(tmp_path: Path) -> None:
    image = source(write_named(tmp_path / "us.dcm"))
    ctx = context(kinds=tuple(DEIDENTIFIED_KINDS))
    made = build_deidentified(ctx, [image], PipelineResult(), Pseudonyms.of(HERE))
    assert (made.objects, made.withheld) == ((), ())


def corrected(path: Path) -> SourceObject:
    """The same image after the patient's name was put right."""
    ds = dcmread(path)
    ds.PatientName = f"{SECRET}Mustermann^{SECRET}Erica"
    ds.save_as(path)
    return source(path, pixels_sha256="same", identity_sha256="another")


def dataset(data: bytes) -> Dataset:
    return dcmread(io.BytesIO(data))


def uids(made: results.Deidentified) -> set[str]:
    found = set()
    for item in made.objects:
        ds = read(item)
        found |= {ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID}
        found |= {str(uid) for _, uid in references(ds)}
    return found


def every_uid(made: results.Deidentified) -> set[str]:
    """Of objects, findings, whatever may come; not those of standards and programs, the same everywhere."""
    of_programs = {"CodingSchemeUID", "DeviceUID"}
    found = set()
    for item in (inner for one in made.objects for inner in items(read(one))):
        names = item.get("ConceptNameCodeSequence") or [Dataset()]
        if names[0].get("CodeMeaning") != "Device Observer UID":
            found |= {str(one.value) for one in item if one.VR == "UI" and one.keyword not in of_programs}
    private = {uid for uid in found if UID(uid).is_private}
    assert uids(made) <= private
    return private


def patients(made: results.Deidentified) -> set[str]:
    return {str(read(item)[name].value) for item in made.objects for name in ("PatientID", "PatientName")}


def dates(made: results.Deidentified) -> set[str]:
    found = [element for item in made.objects for element in everything(read(item))]
    return {str(element.value)[:8] for element in found if element.VR in ("DA", "DT") and element.value}


def references(ds: Dataset) -> Iterator[tuple[str, str]]:
    for item in items(ds):
        if "ReferencedSOPInstanceUID" in item:
            yield item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID


def items(ds: Dataset) -> Iterator[Dataset]:
    yield ds
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from items(item)


def everything(ds: Dataset) -> Iterator[DataElement]:
    for item in items(ds):
        yield from item
