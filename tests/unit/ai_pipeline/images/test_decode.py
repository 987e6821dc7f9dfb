"""From a file to a picture: every file decodes, or fails with a cause and without PHI."""

import csv
import io
import re
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import openjpeg
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
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
from ai_pipeline.contract import PixelArray
from ai_pipeline.errors import HeaderError, PixelError
from ai_pipeline.images import colours, resolutions
from ai_pipeline.images.codestreams import Fragments
from ai_pipeline.images.coordinates import POSES, Pose, shown, upright
from ai_pipeline.images.decode import (
    DicomImage,
    decoded_sha256,
    open_dicom,
    open_image,
    open_picture,
    samples_photometric,
)
from ai_pipeline.images.display import BAND_ROWS, GreyDisplay
from ai_pipeline.images.header import age_years, read_header
from ai_pipeline.images.numbers import decimal, decimal_of, is_empty, value_of, whole, whole_of
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.inbox.inspection import inspect
from tests.modality import chest
from tests.unit.ai_pipeline.phantoms import (
    Picture,
    burn,
    cine,
    data_set,
    echo,
    encapsulated,
    stacked,
    write_dicom,
)
from tests.unit.inbox.objects import changed

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

    with (data / "dicom" / "manifest.csv").open() as rows:
        files = list(csv.DictReader(rows))
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
    }
    terms |= {
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


@pytest.mark.parametrize(
    ("attributes", "cause"),
    [
        ({"Rows": 0}, "Rows is 0"),
        ({"Rows": 100}, "172800 bytes, the header describes 48000"),
        ({"Columns": 500}, "pixel data is less than expected"),
        ({"BitsAllocated": 0}, "BitsAllocated is 0"),
    ],
)
def test_a_damaged_image_names_the_cause_and_no_person(
    tmp_path: Path, attributes: dict[str, int], cause: str
) -> None:
    path = write_dicom(tmp_path / "bad.dcm", echo()[None], **attributes)
    with pytest.raises(PixelError, match=cause) as failure:
        open_dicom(path).stored()
    assert "Secret" not in str(failure.value)


def test_what_is_neither_dicom_nor_picture_is_a_pixel_error(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(PixelError, match="neither"):
        open_image(tmp_path / "letter.txt")


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


ADOBE_YCC = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\x01"


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
    "Adobe YCC": BARE[:2] + ADOBE_YCC + BARE[2:],
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
    element = DataElement(0x00280004, "CS", photometric, validation_mode=IGNORE)  # "rgb" is no code string
    dataset.add(element)
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


FRAMES = stacked(cine(4, size=(96, 128)))


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
    odd = STREAMS[0][: end - 3] + bytes(3) + STREAMS[0][end:]
    assert close_to(still(tmp_path, odd), 0)


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
    with nullcontext() if needless else pytest.raises(PixelError, match=named):
        assert np.array_equal(open_dicom(path).stored(), colour[0])


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("PALETTE COLOR", "the Red Palette Color Lookup Table or its descriptor is missing"),
        ("MONOCHROME3", r"Photometric Interpretation \(0028,0004\) is no term"),
    ],
)
def test_grey_samples_that_nothing_explains_are_no_image(tmp_path: Path, said: str, named: str) -> None:
    path = write_dicom(tmp_path / "x.dcm", FRAMES[:1], RLELossless)
    changed(dcmread(path), PhotometricInterpretation=said).save_as(path)
    with pytest.raises(PixelError, match=named):
        open_dicom(path)
    with pytest.raises(PixelError, match="is a directory"):
        open_dicom(tmp_path)


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
    assert np.array_equal(stored, grey(signed)[0]) and stored.dtype.kind == ("i" if signed else "u")


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
@pytest.mark.parametrize("raw", RAW, ids=lambda raw: ascii(raw)[2:12])
def test_numbers_that_an_image_can_do_without_do_not_stop_it(raw: bytes) -> None:
    image = chest("one", np.zeros((4, 5), "u2"))
    without_age = deepcopy(image)
    del without_age.PatientAge
    keywords = ("PatientAge", "CineRate", "FrameTime", "PixelSpacing", "InstanceNumber", "WindowCenter")
    for keyword in (*keywords, "WindowWidth"):
        with_raw(image, keyword, raw)
    assert (read_header(image).rows, read_header(image).columns) == (4, 5)
    assert GreyDisplay.from_dataset(image).choice in {"percentiles", "window"}
    assert age_years(image) == age_years(without_age)  # by the dates


@NUMBERS_ONLY
@pytest.mark.parametrize("raw", [one for one in RAW if one.strip()], ids=lambda raw: ascii(raw)[2:12])
def test_a_number_of_frames_that_is_none_is_said(raw: bytes) -> None:
    image = with_raw(chest("one", np.zeros((4, 5), "u2")), "NumberOfFrames", raw)
    with pytest.raises(HeaderError, match="Number of Frames"):
        read_header(image)


def with_raw(dataset: Dataset, keyword: str, raw: bytes) -> Dataset:
    """The data set with these very bytes as the value."""
    tag = Tag(keyword)
    vr = {"Rows": "US", "PatientAge": "AS"}.get(keyword, "IS" if keyword in _WHOLE else "DS")
    dataset[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)
    return dataset


_WHOLE = {"InstanceNumber", "CineRate", "NumberOfFrames"}


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


def test_a_transposed_picture_is_shown_as_it_lies() -> None:
    stored = np.arange(12, dtype=np.uint16).reshape(3, 4)
    display = GreyDisplay.from_dataset(windowed(6, 12))

    np.testing.assert_array_equal(display.show(stored.T), display.show(stored).T)


@pytest.mark.parametrize(("centre", "width"), [(128, 0), (128, -40), (128, float("nan"))])
def test_a_window_without_a_width_is_none(centre: float, width: float) -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    attributes = changed(windowed(centre, width, intercept=0), BitsStored=8)
    np.testing.assert_array_equal(GreyDisplay.from_dataset(attributes).show(stored), stored)


def test_a_window_narrower_than_one_is_no_threshold() -> None:
    display = GreyDisplay.from_dataset(windowed(0.5, 0.9, slope=0.001, intercept=0))
    assert len(np.unique(display.show(np.arange(1000, dtype=np.uint16).reshape(20, 50)))) > 200


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("kind", ["US", "SS"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_first_value_of_a_lut_is_signed_as_the_samples_are(
    sequence: str, kind: str, signed: bool, packed: bool
) -> None:
    first = -1024 if signed else 40_000
    written = first % 65_536 - (65_536 if kind == "SS" and first % 65_536 > 32_767 else 0)
    table, item = np.arange(512, dtype="<u2") * 128, Dataset()
    item.add_new("LUTDescriptor", kind, [512, written, 16])
    item.add_new("LUTData", *(("OW", table.tobytes()) if packed else ("US", table.tolist())))
    window = {"WindowCenter": 32768, "WindowWidth": 65536, "VOILUTFunction": "LINEAR_EXACT"}
    attributes = data_set(BitsStored=16, PixelRepresentation=int(signed), **{sequence: [item]}, **window)
    attributes.file_meta = FileMetaDataset()
    attributes.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stored = np.arange(first - 100, first + 612).reshape(8, 89).astype(np.int16 if signed else np.uint16)

    shown = GreyDisplay.from_dataset(attributes).show(stored)

    wanted = np.clip(np.arange(-100, 612), 0, 511).reshape(8, 89) / 2
    assert np.abs(shown - wanted).max() <= 1


def test_a_lut_of_bytes_is_read() -> None:
    item, attributes = Dataset(), Dataset()
    item.LUTDescriptor = [256, 0, 8]
    item.add_new("LUTData", "OW", bytes(range(256)))
    attributes.VOILUTSequence, attributes.BitsStored = [item], 8
    attributes.file_meta = FileMetaDataset()
    attributes.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(GreyDisplay.from_dataset(attributes).show(stored), stored)


EVERY_POSE = (*POSES, Pose(mirrored=True), Pose(90, mirrored=True), Pose(270, True, True))


NAMES = [pose.name for pose in EVERY_POSE]


PICTURE = np.random.default_rng(5).integers(0, 256, (30, 50)).astype(np.uint8)


@pytest.mark.parametrize("pose", EVERY_POSE, ids=NAMES)
def test_putting_upright_undoes_the_pose(pose: Pose) -> None:
    np.testing.assert_array_equal(upright(shown(PICTURE, pose), pose)[0], PICTURE)


@pytest.mark.parametrize("pose", EVERY_POSE, ids=NAMES)
def test_the_map_leads_every_pixel_to_where_it_has_gone(pose: Pose) -> None:
    picture = shown(PICTURE, pose)
    back, to_upright = upright(picture, pose)
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
    return resolutions.decoded(Fragments.find(path, image.pixels_at, 1).frame(0), image.header, times)


@pytest.mark.parametrize("rows", [400, 403])
@pytest.mark.parametrize("columns", [304, 310])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_lossless_file_is_decoded_as_its_samples_are_halved(
    tmp_path: Path, rows: int, columns: int, times: int
) -> None:
    samples = RAMP[:rows, :columns]
    found = decoded(film(tmp_path / "film.dcm", samples), times)
    wanted = resolutions.halved(samples, 12, times)
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
    monkeypatch.setattr(resolutions.DECODER, "lacks", lambda: "system calls (seccomp)")
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
    found, whole = decoded(path, 1), resolutions.halved(open_dicom(path).stored(), 12, 1)
    assert found is not None and np.abs(found.astype(int) - whole).mean() < 8, "of 4,096 levels"


def test_places_in_a_smaller_picture_are_mapped_to_the_image(tmp_path: Path) -> None:
    samples = np.zeros((400, 304), np.uint16)
    samples[200:208, 96:104] = 4000
    image = open_dicom(film(tmp_path / "film.dcm", samples))
    small = image.display(shorter_side=70).astype(float)
    assert small.shape == (100, 76)
    rows, columns = (np.arange(side) + 0.5 for side in small.shape)
    middle = (small.sum(0) @ columns / small.sum(), small.sum(1) @ rows / small.sum())
    ((x, y),) = resolutions.to_full_size(100, image.header)([middle])
    assert (x, y) == pytest.approx((100, 204), abs=0.6)


@pytest.mark.parametrize("tiles", [{}, {"tile_size": (128, 128)}], ids=["one tile", "tiles"])
def test_tiles_are_decoded_in_full_because_each_is_halved_by_itself(
    tmp_path: Path, tiles: dict[str, Any]
) -> None:
    samples = (RAMP[:384, :256] >> 4).astype(np.uint8)
    stream = encoded(samples, "JPEG2000", no_jp2=True, irreversible=False, **tiles)
    path = encapsulated(tmp_path / "film.dcm", samples[None], [stream], JPEG2000Lossless)
    assert (decoded(path, 1) is None) is bool(tiles)
    image, wanted = open_dicom(path), resolutions.halved(samples, 8, 1)
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
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\0"
PLAIN_RGB = jpeg(rgb=True, markers=False, identifiers=b"\1\2\3")


@pytest.mark.parametrize(
    ("stream", "photometric"),
    [(PLAIN_RGB[:2] + JFIF + PLAIN_RGB[2:], "RGB"), (BARE[:2] + ADOBE_RGB + BARE[2:], "YBR_FULL_422")],
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
    ],
)
def test_a_claim_that_the_picture_disproves_leaves_it_out(
    tmp_path: Path, samples: Any, photometric: str, changes: dict[str, Any], named: str
) -> None:
    path = relabelled(write_dicom(tmp_path / "x.dcm", samples[None], **changes), photometric)
    with pytest.raises(PixelError, match=named):
        open_dicom(path).stored()


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


def table(descriptor: list[int], words: int) -> dict[str, Any]:
    """A VOI LUT of so many entries."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW", bytes(2 * words))
    return {"VOILUTSequence": [item]}


@pytest.mark.parametrize(
    ("shift", "faulty"),
    [
        (0, {"VOILUTSequence": [Dataset()]}),
        (0, table([4096, 0, 16], 2000)),
        (0, table([4096, 0], 4096)),
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
