"""Overlay planes, as elements of their own and hidden in unused bits: told, and never let through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits, pixel_array
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from ai_pipeline.contract import PixelArray
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.images.overlay_planes import overlay_note
from tests.unit.ai_pipeline.phantoms import write_dicom

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
    dataset.add_new((group, 0x0010), "US", ROWS)
    dataset.add_new((group, 0x0011), "US", COLUMNS)
    dataset.add_new((group, 0x0040), "CS", "G")
    dataset.add_new((group, 0x0050), "SS", [1, 1])
    dataset.add_new((group, 0x0100), "US", 1 if drawn is not None else 16)
    dataset.add_new((group, 0x0102), "US", position)
    if drawn is not None:
        dataset.add_new((group, 0x3000), "OW", pack_bits(drawn.ravel()))


def with_planes(path: Path, *planes: tuple[int, PixelArray | None, int]) -> Path:
    dataset = pydicom.dcmread(path)
    for group, drawn, position in planes:
        add_plane(dataset, group, drawn, position)
    dataset.save_as(path)
    return path


def embedded(path: Path, syntax: str, values: PixelArray, bit: int, low: int = 0, **attributes: Any) -> Path:
    """``values`` of 12 bits from bit ``low`` on, with the writing in bit ``bit`` of the same words."""
    words = ((values.view(np.uint16) & 0x0FFF) << low) | (writing()[None].astype(np.uint16) << bit)
    signed = values.dtype.kind == "i"
    write_dicom(path, words, syntax)  # an encoder must take all 16 bits for stored
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11 + low, int(signed)
    add_plane(dataset, 0x6000, None, bit)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("bit", [12, 15])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_a_plane_above_the_stored_bits_never_reaches_the_samples(
    tmp_path: Path, syntax: str, signed: bool, bit: int
) -> None:
    values = grey(signed)
    if syntax == JPEGLSLossless and signed:
        values = np.abs(values) // 2  # the encoder took words for unsigned: signs are not its matter
    path = embedded(tmp_path / "one.dcm", syntax, values, bit)
    raw = pixel_array(pydicom.dcmread(path), raw=True, correct_unused_bits=False)
    assert np.any(raw.view(np.uint16) >> bit & 1), "the file holds no plane: nothing is tested"
    stored = open_dicom(path).stored()
    assert np.array_equal(stored, values[0])
    assert stored.dtype.kind == ("i" if signed else "u")


def test_a_plane_below_the_stored_bits_never_reaches_the_samples(tmp_path: Path) -> None:
    values = grey(signed=False)
    path = embedded(tmp_path / "old.dcm", ExplicitVRLittleEndian, values, bit=1, low=4)
    assert np.array_equal(open_dicom(path).stored(), values[0])
    signed = grey(signed=True)
    path = embedded(tmp_path / "signed.dcm", RLELossless, signed, bit=0, low=4)
    assert np.array_equal(open_dicom(path).stored(), signed[0])


def test_a_high_bit_that_is_only_wrong_changes_nothing(tmp_path: Path) -> None:
    values = grey(signed=False)
    path = write_dicom(tmp_path / "wrong.dcm", values, BitsStored=12, HighBit=15)
    assert np.array_equal(open_dicom(path).stored(), values[0])


def test_the_display_is_that_of_the_image_without_planes(tmp_path: Path) -> None:
    values, window = grey(signed=False), {"WindowCenter": 2048, "WindowWidth": 4096}
    plain = write_dicom(tmp_path / "plain.dcm", values, BitsStored=12, HighBit=11, **window)
    hidden = embedded(tmp_path / "hidden.dcm", ExplicitVRLittleEndian, values, 13, **window)
    drawn = write_dicom(tmp_path / "drawn.dcm", values, BitsStored=12, HighBit=11, **window)
    with_planes(drawn, (0x6000, writing(), 0))
    shown = open_dicom(plain).display()
    assert np.array_equal(open_dicom(hidden).display(), shown)
    assert np.array_equal(open_dicom(drawn).display(), shown)


def told(path: Path) -> str:
    note = overlay_note(open_dicom(path).header)
    return note.text if note else ""


def test_a_reader_is_told_how_many_planes_the_source_shows(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "two.dcm", grey(signed=False), BitsStored=12, HighBit=11)
    with_planes(path, (0x6000, writing(), 0), (0x601E, writing(), 0), (0x6002, writing() * 0, 0))
    assert told(path) == (
        "the source carries 2 overlay planes with drawn pixels; "
        "what they show is not part of the cleaned image"
    )
    hidden = embedded(tmp_path / "hidden.dcm", ExplicitVRLittleEndian, grey(signed=False), 12)
    assert told(hidden).startswith("the source carries 1 overlay plane in unused bits of its pixels;")
    with_planes(hidden, (0x6002, writing(), 0))
    assert "1 overlay plane with drawn pixels and 1 overlay plane in unused bits" in told(hidden)


def test_planes_without_a_drawn_pixel_are_not_worth_a_note(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "none.dcm", grey(signed=False), BitsStored=12, HighBit=11)
    assert told(path) == ""
    assert told(with_planes(path, (0x6000, writing() * 0, 0))) == ""


def test_the_note_names_its_image(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "one.dcm", grey(signed=False), BitsStored=12, HighBit=11)
    note = overlay_note(open_dicom(with_planes(path, (0x6000, writing(), 0))).header, "1.2.3")
    assert note is not None
    assert note.source_uid == "1.2.3"


@pytest.mark.data
def test_planes_of_real_files_are_found(data: Path) -> None:
    assert told(data / "dicom" / "files" / "pydicom__examples_overlay.dcm").startswith(
        "the source carries 1 over"
    )
