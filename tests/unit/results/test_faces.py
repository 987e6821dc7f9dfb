"""One finding, three faces; series, organs and the summary page."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import (
    BURNED_IN,
    Code,
    Decision,
    DerivedImage,
    Finding,
    ImageKind,
    ModelRef,
    PipelineResult,
    QualityNote,
)
from ai_pipeline.images.render import PageLayout, PagePicture, lay_out_page
from dicom_connectors.pdf.connector import as_pdf
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results import gate, page
from dicom_node.results.build import build, build_failure
from dicom_node.results.built_object import BuiltObject, encode
from dicom_node.results.concepts import Cause
from dicom_node.results.context import ResultContext
from dicom_node.results.deidentified.build import build_deidentified
from dicom_node.results.deidentified.pseudonyms import Pseudonyms
from dicom_node.results.report import report_of
from dicom_node.results.series import series_description
from dicom_node.results.source import SourceObject, read_sources
from tests.deidentified_lab import HERE, result_of, write_named
from tests.modality import assign, data_set
from tests.result_images import (
    ANALYSED_AT,
    CARDIOMEGALY,
    CR,
    DX,
    EFFUSION,
    NODULE,
    US,
    US_MULTI_FRAME,
    context,
    film,
    finding,
    grey_image,
    source,
    speckle,
    still,
    without_text,
    write_image,
)
from tests.result_reading import coded, content, groups_of, meaning_of, named, of_type, read_result

BOX = (50.5, 60.25, 150.0, 170.0)


@pytest.fixture
def cine(tmp_path: Path) -> SourceObject:
    return source(write_image(tmp_path / "us.dcm", US_MULTI_FRAME, speckle(frames=5), CineRate=25))


def one(
    kind: ResultKind, image: SourceObject, result: PipelineResult, ctx: ResultContext | None = None
) -> Dataset:
    [built] = build(ctx or context(kinds=[kind]), [image], result)
    return read_result(built)


def saying(*findings: Finding) -> PipelineResult:
    return PipelineResult(findings=findings)


def values(item: Dataset, value_type: str) -> dict[str, Dataset]:
    return {meaning_of(child): child for child in item.ContentSequence if child.ValueType == value_type}


def test_report_and_presentation_state_hold_the_same_boxes_under_the_same_tracking_uids(
    image: SourceObject,
) -> None:
    uid = image.image.uid
    result = saying(
        finding(NODULE, 0.6, uid, (10, 10, 40, 40), (60, 60, 90, 90)), finding(CARDIOMEGALY, 0.8, uid, BOX)
    )
    report, state = (one(kind, image, result) for kind in (ResultKind.SR, ResultKind.GSPS))
    in_report = {
        str(values(group, "UIDREF")["Tracking Unique Identifier"].UID): list(region.GraphicData)
        for group in groups_of(report)
        for region in of_type(group, "SCOORD")
    }
    in_state = {
        str(graphic.TrackingUID): list(graphic.GraphicData)
        for annotation in state.GraphicAnnotationSequence
        for graphic in annotation.get("GraphicObjectSequence") or []
    }
    assert (in_report, len(in_report)) == (in_state, 3)
    assert [50.5, 60.25, 150.0, 60.25, 150.0, 170.0, 50.5, 170.0, 50.5, 60.25] in in_report.values()


def test_what_is_found_comes_first_and_what_is_not_is_said_too(image: SourceObject) -> None:
    found = (
        finding(EFFUSION, 0.02, image.image.uid, decision=Decision.ABSENT),
        finding(NODULE, 0.5, image.image.uid, (1, 1, 9, 9), decision=Decision.INDETERMINATE),
        finding(CARDIOMEGALY, 0.6, image.image.uid, BOX),
    )
    report = one(ResultKind.SR, image, saying(*found))
    said = [
        [values(group, "CODE")[name].ConceptCodeSequence[0].CodeMeaning for name in ("Finding", "Presence")]
        for group in groups_of(report)
    ]
    assert said == [["Cardiomegaly", "Suspected"], ["Nodule of lung", "Undetermined"]]
    (absent,) = (item for item in content(report) if meaning_of(item) == "Pleural effusion")
    assert absent.ConceptCodeSequence[0].CodeMeaning == "Absent"
    assert list(values(absent, "NUM")) == ["AI estimated probability of Pleural effusion"]
    assert "111012" not in str(absent), "a low certainty of absence is not what the number says"


def test_beside_a_box_no_group_is_without_one(image: SourceObject) -> None:
    """OHIF 3.13 stops loading a report at a measurement group without coordinates and draws no box."""
    nowhere = finding(CARDIOMEGALY, 0.6, image.image.uid)
    boxed = one(ResultKind.SR, image, saying(nowhere, finding(NODULE, 0.7, image.image.uid, BOX)))
    assert [len(of_type(group, "SCOORD")) for group in groups_of(boxed)] == [1]
    (said,) = (item for item in content(boxed) if meaning_of(item) == "Cardiomegaly")
    assert "AI estimated probability of Cardiomegaly" in values(said, "NUM")
    assert groups_of(one(ResultKind.SR, image, saying(nowhere))) == []


@pytest.mark.parametrize("pixels", [b"\0\0", None], ids=["not decoded", "bright"])
def test_a_failure_says_so_with_its_reason_and_shows_no_pixel(tmp_path: Path, pixels: bytes | None) -> None:
    given = {} if pixels is None else {"PixelData": pixels}
    bright = source(write_image(tmp_path / "cr.dcm", CR, np.full((600, 600), 200, np.uint8), **given))
    kinds = [ResultKind.SR, ResultKind.SC]
    failed = build_failure(context(kinds=kinds), [bright], "pixels are damaged", Cause.FORMAT)
    report, picture = map(read_result, failed)
    (found,) = named(report, "C0034375")  # Qualitative Evaluations
    assert values(found, "CODE")["AI result"].ConceptCodeSequence[0].CodeMeaning == "AI did not run"
    assert values(report, "TEXT")["Conclusion"].TextValue == "AI did not run: pixels are damaged"
    reason = values(found, "CODE")["Reason why AI did not run"].ConceptCodeSequence[0]
    assert (reason.CodeValue, reason.CodingSchemeDesignator) == ("110521", "DCM")
    assert picture.pixel_array.max() > np.median(picture.pixel_array) == 0


def test_monochrome1_is_shown_inverse_with_the_window_of_the_image(tmp_path: Path) -> None:
    path = write_image(
        tmp_path / "dx.dcm",
        DX,
        grey_image(),
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope=2,
        RescaleIntercept=-5,
        WindowCenter=[100, 2000],
        WindowWidth=[50, 0.5],
    )
    state = one(ResultKind.GSPS, source(path), PipelineResult())
    assert (state.PresentationLUTShape, state.RescaleSlope, state.RescaleIntercept) == ("INVERSE", 2, -5)
    assert state.SoftcopyVOILUTSequence[0].WindowCenter == 100


def test_a_presentation_state_keeps_shutter_and_overlays_of_the_image(tmp_path: Path) -> None:
    shutter = {
        "ShutterShape": ["CIRCULAR", "RECTANGULAR"],
        "CenterOfCircularShutter": [120, 110],
        "RadiusOfCircularShutter": 90,
        "ShutterPresentationValue": 77,
    }
    path = write_image(tmp_path / "dx.dcm", DX, grey_image(), **shutter)
    with_overlay = pydicom.dcmread(path)
    with_overlay.add_new(0x60020010, "US", 8)
    with_overlay.save_as(path)
    plain = source(write_image(tmp_path / "a.dcm", DX, grey_image()))
    ours = ["AI_LINES", "AI_TEXTS"]
    for image, layers in ((source(path), ["OVERLAYS", *ours]), (plain, ours)):
        state = one(ResultKind.GSPS, image, PipelineResult())
        assert [layer.GraphicLayer for layer in state.GraphicLayerSequence] == layers
        assert (0x60021001 in state) == ("ShutterShape" in state) == (image is not plain)
        # The rectangle has no edges: a shutter that is not whole is none.
        kept = {word: state[word].value for word in shutter if word in state}
        assert image is plain or kept == shutter | {"ShutterShape": "CIRCULAR"}


@pytest.mark.parametrize("given", [{"SyntheticData": "YES"}, {}], ids=["made up", "real"])
def test_what_is_drawn_on_made_up_pixels_says_so(tmp_path: Path, given: dict[str, str]) -> None:
    picture = one(ResultKind.SC, still(tmp_path, **given), saying())
    assert picture.get("SyntheticData") == given.get("SyntheticData")


def test_a_voi_lut_keeps_its_depth(tmp_path: Path) -> None:
    table = data_set(LUTDescriptor=[4, 0, 12])
    table.add_new("LUTData", "US", [0, 1000, 3000, 4095])
    none = data_set(LUTDescriptor=[1, 0, 99], LUTData=5)  # none that could be shown
    path = write_image(
        tmp_path / "dx.dcm",
        DX,
        grey_image(),
        VOILUTSequence=[none, table],
        WindowCenter=None,
        WindowWidth=None,
    )
    [lut] = one(ResultKind.GSPS, source(path), saying()).SoftcopyVOILUTSequence[0].VOILUTSequence
    assert list(lut.LUTDescriptor) == [4, 0, 12]
    assert np.frombuffer(lut.LUTData, "<u2").tolist() == [0, 1000, 3000, 4095]


def test_boxes_in_a_cine_name_their_frame_in_both_faces(cine: SourceObject) -> None:
    frames, uid = [4, 2], cine.image.uid
    result = saying(*(finding(NODULE, 0.5 + n / 40, uid, (10, 10, 40, 40), frame=n) for n in frames))
    report, state = (one(kind, cine, result) for kind in (ResultKind.SR, ResultKind.GSPS))
    regions = [region for group in groups_of(report) for region in of_type(group, "SCOORD")]
    shown = [item.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber for item in regions]
    drawn = state.GraphicAnnotationSequence[:2]
    assert shown == [item.ReferencedImageSequence[0].ReferencedFrameNumber for item in drawn] == frames


def test_the_picture_of_a_cine_is_the_frame_of_the_first_finding(cine: SourceObject) -> None:
    result = saying(finding(NODULE, 0.6, cine.image.uid, (10, 10, 40, 40), frame=4))
    picture = one(ResultKind.SC, cine, result)
    assert picture.SourceImageSequence[0].ReferencedFrameNumber == 4
    assert picture.BurnedInAnnotation == "YES"
    assert "NumberOfFrames" not in picture
    changed = (picture.pixel_array[:120, :160] != cine.image.display(3)).any(axis=-1)
    assert changed[10:40, 10:40].any()
    assert not changed[15:35, 15:35].any()


def test_a_cleaned_cine_keeps_time_regions_and_every_sample(cine: SourceObject, tmp_path: Path) -> None:
    frames = np.memmap(tmp_path / "frames", np.uint8, "w+", shape=(5, 120, 160, 3))
    frames[:] = np.stack([cine.image.stored(index) for index in range(5)])
    frames[:, 5:20, 5:60] = 0
    mask = np.zeros((5, 120, 160), np.uint8)
    mask[2, 5:20, 5:60] = 255  # the region of the scan begins at row 20
    cleaned = one(ResultKind.CLEANED, cine, cleaning(cine, frames, mask))
    assert np.array_equal(cleaned.pixel_array, frames)
    assert (cleaned.FrameTime, cleaned.CineRate, cleaned.NumberOfFrames) == (40, 25, 5)
    assert cleaned.SequenceOfUltrasoundRegions == pydicom.dcmread(cine.path).SequenceOfUltrasoundRegions


def cleaning(
    of: SourceObject,
    pixels: npt.NDArray[Any],
    mask: npt.NDArray[np.uint8] | None = None,
) -> PipelineResult:
    """The pixels as its cleaned image, and the mask of what was filled."""
    photometric = "RGB" if pixels.shape[-1] == 3 else "MONOCHROME2"
    image = DerivedImage(ImageKind.CLEANED, of.image.uid, pixels, photometric, "x", verified=True)
    if mask is None:
        return PipelineResult(images=(image,))
    masked = DerivedImage(ImageKind.MASK, of.image.uid, mask, "MONOCHROME2", "mask")
    return PipelineResult(images=(image, masked))


def test_a_cleaned_grey_image_stays_grey_with_its_depth_and_sign(tmp_path: Path) -> None:
    pixels = (grey_image().astype(np.int16) - 2048).astype(np.int16)
    dx = source(write_image(tmp_path / "dx.dcm", DX, pixels, PixelSpacing=[0.14, 0.14], RescaleSlope=0.5))
    cleaned = one(ResultKind.CLEANED, dx, cleaning(dx, pixels, np.zeros((256, 224), np.uint8)))
    assert np.array_equal(cleaned.pixel_array, pixels)
    assert (cleaned.BitsStored, cleaned.PixelRepresentation, cleaned.RescaleSlope) == (12, 1, 0.5)
    assert (cleaned.WindowCenter, list(cleaned.PixelSpacing)) == (2048, [0.14, 0.14])


def test_calibration_is_kept_only_where_nothing_was_filled(tmp_path: Path) -> None:
    left, right, beyond = (
        data_set(
            RegionLocationMinX0=x0, RegionLocationMinY0=0, RegionLocationMaxX1=x1, RegionLocationMaxY1=y1
        )
        for x0, x1, y1 in ((0, 79, 119), (80, 159, 119), (0, 159, 576))
    )
    us = still(tmp_path, SequenceOfUltrasoundRegions=[left, right, beyond], PixelSpacing=[0.2, 0.1])
    mask = np.zeros((120, 160), np.uint8)
    mask[100, 81] = 255
    cleaned = one(ResultKind.CLEANED, us, cleaning(us, speckle(), mask))
    assert list(cleaned.SequenceOfUltrasoundRegions) == [left]
    assert "PixelSpacing" not in cleaned
    assert list(cleaned.PixelAspectRatio) == [2, 1]
    assert "SequenceOfUltrasoundRegions" not in one(ResultKind.CLEANED, us, cleaning(us, speckle()))


@pytest.mark.parametrize("kind", list(ResultKind))
def test_the_warning_of_a_series_is_whole_whatever_the_pipeline_is_called(kind: ResultKind) -> None:
    said = series_description(context(pipeline="a_pipeline_with_a_name_that_goes_on_and_on"), kind)
    assert len(said) <= 64
    warning = "inpainted, not for measurement" if kind is ResultKind.CLEANED else "not for diagnostic use"
    assert re.search(rf" - a_\w* - {warning}$", said)


def test_what_was_lossy_is_said_to_be_lossy(tmp_path: Path) -> None:
    lossy = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 12.5,
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    us = still(tmp_path, **lossy)
    result = replace(cleaning(us, speckle()), findings=(finding(NODULE, 0.5, us.image.uid, (9, 9, 40, 40)),))
    for kind in (ResultKind.CLEANED, ResultKind.SC):
        picture = one(kind, us, result)
        assert {word: picture.get(word) for word in lossy} == lossy


def test_a_de_identified_source_does_not_make_us_claim_de_identification(tmp_path: Path) -> None:
    us = still(tmp_path, PatientIdentityRemoved="YES")
    made = [read_result(built) for built in build(context(), [us], PipelineResult())]
    assert made
    assert [ds for ds in made if "PatientIdentityRemoved" in ds] == []


def test_a_mask_becomes_a_segmentation_and_an_empty_one_nothing(cine: SourceObject) -> None:
    mask = np.zeros((5, 120, 160), np.uint8)
    made = PipelineResult(images=(DerivedImage(ImageKind.MASK, cine.image.uid, mask, "MONOCHROME2", "mask"),))
    assert build(context(kinds=[ResultKind.SEG]), [cine], made) == []
    mask[1, 5:20, 5:60] = 255
    seg = one(ResultKind.SEG, cine, made)
    assert np.array_equal(seg.pixel_array, mask[1] > 0)
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"


HEART = Code("80891009", "SCT", "Heart")


def test_outlined_organs_become_segments_with_their_codes_in_a_series_of_their_own(
    image: SourceObject,
) -> None:
    masks = np.zeros((3, image.image.header.rows, image.image.header.columns), np.uint8)
    masks[0, 50:90, 60:120], masks[1, 20:100, 110:200], masks[2, 100:, :50] = 255, 255, 255
    lung, lesion = Code("44029006", "SCT", "Left lung"), Code("52988006", "SCT", "Lesion")
    result = outlined(image, masks, HEART, lung, lesion)
    seg = one(ResultKind.SEG, image, result)
    assert np.array_equal(seg.pixel_array, masks > 0)
    sequences = ("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence")
    codes = [tuple(item[name][0].CodeValue for name in sequences) for item in seg.SegmentSequence]
    organ, altered = "91723000", "49755003"  # a lesion is no anatomical structure
    assert codes == [(organ, HEART.value), (organ, lung.value), (altered, lesion.value)]
    assert len({item.TrackingUID for item in seg.SegmentSequence}) == 3
    removed = DerivedImage(ImageKind.MASK, image.image.uid, masks[:1], "MONOCHROME2", "mask")
    both = build(context(kinds=[ResultKind.SEG]), [image], PipelineResult(images=(*result.images, removed)))
    assert len({item.series_instance_uid for item in both}) == len(both) == 2


def outlined(image: SourceObject, masks: npt.NDArray[np.uint8], *organs: Code) -> PipelineResult:
    model = ModelRef("anatomy", "3", "e" * 64, "f" * 64)
    outlines = DerivedImage(
        ImageKind.ORGANS, image.image.uid, masks, "MONOCHROME2", "", models=(model,), organs=organs
    )
    return PipelineResult(images=(outlines,))


def test_outlines_of_another_size_are_refused(image: SourceObject) -> None:
    with pytest.raises(ResultRefused, match="size of their image"):
        build(context(), [image], outlined(image, np.full((1, 8, 8), 255, np.uint8), HEART))


def request() -> Dataset:
    item = data_set(
        AccessionNumber="A1",
        StudyInstanceUID="1.2.3.4",
        RequestedProcedureID="RP7",
        ScheduledProcedureStepID="SPS3",
        RequestedProcedureCodeSequence=[coded("36643-5", "LN", "XR Chest 2 Views")],
        RequestedProcedureDescription="",
    )
    item.add_new((0x0041, 0x0010), "LO", "PRIVATE")
    return item


def all_of(one: SourceObject, ctx: ResultContext | None = None) -> list[Dataset]:
    """Every kind of result on this image, the series of outlines and of removed text among them."""
    cleaned, mask = without_text(one, np.s_[:, 5:20, 5:60])
    found = finding(CARDIOMEGALY, 0.8, one.image.uid, (20, 30, 60, 90))
    images = (cleaned, mask, *outlined(one, mask.frames, HEART).images)
    made = build(ctx or context(), [one], PipelineResult(findings=(found,), images=images))
    return [read_result(item) for item in made]


def test_results_answer_the_request_of_their_source(tmp_path: Path) -> None:
    for made in all_of(film(tmp_path, RequestAttributesSequence=[request()])):
        if made.Modality in {"SR", "KO"}:
            assert made.ReferencedRequestSequence[0].RequestedProcedureID == "RP7"
            assert "RequestAttributesSequence" not in made
            continue
        (item,) = made.RequestAttributesSequence
        numbers = (item.AccessionNumber, item.RequestedProcedureID, item.ScheduledProcedureStepID)
        assert numbers == ("A1", "RP7", "SPS3")
        assert item.RequestedProcedureCodeSequence[0].CodeValue == "36643-5"
        assert "RequestedProcedureDescription" not in item, "no value"
        assert not any(element.tag.is_private for element in item)


def test_each_series_has_a_number_of_its_own(tmp_path: Path) -> None:
    numbers: dict[str, set[int]] = {}
    for made in all_of(film(tmp_path)):
        numbers.setdefault(str(made.SeriesInstanceUID), set()).add(int(made.SeriesNumber))
    assert all(len(of_series) == 1 for of_series in numbers.values())
    assert len(set.union(*numbers.values())) == len(numbers)


@pytest.mark.parametrize(
    ("attributes", "part", "side"),
    [
        ({"BodyPartExamined": "CHEST", "Laterality": "L"}, "CHEST", None),
        ({"BodyPartExamined": "HAND", "Laterality": "L"}, "HAND", "L"),
        ({"BodyPartExamined": "HAND", "ImageLaterality": "R"}, "HAND", "R"),
        ({"BodyPartExamined": "HAND", "ImageLaterality": "B"}, "HAND", ""),
        ({"BodyPartExamined": "HAND"}, "HAND", ""),
        ({"AnatomicRegionSequence": [coded("51185008", "SCT", "Chest")]}, "CHEST", None),
        ({"AnatomicRegionSequence": [coded("XYZ", "99LOCAL", "Somewhere")]}, None, ""),
    ],
)
def test_the_side_is_that_of_the_source_where_the_part_has_one(
    tmp_path: Path, attributes: dict[str, Any], part: str | None, side: str | None
) -> None:
    for made in all_of(film(tmp_path, **{"BodyPartExamined": None, **attributes})):
        if made.Modality in ("SR", "SEG", "DOC", "KO"):
            assert "Laterality" not in made
        else:
            assert (made.get("Laterality"), made.get("BodyPartExamined")) == (side, part)


@pytest.mark.parametrize(
    ("attributes", "written"),
    [
        ({"PixelAspectRatio": [2, 1]}, [2, 1]),
        ({"PixelAspectRatio": [1, 1]}, None),
        ({"PixelAspectRatio": [4, 3], "PixelSpacing": [0.2, 0.2]}, None),
    ],
)
def test_the_shape_of_pixels_is_said_where_the_iod_wants_it(
    tmp_path: Path, attributes: dict[str, Any], written: list[int] | None
) -> None:
    """Type 1C (PS3.3 C.7.6.3): not beside Pixel Spacing, and not of squares."""
    for picture in (
        one
        for one in all_of(still(tmp_path, **attributes))
        if "PixelData" in one and one.SeriesNumber in (9003, 9005)
    ):
        assert picture.get("PixelAspectRatio") == written, "of what is no page"


@pytest.mark.parametrize("description", ["by a wire", None], ids=["whole", "without description"])
def test_how_pixels_were_calibrated_is_said_whole_or_not_at_all(
    tmp_path: Path, description: str | None
) -> None:
    """Type 1C (PS3.3 10.7.1): a type has a description."""
    given = {"PixelSpacing": [0.2, 0.2], "PixelSpacingCalibrationType": "FIDUCIAL"}
    if description:
        given["PixelSpacingCalibrationDescription"] = description
    [picture] = [made for made in all_of(film(tmp_path, **given)) if made.SeriesNumber == 9003]
    assert picture.get("PixelSpacingCalibrationDescription") == description
    assert ("PixelSpacingCalibrationType" in picture) is (description is not None)


@pytest.mark.debian("dcmtk")
@pytest.mark.parametrize(
    ("attributes", "ratio"),
    [
        ({"ImagerPixelSpacing": None, "PixelAspectRatio": [4, 3]}, 4 / 3),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, 2),
        ({"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.15, 0.2]}, 3 / 4),
        ({"ImagerPixelSpacing": [0, 0]}, 1),
        ({"ImagerPixelSpacing": [1e12, 1]}, 1),
    ],
)
def test_a_viewer_draws_the_pixels_of_a_presentation_state_in_their_shape(
    tmp_path: Path, attributes: dict[str, Any], ratio: float
) -> None:
    """PS3.3 C.10.4: what dcmp2pgm draws says in which shape its pixels are shown."""
    path = write_image(tmp_path / "cr.dcm", CR, grey_image(), **attributes)
    [state] = build(context(kinds=[ResultKind.GSPS]), [source(path)], PipelineResult())
    state_path, drawn = tmp_path / "state.dcm", tmp_path / "drawn.dcm"
    state_path.write_bytes(state.data or b"")
    subprocess.run(["dcmp2pgm", "+D", "-p", state_path, path, drawn], check=True, capture_output=True)
    height, width = pydicom.dcmread(drawn).get("PixelAspectRatio", [1, 1])
    assert height / width == pytest.approx(ratio, abs=0.002)


BLUE = (0, 90, 200)  # no letter has it, nor its edges


ONLY_PAGE = (ResultKind.SUMMARY,)


def numbered_film(folder: Path, number: int = 1, **attributes: Any) -> SourceObject:
    given = {
        "InstanceNumber": number,
        "StudyInstanceUID": "2.25.7",
        "SeriesInstanceUID": "2.25.8",
        **attributes,
    }
    return source(write_image(folder / f"film{number}.dcm", CR, grey_image(), **given))


def ultrasound(folder: Path, **attributes: Any) -> SourceObject:
    """A scan that is as blue as its letters would be legible."""
    return source(write_image(folder / "us.dcm", US, np.full((90, 120, 3), BLUE, np.uint8), **attributes))


def built(
    images: Sequence[SourceObject], result: PipelineResult, ctx: ResultContext | None = None
) -> BuiltObject:
    [made] = build(ctx or context(kinds=ONLY_PAGE), images, result)
    assert made.kind is ResultKind.SUMMARY
    return made


def shows_scan(one: BuiltObject) -> bool:
    pixels = read_result(one).pixel_array
    return bool((pixels == BLUE).all(axis=-1).any())


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page is drawn of, by the names of its parameters."""
    given: dict[str, Any] = {}
    draw = page.draw_page

    def note(*parts: Any) -> Any:
        given.update(zip(("title", "head", "shown", "captions", "results", "foot"), parts, strict=True))
        return draw(*parts)

    monkeypatch.setattr(page, "draw_page", note)
    return given


def absent(image: SourceObject) -> Finding:
    return finding(NODULE, 0.01, image.image.uid, decision=Decision.ABSENT)


def test_an_image_with_what_is_suspected_is_in_the_picture_and_first_in_words(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    images = [
        numbered_film(tmp_path, number, ViewPosition=view)
        for number, view in ((1, "PA"), (2, "AP"), (3, "PA"))
    ]
    uids = [image.image.uid for image in images]
    unclear = finding(CARDIOMEGALY, 0.3, uids[0], decision=Decision.INDETERMINATE)
    suspected = finding(EFFUSION, 0.8, uids[1], (10, 20, 90, 100), side="L", certainty="high certainty")
    note = QualityNote("turned", "The image was turned.", uids[1], on_faces=True)
    hidden = QualityNote("rotation", "not for faces", uids[1])
    missing = QualityNote("not assessed", "…", uids[1], names=("pneumonia",))
    built(images, PipelineResult((unclear, suspected, absent(images[2])), quality=(note, hidden, missing)))
    assert said["results"] == [
        "image 2: AI: Suspected, high certainty: left pleural effusion.\nNot assessed: pneumonia.\n"
        "The image was turned.",
        "image 1: AI: No call on cardiomegaly.",
        "image 3: AI: Not found: nodule of lung.",
    ]
    assert said["captions"] == ["Image 2, view: AP; box: class activation, approximate place"]
    assert [one.regions[0].bounds for one in said["shown"].findings] == [(10, 20, 90, 100)]
    assert said["title"] == "AI summary - not for diagnostic use"
    assert said["foot"] == [
        "AI result - not for diagnostic use. Analysed 2025-01-02 11:16 (UTC+0100), 3 images.",
        "Model: chest-lite0 1",
    ]


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ({"PatientName": "Müller^Jörg^Karl"}, "Müller, Jörg Karl"),
        ({"PatientName": "Hong^Gildong=洪^吉洞=홍^길동"}, "Hong, Gildong"),
        ({"PatientName": "홍^길동=洪^吉洞"}, "Name: (in letters that this page cannot show)"),
        ({"PatientName": "山田^太郎=山田^太郎=Yamada^Tarou"}, "Yamada, Tarou"),
        ({"PatientName": ""}, "Name: not given"),
    ],
)
def test_the_name_is_that_of_the_header(
    tmp_path: Path, said: dict[str, Any], header: dict[str, str], wanted: str
) -> None:
    built([numbered_film(tmp_path, **header, StudyDescription="Thorax")], PipelineResult())
    assert said["head"] == [
        wanted,
        "ID: PID-CR | Born: 1970-01-01 | Sex: F",
        "Study: 2025-01-02 | Accession number: ACCCR | Thorax",
    ]


@pytest.mark.parametrize("drawn_on", ["source", "cleaned"])
@pytest.mark.parametrize("verified", [True, False])
def test_of_an_ultrasound_only_a_verified_cleaned_image_is_shown(
    tmp_path: Path, said: dict[str, Any], drawn_on: Any, verified: bool
) -> None:
    """Also where the pipeline finds nothing: names are burned into ultrasound."""
    image = ultrasound(tmp_path)
    cleaned, _ = without_text(image, np.s_[:, :5, :5], verified=verified)
    for images in [(cleaned,), ()]:
        result = PipelineResult((absent(image),), images, drawn_on=drawn_on)
        shown = verified and bool(images)
        one = built([image], result)
        assert shows_scan(one) is shown
        assert said["results"] == ["AI: Not found: nodule of lung."], "the words are there all the same"
        assert ("SyntheticData" in read_result(one)) is shown
        if not shown:
            assert said["shown"].startswith("No picture: names may be burned into this image")


def test_a_picture_in_which_text_was_looked_for_is_not_shown_as_it_came(tmp_path: Path) -> None:
    """A grabbed picture of any modality."""
    image = ultrasound(tmp_path, Modality="OT")
    text = replace(finding(NODULE, None, image.image.uid, (1, 1, 9, 9)), code=BURNED_IN)
    assert not shows_scan(built([image], PipelineResult((text,))))


def test_where_the_ai_did_not_run_the_page_says_so_and_shows_nothing(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    [failure] = build_failure(context(kinds=ONLY_PAGE), [numbered_film(tmp_path)], "the model is missing")
    assert failure.kind is ResultKind.SUMMARY
    assert said["results"] == ["AI did not run: the model is missing"]
    assert said["shown"] == "No picture: the AI did not run."
    assert failure.sop_instance_uid != built([numbered_film(tmp_path)], PipelineResult()).sop_instance_uid


def test_a_destination_that_may_not_know_the_patient_gets_none(tmp_path: Path) -> None:
    peer, pages = {"name": "x", "ae_title": "X"}, {ResultKind.SUMMARY, ResultKind.PDF}
    for kind in pages:
        with pytest.raises(ValueError, match=f"{kind} may identify the patient"):
            PeerSettings.model_validate({**peer, "results": ["cleaned", kind], "deidentify": True})
    assert ResultKind.PDF not in PeerSettings.model_validate(peer).results
    image = source(write_named(tmp_path / "us.dcm"))
    ctx = context(kinds=tuple(ResultKind), pipeline="ultrasound")
    made = build_deidentified(ctx, [image], result_of(image, verified=True), Pseudonyms(HERE, ""))
    assert made.objects
    assert not pages & {one.kind for one in made.objects}


TITLE = "AI summary - not for diagnostic use"


SAME = """
import hashlib, sys
from datetime import datetime, UTC
from tests.unit.results.test_faces import drawn_page as page
from dicom_connectors.pdf.connector import as_pdf
print(hashlib.sha256(as_pdf(page("Müller, Änne"), "x", datetime(2025, 1, 2, tzinfo=UTC))).hexdigest())
"""


def made(*images: SourceObject, ctx: ResultContext | None = None, **result: Any) -> Dataset:
    [one] = build(ctx or context(kinds=[ResultKind.PDF]), images, PipelineResult(**result))
    assert one.kind is ResultKind.PDF
    return read_result(one)


def pdf_in(document: Dataset) -> bytes:
    return bytes(document.EncapsulatedDocument)[: document.EncapsulatedDocumentLength]


def words(data: bytes) -> str:
    done = subprocess.run(["pdftotext", "-layout", "-", "-"], input=data, capture_output=True, check=True)
    return done.stdout.decode()


def drawn_page(name: str, picture: bool = True) -> PageLayout:
    shown = PagePicture(speckle()) if picture else "no picture"
    return lay_out_page(TITLE, [name, "ID: 1"], shown, ["View: PA"], ["AI: nothing"], ["foot"])


@pytest.mark.debian("poppler-utils")
def test_its_words_are_text(tmp_path: Path) -> None:
    image = numbered_film(tmp_path, PatientName="Müller^Änne", SpecificCharacterSet="ISO_IR 192")
    found = finding(CARDIOMEGALY, 0.83, image.image.uid, (10, 10, 40, 40))
    text = words(pdf_in(made(image, findings=(found,))))
    for said in (TITLE, "Müller, Änne", "ID: PID-CR", "Suspected: cardiomegaly", "Model: chest-lite0 1"):
        assert said in text


@pytest.mark.debian("poppler-utils", "qpdf")
@pytest.mark.parametrize(
    "name", [r"a) Tj ET %%EOF \(x\) endstream endobj", "Ξενοφών, Жанна", "洪吉洞", "a" * 5000, "<script>"]
)
def test_no_name_breaks_it(tmp_path: Path, name: str) -> None:
    data = as_pdf(drawn_page(name), TITLE, ANALYSED_AT)
    (tmp_path / "page.pdf").write_bytes(data)
    done = subprocess.run(["qpdf", "--check", tmp_path / "page.pdf"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    if (len(name) < 100 and name.isascii()) or name.startswith("Ξ"):
        assert name in words(data)
    assert data.count(b"%%EOF") == 1
    assert data.count(b"/Type /Page\n") == 1


def test_the_same_page_is_the_same_bytes() -> None:
    mine = as_pdf(drawn_page("Müller, Änne"), "x", datetime(2025, 1, 2, tzinfo=UTC))
    assert b"D:20250102000000Z" in mine
    elsewhere = os.environ | {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"}
    said = subprocess.check_output([sys.executable, "-c", SAME], env=elsewhere, text=True)
    assert said.strip() == hashlib.sha256(mine).hexdigest()


def test_a_picture_that_may_name_somebody_is_not_in_it(tmp_path: Path) -> None:
    image = still(tmp_path)
    assert b"/Subtype /Image" not in pdf_in(made(image, ctx=context(kinds=[ResultKind.PDF], pipeline="us")))
    assert b"/Subtype /Image" in pdf_in(made(numbered_film(tmp_path)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"EncapsulatedDocument": b"%PDF-1.3 cut"}, "no whole PDF"),
        ({"EncapsulatedDocument": b"<html></html>\0"}, "no whole PDF"),
        ({"EncapsulatedDocumentLength": 12}, "has not the length"),
        ({"BurnedInAnnotation": "NO"}, "BurnedInAnnotation is YES"),
        ({"MIMETypeOfEncapsulatedDocument": "text/html"}, "is not application/pdf"),
        ({"VerificationFlag": "VERIFIED"}, "must be UNVERIFIED"),
        ({"SourceInstanceSequence": []}, "SourceInstanceSequence is missing"),
        ({"PatientName": "Other^Name"}, "PatientName is not that of the source"),
    ],
)
def test_the_gate_lets_no_faulty_document_out(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    sources = read_sources([numbered_film(tmp_path)])
    ctx = context(kinds=[ResultKind.PDF])
    report = report_of(ctx, sources, PipelineResult())
    document = page.build_pdf(report, page.summary_of(report), "2.25.9")
    assign(document, **change)
    with pytest.raises(ResultRefused, match=why):
        gate.check(encode(document, ctx, sources[0]), document, ctx, ResultKind.PDF, sources)
