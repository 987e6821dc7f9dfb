"""Overlay planes of a source never reach a result: they may say a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits

from ai_pipeline.contract import DerivedImage, ImageKind, PipelineResult
from dicom_node import results
from dicom_node.model.kinds import ResultKind
from tests.result_images import (
    DX,
    NODULE,
    US,
    US_MULTI_FRAME,
    context,
    finding,
    grey_image,
    source,
    speckle,
    write_image,
)
from tests.result_reading import read_result

DRAWN = {"cr": (DX, 0), "us": (US, 0), "cine": (US_MULTI_FRAME, 3)}


def write_with_overlays(path: Path, sop_class: str, frames: int) -> Path:
    pixels = grey_image() if sop_class == DX else speckle(frames=frames)
    write_image(path, sop_class, pixels)
    dataset = pydicom.dcmread(path)
    for group in (0x6000, 0x6002, 0x50FE, 0x60FE):
        drawn = np.ones((dataset.Rows, dataset.Columns), np.uint8)
        dataset.add_new((group, 0x0010), "US", dataset.Rows)
        dataset.add_new((group, 0x0011), "US", dataset.Columns)
        dataset.add_new((group, 0x0022), "LO", "Secret^Name")
        dataset.add_new((group, 0x3000), "OW", pack_bits(drawn.ravel()))
    dataset.save_as(path)
    return path


def groups(dataset: Dataset) -> set[int]:
    """Groups of the attributes, but for Overlay Activation (60xx,1001): it names a layer and has no pixel."""
    found = {element.tag.group for element in dataset if element.tag.element != 0x1001}
    for element in dataset:
        if element.VR == "SQ":
            found |= {group for item in element.value for group in groups(item)}
    return found


@pytest.mark.parametrize("kind", DRAWN)
def test_no_result_carries_a_group_of_overlays_or_curves(tmp_path: Path, kind: str) -> None:
    sop_class, frames = DRAWN[kind]
    given = source(write_with_overlays(tmp_path / f"{kind}.dcm", sop_class, frames))
    assert groups(pydicom.dcmread(given.path)) >= {0x6000, 0x6002, 0x50FE, 0x60FE}
    samples = np.stack([given.image.stored(index) for index in range(max(frames, 1))])
    mask = np.zeros(samples.shape[:3], np.uint8)
    mask[:, 10:20, 10:60] = 255
    photometric = "MONOCHROME2" if sop_class == DX else "RGB"
    uid = given.image.uid
    images = (
        DerivedImage(ImageKind.CLEANED, uid, samples, photometric, "x", verified=True),
        DerivedImage(ImageKind.MASK, uid, mask, "MONOCHROME2", "x"),
    )
    found = finding(NODULE, 0.5, uid, (9, 9, 40, 40), frame=1 if frames else None)
    built = results.build(context(), [given], PipelineResult(findings=(found,), images=images))

    kinds = {each.kind for each in built}
    assert {ResultKind.SR, ResultKind.GSPS, ResultKind.SC, ResultKind.CLEANED, ResultKind.SEG} <= kinds
    for each in built:
        found_groups = groups(read_result(each))
        assert not any(group & 0xFF00 in {0x5000, 0x6000} for group in found_groups), each.kind
