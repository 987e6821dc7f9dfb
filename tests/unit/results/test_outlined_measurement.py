"""A measurement along an outline: closed in report, state and picture; drawn on cleaned pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai_pipeline.contract import DerivedImage, Heatmap, ImageKind, PipelineResult
from ai_pipeline.fetal_head.biometry import HEAD_CIRCUMFERENCE, measurements
from ai_pipeline.images.render import YELLOW
from dicom_node import results
from dicom_node.dicom.walk import items
from dicom_node.model.kinds import RejectionReason, ResultKind
from dicom_node.results import SourceObject
from tests.result_images import (
    ANALYSED_AT,
    INSTALLATION,
    NODULE,
    UNCALIBRATED,
    US,
    context,
    finding,
    source,
    write_image,
)
from tests.result_reading import code_of, groups_of, named, of_type, read_result
from tests.unit.ai_pipeline.phantoms import ArrayImage
from tests.unit.heads import HEAD, drawn_head

CTX = context(UNCALIBRATED, kinds=[ResultKind.SR, ResultKind.GSPS, ResultKind.SC])
WITH_MAPS = context(UNCALIBRATED, kinds=[ResultKind.HEATMAP])
NAME = (slice(300, 330), slice(20, 120))
"""Where a bright name is burned into the drawn frame."""


@pytest.fixture
def frame(tmp_path: Path) -> SourceObject:
    pixels, _ = drawn_head()
    pixels[NAME] = 255
    return source(write_image(tmp_path / "us.dcm", US, pixels, BodyPartExamined="HEAD", Laterality=None))


def result_of(frame: SourceObject, *, cleaned: bool) -> PipelineResult:
    header, uid = frame.image.header, frame.image.uid
    taken = measurements(uid, header, HEAD, (0.2, 0.2), UNCALIBRATED, "1")
    pixels = frame.image.stored(0).copy()
    pixels[NAME] = 0
    picture = DerivedImage(ImageKind.CLEANED, uid, pixels[None], "MONOCHROME2", "text", verified=True)
    return PipelineResult(
        images=(picture,) if cleaned else (), measurements=taken, models=(UNCALIBRATED,), drawn_on="cleaned"
    )


def built(frame: SourceObject, *, cleaned: bool = True) -> dict[str, Dataset]:
    """Report, presentation state and picture by their kinds."""
    objects = results.build(CTX, [frame], result_of(frame, cleaned=cleaned))
    return {one.kind.value: read_result(one) for one in objects}


def report_of(frame: SourceObject, result: PipelineResult) -> Dataset:
    (report,) = results.build(context(UNCALIBRATED, kinds=[ResultKind.SR]), [frame], result)
    return read_result(report)


def test_the_report_has_lengths_by_loinc_each_with_its_line_the_circumference_with_the_outline(
    frame: SourceObject,
) -> None:
    report = built(frame)["sr"]
    found = {code: named(report, code) for code in ("11984-2", "11820-8", "11851-3")}
    assert {code: len(one) for code, one in found.items()} == {"11984-2": 1, "11820-8": 1, "11851-3": 1}
    [circumference] = found["11984-2"]
    value = circumference.MeasuredValueSequence[0]
    assert float(value.NumericValue) == pytest.approx(HEAD.circumference * 0.2, abs=0.06)
    assert value.MeasurementUnitsCodeSequence[0].CodeValue == "mm"
    assert circumference.ConceptNameCodeSequence[0].CodingSchemeDesignator == "LN"
    [outline] = circumference.ContentSequence
    points = np.reshape(outline.GraphicData, (-1, 2))
    assert (outline.GraphicType, len(points)) == ("POLYLINE", 73)
    assert (points[0] == points[-1]).all()
    assert np.allclose(points[:-1], HEAD.polygon(), atol=0.01)


def test_the_report_says_that_nothing_else_was_assessed(frame: SourceObject) -> None:
    report = built(frame)["sr"]
    answers = [item.ConceptCodeSequence[0].CodeValue for item in of_type(report, "CODE")]
    texts = [str(item.TextValue) for item in of_type(report, "TEXT")]
    assert "MEASURED" in answers
    assert "NOTASSESSED" not in answers
    assert any(text.startswith("AI: Head circumference ") for text in texts)
    assert not any("nothing stated" in text or "does not assess" in text for text in texts)


def test_the_presentation_state_has_the_outline_as_one_closed_line_under_the_same_tracking_uid(
    frame: SourceObject,
) -> None:
    objects = built(frame)
    drawn = [item for item in items(objects["gsps"]) if item.get("GraphicType") == "INTERPOLATED"]
    [outline] = [item for item in drawn if item.NumberOfGraphicPoints == 73]
    assert outline.GraphicFilled == "N"
    assert list(outline.GraphicData[:2]) == list(outline.GraphicData[-2:])
    uids = {str(item.UID) for item in of_type(objects["sr"], "UIDREF")}
    assert outline.TrackingUID in uids
    said = [item.UnformattedTextValue for item in items(objects["gsps"]) if "UnformattedTextValue" in item]
    assert any(text.startswith("AI: Head circumference ") for text in said)
    assert not any("nothing stated" in text for text in said)


def test_the_picture_shows_the_outline_on_cleaned_pixels_and_no_name(frame: SourceObject) -> None:
    pixels = built(frame)["sc"].pixel_array
    yellow = (pixels == YELLOW).all(axis=-1)
    assert all(yellow[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].any() for x, y in HEAD.polygon())
    assert (frame.image.display(0)[NAME] == 255).all()
    assert (pixels[NAME] == 0).all()


def test_without_a_cleaned_image_there_is_no_picture_but_the_report(frame: SourceObject) -> None:
    assert set(built(frame, cleaned=False)) == {"sr", "gsps"}


def test_an_unverified_cleaned_image_is_not_drawn_on(frame: SourceObject) -> None:
    found = result_of(frame, cleaned=True)
    [image] = found.images
    unverified = PipelineResult(
        images=(replace(image, verified=False),),
        measurements=found.measurements,
        drawn_on="cleaned",
    )
    assert {one.kind for one in results.build(CTX, [frame], unverified)} == {ResultKind.SR, ResultKind.GSPS}


def test_a_heat_map_lies_on_cleaned_pixels_too(frame: SourceObject) -> None:
    rows, columns = frame.image.display(0).shape[:2]
    heat = Heatmap(np.zeros((rows, columns), np.float32), "class activation")
    says = finding(NODULE, 0.9, frame.image.uid, model=UNCALIBRATED, evidence=heat)
    for cleaned in (True, False):
        result = replace(result_of(frame, cleaned=cleaned), findings=(says,))
        maps = [one for one in results.build(WITH_MAPS, [frame], result) if one.kind is ResultKind.HEATMAP]
        assert len(maps) == cleaned, "there is none where there is nothing that it may be drawn on"
        for one in maps:
            picture = read_result(one)
            assert picture.SyntheticData == "YES"
            shown, bare = (picture.pixel_array[NAME], frame.image.display(0)[NAME])
            assert (bare == 255).all()
            assert (shown < 200).any(axis=-1).all()


def test_the_codes_are_those_of_fetal_biometry() -> None:
    assert HEAD_CIRCUMFERENCE.value == codes.LN.HeadCircumference.value
    taken = measurements("1.2.3", ArrayImage(drawn_head()[0][None]).header, HEAD, None, UNCALIBRATED, "1")
    known = {str(code.value) for code in codes.CID12005.concepts.values()}
    assert {one.quantity.value for one in taken} <= known


def subjects(dataset: Dataset) -> list[list[str]]:
    """Subject context of the document, then of each measurement group: class and ID."""
    return [
        [
            item.ConceptCodeSequence[0].CodeValue if item.ValueType == "CODE" else str(item.TextValue)
            for item in place.ContentSequence
            if code_of(item) in {"121024", "121030"}
        ]
        for place in (dataset, *groups_of(dataset))
    ]


def test_the_subject_of_a_fetal_measurement_is_the_fetus(frame: SourceObject) -> None:
    """PS3.16 TID 1006 and TID 1008; 121026 is Fetus. Without it the mother's head was measured."""
    report = built(frame)["sr"]
    assert subjects(report) == [["121026", "1"]] * 4
    assert report.PatientName == "Test^US"


def test_of_several_fetuses_each_group_names_its_own_and_the_document_none(frame: SourceObject) -> None:
    result = result_of(frame, cleaned=False)
    first, second, third = result.measurements
    both = replace(result, measurements=(replace(first, fetus="A"), replace(second, fetus="B")))
    assert subjects(report_of(frame, both)) == [[], ["121026", "A"], ["121026", "B"]]
    beside = replace(result, measurements=(first, replace(third, fetus="")))
    assert subjects(report_of(frame, beside)) == [[], ["121026", "1"], []]


def test_the_note_that_withdraws_a_report_on_a_fetus_has_the_fetus_as_subject(
    frame: SourceObject, tmp_path: Path
) -> None:
    path = tmp_path / "report.dcm"
    for fetus, wanted in (("B", ["121026", "B"]), ("", [])):
        result = result_of(frame, cleaned=False)
        of_it = replace(result, measurements=tuple(replace(one, fetus=fetus) for one in result.measurements))
        report_of(frame, of_it).save_as(path)
        note = (RejectionReason.QUALITY, "blurred", ANALYSED_AT, "AINODE", INSTALLATION)
        made = results.build_rejection([path], *note)
        assert subjects(read_result(made))[0] == wanted
