"""Segmentations of slides whose tiles no functional group describes: TILED_FULL (PS3.3 C.7.6.17.3)."""

from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.base.dicom.uids import derived_uid
from dicom_node.results.foreign.given import GivenStudy
from dicom_node.results.foreign.verdict import Verdict
from tests.modality import assign, data_set
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import (
    STORAGE,
    ct_slice,
    ct_study,
    said,
    verdict_on,
    with_meta,
)

TILE, WIDE, HIGH = 10, 30, 25


def slide() -> Dataset:
    """A slide of 3 × 3 tiles; the last row of tiles reaches over its edge."""
    source = ct_slice(1)
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleIntercept", "RescaleSlope",
        "KVP", "PatientPosition",
    ):  # fmt: skip
        del source[keyword]
    origin = data_set(XOffsetInSlideCoordinateSystem=5.0, YOffsetInSlideCoordinateSystem=7.0)
    measures = data_set(PixelSpacing=[0.5, 0.5], SliceThickness=0.1)
    assign(
        source, SOPClassUID=STORAGE + "77.1.6", SOPInstanceUID=derived_uid("foreign test", "slide"),
        Modality="SM", ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], Rows=TILE, Columns=TILE,
        SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8,
        BitsStored=8, HighBit=7, NumberOfFrames=9, DimensionOrganizationType="TILED_FULL",
        TotalPixelMatrixColumns=WIDE, TotalPixelMatrixRows=HIGH, TotalPixelMatrixFocalPlanes=1,
        TotalPixelMatrixOriginSequence=[origin], ImageOrientationSlide=[0, -1, 0, -1, 0, 0],
        ImagedVolumeWidth=15.0, ImagedVolumeHeight=12.5, ImagedVolumeDepth=1.0, NumberOfOpticalPaths=1,
        SharedFunctionalGroupsSequence=[data_set(PixelMeasuresSequence=[measures])],
        OpticalPathSequence=[data_set(OpticalPathIdentifier="1")], ContainerIdentifier="C-1",
        IssuerOfTheContainerIdentifierSequence=[], ContainerTypeCodeSequence=[], SpecimenDescriptionSequence=[
            data_set(SpecimenIdentifier="S-1", SpecimenUID="2.25.5", IssuerOfTheSpecimenIdentifierSequence=[],
                     SpecimenPreparationSequence=[])
        ],
        PixelData=bytes(TILE * TILE * 3 * 9),
    )  # fmt: skip
    return with_meta(source)


def study() -> GivenStudy:
    """The call of a program that got the slide."""
    return ct_study([slide()])


def mask_of_slide(**attributes: Any) -> Dataset:
    """Two segments on the whole slide, as highdicom writes them."""
    described = [
        hd.seg.SegmentDescription(
            number, label, codes.SCT.Organ, makers.LUNG, hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            makers.ALGORITHM,
        )
        for number, label in ((1, "Lung"), (2, "Other lung"))
    ]  # fmt: skip
    drawn = np.zeros((1, HIGH, WIDE), np.uint8)
    drawn[0, 3:9, 4:20], drawn[0, 12:20, 8:28] = 1, 2
    made = hd.seg.Segmentation(
        [slide()], drawn, hd.seg.SegmentationTypeValues.BINARY, described, tile_pixel_array=True,
        tile_size=(TILE, TILE), dimension_organization_type="TILED_FULL", omit_empty_frames=False,
        **makers.MAKER, **makers.uids(),
    )  # fmt: skip
    return makers.finish(made, **attributes)


def test_a_mask_of_a_slide_goes() -> None:
    wrote = mask_of_slide()
    assert "PerFrameFunctionalGroupsSequence" not in wrote
    found = verdict_on(wrote, study())
    assert found.verdict is Verdict.GOES, said(found)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param({"NumberOfFrames": 9}, "Number of Frames", id="one segment's tiles alone"),
        pytest.param({"TotalPixelMatrixRows": 0}, "how large a matrix", id="no matrix"),
        pytest.param({"ImageOrientationSlide": [0, 1, 0, -1, 0, 0]}, "do not cover", id="mirrored"),
        pytest.param(
            {
                "TotalPixelMatrixOriginSequence": [
                    data_set(XOffsetInSlideCoordinateSystem=5.0, YOffsetInSlideCoordinateSystem=9.0)
                ]
            },
            "do not cover",
            id="beside",
        ),
        pytest.param({"TotalPixelMatrixColumns": 22}, "do not cover", id="smaller"),
        pytest.param({"TotalPixelMatrixOriginSequence": []}, "where its frames lie", id="nowhere"),
    ],
)
def test_tiles_that_do_not_cover_their_slide_are_refused(values: dict[str, Any], reason: str) -> None:
    found = verdict_on(mask_of_slide(**values), study())
    assert found.verdict is Verdict.REFUSED
    assert reason in said(found)
