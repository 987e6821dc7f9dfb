"""What a model measured: the same lines and tracking UIDs in report, presentation state and picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.chest import ratio
from ai_pipeline.contract import Measurement, PipelineResult
from ai_pipeline.images.render import YELLOW
from dicom_node import results
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import SourceObject
from tests.result_images import CALIBRATED, DX, NODULE, context, finding, grey_image, source, write_image
from tests.result_reading import groups_of, named, read_result

CTX = context(CALIBRATED, kinds=[ResultKind.SR, ResultKind.GSPS, ResultKind.SC])
HEART = ((30.0, 60.0), (50.0, 60.0), (50.0, 70.0), (80.0, 70.0))
THORAX = ((10.0, 80.0), (50.0, 80.0), (50.0, 76.0), (102.0, 76.0))


@pytest.fixture
def film(tmp_path: Path) -> SourceObject:
    return source(write_image(tmp_path / "dx.dcm", DX, grey_image()))


def measured(uid: str) -> tuple[Measurement, ...]:
    mm = ratio.MILLIMETRES
    return (
        Measurement(
            uid,
            "Cardiothoracic ratio",
            ratio.CARDIOTHORACIC_RATIO,
            0.543,
            ratio.RATIO_UNIT,
            (HEART, THORAX),
            CALIBRATED,
            ratio.THORAX,
        ),
        Measurement(uid, "Heart width", ratio.WIDTH, 150.0, mm, (HEART,), CALIBRATED, ratio.HEART),
        Measurement(uid, "Thoracic width", ratio.WIDTH, 276.0, mm, (THORAX,), CALIBRATED, ratio.THORAX),
    )


def built(film: SourceObject) -> dict[str, Dataset]:
    """Report, presentation state and picture by Modality, with a box beside the lines."""
    box = finding(NODULE, 0.8, film.image.uid, (5, 5, 25, 25))
    found = PipelineResult(findings=(box,), measurements=measured(film.image.uid))
    read = map(read_result, results.build(CTX, [film], found))
    return {str(dataset.Modality): dataset for dataset in read}


def pairs(data: list[float]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(data[::2], data[1::2], strict=True))


def test_the_report_has_each_number_with_its_lines_its_site_and_its_model(film: SourceObject) -> None:
    report = built(film)["SR"]
    [number] = named(report, "CARDIOTHORACIC")
    assert float(number.MeasuredValueSequence[0].NumericValue) == 0.543
    drawn = [pairs(list(item.GraphicData)) for item in number.ContentSequence]
    assert drawn == [HEART, THORAX]
    widths = named(report, "103355008")
    assert [float(one.MeasuredValueSequence[0].NumericValue) for one in widths] == [150.0, 276.0]
    groups = [group for group in groups_of(report) if named(group, "103355008")]
    sites = [named(group, "363698007")[0].ConceptCodeSequence[0].CodeMeaning for group in groups]
    assert sites == ["Heart", "Chest"]
    assert all(str(named(group, "111001")[0].TextValue) == CALIBRATED.id for group in groups)


def test_the_conclusion_begins_with_the_first_numbers(film: SourceObject) -> None:
    [text] = named(built(film)["SR"], "121077")
    assert text.TextValue.startswith("AI: Cardiothoracic ratio 0.54. Heart width 150 mm.\r\n")


def test_the_presentation_state_has_the_same_lines_under_the_same_tracking_uids(film: SourceObject) -> None:
    objects = built(film)
    tracked = {
        str(named(group, "112039")[0].TextValue): str(named(group, "112040")[0].UID)
        for group in groups_of(objects["SR"])
    }
    graphics = [
        graphic
        for annotation in objects["PR"].GraphicAnnotationSequence
        for graphic in annotation.get("GraphicObjectSequence") or []
        if graphic.GraphicType == "INTERPOLATED"
    ]
    for identifier, line in (
        ("AI Heart width, image 1", HEART),
        ("AI Thoracic width, image 1", THORAX),
    ):
        mine = [graphic for graphic in graphics if graphic.TrackingUID == tracked[identifier]]
        pieces = [pairs(list(graphic.GraphicData)) for graphic in mine]
        assert pieces == [(line[place], line[place + 1]) for place in range(3)]
    texts = [
        text.UnformattedTextValue
        for annotation in objects["PR"].GraphicAnnotationSequence
        for text in annotation.get("TextObjectSequence") or []
    ]
    [words] = [text for text in texts if "\r\n" in text]
    assert words.split("\r\n") == [
        "AI: Cardiothoracic ratio 0.54. Heart width 150 mm.",
        "Suspected: nodule of lung.",
        "Thoracic width 276 mm",
    ]


def test_the_picture_shows_the_lines(film: SourceObject) -> None:
    pixels = built(film)["OT"].pixel_array
    yellow = (pixels == YELLOW).all(axis=-1)
    for line in (HEART, THORAX):
        rows, columns = (np.array([point[axis] for point in line], int) for axis in (1, 0))
        assert all(yellow[row, min(columns) + 3] or yellow[row, max(columns) - 3] for row in rows)


def test_lines_out_of_the_image_do_not_leave(film: SourceObject) -> None:
    outside = Measurement(
        film.image.uid,
        "Heart width",
        ratio.WIDTH,
        1.0,
        ratio.PIXELS,
        (((1.0, 1.0), (9000.0, 1.0)),),
        CALIBRATED,
    )
    with pytest.raises(ResultRefused):
        results.build(CTX, [film], PipelineResult(measurements=(outside,)))
