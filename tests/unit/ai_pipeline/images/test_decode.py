"""Reading of DICOM images: headers and pixels, the process that decodes, and pictures drawn of them."""

import ast
import contextlib
import io
import multiprocessing
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import openjpeg
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import convert_color_space, pack_bits, pixel_array
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from ai_pipeline.burnin.cleaning import overlay_note
from ai_pipeline.confinement import landlock
from ai_pipeline.contract import (
    BURNED_IN,
    Code,
    Decision,
    Finding,
    Heatmap,
    ModelRef,
    Origin,
    PixelArray,
    QualityNote,
    Region,
)
from ai_pipeline.errors import HeaderError, NoDecoder, PixelError
from ai_pipeline.images import codestreams, colours, decoder, render
from ai_pipeline.images.coordinates import POSES, Pose, shown, upright
from ai_pipeline.images.decode import (
    DicomImage,
    decoded_sha256,
    decoded_smaller,
    halved,
    open_dicom,
    open_image,
    open_picture,
    samples_photometric,
    to_full_size,
)
from ai_pipeline.images.display import BAND_ROWS, GreyDisplay
from ai_pipeline.images.header import age_years, read_header
from ai_pipeline.images.numbers import decimal, decimal_of, is_empty, value_of, whole, whole_of
from ai_pipeline.images.render import (
    EDGE_IS_APPROXIMATE,
    MEDIUM_GREY,
    YELLOW,
    annotate,
    box_captions,
    heatmap_overlay,
    label_text,
    legend_of,
    place_lines,
)
from ai_training.sets.files import rows
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.receive.inspection import inspect
from tests.modality import chest
from tests.unit.ai_pipeline.phantoms import (
    Picture,
    burn,
    cine,
    data_set,
    decodes,
    echo,
    encapsulated,
    write_dicom,
)
from tests.unit.receive.objects import changed
from tests.waiting import wait_until

# Samples of 12 bits with noise and edges.
RAMP = np.random.default_rng(3).integers(0, 40, (403, 310)) + 13 * np.arange(310)[None]


def shipped(name: str) -> Path:
    """A test file that is installed with pydicom."""
    return Path(str(get_testdata_file(name, download=False)))


@pytest.mark.data
def test_every_public_file_decodes_or_says_why_not(data: Path) -> None:
    def decodes(name: str) -> str:
        try:
            image = open_dicom(data / "dicom" / name)
            assert {image.display(frame).dtype for frame in {0, image.header.frames - 1}} == {np.dtype("u1")}
        except PixelError as error:
            assert str(error)
            return "n"
        return "y"

    files = rows(data / "dicom" / "manifest.csv")
    otherwise = [row["file"] for row in files if decodes(row["file"]) != row["decodes"]]
    assert otherwise == [
        "files/pydicom__JPEG-lossy.dcm"
    ]  # the manifest is of a decoder that refuses its scan


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_the_hash_is_of_the_samples_and_not_of_their_encoding(tmp_path: Path, syntax: str) -> None:
    samples = np.stack([echo(seed) for seed in (1, 2)])
    plain = write_dicom(tmp_path / "plain.dcm", samples)
    packed = write_dicom(tmp_path / "packed.dcm", samples, syntax)
    other = write_dicom(tmp_path / "other.dcm", samples[::-1].copy())
    assert decoded_sha256(plain) == decoded_sha256(open_dicom(packed)) != decoded_sha256(other)


@pytest.mark.parametrize("name", ["image_dfl.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm"])
def test_unusual_encodings_decode(name: str) -> None:
    image = open_dicom(shipped(name))
    assert image.stored().shape == (image.header.rows, image.header.columns)


def test_spaces_around_a_term_small_letters_and_empty_groups_change_nothing(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "x.dcm", FRAMES[:1], RLELossless)
    terms = {
        "PhotometricInterpretation": "MONOCHROME1",
        "Modality": "DX",
        "Laterality": "L",
        "ImageType": ["DERIVED", "X"],
        "ViewPosition": "PA",
        "BodyPartExamined": "CHEST",
        "BurnedInAnnotation": "YES",
        "PresentationLUTShape": "INVERSE",
    }
    changed(dcmread(path), **terms).save_as(path)
    expected = open_dicom(path)
    shown = expected.display()
    spaced = {
        word: [f" {term.lower()} " for term in (terms[word] if word == "ImageType" else [terms[word]])]
        for word in terms
    }
    with quiet_pydicom():
        changed(dcmread(path), SharedFunctionalGroupsSequence=[], **spaced).save_as(path)
    image = open_dicom(path)
    assert image.header == expected.header
    assert np.array_equal(image.display(), shown)


def test_palette_and_ybr_become_rgb() -> None:
    palette = open_dicom(shipped("examples_palette.dcm"))
    assert (palette.stored().shape, palette.stored().dtype) == ((350, 800, 3), np.uint8)
    assert samples_photometric(palette.header) == "RGB"
    assert tuple(open_dicom(shipped("SC_ybr_full_422_uncompressed.dcm")).stored()[5, 50]) == (254, 0, 0)


def test_monochrome1_is_shown_bright_where_it_is_dense(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))[None]
    image = open_dicom(write_dicom(tmp_path / "one.dcm", ramp, PhotometricInterpretation="MONOCHROME1"))
    assert (image.display()[0, 0], image.display()[0, -1]) == (255, 0)
    assert np.array_equal(image.stored(), ramp[0])


def test_deep_images_without_a_window_are_shown_by_percentiles(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(1000, 1100, (1, 64, 64)).astype(np.uint16)
    samples[0, 0, 0] = 65535
    image = open_dicom(write_dicom(tmp_path / "deep.dcm", samples))
    assert image.grey_display().choice == "percentiles"
    assert image.display()[1:].std() > 50  # one hot pixel does not turn the rest black


def test_what_is_neither_dicom_nor_picture_is_a_pixel_error(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(PixelError, match="neither"):
        open_image(tmp_path / "letter.txt")
    with pytest.raises(PixelError, match="is a directory"):
        open_dicom(tmp_path)


def test_a_frame_that_is_not_there_is_a_pixel_error(tmp_path: Path) -> None:
    frames = np.stack([RAMP, RAMP[::-1]]).astype(np.uint16)
    image = open_dicom(write_dicom(tmp_path / "two.dcm", frames, JPEG2000Lossless))
    for frame in (-1, 2):
        with pytest.raises(PixelError, match="there is no frame"):
            image.display(frame, shorter_side=150)
    with pytest.raises(PixelError, match="no frame 3"):
        image.stored(2)


@pytest.mark.parametrize(
    ("age", "birth", "study", "years"),
    [
        ("045Y", "", "", 45.0),
        ("006M", "", "", 0.5),
        ("", "19700101", "20200101", 50.0),
        ("", "18600101", "20200101", None),
        ("099X", "", "", None),
    ],
)
def test_the_age_comes_from_the_age_or_the_dates(
    age: str, birth: str, study: str, years: float | None
) -> None:
    dataset = data_set(PatientBirthDate=birth, StudyDate=study)
    dataset.add(DataElement("PatientAge", "LO", age))  # LO: any text may stand in a received object
    assert age_years(dataset) == (years and pytest.approx(years, abs=0.01))


def test_the_ultrasound_regions_are_boxes(tmp_path: Path) -> None:
    corners = {
        f"RegionLocation{name}": place
        for name, place in zip(("MinX0", "MinY0", "MaxX1", "MaxY1"), (10, 20, 109, 219), strict=True)
    }
    region = data_set(**corners, RegionSpatialFormat=3, RegionDataType=4)
    path = write_dicom(tmp_path / "us.dcm", echo()[None], SequenceOfUltrasoundRegions=[region])
    (found,) = open_dicom(path).header.ultrasound_regions
    assert (found.box, found.spatial_format, found.data_type) == ((10, 20, 110, 220), 3, 4)


def test_a_picture_has_the_same_uid_each_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(echo()).save(path)
    assert open_picture(path, "US").uid == open_picture(path, "US").uid
    assert np.array_equal(open_picture(path, "US").display(), echo())
    with pytest.raises(PixelError, match="modality"):
        open_image(path)


def test_an_image_does_not_tell_its_patient_s_name_when_it_is_printed(tmp_path: Path) -> None:
    assert "Secret" not in repr(open_dicom(write_dicom(tmp_path / "named.dcm", echo()[None])))


SOURCE = np.stack([echo(3, (240, 320))] * 3, axis=-1)


SOURCE[100:150, 120:160], SOURCE[100:150, 160:200] = (200, 30, 20), (20, 60, 210)


SOURCE = burn(SOURCE, "MUSTER^PROBE 4711", (8, 8), (255, 255, 255), 16)


YCC = convert_color_space(SOURCE, "RGB", "YBR_FULL")


EVERY = ["RGB", "rgb", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_422"]


def encoded(picture: Picture, kind: str = "JPEG", **how: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind, **how)
    return stream.getvalue()


def jpeg(*, rgb: bool = False, subsampling: int = 0, markers: bool = True, identifiers: bytes = b"") -> bytes:
    """A baseline JPEG of SOURCE, perhaps without the markers JFIF and Adobe, its components renamed."""
    data = encoded(SOURCE, quality=95, subsampling=subsampling, keep_rgb=rgb)
    bare = re.sub(rb"\xff\xe0\0\x10JFIF.{10}|\xff\xee\0\x0eAdobe.{7}", b"", data, flags=re.DOTALL)
    renamed = bytearray(data if markers else bare)
    for number, identifier in enumerate(identifiers):
        renamed[renamed.index(b"\xff\xc0") + 10 + 3 * number] = identifier
        renamed[renamed.index(b"\xff\xda") + 5 + 2 * number] = identifier
    return bytes(renamed)


BARE = jpeg(markers=False)


JPEGS = {
    "JFIF": jpeg(),
    "bare, half the chrominance": jpeg(subsampling=1, markers=False),
    "bare, a quarter of the chrominance": jpeg(subsampling=2, markers=False),
    "bare": BARE,
    "bare, components 0 to 2": jpeg(markers=False, identifiers=b"\0\1\2"),
    "Adobe YCC": BARE[:2] + b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\x01" + BARE[2:],
    "Adobe RGB": jpeg(rgb=True, identifiers=b"\1\2\3"),
    "components R, G, B": jpeg(rgb=True, markers=False),
    "components r, g, b": jpeg(rgb=True, markers=False, identifiers=b"rgb"),
}


def assert_colours(path: Path, photometric: str) -> None:
    """Called so in its header, the picture has the colours of SOURCE: PSNR over 27."""
    image = open_dicom(relabelled(path, photometric))
    error = (image.stored(image.header.frames - 1).astype(float) - SOURCE) ** 2
    assert 10 * np.log10(255**2 / (error.mean() + 1e-9)) > 27, photometric


def relabelled(path: Path, photometric: str) -> Path:
    dataset = dcmread(path)
    # "rgb" is no code string.
    dataset.add(DataElement(0x00280004, "CS", photometric, validation_mode=IGNORE))
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("stream", JPEGS)
def test_a_jpeg_has_the_colours_of_its_code_stream(tmp_path: Path, stream: str) -> None:
    path = encapsulated(tmp_path / "x.dcm", SOURCE[None], [JPEGS[stream]], JPEGBaseline8Bit)
    for photometric in EVERY:
        assert_colours(path, photometric)


@pytest.mark.parametrize(
    ("samples", "how", "names"),
    [
        (SOURCE, {"use_mct": True}, EVERY),
        (SOURCE, {"use_mct": True, "compression_ratios": [8.0]}, EVERY),
        (SOURCE, {"use_mct": False}, ["RGB", "YBR_ICT"]),
        (YCC, {"use_mct": False}, ["YBR_FULL", "YBR_RCT"]),
    ],
    ids=["transformed", "lossy", "RGB", "YCbCr"],
)
def test_a_jpeg_2000_is_rgb_if_it_was_transformed_else_what_the_header_says_or_the_pixels_show(
    tmp_path: Path, samples: Picture, how: dict[str, Any], names: list[str]
) -> None:
    frame = openjpeg.encode(samples, photometric_interpretation=1, **how)
    path = encapsulated(tmp_path / "x.dcm", SOURCE[None], [frame], JPEG2000Lossless)
    for photometric in names:
        assert_colours(path, photometric)


def test_components_with_more_samples_than_the_first_are_no_chrominance() -> None:
    of_frame = b"\x08\0\x08\0\x08\3" + bytes((1, 0x11, 0, 2, 0x22, 0, 3, 0x11, 0))
    assert colours.of_jpeg([(0xC0, of_frame)], "RGB") == colours.UNKNOWN


def test_a_picture_whose_colours_nobody_can_know_is_left_out(tmp_path: Path) -> None:
    bare = encoded(np.full((240, 320, 3), (90, 160, 40), np.uint8), subsampling=0).replace(b"JFIF", b"----")
    path = encapsulated(tmp_path / "x.dcm", SOURCE[None], [bare], JPEGBaseline8Bit)
    with pytest.raises(PixelError, match="contradict each other"):
        open_dicom(path).stored()


@pytest.mark.parametrize("samples", [SOURCE, YCC], ids=["RGB", "YCbCr"])
def test_uncompressed_chrominance_at_each_pixel_is_taken(tmp_path: Path, samples: Picture) -> None:
    path = write_dicom(tmp_path / "x.dcm", np.stack([samples] * 2), PhotometricInterpretation="YBR_FULL_422")
    assert inspect(path).fault == ""
    assert_colours(path, "YBR_FULL_422")


FRAMES = np.stack(cine(4, size=(96, 128)))


def stream_of(number: int) -> bytes:
    stream = encoded(FRAMES[number], quality=95)
    return stream + b"\0" * (len(stream) % 2)


STREAMS = [stream_of(number) for number in range(4)]


def split(frame: bytes) -> list[bytes]:
    return [frame[:1000], frame[1000:]]


@pytest.mark.parametrize(
    ("fragments", "table"),
    [
        (STREAMS, []),
        (STREAMS, [0, 10, 20, 30]),  # nowhere
        (STREAMS, [0]),
        (STREAMS, [0] * 4),
        ([*chain.from_iterable((frame, b"") for frame in STREAMS)], []),
        ([b"", *STREAMS], [0, 8, 16, 24]),
        ([*chain.from_iterable(map(split, STREAMS))], []),
        ([*chain.from_iterable(map(split, STREAMS))], [0, 10, 20, 30]),
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


def still(path: Path, frame: bytes, syntax: str = JPEGBaseline8Bit) -> DicomImage:
    return open_dicom(encapsulated(path / "x.dcm", FRAMES[:1], [frame], syntax))


def close_to(image: DicomImage, number: int) -> bool:
    """Whether the decoded frame is as close to the one that was compressed as JPEG lets it be."""
    return bool(abs(image.stored(number).astype(int) - FRAMES[number]).mean() < 3)


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
    colour = np.stack([FRAMES[:1]] * 3, axis=-1)
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


ROWS, COLUMNS = 64, 80


def grey(signed: bool) -> PixelArray:
    """All values of 12 bits, by and by."""
    ramp = np.arange(ROWS * COLUMNS).reshape(1, ROWS, COLUMNS) % 4096
    return (ramp - 2048).astype(np.int16) if signed else ramp.astype(np.uint16)


def writing() -> PixelArray:
    drawn = np.zeros((ROWS, COLUMNS), np.uint8)
    drawn[10:20, 5:60:3] = 1
    return drawn


def add_plane(dataset: Dataset, group: int, drawn: PixelArray | None, position: int = 0) -> None:
    """An overlay plane: with its own data, or in bit ``position`` of the pixel data (retired)."""
    elements: list[tuple[int, str, Any]] = [
        *((0x0010, "US", ROWS), (0x0011, "US", COLUMNS), (0x0040, "CS", "G"), (0x0050, "SS", [1, 1])),
        *((0x0100, "US", 1 if drawn is not None else 16), (0x0102, "US", position)),
        *([] if drawn is None else [(0x3000, "OW", pack_bits(drawn.ravel()))]),
    ]
    for element, vr, value in elements:
        dataset.add_new((group, element), vr, value)


def with_planes(path: Path, planes: dict[int, PixelArray]) -> Path:
    dataset = dcmread(path)
    for group, drawn in planes.items():
        add_plane(dataset, group, drawn)
    dataset.save_as(path)
    return path


def embedded(path: Path, syntax: str, values: PixelArray, bit: int, low: int = 0) -> Path:
    """``values`` of 12 bits from bit ``low`` on, with the writing in bit ``bit`` of the same words."""
    words = ((values.view(np.uint16) & 0x0FFF) << low) | (writing()[None].astype(np.uint16) << bit)
    write_dicom(path, words, syntax)  # an encoder must take all 16 bits for stored
    signed = int(values.dtype.kind == "i")
    dataset = changed(dcmread(path), BitsStored=12, HighBit=11 + low, PixelRepresentation=signed)
    add_plane(dataset, 0x6000, None, bit)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize(
    ("syntax", "signed", "bit", "low"),
    [
        (ExplicitVRLittleEndian, False, 12, 0),
        (ExplicitVRLittleEndian, True, 15, 0),
        (RLELossless, True, 12, 0),
        (JPEGLSLossless, False, 15, 0),
        (ExplicitVRLittleEndian, False, 1, 4),
        (RLELossless, True, 0, 4),
    ],
)
def test_a_plane_above_or_below_the_stored_bits_never_reaches_the_samples(
    tmp_path: Path, syntax: str, signed: bool, bit: int, low: int
) -> None:
    path = embedded(tmp_path / "one.dcm", syntax, grey(signed), bit, low)
    raw = pixel_array(dcmread(path), raw=True, correct_unused_bits=False)
    assert np.any(raw.view(np.uint16) >> bit & 1), "the file holds no plane: nothing is tested"
    stored = open_dicom(path).stored()
    assert np.array_equal(stored, grey(signed)[0])
    assert stored.dtype.kind == ("i" if signed else "u")


def test_a_high_bit_that_is_only_wrong_changes_nothing(tmp_path: Path) -> None:
    values = grey(signed=False)
    path = write_dicom(tmp_path / "wrong.dcm", values, BitsStored=12, HighBit=15)
    assert np.array_equal(open_dicom(path).stored(), values[0])


def told(path: Path) -> str:
    note = overlay_note(open_dicom(path).header)
    return note.text if note else ""


def test_a_reader_is_told_how_many_planes_the_source_shows_and_none_without_a_drawn_pixel(
    tmp_path: Path,
) -> None:
    path = write_dicom(tmp_path / "two.dcm", grey(signed=False), BitsStored=12, HighBit=11)
    assert told(path) == told(with_planes(path, {0x6002: writing() * 0})) == ""
    assert told(with_planes(path, {0x6000: writing(), 0x601E: writing()})) == (
        "the source carries 2 overlay planes with drawn pixels; "
        "what they show is not part of the cleaned image"
    )
    hidden = embedded(tmp_path / "hidden.dcm", ExplicitVRLittleEndian, grey(signed=False), 12)
    assert told(hidden).startswith("the source carries 1 overlay plane in unused bits of its pixels;")
    with_planes(hidden, {0x6002: writing()})
    assert "1 overlay plane with drawn pixels and 1 overlay plane in unused bits" in told(hidden)


NUMBERS_ONLY = pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, which quotes values


NONE = (
    *("", " ", "NaN", "inf", "1e999", "9" * 5000, "1\\2", "a", "\x1b\x07", "\uffff", "\\", "0x1", "1_000"),
    *("٣", "²", "--1", None, [1, 2], b"1", float("nan"), float("inf"), 10**400),
)


RAW = (b"9" * 5000, b"1e999 ", b"NaN ", b"-5", b" ", b"\xef\xbf\xbf ", b"1\\2 ", b"\x1b\x07", b"\xc2\xb2")


@NUMBERS_ONLY
def test_what_is_no_number_is_none() -> None:
    assert [value for value in NONE if (whole(value), decimal(value)) != (None, None)] == []


@NUMBERS_ONLY
def test_a_number_is_taken_within_its_limits() -> None:
    assert [whole(one) for one in ("7", " 007 ", "+7", 7, 7.0, "7\0")] == [7] * 6
    assert [whole(one) for one in ("-1", -1, 2**31, "2147483648", 1.5, "1.5")] == [None] * 6
    assert whole("-1", least=-1) == -1
    assert [decimal(one) for one in ("1.5", "1.5e0", ".5", "-2", 3)] == [1.5, 1.5, 0.5, -2.0, 3.0]
    assert [decimal(one) for one in ("1e17", "-1e300", 1e300)] == [None] * 3


@NUMBERS_ONLY
@pytest.mark.parametrize("keyword", ["InstanceNumber", "RescaleSlope", "WindowCenter", "Rows", "CineRate"])
def test_an_attribute_gives_a_number_or_the_default_and_no_error(keyword: str) -> None:
    for raw in RAW:
        dataset = with_raw(Dataset(), keyword, raw)
        assert whole_of(dataset, keyword, 4) in (4, *range(2**16)), raw
        assert abs(decimal_of(dataset, keyword, 4.0)) < 1e17, raw
        assert is_empty(dataset, keyword) == (not raw.strip()), raw
        value_of(dataset, keyword)


@NUMBERS_ONLY
@pytest.mark.parametrize("raw", [one for one in RAW if one.strip()], ids=lambda raw: ascii(raw)[2:12])
def test_a_number_of_frames_that_is_none_is_said(raw: bytes) -> None:
    image = with_raw(chest("one", np.zeros((4, 5), "u2")), "NumberOfFrames", raw)
    with pytest.raises(HeaderError, match="Number of Frames"):
        read_header(image)


def with_raw(dataset: Dataset, keyword: str, raw: bytes) -> Dataset:
    """The data set with these very bytes as the value."""
    tag = Tag(keyword)
    vr = {"Rows": "US", "PatientAge": "AS"}.get(
        keyword, "IS" if keyword in {"InstanceNumber", "CineRate", "NumberOfFrames"} else "DS"
    )
    dataset[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)
    return dataset


def windowed(centre: float, width: float, slope: float = 1, intercept: float = -5) -> Dataset:
    return data_set(WindowCenter=centre, WindowWidth=width, RescaleSlope=slope, RescaleIntercept=intercept)


@pytest.mark.parametrize("kind", ["u1", "i1", "<u2", "<i2", ">u2", ">i2"])
@pytest.mark.parametrize("shape", [(1, 1), (BAND_ROWS + 1, 7), (40, 3)])
def test_the_table_is_looked_up_by_value(kind: str, shape: tuple[int, int]) -> None:
    ends = np.iinfo(kind)
    stored = np.random.default_rng(2).integers(ends.min, ends.max, shape, endpoint=True).astype(kind)

    shown = GreyDisplay.from_dataset(windowed(20, 101)).show(stored)

    # PS3.3 C.11.2.1.2.1: LINEAR, of the value after the Modality LUT
    shares = np.clip((stored.astype(float) - 5 - 19.5) / 100 + 0.5, 0, 1)
    np.testing.assert_array_equal(shown, np.rint(shares * 255).astype(np.uint8))


@pytest.mark.parametrize(("centre", "width"), [(128, 0), (128, -40), (128, float("nan"))])
def test_a_window_without_a_width_is_none(centre: float, width: float) -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    attributes = changed(windowed(centre, width, intercept=0), BitsStored=8)
    np.testing.assert_array_equal(GreyDisplay.from_dataset(attributes).show(stored), stored)


def test_a_window_narrower_than_one_is_no_threshold() -> None:
    display = GreyDisplay.from_dataset(windowed(0.5, 0.9, slope=0.001, intercept=0))
    assert len(np.unique(display.show(np.arange(1000, dtype=np.uint16).reshape(20, 50)))) > 200


def lut(descriptor: list[int], data: bytes | list[int], kind: str = "US") -> Dataset:
    """The item of a look-up table; ``kind``: the VR of its descriptor."""
    item = Dataset()
    item.add_new("LUTDescriptor", kind, descriptor)
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return item


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("kind", ["US", "SS"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_first_value_of_a_lut_is_signed_as_the_samples_are(
    sequence: str, kind: str, signed: bool, packed: bool
) -> None:
    first = -1024 if signed else 40_000
    written = first % 65_536 - (65_536 if kind == "SS" and first % 65_536 > 32_767 else 0)
    table = np.arange(512, dtype="<u2") * 128
    item = lut([512, written, 16], table.tobytes() if packed else table.tolist(), kind)
    window = {"WindowCenter": 32768, "WindowWidth": 65536, "VOILUTFunction": "LINEAR_EXACT"}
    attributes = data_set(BitsStored=16, PixelRepresentation=int(signed), **{sequence: [item]}, **window)
    stored = np.arange(first - 100, first + 612).reshape(8, 89).astype(np.int16 if signed else np.uint16)

    shown = GreyDisplay.from_dataset(attributes).show(stored)

    assert np.abs(shown - (np.clip(np.arange(-100, 612), 0, 511).reshape(8, 89) / 2)).max() <= 1


def test_a_lut_of_bytes_is_read() -> None:
    attributes = data_set(VOILUTSequence=[lut([256, 0, 8], bytes(range(256)))], BitsStored=8)
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(GreyDisplay.from_dataset(attributes).show(stored), stored)


PICTURE = np.random.default_rng(5).integers(0, 256, (30, 50)).astype(np.uint8)


@pytest.mark.parametrize(
    "pose",
    (*POSES, Pose(mirrored=True), Pose(90, mirrored=True), Pose(270, True, True)),
    ids=lambda pose: pose.name,
)
def test_putting_upright_undoes_the_pose_and_the_map_leads_every_pixel_to_where_it_has_gone(
    pose: Pose,
) -> None:
    picture = shown(PICTURE, pose)
    back, to_upright = upright(picture, pose)
    np.testing.assert_array_equal(back, PICTURE)
    for row, column in ((0, 0), (3, 7), (picture.shape[0] - 1, picture.shape[1] - 1)):
        ((x, y),), value = to_upright([(column + 0.5, row + 0.5)]), picture[row, column]
        assert back[int(y), int(x)] == (255 - value if pose.inverted else value)
        assert to_upright.inverse()([(x, y)])[0] == pytest.approx((column + 0.5, row + 0.5))


def test_turned_90_means_clockwise() -> None:
    assert shown(np.array([[1, 2], [3, 4]], np.uint8), Pose(90)).tolist() == [[3, 1], [4, 2]]


def film(path: Path, samples: np.ndarray = RAMP, syntax: str = JPEG2000Lossless) -> Path:
    """A grey image of 12 bits in a file."""
    return write_dicom(path, samples.astype(np.uint16)[None], syntax, BitsStored=12, HighBit=11)


def decoded(path: Path, times: int) -> np.ndarray | None:
    image = open_dicom(path)
    return decoded_smaller(codestreams.Fragments.find(path, image.pixels_at, 1).frame(0), image.header, times)


@pytest.mark.parametrize("rows", [400, 403])
@pytest.mark.parametrize("columns", [304, 310])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_lossless_file_is_decoded_as_its_samples_are_halved(
    tmp_path: Path, rows: int, columns: int, times: int
) -> None:
    samples = RAMP[:rows, :columns]
    found = decoded(film(tmp_path / "film.dcm", samples), times)
    wanted = halved(samples, 12, times)
    assert wanted.shape == (-(-rows // 2**times), -(-columns // 2**times))
    if found is None:  # Pillow rounds these sides differently: the frame is decoded in full
        assert (rows % 2**times, columns % 2**times) != (0, 0)
    else:
        np.testing.assert_array_equal(found, wanted)


def test_without_a_confined_decoder_films_are_decoded_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "film.dcm")
    small = open_dicom(path).display(shorter_side=150)
    monkeypatch.setattr(decoder.DECODER, "lacks", lambda: "system calls (seccomp)")
    assert decoded(path, 1) is None
    np.testing.assert_array_equal(open_dicom(path).display(shorter_side=150), small)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_a_smaller_picture_is_the_same_in_each_syntax_also_after_it_was_decoded_in_full(
    tmp_path: Path, syntax: str
) -> None:
    small = open_dicom(film(tmp_path / "plain.dcm", syntax="1.2.840.10008.1.2.1")).display(shorter_side=150)
    packed = open_dicom(film(tmp_path / "packed.dcm", syntax=syntax))
    assert small.shape == (202, 155)
    np.testing.assert_array_equal(packed.display(shorter_side=150), small)
    assert packed.display(shorter_side=200).shape == packed.display().shape == RAMP.shape
    np.testing.assert_array_equal(packed.display(shorter_side=150), small)


def test_a_lossy_file_is_decoded_close_to_its_samples_halved(tmp_path: Path) -> None:
    path = film(tmp_path / "film.dcm", syntax="1.2.840.10008.1.2.1")
    lossy = dcmread(path)
    lossy.compress(JPEG2000, j2k_cr=[8])
    lossy.save_as(path)
    found, whole = decoded(path, 1), halved(open_dicom(path).stored(), 12, 1)
    assert found is not None, "of 4,096 levels"
    assert np.abs(found.astype(int) - whole).mean() < 8, "of 4,096 levels"


def test_places_in_a_smaller_picture_are_mapped_to_the_image(tmp_path: Path) -> None:
    samples = np.zeros((400, 304), np.uint16)
    samples[200:208, 96:104] = 4000
    image = open_dicom(film(tmp_path / "film.dcm", samples))
    small = image.display(shorter_side=70).astype(float)
    assert small.shape == (100, 76)
    rows, columns = (np.arange(side) + 0.5 for side in small.shape)
    middle = (small.sum(0) @ columns / small.sum(), small.sum(1) @ rows / small.sum())
    ((x, y),) = to_full_size(100, image.header)([middle])
    assert (x, y) == pytest.approx((100, 204), abs=0.6)


@pytest.mark.parametrize("tiles", [{}, {"tile_size": (128, 128)}], ids=["one tile", "tiles"])
def test_tiles_are_decoded_in_full_because_each_is_halved_by_itself(
    tmp_path: Path, tiles: dict[str, Any]
) -> None:
    samples = (RAMP[:384, :256] >> 4).astype(np.uint8)
    stream = encoded(samples, "JPEG2000", no_jp2=True, irreversible=False, **tiles)
    path = encapsulated(tmp_path / "film.dcm", samples[None], [stream], JPEG2000Lossless)
    assert (decoded(path, 1) is None) is bool(tiles)
    image, wanted = open_dicom(path), halved(samples, 8, 1)
    np.testing.assert_array_equal(image.display(shorter_side=120), image.show(wanted))


@pytest.mark.parametrize(
    ("samples", "attributes"),
    [
        (RAMP.astype(np.uint32) << 12, {}),
        (RAMP.astype(np.uint16), {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 0}),
        (RAMP.astype(np.uint16), {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}),
    ],
    ids=["more than 16 bits", "padding", "signed"],
)
def test_what_halving_would_mix_up_is_decoded_in_full(
    tmp_path: Path, samples: np.ndarray, attributes: dict[str, Any]
) -> None:
    image = open_dicom(write_dicom(tmp_path / "film.dcm", samples[None], **attributes))
    assert image.display(shorter_side=150).shape[:2] == RAMP.shape


# What becomes of a code stream and the place of its marker COD.
DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "cut": lambda stream, _: stream[: len(stream) // 2],
    "without style": lambda stream, cod: stream[:cod] + b"\xff\x64" + stream[cod + 2 :],  # a comment
    "all levels": lambda stream, cod: stream[: cod + 9] + b"\x20" + stream[cod + 10 :],
    "a head alone": lambda stream, cod: stream[: cod + 3],
    "a million empty segments": lambda stream, cod: stream[:cod] + b"\xff\x64\0\2" * 1_000_000 + stream[cod:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_ends_as_it_does_in_full(tmp_path: Path, damage: str) -> None:
    path = film(tmp_path / "film.dcm")
    (stream,) = generate_frames(dcmread(path).PixelData, number_of_frames=1)
    damaged = DAMAGE[damage](stream, stream.index(b"\xff\x52"))
    changed(dcmread(path), PixelData=encapsulate([damaged])).save_as(path)

    def outcome(**how: int) -> str:
        try:
            return f"{open_dicom(path).display(**how).shape[0]} rows"
        except PixelError as error:
            return str(error)

    whole, small = outcome(), outcome(shorter_side=150)
    assert small == whole if "rows" not in whole else small in {"202 rows", whole}


JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
PLAIN_RGB = jpeg(rgb=True, markers=False, identifiers=b"\1\2\3")


@pytest.mark.parametrize(
    ("stream", "photometric"),
    [
        (PLAIN_RGB[:2] + JFIF + PLAIN_RGB[2:], "RGB"),
        (BARE[:2] + b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\0" + BARE[2:], "YBR_FULL_422"),
    ],
)
def test_pixels_may_show_that_the_header_is_right(tmp_path: Path, stream: bytes, photometric: str) -> None:
    assert_colours(encapsulated(tmp_path / "x.dcm", SOURCE[None], [stream], JPEGBaseline8Bit), photometric)


@pytest.mark.parametrize(
    ("samples", "photometric", "changes", "named"),
    [
        (SOURCE, "YBR_FULL", {}, "the pixels contradict"),
        (YCC, "RGB", {}, "the pixels contradict"),
        (SOURCE, "HSV", {}, "HSV is not decoded"),
        (SOURCE, "MONOCHROME2", {}, r"Samples per Pixel \(0028,0002\) is 3"),
        (SOURCE[..., 0], "RGB", {}, r"Samples per Pixel \(0028,0002\) is 1"),
        (
            YCC,
            "YBR_FULL_422",
            {"PlanarConfiguration": 1, "PixelData": YCC[:, ::2].tobytes() + bytes(38400)},
            "not 0",
        ),
        # grey samples that nothing explains
        (
            SOURCE[..., 0],
            "PALETTE COLOR",
            {},
            "the Red Palette Color Lookup Table or its descriptor is missing",
        ),
        (SOURCE[..., 0], "MONOCHROME3", {}, r"Photometric Interpretation \(0028,0004\) is no term"),
        # a damaged header
        (echo(), "MONOCHROME2", {"Rows": 0}, "Rows is 0"),
        (echo(), "MONOCHROME2", {"Rows": 100}, "172800 bytes, the header describes 48000"),
        (echo(), "MONOCHROME2", {"Columns": 500}, "pixel data is less than expected"),
        (echo(), "MONOCHROME2", {"BitsAllocated": 0}, "BitsAllocated is 0"),
    ],
)
def test_a_claim_that_the_picture_disproves_leaves_it_out_and_the_cause_names_no_person(
    tmp_path: Path, samples: Any, photometric: str, changes: dict[str, Any], named: str
) -> None:
    path = relabelled(write_dicom(tmp_path / "x.dcm", samples[None], **changes), photometric)
    with pytest.raises(PixelError, match=named) as failure:
        open_dicom(path).stored()
    assert "Secret" not in str(failure.value)


def test_partial_ranges_and_few_bits_are_shown_in_full(tmp_path: Path) -> None:
    partial = np.rint(YCC * np.array([219, 224, 224]) / 255 + (16, 16, 16)).astype(np.uint8)
    pairs = np.stack(
        [partial[:, ::2, 0], partial[:, 1::2, 0], partial[:, ::2, 1], partial[:, ::2, 2]], axis=-1
    )
    path = write_dicom(tmp_path / "x.dcm", SOURCE[None], PixelData=pairs.tobytes())
    assert_colours(path, "YBR_PARTIAL_422")
    write_dicom(path, SOURCE[None] >> 2, BitsStored=6, HighBit=5)
    assert abs(open_dicom(path).display().astype(int) - SOURCE).max() < 4


DEEP = echo(3, (96, 128)).astype(np.uint16) * 16
TWELVE = {"BitsStored": 12, "HighBit": 11}


@pytest.mark.parametrize(
    ("shift", "faulty"),
    [
        (0, {"VOILUTSequence": [Dataset()]}),
        (0, {"VOILUTSequence": [lut([4096, 0, 16], bytes(2 * 2000))]}),
        (0, {"VOILUTSequence": [lut([4096, 0], bytes(2 * 4096))]}),
        (0, {"RescaleSlope": "0", "RescaleIntercept": "0"}),
        (0, {"RescaleSlope": None, "RescaleIntercept": "0"}),
        (4, {"HighBit": 15}),
    ],
)
def test_a_faulty_attribute_of_greys_is_as_none(tmp_path: Path, shift: int, faulty: dict[str, Any]) -> None:
    plain = open_dicom(write_dicom(tmp_path / "plain.dcm", DEEP[None], **TWELVE)).display()
    image = open_dicom(write_dicom(tmp_path / "x.dcm", DEEP[None] << shift, **TWELVE | faulty))
    assert np.array_equal(image.display(), plain)


def test_a_palette_of_signed_samples_begins_at_a_signed_value(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "x.dcm",
        ((DEEP // 16).astype(np.int16) - 128)[None].astype(np.int8),
        PhotometricInterpretation="PALETTE COLOR",
        **{f"{one}PaletteColorLookupTableData": bytes(range(256)) for one in ("Red", "Green", "Blue")},
    )
    dataset = dcmread(path)
    for tag in (0x00281101, 0x00281102, 0x00281103):
        dataset.add_new(tag, "US", [256, 0x10000 - 128, 8])
    dataset.save_as(path)
    assert np.array_equal(open_dicom(path).stored()[..., 0], DEEP // 16)


def test_one_uncompressed_frame_more_than_the_header_says_is_told(tmp_path: Path) -> None:
    frames = np.stack([DEEP] * 40)
    with pytest.raises(PixelError, match="the pixel data are"):
        open_dicom(write_dicom(tmp_path / "x.dcm", frames, NumberOfFrames=39))


# A decoder that was broken into reaches nothing, and costs the image that it was decoding only

HOSTILE = """
import ctypes, os, signal, socket, subprocess, sys, threading, time
from pathlib import Path
from ai_pipeline.images import decoder_process

control = os.dup(0)  # what a decoder can get hold of

def attempts():
    place, port, victim = SECRET, PORT, VICTIM
    yield "read", lambda: open(place).read()
    yield "list", lambda: os.listdir("/")
    yield "memory of others", lambda: open(f"/proc/{victim}/mem", "rb")
    yield "environment of others", lambda: open(f"/proc/{victim}/environ").read()
    yield "write", lambda: open(place + "-new", "w")
    yield "write here", lambda: open("left-behind", "w")
    yield "remove", lambda: os.unlink(place)
    yield "connect", lambda: socket.create_connection(("127.0.0.1", port))
    yield "socket", lambda: socket.socket(socket.AF_UNIX)
    yield "pair", lambda: socket.socketpair()
    yield "pipe", lambda: os.pipe()
    yield "fork", lambda: os.fork()
    yield "thread", lambda: threading.Thread(target=print).start()
    yield "program", lambda: subprocess.run(["true"])
    yield "signal", lambda: os.kill(victim, 0)
    yield "parent", lambda: os.kill(os.getppid(), 0)
    yield "speak for its parent", lambda: os.write(control, b"x" * 5)
    yield "other descriptors", lambda: [os.write(number, b"x") for number in range(40)]
    yield "limits", lambda: __import__("resource").setrlimit(7, (100, 100))

def tries(frame):
    done = []
    for name, attempt in attempts():
        try:
            attempt()
            done.append(name)
        except (Exception, SystemExit):
            pass
    secrets = [name for name in os.environ if "SECRET" in name]
    raise ValueError(f"decoder did: {done + secrets}")

def crashes(frame):
    ctypes.string_at(0)

def spins(frame):
    while True:
        pass

def hoards(frame):
    kept = []
    while True:
        kept.append(bytearray(64 << 20))

def lies(frame):
    return b"1"

class Mapped(decoder_process.mmap.mmap):
    def __init__(self, *_):
        Mapped.last = self

decoder_process.mmap.mmap = Mapped

def looks(frame):
    memory = Mapped.last
    if any(memory[24 + len(frame):]):
        raise ValueError("there is something")
    memory[24 + len(frame):] = b"x" * (len(memory) - 24 - len(frame))
    return b"y" * (360 * 480)

def talks(frame):
    raise ValueError("decode\\x1b[31m" + "x" * 10_000)

def leaves(frame):
    os._exit(0)

remembered = []

def remembers(frame):
    remembered.append(frame)
    return bytes([len(remembered)]) * (360 * 480)

decoder_process.main({"openjpeg": HOW, "charls": decoder_process.DECODERS["charls"]})
"""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[decoder.Decoder]:
    """The image's decoder, of which JPEG 2000 has been taken over as :func:`taken_over` says."""
    monkeypatch.setenv("SECRET_TOKEN", "geheim")
    one = decoder.Decoder([str(tmp_path / "hostile.py")])
    monkeypatch.setattr(codestreams, "DECODER", one)
    yield one
    one.close()


def taken_over(folder: Path, how: str, port: int = 0, first: str = "") -> DicomImage:
    """An image whose decoder does what the function ``how`` of HOSTILE does, after the lines ``first``."""
    (folder / "secret").write_text("geheim")
    code = HOSTILE.replace("SECRET, PORT, VICTIM", repr((str(folder / "secret"), port, os.getpid())))
    code = code.replace("HOW", how).replace("decoder_process.main", f"{first}decoder_process.main")
    (folder / "hostile.py").write_text(code)
    return open_dicom(write_dicom(folder / "hostile.dcm", echo()[None], JPEG2000Lossless))


def test_a_decoder_that_is_broken_into_reaches_nothing(tmp_path: Path, hostile: decoder.Decoder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        image = taken_over(tmp_path, "tries", listener.getsockname()[1])
        if lacking := hostile.lacks():
            pytest.skip(f"this machine cannot take from a decoder {lacking}")
        with pytest.raises(PixelError, match=r"decoder did: \[\]"):
            image.stored()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.dcm", "hostile.py", "secret"]
    assert decodes(tmp_path)


NO_SECCOMP = "decoder_process.seccomp.only_compute = lambda: False\n"


@pytest.mark.parametrize("files", [False, True], ids=["limits alone", "and Landlock"])
def test_without_seccomp_a_decoder_still_has_no_file_network_or_process(
    tmp_path: Path, hostile: decoder.Decoder, files: bool
) -> None:
    if files and landlock.version() < landlock.LEAST:
        pytest.skip("this kernel has no Landlock")
    bare = (
        f"{NO_SECCOMP}os.close(control)\n"  # it was got before the decoder was confined, which no frame can
        "if os.geteuid() == 0: os.setuid(65534)\n"
    )
    if not files:
        bare += "decoder_process.landlock.allow_only = lambda *_: False\n"
    image = taken_over(tmp_path, "tries", first=bare)
    lacking = "system calls (seccomp)" if files else "files and system calls (Landlock, seccomp)"
    assert hostile.lacks() == lacking
    with pytest.raises(PixelError, match="decoder did") as failure:
        image.stored()
    did = ast.literal_eval(str(failure.value).partition("did: ")[2])
    assert set(did) <= {"signal", "parent", "other descriptors"} | (set() if files else {"remove"})


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("crashes", "died of it .SIGSEGV"),
        ("leaves", "died of it .status 0"),
        ("hoards", "takes more than 1024 MiB"),
        ("lies", "decodes to 1 bytes, the header describes 172800"),
        ("spins", "takes longer than"),
        ("talks", r"decode\?\[31mx+$"),
    ],
)
def test_what_ends_a_decoder_costs_one_image(
    tmp_path: Path, hostile: decoder.Decoder, how: str, reason: str
) -> None:
    lower = {"spins": "decoder_process.SECONDS = 0.5\n", "hoards": "decoder_process.MEMORY = 1 << 30\n"}
    with pytest.raises(PixelError, match=reason) as failure:
        taken_over(tmp_path, how, first=lower.get(how, "")).stored()
    assert type(failure.value) is PixelError  # of the image: no memory of this process was lacking
    assert len(str(failure.value)) < 300
    assert decodes(tmp_path)


@pytest.mark.parametrize(
    ("how", "sample", "keeps_memory"),
    [("remembers", 1, False), ("looks", ord("y"), True)],
    ids=["in the process", "in its memory"],
)
def test_nothing_of_a_frame_is_left_for_the_next_one(
    tmp_path: Path, hostile: decoder.Decoder, how: str, sample: int, keeps_memory: bool
) -> None:
    image = taken_over(tmp_path, how)
    if keeps_memory and hostile.lacks():
        pytest.skip("this machine cannot take all system calls from a decoder")
    for _ in range(3):
        image.forget()
        assert set(image.stored().ravel()) == {sample}
    assert not keeps_memory or hostile._kept is not None


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    """Whether the process ends within a minute."""
    status = Path(f"/proc/{pid}/status")
    wait_until(lambda: not status.exists() or "State:\tZ" in status.read_text(), 60, "the process's end")
    return True


def test_a_worker_that_is_killed_leaves_no_decoder(tmp_path: Path, hostile: decoder.Decoder) -> None:
    path = taken_over(tmp_path, "spins").path
    code = (
        "import sys\n"
        "from ai_pipeline.images import codestreams, decode, decoder\n"
        f"codestreams.DECODER = one = decoder.Decoder([{str(tmp_path / 'hostile.py')!r}])\n"
        "one.start()\n"
        "print(one._process.pid, flush=True)\n"
        f"decode.open_dicom({str(path)!r}).stored()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as worker:
        makes = int(worker.stdout.readline())
        while not (spinning := children_of(makes)):
            time.sleep(0.02)
        worker.kill()
    assert gone(makes)
    assert gone(spinning[0])


@pytest.mark.parametrize("which", ["the frame's", "the one that makes it", "that one, stopped"])
def test_a_decoder_that_was_killed_or_stands_still_is_not_the_image_s_fault(
    tmp_path: Path, hostile: decoder.Decoder, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    image = taken_over(tmp_path, "spins")
    with monkeypatch.context() as brief:
        brief.setattr(decoder, "SECONDS", 1.0 if "stopped" in which else 60.0)
        hostile.start()
    makes = hostile._process.pid

    def kill() -> None:
        while not (spinning := children_of(makes)):
            time.sleep(0.02)
        how = signal.SIGSTOP if "stopped" in which else signal.SIGKILL
        os.kill(spinning[0] if which == "the frame's" else makes, how)

    with ThreadPoolExecutor(1) as killer:
        killer.submit(kill)
        with pytest.raises(PixelError):  # which is tried again
            image.stored()
    assert decodes(tmp_path)


def test_a_decoder_whose_maker_is_gone_before_it_could_ask_is_ended(
    tmp_path: Path, hostile: decoder.Decoder
) -> None:
    orphan = (
        "asks, answers = decoder_process.die_with_parent, decoder_process._answer\n"
        "def late(parent):\n"
        "    os.kill(parent, signal.SIGKILL)\n"
        "    while os.getppid() == parent:\n"
        "        time.sleep(0.01)\n"
        "    return asks(parent)\n"
        "def answer(*arguments):\n"  # of a frame's process, not of the trial
        f"    Path({str(tmp_path / 'orphan')!r}).write_text(str(os.getpid()))\n"
        "    decoder_process.die_with_parent = late\n"
        "    answers(*arguments)\n"
        "decoder_process._answer = answer\n"
        "decoder_process.landlock.allow_only = lambda *_: True\n"
    )
    with pytest.raises(PixelError):
        taken_over(tmp_path, "spins", first=orphan).stored()
    assert gone(int((tmp_path / "orphan").read_text()))


def test_the_process_serves_on_when_its_service_is_asked_to_stop(
    tmp_path: Path, hostile: decoder.Decoder
) -> None:
    taken_over(tmp_path, "lies")
    hostile.start()
    process = hostile._process
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    assert decodes(tmp_path)
    assert hostile._process is process


def test_where_it_cannot_start_the_image_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = open_dicom(write_dicom(tmp_path / "good.dcm", echo()[None], JPEGLSLossless))
    monkeypatch.setattr(codestreams, "DECODER", decoder.Decoder(["-c", "import not_installed"]))

    with pytest.raises(NoDecoder, match=r"cannot start: try .* -I -c import not_installed"):
        image.stored()


def test_the_memory_of_a_frame_serves_the_next_one_when_nobody_looks_at_it() -> None:
    one = decoder.Decoder()
    if one.lacks():
        pytest.skip("this machine cannot take all system calls from a decoder")
    (first, first_samples), (second, second_samples) = _picture(1), _picture(2)
    samples, before = one.decode("picture", first, 360 * 480), one._kept
    other, last = one.decode("picture", second, 360 * 480), one._kept
    assert last is not before  # somebody looks at it yet
    assert (bytes(samples), bytes(other)) == (first_samples, second_samples)
    del samples, other
    assert bytes(one.decode("picture", first, 360 * 480)) == first_samples
    assert one._kept is last
    one.close()
    assert one._kept is None


def test_where_a_process_could_outlive_its_frame_no_memory_is_used_again(
    tmp_path: Path, hostile: decoder.Decoder
) -> None:
    taken_over(tmp_path, "lies", first=NO_SECCOMP)
    assert decodes(tmp_path)
    assert hostile._kept is None


INTERRUPTED = Mock(side_effect=KeyboardInterrupt)


@pytest.mark.parametrize("ends", ["too large", "interrupted"])
def test_memory_that_is_not_for_the_next_frame_is_given_back(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, files = decoder.Decoder(), lambda: len(list(Path("/proc/self/fd").iterdir()))
    one.start()
    before = files() - (ends == "interrupted")  # its socket
    patched = {"too large": ("_MOST_KEPT", 1000), "interrupted": ("_received", INTERRUPTED)}
    monkeypatch.setattr(decoder, *patched[ends])
    with contextlib.suppress(KeyboardInterrupt):
        one.decode("picture", _picture(1)[0], 360 * 480)
    assert one._kept is None
    assert files() == before
    one.close()


def test_threads_take_turns() -> None:
    frames, samples = zip(*map(_picture, range(4)), strict=True)
    with ThreadPoolExecutor(4) as threads:
        decoded = threads.map(lambda frame: codestreams.DECODER.decode("picture", frame, 360 * 480), frames)
    assert tuple(map(bytes, decoded)) == samples


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_daemons_of_multiprocessing_decode(tmp_path: Path, method: str) -> None:
    codestreams.DECODER.start()
    with multiprocessing.get_context(method).Pool(1) as pool:  # daemons may have no processes of their own
        assert pool.apply(decodes, (tmp_path,))
    assert decodes(tmp_path)


def _picture(seed: int) -> tuple[bytes, bytes]:
    return encoded(echo(seed), "PNG"), echo(seed).tobytes()


def test_an_interrupted_wait_does_not_mix_up_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codestreams.DECODER.start()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(decoder, "_received", INTERRUPTED)
        codestreams.DECODER.decode("picture", _picture(1)[0], 360 * 480)
    assert decodes(tmp_path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_pictures_of_every_kind_become_the_samples_that_pillow_gives(tmp_path: Path, mode: str) -> None:
    deep = Image.fromarray(echo().astype(np.uint16) * 200)
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    picture = deep if mode == "I;16" else Image.fromarray(echo()).convert("RGB").convert(mode)
    picture.save(path, exif=Image.Exif())
    samples = open_picture(path, "US").samples
    with Image.open(path) as again:
        plain = {"1": "L", "LA": "L", "L": "L", "I;16": "I;16"}.get(mode, "RGB")
        expected = np.asarray(again if again.mode == plain else again.convert(plain))
    assert samples.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert np.array_equal(samples, expected)


def test_a_picture_that_is_cut_off_is_told(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(_picture(1)[0][:5000])
    with pytest.raises(PixelError, match="truncated"):
        open_picture(tmp_path / "cut.png", "US")


def jp2(codestream: bytes, *boxes: bytes) -> bytes:
    """A JP2 file with further boxes in its header (T.800 I.4, I.5)."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    header = box(b"ihdr", struct.pack(">IIHBBBB", 360, 480, 1, 7, 7, 0, 0))
    header += box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17)) + b"".join(boxes)
    kind = box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return box(b"jP  ", b"\r\n\x87\n") + kind + box(b"jp2h", header) + box(b"jp2c", codestream)


@pytest.mark.parametrize("palette", [False, True])
def test_no_decoder_reads_a_jp2_file_around_a_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, palette: bool
) -> None:
    path = write_dicom(tmp_path / "jp2.dcm", echo()[None], JPEG2000Lossless)
    codestream = next(generate_frames(dcmread(path).PixelData, number_of_frames=1))
    boxes = [struct.pack(">I4sHBB", 13, b"pclr", 1, 1, 7) + b"\xff"] if palette else []
    encapsulated(path, echo()[None], [jp2(codestream, *boxes)], JPEG2000Lossless)
    decode = Mock(wraps=decoder.DECODER.decode)
    monkeypatch.setattr(codestreams, "DECODER", SimpleNamespace(decode=decode, start=lambda: None))
    if palette:
        with pytest.raises(PixelError, match="JP2 file with colours of its own"):
            open_dicom(path).stored()
    else:
        assert np.array_equal(open_dicom(path).stored(), echo())
    assert [call.args[1][:4] for call in decode.mock_calls] == ([] if palette else [b"\xff\x4f\xff\x51"])


# Drawn results: what is written stands beside the picture and can be read, boxes lie at their place

MODEL = ModelRef("model", "1", "0" * 64, "1" * 64, calibrated=True)


def finding(*boxes: tuple[float, float, float, float], decision: Decision = Decision.PRESENT) -> Finding:
    regions = tuple(Region("box", (box[:2], box[2:]), Origin.ACTIVATION) for box in boxes)
    code = Code("8186001", "SCT", "Cardiomegaly")
    return Finding("Cardiomegaly", code, 0.83, 0.4, decision, "1.2", MODEL, regions=regions)


def with_heatmap(values: np.ndarray) -> Finding:
    return replace(finding(), evidence=Heatmap(values, "CAM"))


@pytest.mark.parametrize("shape", [(60, 80), (240, 320, 3), (1760, 2140), (3, 3), (40, 3000), (2000, 90)])
def test_words_stand_below_the_picture_and_cover_nothing_of_it(shape: tuple[int, ...]) -> None:
    display = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    rows, columns = shape[:2]
    expected = np.broadcast_to(display.reshape(rows, columns, -1), (rows, columns, 3))
    for drawn in (
        annotate(display, [finding()]),
        heatmap_overlay(display, with_heatmap(np.zeros((rows, columns), np.float32))),
    ):
        assert drawn.dtype == np.uint8
        assert np.array_equal(drawn[:rows, :columns], expected)
        assert (drawn[rows + 1 :] > 150).all(axis=2).sum() > 100  # letters


@pytest.mark.parametrize("shape", [(3, 3), (64, 64), (128, 128), (512, 512), (90, 2000), (2000, 90)])
def test_the_whole_warning_is_readable_on_a_picture_of_any_size(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = ImageDraw.ImageDraw.text

    def noted(self: ImageDraw.ImageDraw, place: tuple[float, float], text: str, **how: Any) -> None:
        assert place[0] + how["font"].getlength(text) <= self.im.size[0]
        assert how["font"].size >= max(11, 0.0139 * max(shape))
        written.append(text)
        write(self, place, text, **how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    said = "AI result - not for diagnostic use, model one-with-a-very-long-name-that-fits-no-line version 1.2"
    annotate(np.zeros(shape, np.uint8), [finding()], [said])
    assert "".join(written).replace(" ", "").endswith(said.replace(" ", ""))


def test_several_boxes_are_numbered_and_many_are_counted() -> None:
    one = finding((10.0, 10.0, 20.0, 20.0))
    assert box_captions([one]) == ["AI: cardiomegaly suspected, 83 % (cut-off 40 %)"]
    other = replace(one, code=Code("27925004", "SCT", "Nodule"), label="Nodule", probability=0.5)
    assert box_captions([one, other, one]) == [
        "[1, 3] AI: cardiomegaly suspected, 83 % (cut-off 40 %)",
        "[2] AI: nodule suspected, 50 % (cut-off 40 %)",
    ]
    assert box_captions([one] * 12) == ["AI: 12 x Cardiomegaly"]
    boxes = [(0.0, 0.0, 400.0, 250.0), (0.0, 272.0, 400.0, 450.0)]
    between = (annotate(np.zeros((600, 800), np.uint8), [finding(*boxes)])[251:271] == YELLOW).all(axis=2)
    # The first stands below its box, at the left; the second above its own, at the right, where it is free.
    assert between[:, :30].any()
    assert between[:, 370:400].any()
    assert not between[:, 30:370].any()


def test_a_box_is_drawn_on_the_edge_pixels_of_its_area() -> None:
    drawn = annotate(np.zeros((600, 800), np.uint8), [finding((200.0, 300.0, 400.0, 450.0))])
    yellow = (drawn[:600] == YELLOW).all(axis=2)
    assert yellow[400, 199:205].any()
    assert yellow[400, 395:400].any()
    assert not yellow[400, :199].any()
    assert not yellow[310:440, 210:390].any()
    assert not yellow[400, 400:].any()


def test_what_is_absent_is_not_drawn() -> None:
    display = np.zeros((600, 800), np.uint8)
    drawn = annotate(display, [finding((200.0, 300.0, 400.0, 450.0), decision=Decision.ABSENT)])
    assert not drawn[200:460, 190:410].any()
    assert legend_of([finding(decision=Decision.ABSENT)])[0] == "AI: Not found: cardiomegaly."


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "AI: cardiomegaly suspected, 83 % (cut-off 40 %)"),
        (
            {"decision": Decision.INDETERMINATE, "probability": 0.33, "threshold": 0.34},
            "AI: cardiomegaly not excluded, 33 % (cut-off 34 %)",
        ),
        ({"probability": 0.042, "threshold": 0.039}, "AI: cardiomegaly suspected, 4.2 % (cut-off 3.9 %)"),
        ({"probability": 0.0996, "threshold": 0.039}, "AI: cardiomegaly suspected, 10 % (cut-off 3.9 %)"),
        ({"threshold": None}, "AI: cardiomegaly suspected, 83 %"),
        ({"probability": None, "threshold": None}, "AI: cardiomegaly suspected"),
        (
            {"decision": Decision.ABSENT, "probability": 0.01},
            "AI: cardiomegaly not found, 1.0 % (cut-off 40 %)",
        ),
        # only a calibrated model speaks in per cent
        (
            {"model": replace(MODEL, calibrated=False)},
            "AI: cardiomegaly suspected, score 0.83 (cut-off 0.40)",
        ),
        # in words where it was measured how far to trust it
        (
            {"certainty": "low certainty", "reliability": "of 10 such calls, about 3 are right"},
            "AI: cardiomegaly suspected, low certainty",
        ),
        # annotation to remove is no suspicion
        ({"label": "Burned-in text", "code": BURNED_IN, "probability": None}, "AI: Burned-in text"),
    ],
)
def test_a_label_says_the_category_first_and_a_number_only_beside_its_cut_off(
    changed: dict[str, Any], said: str
) -> None:
    assert label_text(replace(finding(), **changed)) == said


def test_the_legend_warns_names_the_model_and_has_the_notes_for_every_picture() -> None:
    everywhere = QualityNote("no outline", "The lung is white.", on_faces=True)
    lines = legend_of([finding()], [everywhere, QualityNote("age", "The patient's age is unknown.")])
    assert {"The lung is white.", "Model: model 1"} <= set(lines)
    assert not any("age is unknown" in line for line in lines)
    assert lines[-1] == "AI result - not for diagnostic use"


def test_the_heat_map_changes_the_picture_where_it_is_hot_only() -> None:
    values = np.zeros((400, 400), np.float32)
    values[150:250, 100:200] = 1.0
    drawn = heatmap_overlay(np.full((400, 400), 100, np.uint8), with_heatmap(values))
    assert (drawn[200, 150] != 100).any()
    assert (drawn[300, 150] == 100).all()


def test_the_colour_bar_shows_the_colours_as_they_look_over_grey() -> None:
    values = np.tile(np.linspace(0.0, 1.0, 400, dtype=np.float32), (400, 1))
    drawn = heatmap_overlay(np.full((400, 400), MEDIUM_GREY, np.uint8), with_heatmap(values))
    bar = drawn[400 + 5 + 5, 22 : 400 - 22]  # of letters of 11 pixels, behind a gap
    for share in (0.25, 0.5, 0.75):
        in_bar, in_picture = bar[round(share * (len(bar) - 1))], drawn[200, round(share * 399)]
        np.testing.assert_allclose(in_bar.astype(int), in_picture.astype(int), atol=3)


def test_the_heat_map_says_finding_scale_model_and_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, **how: said.append(text))
    heatmap_overlay(np.zeros((900, 900), np.uint8), with_heatmap(np.zeros((900, 900), np.float32)))

    assert said == [
        "0.0",
        "1.0",
        "AI: cardiomegaly suspected, 83 % (cut-off 40 %)",
        "Colours: CAM; 1 = peak; no outline",
        "Model: model 1",
        "AI result - not for diagnostic use",
    ]


@pytest.mark.parametrize("asked", [finding(), with_heatmap(np.zeros((5, 5), np.float32))])
def test_a_missing_heat_map_or_one_of_another_size_is_refused(asked: Finding) -> None:
    with pytest.raises(ValueError, match="heat map"):
        heatmap_overlay(np.zeros((10, 10), np.uint8), asked)


def test_the_legend_says_what_drew_the_box_and_calls_an_outline_no_box() -> None:
    box, triangle = ((1.0, 2.0), (3.0, 4.0)), ((10.0, 10.0), (30.0, 10.0), (20.0, 30.0))
    said = {origin: place_lines([Region("box", box, origin)] * 2) for origin in Origin}
    assert said[Origin.DETECTOR] == ["box: detector, approximate place"]
    assert said[Origin.ACTIVATION] == ["box: class activation, approximate place"]
    assert said[Origin.MARK] == []
    assert place_lines([Region("polygon", triangle, Origin.DETECTOR)]) == [EDGE_IS_APPROXIMATE]


BLUE = (0, 90, 200)  # no letter has it, nor its edges


def drawn(
    shown: render.PagePicture | str = "no picture", results: Sequence[str] = (), **given: Sequence[str]
) -> Picture:
    usual = {"head": ["Test, Ann", "ID: 1"], "captions": ["View: PA"], "foot": ["AI result"]} | given
    return render.draw_page("AI summary", usual["head"], shown, usual["captions"], results, usual["foot"])


def blue(rows: int, columns: int, *boxes: tuple[float, float, float, float]) -> render.PagePicture:
    return render.PagePicture(np.full((rows, columns, 3), BLUE, np.uint8), [finding(*boxes)] if boxes else [])


def place_of_picture(whole: Picture) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of what is exactly as blue as the picture."""
    rows, columns = np.nonzero((whole == BLUE).all(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def words(count: int) -> list[str]:
    return [f"image {number}: AI: Suspected: left pleural effusion." for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("rows", "columns", "upright"),
    [
        (256, 224, False),
        (2500, 2048, False),
        (3000, 100, False),
        (1, 1, False),
        (300, 800, True),
        (100, 3000, True),
    ],
)
def test_a_page_is_upright_below_a_wide_picture(rows: int, columns: int, upright: bool) -> None:
    whole = drawn(blue(rows, columns), words(2))
    assert whole.shape == ((1600, 1200, 3) if upright else (1200, 1600, 3))
    left, top, right, bottom = place_of_picture(whole)
    assert (right - left) * rows == pytest.approx((bottom - top) * columns, abs=max(rows, columns))


def test_letters_are_read_from_a_distance() -> None:
    """Capitals of the smallest letters are 22 pixels high at least."""
    column = drawn("no picture", ["H" * 12] * 60)[:, 700:].any(axis=(1, 2))[200:1000]
    edges = np.flatnonzero(np.diff(column.astype(int)))
    heights = edges[1:11:2] - edges[:10:2]
    assert len(set(heights)) == 1
    assert heights[0] >= 22


def test_what_has_no_room_is_counted() -> None:
    blocks = [["a"], ["b", "c"], ["d"], ["e"]]
    cut = {
        5: ["a", "b", "c", "d", "e"],
        4: ["a", "b", "c", "and 2 more: see the report"],
        3: ["a", "and 3 more: see the report"],
    }
    assert {lines: render._cut(blocks, lines) for lines in cut} == cut
    assert render._cut([["a", "b", "c", "d"], ["e"]], 3) == ["a", "b", "and 3 more lines: see the report"]


@pytest.mark.parametrize(
    "shown", [blue(400, 380, (10, 10, 90, 90), (100, 100, 300, 300)), blue(100, 3000), "none"]
)
@pytest.mark.parametrize("count", [1, 12, 100])
def test_nothing_is_written_at_the_edges_or_over_the_picture(
    shown: render.PagePicture | str, count: int
) -> None:
    long = ["W" * 200, *words(count), "word " * 200]
    whole = drawn(
        shown, long, head=["Ü" * 64, "9" * 64, "word " * 90], foot=["m" * 300, "n" * 300], captions=["c" * 99]
    )
    assert not any(edge.any() for edge in (whole[:5], whole[-5:], whole[:, :20], whole[:, -20:]))
    if isinstance(shown, render.PagePicture):
        left, top, right, bottom = place_of_picture(whole)
        assert not (whole[top:bottom, left:right] == 255).all(axis=-1).any(), "white letters in the picture"


def test_boxes_are_drawn_where_they_are_in_the_picture() -> None:
    """The box from a quarter to three quarters of the picture, which is enlarged."""
    whole = drawn(blue(200, 200, (50, 50, 150, 150)))
    left, top, right, bottom = place_of_picture(whole)
    rows, columns = np.nonzero((whole[top:bottom, left:right] == YELLOW).all(axis=-1))
    shares = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) / (right - left)
    assert right - left > 400
    assert shares == pytest.approx([0.25, 0.25, 0.75, 0.75], abs=0.01)


def test_pixels_that_are_no_squares_are_shown_as_they_are_in_the_body() -> None:
    shown = render.PagePicture(np.full((100, 200, 3), BLUE, np.uint8), pixel_height=2.0)
    left, top, right, bottom = place_of_picture(drawn(shown))
    assert right - left == bottom - top


def test_letters_with_accents_greek_and_cyrillic_are_drawn_and_no_other() -> None:
    """A letter that the font lacks would be an empty frame."""
    font = ImageFont.truetype(render.FONT, render.LETTERS, layout_engine=ImageFont.Layout.BASIC)
    frame = bytes(font.getmask("\uffff"))
    given = [
        chr(one)
        for one in range(sys.maxunicode // 16)
        if render.drawable(chr(one)) and chr(one).isprintable()
    ]
    assert [one for one in given if bytes(font.getmask(one)) == frame] == []
    assert all(
        map(render.drawable, ("Müller-Øster, Łukasz", "Иванова", "Παπαδόπουλος", "Nguyễn", "Mu\u0308ller"))
    )
    assert not any(map(render.drawable, ("홍길동", "洪吉洞", "عمر", "山田")))


def test_the_layout_is_that_of_the_drawn_page() -> None:
    """Where it says that text, pictures and lines are, the page has some; the picture is in it as it is."""
    shown = render.PagePicture(np.full((300, 400), 90, np.uint8))
    content = ("Title", ["Name, Given", "ID: 1"], shown, ["View: PA"], ["AI: nothing found."], ["foot"])
    laid, drawn = render.lay_out_page(*content), render.draw_page(*content)
    assert (laid.height, laid.width) == drawn.shape[:2]
    for one in laid.texts:
        letters = drawn[one.baseline - one.size // 2 : one.baseline, one.left : one.left + one.size]
        assert letters.max() > 200, one
    [(pixels, left, top)] = laid.pictures
    rows, columns = pixels.shape[:2]
    assert (drawn[top : top + rows, left : left + columns] == pixels).all()
    assert laid.rules
    assert all(drawn[row, render.MARGIN].any() for row in laid.rules)
