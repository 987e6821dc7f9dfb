"""Reading of DICOM images: headers and pixels, the process that decodes, and pictures drawn of them."""

import struct
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from ai_pipeline.errors import PixelError
from ai_pipeline.images import codestreams, decoder
from ai_pipeline.images.decode import (
    decoded_sha256,
    open_dicom,
    open_image,
    open_picture,
    samples_photometric,
)
from ai_training.sets.files import rows
from dicom_node.base.dicom.header import quiet_pydicom
from tests.unit.ai_pipeline.images.images_lab import FRAMES, RAMP, encoded
from tests.unit.ai_pipeline.phantoms import echo, encapsulated, write_dicom
from tests.unit.receive.objects import changed


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
        "files/pydicom__JPEG-lossy.dcm",  # the manifest is of a decoder that refuses its scan
        # Its grey samples stand for colours of a palette
        "files/cornerstonewadoimageloader__CT0012.fragmented_no_bot_jpeg_baseline.51.dcm",
    ]


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


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_that_is_cut_off_is_told(tmp_path: Path, kind: str) -> None:
    whole = encoded(echo(), kind)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PixelError, match="the file is cut off"):
        open_picture(tmp_path / "cut", "US")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_as_exif_says(tmp_path: Path, kind: str, orientation: int) -> None:
    """Orientations 5 to 8 exchange rows and columns (EXIF 2.32, 4.6.4 A)."""
    shown = np.zeros((32, 64), np.uint8)
    shown[:16, :16] = 255  # bright at the top left once it is upright
    undone = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.T,
        6: np.rot90(shown),
        7: shown[::-1, ::-1].T,
        8: np.rot90(shown, 3),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(undone[orientation])).save(tmp_path / "turned", kind, exif=exif)
    image = open_picture(tmp_path / "turned", "DX")
    assert (image.header.rows, image.header.columns) == shown.shape
    assert np.abs(image.display().astype(int) - shown).mean() < 2


def deep_film() -> np.ndarray:
    """A film of 12 bits in 16."""
    return np.asarray(RAMP, np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_film_of_12_bits_looks_as_it_does_in_dicom(tmp_path: Path, kind: str) -> None:
    Image.fromarray(deep_film()).save(tmp_path / "film", kind)
    dicom = write_dicom(tmp_path / "film.dcm", deep_film()[None], BitsStored=12, HighBit=11)
    shown = open_image(tmp_path / "film", "DX").display()
    assert np.array_equal(shown, open_dicom(dicom).display())
    assert shown.std() > 50


def test_a_tiff_of_16_bits_in_which_white_is_zero_is_turned_round(tmp_path: Path) -> None:
    film = Image.fromarray(np.uint16(4095) - deep_film())
    film.save(tmp_path / "negative.tif", tiffinfo={262: 0})
    Image.fromarray(deep_film()).save(tmp_path / "film.png")
    negative, plain = (open_picture(tmp_path / name, "DX").display() for name in ("negative.tif", "film.png"))
    assert np.abs(negative.astype(int) - plain).max() <= 1


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
