"""De-identified results: nothing of the patient is in them, and what is in them holds together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from ai_pipeline.contract import ImageKind, PipelineResult
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.dicom.own_objects import is_own_result
from dicom_node.dicom.walk import items
from dicom_node.model.deidentified import is_deidentified
from dicom_node.model.kinds import DEIDENTIFIED_KINDS, ResultKind
from dicom_node.results import Pseudonyms, build_deidentified
from dicom_node.results.common.source import read_sources
from dicom_node.results.deidentify.sources import in_boxes, pseudonymised
from tests.deidentified_lab import (
    BIRTH_DATE,
    EXAMINED,
    HERE,
    OTHER_DATE,
    SECRET,
    UID_ROOT,
    deidentified,
    result_of,
    write_named,
)
from tests.result_images import US_MULTI_FRAME, context, source, speckle
from tests.result_reading import read_result
from tests.unit.results.deidentified_objects import dataset, everything, references

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
    cleaned, report = read_result(made.objects[0]), read_result(made.objects[-1])
    assert {*references(report)} == {(cleaned.SOPClassUID, cleaned.SOPInstanceUID)}


def test_a_cine_keeps_its_frames_and_the_mask_names_them(tmp_path: Path) -> None:
    path = write_named(tmp_path / "cine.dcm", pixels=speckle(frames=4), sop_class=US_MULTI_FRAME)
    made = deidentified(path)
    assert made.withheld == ()
    cleaned = read_result(made.objects[0])
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
        assert item.data is not None and SECRET.encode() not in item.data


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
    sent = read_result(next(item for item in deidentified(image.path).objects if item.kind is ResultKind.SEG))
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


def test_without_a_cleaned_image_there_is_nothing_to_send(tmp_path: Path) -> None:
    image = source(write_named(tmp_path / "us.dcm"))
    ctx = context(kinds=tuple(DEIDENTIFIED_KINDS))
    made = build_deidentified(ctx, [image], PipelineResult(), Pseudonyms.of(HERE))
    assert (made.objects, made.withheld) == ((), ())
