"""The obstetric report (TID 5000): its biometry groups, the gestational age, and when there is one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import Measurement, PipelineResult
from ai_pipeline.fetal_head import biometry
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.build import build
from dicom_node.results.source import SourceObject
from tests.result_images import UNCALIBRATED, US, context, source, write_image
from tests.result_reading import code_of, named, of_type, read_result
from tests.unit.heads import HEAD, drawn_head
from tests.validators import dciodvfy_errors

WANTED = context(UNCALIBRATED, kinds=[ResultKind.OBSTETRIC], pipeline="fetal_head")


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> SourceObject:
    pixels = np.repeat(drawn_head()[0][..., None], 3, axis=-1)
    return source(write_image(tmp_path_factory.mktemp("head") / "head.dcm", US, pixels))


def measured(
    frame: SourceObject, spacing: tuple[float, float] | None = (0.5, 0.5), fetus: str = "1"
) -> tuple[Measurement, ...]:
    uid, header = frame.image.uid, frame.image.header
    return biometry.measurements(uid, header, HEAD, spacing, UNCALIBRATED, fetus)


def reports(frame: SourceObject, measurements: Sequence[Measurement]) -> list[Dataset]:
    result = PipelineResult(measurements=tuple(measurements), models=(UNCALIBRATED,))
    return [read_result(one) for one in build(WANTED, [frame], result)]


@pytest.fixture(scope="module")
def report(frame: SourceObject) -> Dataset:
    [found] = reports(frame, measured(frame))
    return found


def number(item: Dataset) -> tuple[float, str]:
    [value] = item.MeasuredValueSequence
    return float(value.NumericValue), str(value.MeasurementUnitsCodeSequence[0].CodeValue)


def test_the_report_has_a_biometry_group_for_each_measurement(frame: SourceObject, report: Dataset) -> None:
    assert code_of(report) == "125000"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "5000"
    [section] = [item for item in report.ContentSequence if code_of(item) == "125002"]
    groups = section.ContentSequence
    assert {code_of(group) for group in groups} == {"125005"}
    first = [(code_of(group.ContentSequence[0]), *number(group.ContentSequence[0])) for group in groups]
    assert first == [(one.quantity.value, one.value, "mm") for one in measured(frame)]
    assert [code for code, *_ in first] == ["11984-2", "11820-8", "11851-3"]


def test_each_number_has_its_line_on_the_image(frame: SourceObject, report: Dataset) -> None:
    lines = of_type(report, "SCOORD")
    assert len(lines) == 3
    for line in lines:
        [image] = line.ContentSequence[0].ReferencedSOPSequence
        assert image.ReferencedSOPInstanceUID == frame.image.uid


def test_the_biparietal_diameter_says_how_it_was_measured(report: Dataset) -> None:
    [diameter] = named(report, "11820-8")
    [method] = named(diameter, "370129005")
    assert method.ConceptCodeSequence[0].CodeMeaning == "From outer to outer edge of the skull"


def test_the_gestational_age_is_in_days_with_equation_and_two_standard_deviations(
    frame: SourceObject, report: Dataset
) -> None:
    [age] = named(report, "18185-9")
    centimetres = measured(frame)[0].value / 10
    weeks = 8.96 + 0.540 * centimetres + 0.0003 * centimetres**3
    assert number(age) == (round(7 * weeks), "d")
    [equation] = named(age, "121420")
    assert equation.RelationshipType == "INFERRED FROM"
    code = equation.ConceptCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("11932-1", "LN")
    [spread] = named(age, "121417")
    assert spread.RelationshipType == "HAS PROPERTIES"
    assert number(spread) == (round(7 * 2.98), "d")


@pytest.mark.parametrize(
    ("millimetres_a_pixel", "there"),
    [(0.03, False), (0.25, True), (0.7, False)],
    ids=["small", "usual", "big"],
)
def test_there_is_an_age_for_12_to_42_weeks_alone(
    frame: SourceObject, millimetres_a_pixel: float, there: bool
) -> None:
    [found] = reports(frame, measured(frame, (millimetres_a_pixel, millimetres_a_pixel)))
    assert bool(named(found, "18185-9")) is there


@pytest.mark.parametrize(
    "made",
    [
        lambda frame: measured(frame, None),
        lambda frame: [replace(one, model=None) for one in measured(frame)],
        lambda frame: [replace(one, fetus="") for one in measured(frame)],
        lambda _: [],
    ],
    ids=["in pixels", "read in the picture", "of no fetus", "nothing"],
)
def test_without_biometry_there_is_none(frame: SourceObject, made: Any) -> None:
    assert reports(frame, made(frame)) == []


@pytest.mark.parametrize(("fetuses", "sections"), [("1", [""]), ("AB", ["A", "B"])], ids=["one", "twins"])
def test_fetuses_are_named_where_there_are_several(
    frame: SourceObject, fetuses: str, sections: list[str]
) -> None:
    lines = [measured(frame, (0.5 + 0.01 * at, 0.5 + 0.01 * at), who) for at, who in enumerate(fetuses)]
    [found] = reports(frame, [one for of_fetus in lines for one in of_fetus])
    subjects = [[str(item.TextValue) for item in named(part, "121030")] for part in named(found, "125002")]
    assert subjects == [[name] if name else [] for name in sections]


@pytest.mark.debian("dicom3tools")
def test_dciodvfy_finds_no_error(frame: SourceObject, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    [built] = build(WANTED, [frame], PipelineResult(measurements=measured(frame), models=(UNCALIBRATED,)))
    path.write_bytes(built.data or b"")
    assert dciodvfy_errors(path) == []


def test_a_line_outside_of_its_image_is_no_measurement(frame: SourceObject) -> None:
    outside = replace(measured(frame)[1], lines=(((-20.0, 10.0), (-5.0, 10.0)),))
    with pytest.raises(ResultRefused, match="do not lie apart in its image"):
        reports(frame, [outside])
