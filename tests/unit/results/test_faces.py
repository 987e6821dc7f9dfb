"""One finding, three faces; and what the pictures keep of their source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import Decision, DerivedImage, Heatmap, ImageKind, PipelineResult
from dicom_node import results
from dicom_node.model.kinds import ResultKind
from dicom_node.results import Cause, ResultContext, SourceObject
from dicom_node.results.common.envelope import series_description
from tests.result_images import (
    CARDIOMEGALY,
    CR,
    DX,
    EFFUSION,
    NODULE,
    UNCALIBRATED,
    US,
    US_MULTI_FRAME,
    context,
    finding,
    grey_image,
    source,
    speckle,
    write_image,
)
from tests.result_reading import content, groups_of, meaning_of, read_result

BOX = (50.5, 60.25, 150.0, 170.0)


@pytest.fixture
def cr(tmp_path: Path) -> SourceObject:
    return source(write_image(tmp_path / "cr.dcm", CR, grey_image()))


@pytest.fixture
def cine(tmp_path: Path) -> SourceObject:
    return source(write_image(tmp_path / "us.dcm", US_MULTI_FRAME, speckle(frames=5), CineRate=25))


def one(kind: ResultKind, ctx: ResultContext, image: SourceObject, result: PipelineResult) -> Dataset:
    built = [each for each in results.build(ctx, [image], result) if each.kind is kind]
    assert len(built) == 1
    return read_result(built[0])


def found(*findings: object) -> PipelineResult:
    return PipelineResult(findings=tuple(findings))  # type: ignore[arg-type]


def values(item: Dataset, value_type: str) -> dict[str, Dataset]:
    return {meaning_of(child): child for child in item.ContentSequence if child.ValueType == value_type}


def test_report_and_presentation_state_hold_the_same_boxes_under_the_same_tracking_uids(
    cr: SourceObject,
) -> None:
    uid = cr.image.uid
    result = found(
        finding(NODULE, 0.6, uid, (10, 10, 40, 40), (60, 60, 90, 90)), finding(CARDIOMEGALY, 0.8, uid, BOX)
    )
    report, state = (one(kind, context(), cr, result) for kind in (ResultKind.SR, ResultKind.GSPS))
    in_report = {
        str(values(group, "UIDREF")["Tracking Unique Identifier"].UID): list(region.GraphicData)
        for group in groups_of(report)
        for region in values(group, "SCOORD").values()
    }
    in_state = {
        str(graphic.TrackingUID): list(graphic.GraphicData)
        for annotation in state.GraphicAnnotationSequence
        for graphic in annotation.get("GraphicObjectSequence") or []
    }
    assert in_report == in_state
    assert len(in_report) == 3
    assert [50.5, 60.25, 150.0, 60.25, 150.0, 170.0, 50.5, 170.0, 50.5, 60.25] in in_report.values()


def test_the_box_label_of_a_viewer_names_the_finding_and_says_ai(cr: SourceObject) -> None:
    """OHIF shows of a group only each NUM's concept, value and unit, and the finding site."""
    uid = cr.image.uid
    calibrated = groups_of(one(ResultKind.SR, context(), cr, found(finding(CARDIOMEGALY, 0.834, uid, BOX))))[
        0
    ]
    numbers = values(calibrated, "NUM")
    assert list(numbers) == ["AI estimated probability of Cardiomegaly"]
    (number,) = numbers.values()
    measured = number.MeasuredValueSequence[0]
    assert float(measured.NumericValue) == 83.4
    (cut_off,) = values(calibrated, "CODE")["Presence"].ContentSequence  # what "suspected" was inferred from
    assert (cut_off.RelationshipType, cut_off.ConceptNameCodeSequence[0].CodeValue) == (
        "INFERRED FROM",
        "CUTOFF",
    )
    assert float(cut_off.MeasuredValueSequence[0].NumericValue) == 41.0
    assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "%"
    assert number.ConceptNameCodeSequence[0].EquivalentCodeSequence[0].CodeValue == "111012"


def test_only_a_calibrated_model_claims_a_certainty(cr: SourceObject) -> None:
    uncalibrated = finding(NODULE, 0.834, cr.image.uid, BOX, model=UNCALIBRATED)
    report = one(ResultKind.SR, context(UNCALIBRATED), cr, found(uncalibrated))
    numbers = values(groups_of(report)[0], "NUM")
    assert list(numbers) == ["AI score of Nodule of lung"]
    measured = numbers["AI score of Nodule of lung"].MeasuredValueSequence[0]
    assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "{ratio}"
    assert "111012" not in str(report)


def test_what_is_found_comes_first_and_what_is_not_is_said_too(cr: SourceObject) -> None:
    uid = cr.image.uid
    report = one(
        ResultKind.SR,
        context(),
        cr,
        found(
            finding(EFFUSION, 0.02, uid, decision=Decision.ABSENT),
            finding(NODULE, 0.5, uid, (1, 1, 9, 9), decision=Decision.INDETERMINATE),
            finding(CARDIOMEGALY, 0.6, uid, BOX),
        ),
    )
    said = [
        (
            values(group, "CODE")["Finding"].ConceptCodeSequence[0].CodeMeaning,
            values(group, "CODE")["Presence"].ConceptCodeSequence[0].CodeMeaning,
        )
        for group in groups_of(report)
    ]
    assert said == [("Cardiomegaly", "Suspected"), ("Nodule of lung", "Undetermined")]
    (absent,) = (item for item in content(report) if meaning_of(item) == "Pleural effusion")
    assert absent.ConceptCodeSequence[0].CodeMeaning == "Absent"
    numbers = values(absent, "NUM")
    assert list(numbers) == ["AI estimated probability of Pleural effusion"]
    assert "111012" not in str(absent), "a low certainty of absence is not what the number says"


def test_beside_a_box_no_group_is_without_one(cr: SourceObject) -> None:
    """OHIF 3.13 stops loading a report at a measurement group without coordinates and draws no box."""
    uid = cr.image.uid
    nowhere = finding(CARDIOMEGALY, 0.6, uid)
    boxed = one(ResultKind.SR, context(), cr, found(nowhere, finding(NODULE, 0.7, uid, BOX)))
    assert [list(values(group, "SCOORD")) for group in groups_of(boxed)] == [["Image Region"]]
    (said,) = (item for item in content(boxed) if meaning_of(item) == "Cardiomegaly")
    assert next(meaning_of(item) for item in said.ContentSequence if item.ValueType == "NUM") == (
        "AI estimated probability of Cardiomegaly"
    )
    alone = one(ResultKind.SR, context(), cr, found(nowhere))
    assert [g.ContentTemplateSequence[0].TemplateIdentifier for g in groups_of(alone)] == [
        "1501",
        "1501",
    ]


def test_the_report_is_of_nobody_and_tells_the_request(cr: SourceObject) -> None:
    report = one(ResultKind.SR, context(), cr, PipelineResult())
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.ReferencedRequestSequence[0].AccessionNumber == report.AccessionNumber == "ACCCR"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_a_failure_says_so_with_its_reason_even_where_pixels_do_not_decode(tmp_path: Path) -> None:
    broken = source(write_image(tmp_path / "cr.dcm", CR, grey_image(), PixelData=b"\0\0"))
    kinds = [ResultKind.SR, ResultKind.SC]
    failed = results.build_failure(context(kinds=kinds), [broken], "pixels are damaged", Cause.FORMAT)
    report, picture = map(read_result, failed)
    (group,) = groups_of(report)
    assert values(group, "CODE")["AI result"].ConceptCodeSequence[0].CodeMeaning == "AI did not run"
    assert values(report, "TEXT")["Conclusion"].TextValue == "AI did not run: pixels are damaged"
    reason = values(group, "CODE")["Reason why AI did not run"].ConceptCodeSequence[0]
    assert (reason.CodeValue, reason.CodingSchemeDesignator) == ("110521", "DCM")
    assert picture.pixel_array.max() > 0


def test_a_failure_shows_no_pixel_of_the_image(tmp_path: Path) -> None:
    bright = source(write_image(tmp_path / "cr.dcm", CR, np.full((600, 600), 200, np.uint8)))
    failed = results.build_failure(context(kinds=[ResultKind.SC]), [bright], "text may be left")
    assert np.median(read_result(failed[0]).pixel_array) == 0


def test_times_are_those_of_the_analysis_in_the_zone_of_the_source(cr: SourceObject) -> None:
    made = results.build(context(), [cr], found(finding(NODULE, 0.5, cr.image.uid, BOX)))
    assert {ResultKind.SR, ResultKind.GSPS, ResultKind.SC} <= {built.kind for built in made}
    for built in made:
        dataset = read_result(built)
        assert dataset.InstanceCreationTime == "111630.000000"
        assert dataset.TimezoneOffsetFromUTC == "+0100"
        assert ("ContentDate" in dataset) == (built.kind is not ResultKind.GSPS)
        stamps = {item.get("ContributionDateTime") for item in dataset.ContributingEquipmentSequence[1:]}
        assert stamps == {"20250102111630.000000"}


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
    state = one(ResultKind.GSPS, context(), source(path), PipelineResult())
    assert state.PresentationLUTShape == "INVERSE"
    assert (state.RescaleSlope, state.RescaleIntercept) == (2, -5)
    assert state.SoftcopyVOILUTSequence[0].WindowCenter == 100


def test_a_presentation_state_keeps_shutter_and_overlays_of_the_image(tmp_path: Path) -> None:
    shutter = {"ShutterShape": ["CIRCULAR", "RECTANGULAR"], "CenterOfCircularShutter": [120, 110]}
    shutter |= {"RadiusOfCircularShutter": 90, "ShutterPresentationValue": 77}
    path = write_image(tmp_path / "dx.dcm", DX, grey_image(), **shutter)
    with_overlay = pydicom.dcmread(path)
    with_overlay.add_new(0x60020010, "US", 8)
    with_overlay.save_as(path)
    state = one(ResultKind.GSPS, context(), source(path), PipelineResult())
    # The rectangle has no edges: a shutter that is not whole is none.
    assert (state.ShutterShape, list(state.CenterOfCircularShutter)) == ("CIRCULAR", [120, 110])
    assert (state.RadiusOfCircularShutter, state.ShutterPresentationValue) == (90, 77)
    assert state[0x60021001].value == "OVERLAYS"
    layers = [layer.GraphicLayer for layer in state.GraphicLayerSequence]
    assert layers == ["OVERLAYS", "AI_LINES", "AI_TEXTS"]
    plain = one(
        ResultKind.GSPS, context(), source(write_image(tmp_path / "a.dcm", DX, grey_image())), found()
    )
    assert "ShutterShape" not in plain
    assert [layer.GraphicLayer for layer in plain.GraphicLayerSequence] == ["AI_LINES", "AI_TEXTS"]


def test_no_result_of_an_untiled_image_speaks_of_a_total_pixel_matrix(cr: SourceObject) -> None:
    made = results.build(context(), [cr], found(finding(NODULE, 0.5, cr.image.uid, BOX)))
    assert made
    for built in made:
        assert "Pixel Origin Interpretation" not in str(read_result(built))


def test_what_is_drawn_on_made_up_pixels_says_so(tmp_path: Path) -> None:
    made_up = source(write_image(tmp_path / "us.dcm", US, speckle(), SyntheticData="YES"))
    assert one(ResultKind.SC, context(), made_up, found()).SyntheticData == "YES"
    true = source(write_image(tmp_path / "true.dcm", US, speckle()))
    assert "SyntheticData" not in one(ResultKind.SC, context(), true, found())


def test_a_voi_lut_keeps_its_depth(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 0, 12]
    table.add_new("LUTData", "US", [0, 1000, 3000, 4095])
    path = write_image(
        tmp_path / "dx.dcm", DX, grey_image(), VOILUTSequence=[table], WindowCenter=None, WindowWidth=None
    )
    state = one(ResultKind.GSPS, context(), source(path), PipelineResult())
    lut = state.SoftcopyVOILUTSequence[0].VOILUTSequence[0]
    assert list(lut.LUTDescriptor) == [4, 0, 12]
    assert np.frombuffer(lut.LUTData, "<u2").tolist() == [0, 1000, 3000, 4095]


def test_boxes_in_a_cine_name_their_frame_in_both_faces(cine: SourceObject) -> None:
    uid = cine.image.uid
    result = found(
        finding(NODULE, 0.6, uid, (10, 10, 40, 40), frame=4),
        finding(NODULE, 0.5, uid, (10, 10, 40, 40), frame=2),
    )
    report, state = (one(kind, context(), cine, result) for kind in (ResultKind.SR, ResultKind.GSPS))
    frames = [
        region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber
        for group in groups_of(report)
        for region in values(group, "SCOORD").values()
    ]
    assert frames == [4, 2]
    assert [
        a.ReferencedImageSequence[0].ReferencedFrameNumber for a in state.GraphicAnnotationSequence[:4:2]
    ] == frames


def test_the_picture_of_a_cine_is_the_frame_of_the_first_finding(cine: SourceObject) -> None:
    result = found(finding(NODULE, 0.6, cine.image.uid, (10, 10, 40, 40), frame=4))
    picture = one(ResultKind.SC, context(), cine, result)
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
    image = DerivedImage(ImageKind.CLEANED, cine.image.uid, frames, "RGB", "x", verified=True)
    mask = np.zeros((5, 120, 160), np.uint8)
    mask[2, 5:20, 5:60] = 255  # the region of the scan begins at row 20
    masked = DerivedImage(ImageKind.MASK, cine.image.uid, mask, "MONOCHROME2", "mask")
    cleaned = one(ResultKind.CLEANED, context(), cine, PipelineResult(images=(image, masked)))
    assert np.array_equal(cleaned.pixel_array, frames)
    assert (cleaned.FrameTime, cleaned.CineRate, cleaned.NumberOfFrames) == (40, 25, 5)
    assert cleaned.SequenceOfUltrasoundRegions == pydicom.dcmread(cine.path).SequenceOfUltrasoundRegions
    assert (cleaned.Modality, cleaned.BurnedInAnnotation) == ("US", "NO")
    assert "inpainted, not for measurement" in cleaned.DerivationDescription.lower()
    assert "inpainted, not for measurement" in cleaned.SeriesDescription
    assert cleaned.DerivationCodeSequence[0].CodeValue == "113047"
    assert cleaned.SyntheticData == "YES"
    purposes = [e.PurposeOfReferenceCodeSequence[0].CodeValue for e in cleaned.ContributingEquipmentSequence]
    assert purposes.count("109103") == 1
    assert "109102" in purposes
    assert "PatientIdentityRemoved" not in cleaned


def test_a_cleaned_grey_image_stays_grey_with_its_depth_and_sign(tmp_path: Path) -> None:
    pixels = (grey_image().astype(np.int16) - 2048).astype(np.int16)
    dx = source(write_image(tmp_path / "dx.dcm", DX, pixels, PixelSpacing=[0.14, 0.14], RescaleSlope=0.5))
    image = DerivedImage(ImageKind.CLEANED, dx.image.uid, pixels, "MONOCHROME2", "x", verified=True)
    untouched = DerivedImage(
        ImageKind.MASK, dx.image.uid, np.zeros((256, 224), np.uint8), "MONOCHROME2", "mask"
    )
    cleaned = one(ResultKind.CLEANED, context(), dx, PipelineResult(images=(image, untouched)))
    assert np.array_equal(cleaned.pixel_array, pixels)
    assert (cleaned.BitsStored, cleaned.PixelRepresentation, cleaned.RescaleSlope) == (12, 1, 0.5)
    assert (cleaned.WindowCenter, list(cleaned.PixelSpacing)) == (2048, [0.14, 0.14])


def test_calibration_is_kept_only_where_nothing_was_filled(tmp_path: Path) -> None:
    left, right, beyond = (Dataset() for _ in range(3))
    for region, x0, x1, y1 in ((left, 0, 79, 119), (right, 80, 159, 119), (beyond, 0, 159, 576)):
        region.RegionLocationMinX0, region.RegionLocationMinY0 = x0, 0
        region.RegionLocationMaxX1, region.RegionLocationMaxY1 = x1, y1
    given = {"SequenceOfUltrasoundRegions": [left, right, beyond], "PixelSpacing": [0.2, 0.1]}
    us = source(write_image(tmp_path / "us.dcm", US, speckle(), **given))
    image = DerivedImage(ImageKind.CLEANED, us.image.uid, speckle(), "RGB", "x", verified=True)
    mask = np.zeros((120, 160), np.uint8)
    mask[100, 81] = 255
    masked = DerivedImage(ImageKind.MASK, us.image.uid, mask, "MONOCHROME2", "mask")
    cleaned = one(ResultKind.CLEANED, context(), us, PipelineResult(images=(image, masked)))
    assert list(cleaned.SequenceOfUltrasoundRegions) == [left]
    assert "PixelSpacing" not in cleaned
    assert list(cleaned.PixelAspectRatio) == [2, 1]
    unknown = one(ResultKind.CLEANED, context(), us, PipelineResult(images=(image,)))
    assert "SequenceOfUltrasoundRegions" not in unknown


@pytest.mark.parametrize("kind", list(ResultKind))
def test_the_warning_of_a_series_is_whole_whatever_the_pipeline_is_called(kind: ResultKind) -> None:
    said = series_description(context(pipeline="a_pipeline_with_a_name_that_goes_on_and_on"), kind)
    assert len(said) <= 64
    warning = "inpainted, not for measurement" if kind is ResultKind.CLEANED else "not for diagnostic use"
    assert f" - {warning} - a_" in said


def test_a_cleaned_image_takes_the_place_of_an_empty_picture(tmp_path: Path) -> None:
    us = source(write_image(tmp_path / "us.dcm", US, speckle()))
    image = DerivedImage(ImageKind.CLEANED, us.image.uid, speckle(), "RGB", "x", verified=True)
    kinds = {o.kind for o in results.build(context(), [us], PipelineResult(images=(image,)))}
    pages = {ResultKind.SUMMARY, ResultKind.PDF}
    assert kinds == pages | {ResultKind.SR, ResultKind.GSPS, ResultKind.CLEANED}


def test_what_was_lossy_is_said_to_be_lossy(tmp_path: Path) -> None:
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": 12.5}
    lossy["LossyImageCompressionMethod"] = "ISO_10918_1"
    us = source(write_image(tmp_path / "us.dcm", US, speckle(), **lossy))
    image = DerivedImage(ImageKind.CLEANED, us.image.uid, speckle(), "RGB", "x", verified=True)
    result = PipelineResult(images=(image,), findings=(finding(NODULE, 0.5, us.image.uid, (9, 9, 40, 40)),))
    for kind in (ResultKind.CLEANED, ResultKind.SC):
        picture = one(kind, context(), us, result)
        assert {word: picture.get(word) for word in lossy} == lossy


def test_a_de_identified_source_does_not_make_us_claim_de_identification(tmp_path: Path) -> None:
    us = source(write_image(tmp_path / "us.dcm", US, speckle(), PatientIdentityRemoved="YES"))
    made = [read_result(built) for built in results.build(context(), [us], PipelineResult())]
    assert made
    assert [ds for ds in made if "PatientIdentityRemoved" in ds] == []


def test_a_mask_becomes_a_segmentation_and_an_empty_one_nothing(cine: SourceObject) -> None:
    mask = np.zeros((5, 120, 160), np.uint8)
    image = DerivedImage(ImageKind.MASK, cine.image.uid, mask, "MONOCHROME2", "mask")
    kinds = [ResultKind.SEG]
    assert results.build(context(kinds=kinds), [cine], PipelineResult(images=(image,))) == []
    mask[1, 5:20, 5:60] = 255
    seg = one(ResultKind.SEG, context(kinds=kinds), cine, PipelineResult(images=(image,)))
    assert np.array_equal(seg.pixel_array, mask[1] > 0)
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"


def test_a_heat_map_is_a_picture_of_its_own(cr: SourceObject) -> None:
    heat = Heatmap(np.ones((256, 224), np.float32), "class activation")
    result = found(finding(CARDIOMEGALY, 0.8, cr.image.uid, BOX, evidence=heat))
    picture = one(ResultKind.HEATMAP, context(), cr, result)
    assert picture.SeriesNumber == 9004
    assert "class activation" in picture.DerivationDescription
    assert (picture.Rows, picture.Columns) > (256, 224), "words stand below the picture"
