"""The Pixel Data element of a received object: its hash as received, and whether it can be an image."""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import LARGEST_WHOLE, is_empty, value_of, whole
from dicom_node.dicom.transfer_syntaxes import TransferSyntax
from dicom_node.errors import FaultyObject

_ITEM, _DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


@dataclass(frozen=True, slots=True)
class PixelData:
    """The position of the value of (7FE0,0010): ``length`` bytes at ``start``; None for fragments (PS3.5
    A.4).

    ``size`` is the position of the end of the data set.
    """

    file: BinaryIO
    start: int
    length: int | None
    size: int
    little_endian: bool


def hash_pixel_data(pixels: PixelData) -> str:
    """SHA-256 of the value as received. Raises FaultyObject if its fragments have no end.

    The same bytes in big endian are other samples, so they have another hash.
    """
    length = _fragments_length(pixels) if pixels.length is None else pixels.length
    digest = hashlib.sha256(b"" if pixels.little_endian else b"big endian")
    pixels.file.seek(pixels.start)
    while length > 0:
        block = pixels.file.read(min(length, 2**20))
        if not block:
            raise FaultyObject("the Pixel Data is truncated")
        digest.update(block)
        length -= len(block)
    return digest.hexdigest()


def check_image(dataset: Dataset, syntax: TransferSyntax, pixels: PixelData | None) -> None:
    """Raise FaultyObject if these attributes and this value cannot be an image (PS3.3 C.7.6.3)."""
    if missing := [word for word in ("Rows", "Columns", "BitsAllocated") if dataset.get(word) is None]:
        raise FaultyObject(f"{dictionary_description(missing[0])} is missing, which an image must have")
    rows, columns = (_number(dataset, keyword, 0) for keyword in ("Rows", "Columns"))
    if rows <= 0 or columns <= 0:
        raise FaultyObject(f"the image has {rows} × {columns} pixels")
    if pixels is None or pixels.length == 0:
        raise FaultyObject("the image has no Pixel Data")
    frames = _number(dataset, "NumberOfFrames", 1)
    if frames <= 0:
        raise FaultyObject("Number of Frames (0028,0008) is not a positive number")
    if pixels.length is None:
        if not syntax.is_encapsulated:
            raise FaultyObject("the Pixel Data is in fragments, its transfer syntax is uncompressed")
        return
    if syntax.is_encapsulated:
        raise FaultyObject("the Pixel Data is not in fragments, its transfer syntax is compressed")
    bits, *others = _pixel_bits(dataset)
    # Up to a row too long is padding, seen in the field; more is another image than the header describes.
    for pixel_bits in (bits, *others):
        wanted, padding = (frames * rows * columns * pixel_bits + 7) // 8, max(columns * pixel_bits // 8, 2)
        if wanted <= pixels.length <= wanted + padding:
            return
    wanted = (frames * rows * columns * bits + 7) // 8
    raise FaultyObject(f"the Pixel Data has {pixels.length} bytes, its attributes say {wanted}")


def _pixel_bits(dataset: Dataset) -> list[int]:
    """Bits of a pixel, the number by the attributes first."""
    samples = _number(dataset, "SamplesPerPixel", 1)
    allocated = _number(dataset, "BitsAllocated", 0)
    if allocated not in (1, 8, 16, 32, 64) or samples not in (1, 3, 4):
        raise FaultyObject(f"{samples} samples of {allocated} bits per pixel are no image")
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    if photometric.startswith(("YBR_FULL_422", "YBR_PARTIAL_422")):
        # Chrominance at every other pixel (PS3.3 C.7.6.3.1.2); some makers write it at each.
        return [2 * allocated, samples * allocated]
    return [samples * allocated]


def _fragments_length(pixels: PixelData) -> int:
    """Bytes up to the Sequence Delimitation Item."""
    unpack = struct.Struct("<HHI" if pixels.little_endian else ">HHI").unpack
    pixels.file.seek(pixels.start)
    while True:
        at = pixels.file.tell()
        head = pixels.file.read(8)
        if len(head) < 8 or at > pixels.size:
            raise FaultyObject("the Pixel Data is truncated")
        group, element, length = unpack(head)
        if (group, element) == _DELIMITER:
            return at - pixels.start
        if (group, element) != _ITEM or length == 0xFFFFFFFF:
            raise FaultyObject("the Pixel Data is not made of fragments (PS3.5 A.4)")
        pixels.file.seek(length, io.SEEK_CUR)


def _number(dataset: Dataset, keyword: str, default: int) -> int:
    if is_empty(dataset, keyword):
        return default
    number = whole(value_of(dataset, keyword), least=-LARGEST_WHOLE)
    if number is None:
        raise FaultyObject(f"{keyword} is not a number")
    return number
