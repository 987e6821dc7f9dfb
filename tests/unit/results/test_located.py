"""Measurements and outlines at their places, in all results."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai_pipeline.contract import (
    Heatmap,
    PipelineResult,
)
from ai_pipeline.fetal_head import biometry
from ai_pipeline.images.render import YELLOW
from dicom_node.base.dicom.header import items, quiet_pydicom
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import RejectionReason, ResultKind
from dicom_node.results import gate
from dicom_node.results.build import build
from dicom_node.results.rejection import build_rejection
from dicom_node.results.source import SourceObject, read_sources
from tests.result_images import (
    ANALYSED_AT,
    DX,
    INSTALLATION,
    NODULE,
    UNCALIBRATED,
    US,
    context,
    finding,
    grey_image,
    source,
    without_text,
    write_image,
)
from tests.result_reading import code_of, groups_of, named, of_type, read_result
from tests.unit.ai_pipeline.phantoms import ArrayImage
from tests.unit.heads import HEAD, drawn_head
from tests.unit.results.report_lab import (
    CTX,
    HEART,
    ONLY_REPORT,
    THORAX,
    Faces,
    built,
    faces_of,
    length,
    lines_of,
    measured,
    report,
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    """Report, presentation state and picture, with a box beside the lines."""
    one = source(write_image(tmp_path_factory.mktemp("measured") / "dx.dcm", DX, grey_image()))
    box = finding(NODULE, 0.8, one.image.uid, (5, 5, 25, 25))
    return faces_of(one, box, measurements=measured(one.image.uid))


def pairs(data: list[float]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(data[::2], data[1::2], strict=True))


def test_the_presentation_state_has_the_same_lines_under_the_same_tracking_uids(
    faces: Faces,
) -> None:
    identifiers, uids = (named(faces[ResultKind.SR], code) for code in ("112039", "112040"))
    tracked = {str(name.TextValue): uid.UID for name, uid in zip(identifiers, uids, strict=True)}
    drawn = list(items(faces[ResultKind.GSPS]))
    for identifier, line in (("AI Heart width, image 1", HEART), ("AI Thoracic width, image 1", THORAX)):
        pieces = [
            pairs(list(graphic.GraphicData))
            for graphic in drawn
            if graphic.get("GraphicType") == "INTERPOLATED" and graphic.TrackingUID == tracked[identifier]
        ]
        assert pieces == [(line[place], line[place + 1]) for place in range(3)]
    assert lines_of(faces[ResultKind.GSPS]) == [
        "AI, not for diagnostic use: Cardiothoracic ratio 0.54. Heart width 150 mm.",
        "Suspected: nodule of lung. Thoracic width 276 mm",
    ]


def test_the_picture_shows_the_lines(faces: Faces) -> None:
    yellow = (faces[ResultKind.SC].pixel_array == YELLOW).all(axis=-1)
    for line in (HEART, THORAX):
        rows, columns = (np.array([point[axis] for point in line], int) for axis in (1, 0))
        assert all(yellow[row, min(columns) + 3] or yellow[row, max(columns) - 3] for row in rows)


def test_a_measurement_is_a_group_with_its_number_and_its_line_and_claims_no_probability(
    scan: SourceObject,
) -> None:
    [group] = groups_of(report(scan, measurements=(length(scan),)))
    [number] = of_type(group, "NUM")
    said = number.MeasuredValueSequence[0]
    unit = said.MeasurementUnitsCodeSequence[0].CodeValue
    assert (code_of(number), float(said.NumericValue), unit) == ("410668003", 2.31, "cm")
    [line] = of_type(number, "SCOORD")
    assert (line.GraphicType, list(line.GraphicData)) == ("POLYLINE", [10.5, 20.25, 90.0, 60.75])
    [image] = of_type(line, "IMAGE")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == scan.image.uid
    words = [item.ConceptCodeSequence[0].CodeMeaning.lower() for item in of_type(group, "CODE")]
    assert "read from image, for review" in words
    assert not named(group, "111012")


@pytest.mark.parametrize(
    "wrong",
    [
        {"source_uid": "1.2.3"},
        {"frame": 2},
        {"lines": (((10.0, 10.0), (9000.0, 10.0)),)},
        {"lines": (((10.0, 10.0), (10.0 + 1e-9, 10.0)),)},
    ],
    ids=["of another image", "in no frame", "beyond the image", "without length"],
)
def test_impossible_measurements_do_not_leave(scan: SourceObject, wrong: dict[str, Any]) -> None:
    with pytest.raises(ResultRefused):
        report(scan, measurements=(replace(length(scan), **wrong),))


@pytest.mark.parametrize("graphic", [[1, 1, 1, 1], [1, 1, 5, 5, 1, 1], [1, 1, 5], [1, 1, 9000, 5]])
def test_the_gate_takes_no_other_graphic_for_a_length(scan: SourceObject, graphic: list[float]) -> None:
    read = report(scan, measurements=(length(scan),))
    [line] = of_type(read, "SCOORD")
    line.GraphicData = graphic
    buffer = io.BytesIO()
    with quiet_pydicom():
        read.save_as(buffer)
    with pytest.raises(ResultRefused, match=r"an open line|reaches out of its image"):
        gate.check(buffer.getvalue(), read, ONLY_REPORT, ResultKind.SR, read_sources([scan]))


OUTLINED = replace(CTX, models=(UNCALIBRATED,))


NAME = (slice(300, 330), slice(20, 120))


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> SourceObject:
    pixels, _ = drawn_head()
    pixels[NAME] = 255
    path = tmp_path_factory.mktemp("head") / "us.dcm"
    return source(write_image(path, US, pixels, BodyPartExamined="HEAD", Laterality=None))


def result_of(frame: SourceObject, *, cleaned: bool) -> PipelineResult:
    header, uid = frame.image.header, frame.image.uid
    taken = biometry.measurements(uid, header, HEAD, (0.2, 0.2), UNCALIBRATED, "1")
    return PipelineResult(
        images=without_text(frame, (0, *NAME))[:cleaned],
        measurements=taken,
        models=(UNCALIBRATED,),
        drawn_on="cleaned",
    )


@pytest.fixture(scope="module")
def outlined(frame: SourceObject) -> Faces:
    """Report, presentation state and picture."""
    return built(OUTLINED, frame, result_of(frame, cleaned=True))


def test_the_picture_shows_the_outline_on_cleaned_pixels_and_no_name(
    frame: SourceObject, outlined: Faces
) -> None:
    pixels = outlined[ResultKind.SC].pixel_array
    yellow = (pixels == YELLOW).all(axis=-1)
    assert all(yellow[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].any() for x, y in HEAD.polygon())
    assert (frame.image.display(0)[NAME] == 255).all()
    assert (pixels[NAME] == 0).all()


def test_without_a_verified_cleaned_image_there_is_no_picture_but_the_report(frame: SourceObject) -> None:
    found = result_of(frame, cleaned=True)
    for images in ((), (replace(found.images[0], verified=False),)):
        made = build(OUTLINED, [frame], replace(found, images=images))
        assert {one.kind for one in made} == {ResultKind.SR, ResultKind.GSPS}


def test_a_heat_map_lies_on_cleaned_pixels_too(frame: SourceObject) -> None:
    bare = frame.image.display(0)
    heat = Heatmap(np.zeros(bare.shape[:2], np.float32), "class activation")
    says = finding(NODULE, 0.9, frame.image.uid, model=UNCALIBRATED, evidence=heat)
    with_none, cleaned = (
        built(
            context(UNCALIBRATED, kinds=[ResultKind.HEATMAP]),
            frame,
            replace(result_of(frame, cleaned=cleaned), findings=(says,)),
        )
        for cleaned in (False, True)
    )
    assert ResultKind.HEATMAP not in with_none, "nothing is there that it may be drawn on"
    picture = cleaned[ResultKind.HEATMAP]
    assert picture.SyntheticData == "YES"
    assert (bare[NAME] == 255).all()
    assert (picture.pixel_array[NAME] < 200).any(axis=-1).all()


def test_the_codes_are_those_of_fetal_biometry() -> None:
    assert biometry.HEAD_CIRCUMFERENCE.value == codes.LN.HeadCircumference.value
    taken = biometry.measurements(
        "1.2.3", ArrayImage(drawn_head()[0][None]).header, HEAD, None, UNCALIBRATED, "1"
    )
    known = {str(code.value) for code in codes.CID12005.concepts.values()}
    assert {one.quantity.value for one in taken} <= known


def report_on(frame: SourceObject, result: PipelineResult) -> Dataset:
    return built(replace(ONLY_REPORT, models=(UNCALIBRATED,)), frame, result)[ResultKind.SR]


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


def test_of_several_fetuses_each_group_names_its_own_and_the_document_none(frame: SourceObject) -> None:
    result = result_of(frame, cleaned=False)
    first, second, third = result.measurements
    both = replace(result, measurements=(replace(first, fetus="A"), replace(second, fetus="B")))
    assert subjects(report_on(frame, both)) == [[], ["121026", "A"], ["121026", "B"]]
    twins = replace(result, measurements=(replace(first, fetus="A"), replace(first, fetus="B")))
    assert subjects(report_on(frame, twins)) == [[], ["121026", "A"], ["121026", "B"]]
    beside = replace(result, measurements=(first, replace(third, fetus="")))
    assert subjects(report_on(frame, beside)) == [[], ["121026", "1"], []]


def test_the_note_that_withdraws_a_report_on_a_fetus_has_the_fetus_as_subject(
    frame: SourceObject, tmp_path: Path
) -> None:
    path = tmp_path / "report.dcm"
    for fetus, wanted in (("B", ["121026", "B"]), ("", [])):
        result = result_of(frame, cleaned=False)
        of_it = replace(result, measurements=tuple(replace(one, fetus=fetus) for one in result.measurements))
        report_on(frame, of_it).save_as(path)
        note = build_rejection(
            [path], RejectionReason.QUALITY, "blurred", ANALYSED_AT, "AINODE", INSTALLATION
        )
        assert subjects(read_result(note))[0] == wanted
