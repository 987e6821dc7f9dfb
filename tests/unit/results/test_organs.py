"""Outlined organs as a Segmentation: coded segments, by the model that outlined them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import Code, DerivedImage, ImageKind, ModelRef, PipelineResult
from dicom_node import results
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import SourceObject
from tests.result_images import CR, context, grey_image, source, write_image
from tests.result_reading import read_result


@pytest.fixture
def cr(tmp_path: Path) -> SourceObject:
    return source(write_image(tmp_path / "cr.dcm", CR, grey_image()))


def segmentation(image: SourceObject, result: PipelineResult) -> Dataset:
    (built,) = results.build(context(kinds=[ResultKind.SEG]), [image], result)
    return read_result(built)


def test_outlined_organs_become_segments_with_their_codes_in_a_series_of_their_own(cr: SourceObject) -> None:
    rows, columns = cr.image.header.rows, cr.image.header.columns
    masks = np.zeros((2, rows, columns), np.uint8)
    masks[0, 50:90, 60:120], masks[1, 20:100, 110:200] = 255, 255
    organs = (Code("80891009", "SCT", "Heart"), Code("44029006", "SCT", "Left lung"))
    model = ModelRef("anatomy", "3", "e" * 64, "f" * 64)
    outlines = DerivedImage(
        ImageKind.ORGANS, cr.image.uid, masks, "MONOCHROME2", "", models=(model,), organs=organs
    )
    result = PipelineResult(images=(outlines,))
    seg = segmentation(cr, result)
    assert np.array_equal(seg.pixel_array, masks > 0)
    types = [item.SegmentedPropertyTypeCodeSequence[0].CodeValue for item in seg.SegmentSequence]
    assert types == ["80891009", "44029006"]
    for item in seg.SegmentSequence:
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
        assert item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "anatomy"
        assert item.SegmentLabel.startswith("AI ")
    assert len({item.TrackingUID for item in seg.SegmentSequence}) == 2
    assert seg.SeriesDescription == "AI outlines of organs - not for diagnostic use - chest_xray"
    removed = DerivedImage(ImageKind.MASK, cr.image.uid, masks[:1], "MONOCHROME2", "mask")
    both = results.build(context(kinds=[ResultKind.SEG]), [cr], PipelineResult(images=(outlines, removed)))
    assert len({item.series_instance_uid for item in both}) == len(both) == 2


def test_outlines_of_another_size_are_refused(cr: SourceObject) -> None:
    organs = (Code("80891009", "SCT", "Heart"),)
    masks = np.full((1, 8, 8), 255, np.uint8)
    outlines = DerivedImage(ImageKind.ORGANS, cr.image.uid, masks, "MONOCHROME2", "", organs=organs)
    with pytest.raises(ResultRefused, match="size of their image"):
        results.build(context(kinds=[ResultKind.SEG]), [cr], PipelineResult(images=(outlines,)))


def test_a_lesion_is_no_anatomical_structure(cr: SourceObject) -> None:
    masks = np.zeros((1, cr.image.header.rows, cr.image.header.columns), np.uint8)
    masks[0, 30:60, 30:60] = 255
    lesion = (Code("52988006", "SCT", "Lesion"),)
    outline = DerivedImage(ImageKind.ORGANS, cr.image.uid, masks, "MONOCHROME2", "", organs=lesion)
    (item,) = segmentation(cr, PipelineResult(images=(outline,))).SegmentSequence
    assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert item.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
