"""A length that was read from the image stands in the report with its two ends, for review."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from highdicom.sr import Comprehensive3DSR
from pydicom.dataset import Dataset

from ai_pipeline.burnin.decide.measurements import LENGTH, UNITS
from ai_pipeline.contract import Measurement, PipelineResult
from dicom_node import results
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import SourceObject, gate
from dicom_node.results.common.source import read_sources
from tests.result_images import (
    CALIBRATED,
    NODULE,
    US,
    US_MULTI_FRAME,
    context,
    finding,
    source,
    speckle,
    write_image,
)
from tests.result_reading import code_of, groups_of, named, of_type, read_result

CTX = context(CALIBRATED, kinds=[ResultKind.SR])


@pytest.fixture
def still(tmp_path: Path) -> SourceObject:
    return source(write_image(tmp_path / "us.dcm", US, speckle()))


def length(one: SourceObject, value: float = 2.31, frame: int | None = None) -> Measurement:
    line = ((10.5, 20.25), (90.0, 60.75))
    return Measurement(one.image.uid, "Length", LENGTH, value, UNITS["cm"], (line,), frame=frame)


def report(one: SourceObject, result: PipelineResult) -> Dataset:
    return read_result(results.build(CTX, [one], result)[0])


def test_a_measurement_is_a_group_with_its_number_and_its_line(still: SourceObject) -> None:
    read = report(still, PipelineResult(measurements=(length(still),)))
    [group] = groups_of(read)
    [number] = of_type(group, "NUM")
    assert code_of(number) == "410668003"
    value = number.MeasuredValueSequence[0]
    assert (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue) == (2.31, "cm")
    [line] = of_type(number, "SCOORD")
    assert line.GraphicType == "POLYLINE"
    assert list(line.GraphicData) == [10.5, 20.25, 90.0, 60.75]
    [image] = of_type(line, "IMAGE")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == still.image.uid


def test_it_says_where_it_comes_from_and_claims_no_probability(still: SourceObject) -> None:
    read = report(still, PipelineResult(measurements=(length(still),)))
    [group] = groups_of(read)
    said = [item.ConceptCodeSequence[0].CodeMeaning.lower() for item in of_type(group, "CODE")]
    assert "read from image, for review" in said
    assert not named(group, "111012")


def test_measurements_stand_behind_the_findings_and_have_tracking_uids_of_their_own(
    still: SourceObject,
) -> None:
    found = (finding(NODULE, 0.7, still.image.uid, (10, 10, 40, 40)),)
    read = report(still, PipelineResult(findings=found, measurements=(length(still), length(still, 1.2))))
    tracked = [str(item.UID) for item in named(read, "112040")]
    assert len(set(tracked)) == len(tracked) == 3
    assert [len(of_type(group, "SCOORD")) for group in groups_of(read)] == [1, 1, 1]
    assert len(Comprehensive3DSR.from_dataset(read).content.get_image_measurement_groups()) == 2


def test_a_measurement_of_a_cine_names_its_frame(tmp_path: Path) -> None:
    cine = source(write_image(tmp_path / "cine.dcm", US_MULTI_FRAME, speckle(frames=4)))
    read = report(cine, PipelineResult(measurements=(length(cine, frame=3),)))
    frames = [
        int(item.ReferencedSOPSequence[0].ReferencedFrameNumber)
        for group in groups_of(read)
        for item in of_type(group, "IMAGE")
    ]
    assert frames == [3, 3]


def test_without_measurements_the_report_is_as_it_was(still: SourceObject) -> None:
    assert not of_type(report(still, PipelineResult()), "SCOORD")


def test_impossible_measurements_do_not_leave(still: SourceObject) -> None:
    good = length(still)
    for wrong in (
        replace(good, source_uid="1.2.3"),
        replace(good, frame=2),
        replace(good, lines=(((10.0, 10.0), (9000.0, 10.0)),)),
        replace(good, lines=(((10.0, 10.0), (10.0 + 1e-9, 10.0)),)),
    ):
        with pytest.raises(ResultRefused):
            results.build(CTX, [still], PipelineResult(measurements=(wrong,)))


@pytest.mark.parametrize("graphic", [[1, 1, 1, 1], [1, 1, 5, 5, 1, 1], [1, 1, 5], [1, 1, 9000, 5]])
def test_the_gate_takes_no_other_graphic_for_a_length(still: SourceObject, graphic: list[float]) -> None:
    read = report(still, PipelineResult(measurements=(length(still),)))
    [line] = of_type(read, "SCOORD")
    line.GraphicData = graphic
    buffer = io.BytesIO()
    with quiet_pydicom():
        read.save_as(buffer)
    with pytest.raises(ResultRefused, match=r"an open line|reaches out of its image"):
        gate.check(buffer.getvalue(), read, CTX, ResultKind.SR, read_sources([still]))
