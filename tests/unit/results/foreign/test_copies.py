"""Images that only repeat what the program got, under another name, syntax or rescale (gate.md 39)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, generate_uid

from dicom_node.results.foreign.candidate import Readers
from dicom_node.results.foreign.given import GivenInstance
from dicom_node.results.foreign.verdict import Verdict
from tests.modality import assign, data_set
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import (
    COLUMNS,
    ROWS,
    ct_slice,
    ct_study,
    derived_slice,
    part10,
    said,
    verdict_on,
    with_meta,
)

COPY = "it is a copy"
SOURCE = np.frombuffer(ct_slice(2).PixelData, "<u2").astype(np.int32)
SILENT = Readers(lambda _picture: [])


def compressed(dataset: Dataset) -> Dataset:
    """The image in RLE, without loss."""
    dataset.compress(RLELossless, generate_instance_uid=False)
    return dataset


def rescaled(slope: float, intercept: float) -> Dataset:
    """The second slice in the values that it means, stored by another rescale."""
    meant = SOURCE - 1024
    stored = np.rint((meant - intercept) / slope).astype("<i2")
    return derived_slice(
        PixelData=stored.tobytes(), RescaleSlope=slope, RescaleIntercept=intercept, PixelRepresentation=1,
        BitsStored=16, HighBit=15,
    )  # fmt: skip


def cine_of_inputs() -> Dataset:
    """A secondary capture of many frames, each the samples of a slice."""
    wrote = makers.picture(np.zeros((ROWS, COLUMNS, 3), np.uint8))
    del wrote.PlanarConfiguration
    assign(
        wrote, SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3", SamplesPerPixel=1, BitsAllocated=16, BitsStored=12,
        HighBit=11, PhotometricInterpretation="MONOCHROME2", NumberOfFrames=2, FrameTime=100,
        FrameIncrementPointer=0x00181063, PresentationLUTShape="IDENTITY", RescaleSlope=1,
        RescaleIntercept=-1024, RescaleType="HU",
        PixelData=b"".join(ct_slice(number).PixelData for number in (3, 1)),
    )  # fmt: skip
    return with_meta(wrote)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: derived_slice(PixelData=ct_slice(1).PixelData), id="renamed"),
        pytest.param(lambda: compressed(derived_slice(PixelData=ct_slice(2).PixelData)), id="compressed"),
        pytest.param(lambda: rescaled(1.0, -3024.0), id="other intercept"),
        pytest.param(lambda: rescaled(0.5, 0.0), id="other slope"),
        pytest.param(lambda: rescaled(4.0, -1000.0), id="rounded to coarser steps"),
        pytest.param(cine_of_inputs, id="all frames"),
    ],
)
def test_an_image_that_repeats_an_input_is_refused(make: Callable[[], Dataset]) -> None:
    found = verdict_on(make(), readers=SILENT)
    assert found.verdict is Verdict.REFUSED
    assert COPY in said(found)


def one_pixel_more() -> Dataset:
    """The second slice with one changed sample, away from those that are compared first."""
    changed = SOURCE.astype("<u2")
    changed[1] += 1
    return derived_slice(PixelData=changed.tobytes())


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(one_pixel_more, id="one sample"),
        pytest.param(lambda: derived_slice(PixelData=ct_slice(2).PixelData, RescaleSlope=2), id="other unit"),
    ],
)
def test_an_image_that_says_something_else_goes(make: Callable[[], Dataset]) -> None:
    found = verdict_on(make())
    assert found.verdict is Verdict.GOES, said(found)


def test_a_copy_of_a_compressed_input_is_refused(tmp_path: Path) -> None:
    received = compressed(ct_slice(1))
    path = tmp_path / "1.dcm"
    path.write_bytes(part10(received))
    given = GivenInstance.read(path)
    study = ct_study([ct_slice(1)], given={given.uid: given})
    found = verdict_on(derived_slice(PixelData=ct_slice(1).PixelData), study)
    assert COPY in said(found)


def test_an_image_that_does_not_decode_is_not_compared() -> None:
    broken = compressed(derived_slice())
    broken.PixelData = broken.PixelData[:60] + b"\0" * (len(broken.PixelData) - 60)
    found = verdict_on(broken, readers=SILENT)
    assert "not compared" in said(found)


def test_the_text_in_a_compressed_picture_is_read() -> None:
    seen: list[tuple[int, ...]] = []

    def read(picture: np.ndarray) -> list[str]:
        seen.append(picture.shape)
        return ["Name: MILLER, PAUL"]

    wrote = compressed(makers.picture())
    found = verdict_on(wrote, readers=Readers(read))
    assert seen == [(48, 64, 3)]
    assert "labelled name" in said(found)
    assert verdict_on(compressed(makers.picture(SOPInstanceUID=generate_uid())), readers=SILENT).verdict is (
        Verdict.GOES
    )


def test_an_input_whose_tables_are_none_is_not_compared() -> None:
    """The fault is the input's, and no reason to refuse the program's image."""
    table = data_set(LUTDescriptor=[0, 0, 99], LUTData=b"\0\0", ModalityLUTType="HU")
    source = ct_slice(1, ModalityLUTSequence=[table])
    found = verdict_on(derived_slice(), ct_study([source]))
    assert found.verdict is Verdict.GOES, said(found)
