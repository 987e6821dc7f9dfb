"""Pictures that are decoded smaller than they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless, RLELossless

from ai_pipeline.errors import PixelError
from ai_pipeline.images import codestreams, decoder
from ai_pipeline.images.decode import decoded_smaller, halved, open_dicom, to_full_size
from tests.unit.ai_pipeline.images.images_lab import RAMP, encoded
from tests.unit.ai_pipeline.phantoms import encapsulated, write_dicom
from tests.unit.receive.objects import changed


def film(path: Path, samples: np.ndarray = RAMP, syntax: str = JPEG2000Lossless) -> Path:
    """A grey image of 12 bits in a file."""
    return write_dicom(path, samples.astype(np.uint16)[None], syntax, BitsStored=12, HighBit=11)


def decoded(path: Path, times: int) -> np.ndarray | None:
    image = open_dicom(path)
    return decoded_smaller(
        codestreams.Fragments.find(path, image.pixels_at, 1, image.transfer_syntax).frame(0),
        image.header,
        times,
    )


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
DAMAGE = {
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
