"""Large films are halved as they are decoded, and the result is the same however they were compressed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless, RLELossless

from ai_pipeline.errors import PixelError
from ai_pipeline.images import resolutions
from ai_pipeline.images.decode import open_dicom
from tests.unit.ai_pipeline.phantoms import write_dicom

RAMP = np.random.default_rng(3).integers(0, 40, (403, 310)) + 13 * np.arange(310)[None]
"""Samples of 12 bits with noise and edges."""


def film(path: Path, samples: npt.NDArray[Any] = RAMP, syntax: str = JPEG2000Lossless) -> Path:
    """A grey image of 12 bits in a file."""
    return write_dicom(path, samples.astype(np.uint16)[None], syntax, BitsStored=12, HighBit=11)


def decoded(path: Path, times: int) -> npt.NDArray[Any] | None:
    image = open_dicom(path)
    return resolutions.decoded(image.path, image.transfer_syntax, image.header, 0, times)


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
def test_a_smaller_picture_is_the_same_in_each_syntax(tmp_path: Path, syntax: str) -> None:
    plain = open_dicom(film(tmp_path / "plain.dcm", syntax="1.2.840.10008.1.2.1"))
    packed = open_dicom(film(tmp_path / "packed.dcm", syntax=syntax))
    small = plain.display(shorter_side=150)
    assert small.shape == (202, 155)
    np.testing.assert_array_equal(packed.display(shorter_side=150), small)
    assert packed.display(shorter_side=200).shape == packed.display().shape == RAMP.shape
    np.testing.assert_array_equal(
        packed.display(shorter_side=150), small, "after it was decoded in full, too"
    )


def test_a_lossy_file_is_decoded_close_to_its_samples_halved(tmp_path: Path) -> None:
    path = film(tmp_path / "film.dcm", syntax="1.2.840.10008.1.2.1")
    lossy = dcmread(path)
    lossy.compress(JPEG2000, j2k_cr=[8])
    lossy.save_as(path)
    found = decoded(path, 1)
    assert found is not None
    whole = resolutions.halved(open_dicom(path).stored(), 12, 1)
    assert np.abs(found.astype(int) - whole).mean() < 8, "of 4,096 levels"


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


def test_deep_samples_are_not_cut_to_16_bits(tmp_path: Path) -> None:
    deep = (RAMP.astype(np.uint32) << 12)[None]
    image = open_dicom(write_dicom(tmp_path / "deep.dcm", deep))
    assert image.display(shorter_side=150).shape == RAMP.shape


@pytest.mark.parametrize("tiles", [{}, {"tile_size": (128, 128)}], ids=["one tile", "tiles"])
def test_tiles_are_decoded_in_full_because_each_is_halved_by_itself(
    tmp_path: Path, tiles: dict[str, Any]
) -> None:
    samples, stream = (RAMP[:384, :256] >> 4).astype(np.uint8), io.BytesIO()
    Image.fromarray(samples).save(stream, "JPEG2000", no_jp2=True, irreversible=False, **tiles)
    path = write_dicom(tmp_path / "film.dcm", samples[None], JPEG2000Lossless)
    dataset = dcmread(path)
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset.save_as(path)
    assert (decoded(path, 1) is None) is bool(tiles)
    wanted = resolutions.halved(samples, 8, 1)
    image = open_dicom(path)
    np.testing.assert_array_equal(image.display(shorter_side=120), image.show(wanted))


def test_three_samples_a_pixel_are_decoded_in_full(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "odd.dcm", np.repeat(RAMP.astype(np.uint8)[None, ..., None], 3, axis=3))
    dataset = dcmread(path)
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.save_as(path)
    image = open_dicom(path)
    assert image.display(shorter_side=150).shape == image.display().shape


def test_a_frame_that_is_not_there_is_a_pixel_error(tmp_path: Path) -> None:
    frames = np.stack([RAMP, RAMP[::-1]]).astype(np.uint16)
    image = open_dicom(write_dicom(tmp_path / "two.dcm", frames, JPEG2000Lossless))
    for frame in (-1, 2):
        with pytest.raises(PixelError, match="there is no frame"):
            image.display(frame, shorter_side=150)


@pytest.mark.parametrize("what", ["padding", "signed"])
def test_what_halving_would_mix_up_is_decoded_in_full(tmp_path: Path, what: str) -> None:
    path = film(tmp_path / "film.dcm", syntax="1.2.840.10008.1.2.1")
    dataset = dcmread(path)
    if what == "padding":
        dataset.add_new("PixelPaddingValue", "US", 0)
    else:
        dataset.PixelRepresentation = 1
    dataset.save_as(path)
    assert open_dicom(path).display(shorter_side=150).shape == RAMP.shape


def _cut(frame: bytes) -> bytes:
    return frame[: len(frame) // 2]


def _no_style(frame: bytes) -> bytes:
    return frame.replace(b"\xff\x52", b"\xff\x64", 1)  # COD becomes a comment


def _all_levels(frame: bytes) -> bytes:
    place = frame.index(b"\xff\x52") + 9
    return frame[:place] + b"\x20" + frame[place + 1 :]


def _only_a_head(frame: bytes) -> bytes:
    return frame[: frame.index(b"\xff\x52") + 3]


def _empty_segments(frame: bytes) -> bytes:
    """A million segments that nobody should walk through."""
    place = frame.index(b"\xff\x52")
    return frame[:place] + b"\xff\x64\x00\x02" * 1_000_000 + frame[place:]


@pytest.mark.parametrize(
    "damage", [_empty_segments, _cut, _no_style, _all_levels, _only_a_head], ids=lambda one: one.__name__
)
def test_a_damaged_file_ends_as_it_does_in_full(tmp_path: Path, damage: Any) -> None:
    path = film(tmp_path / "film.dcm")
    dataset = dcmread(path)
    frame = bytes(dataset.PixelData)[16:]
    dataset.PixelData = encapsulate([damage(frame)])
    dataset.save_as(path)

    def outcome(**how: int) -> str:
        try:
            return f"{open_dicom(path).display(**how).shape[0]} rows"
        except PixelError as error:
            return str(error)

    whole, small = outcome(), outcome(shorter_side=150)
    assert small == whole if "rows" not in whole else small in {"202 rows", whole}
