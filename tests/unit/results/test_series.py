"""What results say of their series: its request, begin, number, body part and side (PS3.3 C.7.3.1)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import Code, DerivedImage, ImageKind, PipelineResult
from dicom_node import results
from dicom_node.results import ResultContext, SourceObject
from tests.result_images import (
    ANALYSED_AT,
    CALIBRATED,
    CARDIOMEGALY,
    CR,
    US,
    context,
    finding,
    grey_image,
    source,
    speckle,
    write_image,
)
from tests.result_reading import read_result


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def request() -> Dataset:
    item = Dataset()
    item.AccessionNumber, item.StudyInstanceUID = "A1", "1.2.3.4"
    item.RequestedProcedureID, item.ScheduledProcedureStepID = "RP7", "SPS3"
    item.RequestedProcedureCodeSequence = [code("36643-5", "LN", "XR Chest 2 Views")]
    item.RequestedProcedureDescription = ""
    item.add_new((0x0041, 0x0010), "LO", "PRIVATE")
    return item


def all_of(one: SourceObject, ctx: ResultContext | None = None) -> list[Dataset]:
    """Every kind of result on this image, the series of outlines and of removed text among them."""
    header, uid = one.image.header, one.image.uid
    pixels = one.image.stored(0)
    mask = np.zeros((header.rows, header.columns), np.uint8)
    mask[5:20, 5:60] = 255
    photometric: Any = "RGB" if pixels.ndim == 3 else header.photometric
    images = (
        DerivedImage(ImageKind.CLEANED, uid, pixels, photometric, "filled", verified=True),
        DerivedImage(ImageKind.MASK, uid, mask, "MONOCHROME2", "mask"),
        DerivedImage(
            ImageKind.ORGANS,
            uid,
            mask[None],
            "MONOCHROME2",
            "outline",
            organs=(Code("80891009", "SCT", "Heart"),),
            models=(CALIBRATED,),
        ),
    )
    found = finding(CARDIOMEGALY, 0.8, uid, (20, 30, 60, 90))
    made = results.build(ctx or context(), [one], PipelineResult(findings=(found,), images=images))
    return [read_result(item) for item in made]


def film(folder: Path, **attributes: Any) -> SourceObject:
    return source(write_image(folder / "cr.dcm", CR, grey_image(), **attributes))


def test_results_answer_the_request_of_their_source(tmp_path: Path) -> None:
    for made in all_of(film(tmp_path, RequestAttributesSequence=[request()])):
        if made.Modality == "SR":
            assert made.ReferencedRequestSequence[0].RequestedProcedureID == "RP7"
            assert "RequestAttributesSequence" not in made
            continue
        (item,) = made.RequestAttributesSequence
        assert (item.AccessionNumber, item.RequestedProcedureID) == ("A1", "RP7")
        assert item.ScheduledProcedureStepID == "SPS3"
        assert item.RequestedProcedureCodeSequence[0].CodeValue == "36643-5"
        assert "RequestedProcedureDescription" not in item, "no value"
        assert not any(element.tag.is_private for element in item)


def test_without_a_request_none_is_invented(tmp_path: Path) -> None:
    for made in all_of(film(tmp_path)):
        assert "RequestAttributesSequence" not in made


def test_a_series_began_with_the_first_analysis_in_it(tmp_path: Path) -> None:
    one = film(tmp_path)
    assert {(made.SeriesDate, made.SeriesTime) for made in all_of(one)} == {("20250102", "111630.000000")}
    later = replace(
        context(), analysed_at=datetime(2025, 3, 4, tzinfo=UTC), series_began=lambda _: ANALYSED_AT
    )
    for made in all_of(one, later):
        assert made.SeriesDate == "20250102"
        assert made.InstanceCreationDate == "20250304" or made.Modality == "PR"


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
        ({"AnatomicRegionSequence": [code("51185008", "SCT", "Chest")]}, "CHEST", None),
        ({"AnatomicRegionSequence": [code("XYZ", "99LOCAL", "Somewhere")]}, None, ""),
    ],
)
def test_the_side_is_that_of_the_source_where_the_part_has_one(
    tmp_path: Path, attributes: dict[str, Any], part: str | None, side: str | None
) -> None:
    given = {"BodyPartExamined": None, **attributes}
    for made in all_of(film(tmp_path, **given)):
        if made.Modality in ("SR", "SEG", "DOC"):
            assert "Laterality" not in made
        else:
            assert made.get("Laterality") == side
            assert made.get("BodyPartExamined") == part


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
    one = source(write_image(tmp_path / "us.dcm", US, speckle(), **attributes))
    for made in all_of(one):
        if "PixelData" in made and made.SeriesNumber in (
            9003,
            9005,
        ):  # not a page
            found = made.get("PixelAspectRatio")
            assert (None if found is None else list(map(int, found))) == written
