"""JPEG XL: what it declares, and what it decodes to."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from imagecodecs import jpegxl_encode, jpegxl_encode_jpeg

from ai_pipeline.errors import CodestreamFault, PixelError
from ai_pipeline.images.decode import DicomImage, open_dicom
from ai_pipeline.images.jpeg_xl import CODESTREAM, CONTAINER, declared
from tests.unit.ai_pipeline.images.images_lab import SOURCE, encoded
from tests.unit.ai_pipeline.phantoms import Picture, echo, encapsulated

LOSSLESS, RECOMPRESSED, EITHER = (f"1.2.840.10008.1.2.4.11{last}" for last in (0, 1, 2))


def noise(bits: int, *shape: int) -> Picture:
    samples = np.random.default_rng(bits).integers(0, 2**bits, shape)
    return samples.astype(np.uint8 if bits <= 8 else np.uint16)


def image(folder: Path, samples: Picture, *frames: bytes, syntax: str = LOSSLESS) -> DicomImage:
    """An image of these code streams, with the header of ``samples``."""
    return open_dicom(encapsulated(folder / "x.dcm", samples, frames, syntax))


def packed(samples: Picture, bits: int, **how: object) -> bytes:
    # libjxl's fastest way writes over its own memory with 16 bits (imagecodecs 2026.3.6); it only encodes so.
    return bytes(jpegxl_encode(samples, bitspersample=bits, **{"lossless": True, "effort": 3, **how}))


@pytest.mark.parametrize(
    "shape", [(37, 53), (64, 64), (64, 128), (33, 44), (1, 1), (600, 20), (37, 53, 3)], ids=str
)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("boxed", [False, True], ids=["bare", "in boxes"])
def test_its_header_declares_what_it_decodes_to(shape: tuple[int, ...], bits: int, boxed: bool) -> None:
    frame = packed(noise(bits, *shape), bits, usecontainer=boxed)
    assert declared(frame) == (*shape[:2], 3 if len(shape) > 2 else 1, bits)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("colours", [1, 3])
def test_lossless_frames_are_given_back(tmp_path: Path, bits: int, colours: int) -> None:
    samples = noise(bits, 2, 37, 53, *[3] * (colours > 1))
    given_back = image(tmp_path, samples, *(packed(frame, bits) for frame in samples))
    for number, frame in enumerate(samples):
        assert np.array_equal(given_back.stored(number), frame)


def test_a_recompressed_jpeg_is_shown_as_the_jpeg_is(tmp_path: Path) -> None:
    jpeg = encoded(SOURCE, quality=90, subsampling=2)
    shown = image(tmp_path, SOURCE[None], jpegxl_encode_jpeg(jpeg), syntax=RECOMPRESSED).stored()
    error = np.abs(shown.astype(int) - SOURCE)
    assert error.mean() < 3, "the colours are those of the source"


def test_what_was_compressed_with_loss_is_close_to_its_source(tmp_path: Path) -> None:
    frame = packed(echo(), 8, lossless=False, distance=1.0)
    shown = image(tmp_path, echo()[None], frame, syntax=EITHER).stored()
    assert np.abs(shown.astype(int) - echo()).mean() < 3


def fields(*numbers: tuple[int, int]) -> bytes:
    """A code stream of these fields (value, bits), from the lowest bit on, and zeros."""
    value = place = 0
    for number, bits in numbers:
        value |= number << place
        place += bits
    return CODESTREAM + value.to_bytes(40, "little")


SIDES = (1, 1), (7, 5), (1, 3)  # 64 × 64
PLAIN = (0, 1), (0, 1)  # not all as usual; no extra fields
HUGE = (0, 1), (3, 2), (2**30 - 1, 30), (1, 3)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (fields(*SIDES, (0, 1), (1, 1), (5, 3)), "is turned"),
        (fields(*SIDES, (0, 1), (1, 1), (0, 3), (0, 2), (1, 1)), "moves"),
        (fields(*SIDES, *PLAIN, (1, 1)), "fractions"),
        (fields(*SIDES, *PLAIN, (0, 1), (0, 2), (0, 1), (1, 2)), "channels beyond"),
        (CODESTREAM, "ends within its header"),
        (CONTAINER, "no JPEG XL"),
        (CONTAINER + b"\0\0\0\x04jxlc", "no JPEG XL"),
        (CONTAINER + b"\0\0\0\x01jxlp", "no JPEG XL"),
        (b"\xff\xd8\xff", "no JPEG XL"),
        (b"", "no JPEG XL"),
    ],
)
def test_a_jpeg_xl_that_no_dicom_image_is_is_refused(frame: bytes, reason: str) -> None:
    with pytest.raises(CodestreamFault, match=reason):
        declared(frame)


def test_a_header_of_the_largest_side_is_read() -> None:
    assert declared(fields(*HUGE, (1, 1))) == (2**30, 2**30, 3, 8)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (fields(*HUGE, (1, 1)), "code stream has 1073741824 × 1073741824 pixels of 3 samples"),
        (packed(noise(8, 53, 37), 8), "code stream has 37 × 53"),
        (packed(noise(12, 37, 53), 12), "samples of 12 bits, the header says 8"),
        (packed(noise(8, 37, 53), 8)[:300], "do not decode"),
        (packed(noise(8, 37, 53), 8)[:40] + bytes(400), "do not decode"),
    ],
    ids=["bomb", "turned", "deeper", "cut", "damaged"],
)
def test_a_frame_that_is_not_the_image_of_the_header_is_refused(
    tmp_path: Path, frame: bytes, reason: str
) -> None:
    with pytest.raises(PixelError, match=reason):
        image(tmp_path, noise(8, 1, 37, 53), frame).stored()


@given(
    st.binary(max_size=80),
    st.sampled_from([CODESTREAM, CONTAINER, CONTAINER + b"\0\0\0\x40jxlc" + CODESTREAM]),
)
@example(b"\0\0\0\x01jxlc" + bytes(7), CONTAINER)
def test_whatever_its_first_bytes_are_they_are_read_or_refused(data: bytes, start: bytes) -> None:
    try:
        rows, columns, samples, bits = declared(start + data)
    except CodestreamFault:
        return
    assert (rows > 0, columns >= 0, samples in {1, 3}, 1 <= bits <= 64) == (True,) * 4
