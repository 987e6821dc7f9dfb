"""Where each frame is found in the stream of an encapsulated image."""

import contextlib
import io
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from tests.unit.ai_pipeline.images.images_lab import DEEP, FRAMES, STREAMS, close_to, split, still
from tests.unit.ai_pipeline.phantoms import encapsulated, rgb, write_dicom
from tests.unit.receive.objects import changed

IN_HALVES = [*chain.from_iterable(map(split, STREAMS))]


@pytest.mark.parametrize(
    ("fragments", "table"),
    [
        (STREAMS, []),
        (STREAMS, [0, 10, 20, 30]),  # nowhere
        (STREAMS, [0]),
        (STREAMS, [0] * 4),
        ([*chain.from_iterable((frame, b"") for frame in STREAMS)], []),
        ([b"", *STREAMS], [0, 8, 16, 24]),
        (IN_HALVES, []),
        (IN_HALVES, [0, 10, 20, 30]),
        ([*split(STREAMS[0]), *STREAMS[1:]], []),
        ([frame + b"\0" * 5000 for frame in STREAMS], []),
    ],
)
def test_each_frame_is_found_whatever_the_offset_table_says(
    tmp_path: Path, fragments: list[bytes], table: list[int]
) -> None:
    image = open_dicom(encapsulated(tmp_path / "x.dcm", FRAMES, fragments, JPEGBaseline8Bit, table))
    assert all(close_to(image, number) for number in range(4))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_a_frame_in_several_fragments_is_found_in_each_syntax(tmp_path: Path, syntax: str) -> None:
    frames = generate_frames(
        dcmread(write_dicom(tmp_path / "x.dcm", FRAMES, syntax)).PixelData, number_of_frames=4
    )
    fragments = [*chain.from_iterable(map(split, frames))]
    image = open_dicom(encapsulated(tmp_path / "x.dcm", FRAMES, fragments, syntax))
    assert all(np.array_equal(image.stored(number), frame) for number, frame in enumerate(FRAMES))


@pytest.mark.parametrize("number", ["", "1", "3", "5"])
def test_another_number_of_frames_than_the_header_says_is_told(tmp_path: Path, number: str) -> None:
    path = encapsulated(tmp_path / "x.dcm", FRAMES, STREAMS, JPEGBaseline8Bit)
    changed(dcmread(path), NumberOfFrames=number or None).save_as(path)
    with pytest.raises(PixelError, match=rf"\(0028,0008\) says {number or 1}, the pixel data have 4"):
        open_dicom(path)


def test_a_fragment_within_a_frame_is_no_frame_though_the_header_counts_it(tmp_path: Path) -> None:
    frames = [
        *generate_frames(
            dcmread(write_dicom(tmp_path / "x.dcm", FRAMES, RLELossless)).PixelData, number_of_frames=4
        )
    ]
    path = encapsulated(tmp_path / "x.dcm", FRAMES, [*split(frames[0]), *frames[1:]], RLELossless)
    changed(dcmread(path), NumberOfFrames=5).save_as(path)
    with pytest.raises(PixelError, match="says 5, the pixel data have 4"):
        open_dicom(path)


def test_an_end_without_a_frame_or_a_frame_without_an_end_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(PixelError, match="says 1, the pixel data have 0"):
        still(tmp_path, b"")
    with pytest.raises(PixelError, match="frame 1 of 1 is cut off"):
        still(tmp_path, STREAMS[0][:-20] + b"\0" * 500).stored()
    for after in (b"\0" * 500, b"\xff" * 500, bytes(range(250))):
        assert close_to(still(tmp_path, STREAMS[0] + after), 0)


def test_a_sequential_scan_that_names_one_coefficient_has_them_all(tmp_path: Path) -> None:
    scan = STREAMS[0].index(b"\xff\xda")
    end = scan + 2 + STREAMS[0][scan + 3]
    assert close_to(still(tmp_path, STREAMS[0][: end - 3] + bytes(3) + STREAMS[0][end:]), 0)


def test_more_fragments_than_any_image_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ai_pipeline.images.codestreams.MOST_FRAGMENTS", 3)
    with pytest.raises(PixelError, match="more than 3 fragments"):
        open_dicom(encapsulated(tmp_path / "x.dcm", FRAMES, STREAMS, JPEGBaseline8Bit))


def test_samples_are_as_wide_as_the_code_stream_says(tmp_path: Path) -> None:
    image = still(tmp_path, STREAMS[0])
    image.dataset.BitsAllocated = 16
    assert close_to(image, 0)
    path = write_dicom(tmp_path / "deep.dcm", FRAMES[:1].astype(np.uint16) * 16, JPEGLSLossless)
    changed(dcmread(path), BitsAllocated=8, BitsStored=8).save_as(path)
    with pytest.raises(PixelError, match="samples of 16 bits, the header says 8"):
        open_dicom(path).stored()


@pytest.mark.parametrize("zeros", [1, 2, 5])
def test_zeros_before_the_end_of_a_jpeg_ls_are_passed_over(tmp_path: Path, zeros: int) -> None:
    written = dcmread(write_dicom(tmp_path / "x.dcm", FRAMES[:1], JPEGLSLossless)).PixelData
    (frame,) = generate_frames(written, number_of_frames=1)
    scan, end, _ = frame.rpartition(b"\xff\xd9")
    assert np.array_equal(still(tmp_path, scan + b"\0" * zeros + end, JPEGLSLossless).stored(), FRAMES[0])


@pytest.mark.parametrize(
    ("keyword", "named"),
    [
        ("PixelRepresentation", r"Pixel Representation \(0028,0103\) is missing"),
        ("BitsStored", r"Bits Stored \(0028,0101\) is missing"),
        ("SamplesPerPixel", r"Samples per Pixel \(0028,0002\) is missing"),
        ("PhotometricInterpretation", r"Photometric Interpretation \(0028,0004\) is missing"),
        ("PlanarConfiguration", r"Planar Configuration \(0028,0006\) is missing"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_what_the_pixel_module_lacks_is_named(
    tmp_path: Path, keyword: str, named: str, compressed: bool
) -> None:
    colour = rgb(FRAMES[:1])
    path = write_dicom(tmp_path / "x.dcm", colour, RLELossless if compressed else "1.2.840.10008.1.2.1")
    dataset = dcmread(path)
    del dataset[keyword]
    dataset.save_as(path)
    needless = compressed and keyword == "PlanarConfiguration"  # of a code stream it says nothing
    with contextlib.nullcontext() if needless else pytest.raises(PixelError, match=named):
        assert np.array_equal(open_dicom(path).stored(), colour[0])


def test_the_fragments_of_a_data_set_of_implicit_vr_under_a_jpeg_syntax_are_found(tmp_path: Path) -> None:
    path, body = encapsulated(tmp_path / "x.dcm", FRAMES, STREAMS, JPEGBaseline8Bit), io.BytesIO()
    meta, _, explicit = path.read_bytes().partition(b"\x08\x00\x16\x00UI")
    dataset = dcmread(path, stop_before_pixels=True)
    del dataset.file_meta
    dataset.save_as(body, implicit_vr=True, little_endian=True)
    first, implicit = b"\x08\x00\x16\x00", body.getvalue()
    fragments = explicit.partition(b"\xe0\x7f\x10\x00OB\0\0")[2]
    path.write_bytes(meta + implicit[implicit.index(first) :] + b"\xe0\x7f\x10\x00" + fragments)
    assert close_to(open_dicom(path), 3)


def test_one_uncompressed_frame_more_than_the_header_says_is_told(tmp_path: Path) -> None:
    frames = np.stack([DEEP] * 40)
    with pytest.raises(PixelError, match="the pixel data are"):
        open_dicom(write_dicom(tmp_path / "x.dcm", frames, NumberOfFrames=39))
