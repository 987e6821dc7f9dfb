"""A cleaned image that a pipeline processed further: a series of its own that says so, never unverified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import DerivedImage, ImageKind, ModelRef, PipelineResult
from ai_pipeline.despeckle.despeckler import DESPECKLED
from dicom_node import results
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import SourceObject
from tests.result_images import US, US_MULTI_FRAME, context, source, write_image
from tests.result_reading import read_result

OURS = ModelRef("despeckle", "7", "a" * 64, "b" * 64)
CTX = context(kinds=[ResultKind.CLEANED])


@pytest.fixture(params=[1, 3])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> SourceObject:
    frames = np.random.default_rng(1).integers(0, 255, (request.param, 60, 80)).astype(np.uint8)
    one = request.param == 1
    more = {} if one else {"FrameTime": "40"}
    pixels = frames[0] if one else frames
    return source(write_image(tmp_path / "us.dcm", US if one else US_MULTI_FRAME, pixels, **more))


def result_of(image: SourceObject, *, verified: bool = True) -> PipelineResult:
    uid, count = image.image.uid, image.image.header.frames
    frames = np.stack([image.image.stored(number) for number in range(count)])
    cleaned = DerivedImage(ImageKind.CLEANED, uid, frames, "MONOCHROME2", "text", verified=True)
    less = replace(
        cleaned,
        kind=ImageKind.PROCESSED,
        processing=DESPECKLED,
        frames=frames // 2,
        models=(OURS,),
        verified=verified,
    )
    return PipelineResult(images=(cleaned, replace(less, description="speckle of the cleaned image reduced")))


def objects(image: SourceObject) -> tuple[Dataset, Dataset]:
    cleaned, less = map(read_result, results.build(CTX, [image], result_of(image)))
    return cleaned, less


def test_it_is_a_series_of_its_own_with_the_frames_and_says_by_what_it_was_made(image: SourceObject) -> None:
    cleaned, less = objects(image)

    assert less.SeriesInstanceUID != cleaned.SeriesInstanceUID
    assert less.SOPInstanceUID != cleaned.SOPInstanceUID
    assert less.SOPClassUID == cleaned.SOPClassUID
    assert np.array_equal(less.pixel_array, cleaned.pixel_array // 2)
    assert "less speckle" in less.SeriesDescription
    assert "speckle of the cleaned image reduced by model despeckle version 7" in less.DerivationDescription
    assert "not for diagnostic use" in less.DerivationDescription
    assert {item.CodeValue for item in less.DerivationCodeSequence} == {"113047", "113087"}
    assert (less.SyntheticData, less.BurnedInAnnotation) == ("YES", "NO")
    assert less.SourceImageSequence[0].ReferencedSOPInstanceUID == image.image.uid


def test_an_unverified_one_stays_here(image: SourceObject) -> None:
    with pytest.raises(ResultRefused, match="not verified"):
        results.build(CTX, [image], result_of(image, verified=False))
