"""Hashes of a received object, of its header and its Pixel Data, and whether it can be an image.

By them an object that comes again is the same version or another one.
"""

import hashlib
import io
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom.datadict import dictionary_description
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag

from ai_pipeline.images.numbers import DAMAGE, LARGEST_WHOLE, is_empty, value_of, whole
from dicom_node.base.dicom.header import ASCII, TEXT, CharacterSet, character_sets, vr_of
from dicom_node.base.dicom.uids import TransferSyntax
from dicom_node.base.errors import FaultyObject

_MAY_DIFFER: Final = frozenset(
    Tag(keyword)
    for keyword in (
        # when and by which way the object was written and sent
        "InstanceCreationDate", "InstanceCreationTime", "InstanceCoercionDateTime",
        "ContributingEquipmentSequence", "OriginalAttributesSequence",
        # where it is stored, and who vouches for that copy
        "RetrieveAETitle", "InstanceAvailability", "StorageMediaFileSetID", "StorageMediaFileSetUID",
        "SOPInstanceStatus", "SOPAuthorizationDateTime", "SOPAuthorizationComment",
        "AuthorizationEquipmentCertificationNumber", "MACParametersSequence", "DigitalSignaturesSequence",
        "DataSetTrailingPadding",  # without significance (PS3.10 7.2)
        # how texts are encoded: they are compared decoded
        "SpecificCharacterSet",
        # how pixels are encoded (CODING)
        "PlanarConfiguration",
    )
)  # fmt: skip
"""Attributes that may differ between two transmissions of one version, beside private ones, group lengths and
the File Meta Information. ``docs/operate/quarantine.md`` names their kinds."""
CODING: Final = ("PhotometricInterpretation", "PlanarConfiguration")
"""Attributes that another transfer syntax may change. Pixel Data of the same bytes has the same ones."""
_PHOTOMETRIC: Final = Tag(CODING[0])
# Type codes of ``array`` for numbers of 2, 4 and 8 bytes (PS3.5 7.3).
_NUMBERS: Final = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), "H"),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), "I"),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), "Q"),
}


def header_sha256(dataset: Dataset, file: BinaryIO, *, little_endian: bool) -> str:
    """The hash of what a data set says, without its Pixel Data, what may differ, and empty attributes.

    It does not depend on the transfer syntax. ``dataset`` was parsed from ``file``, which still has the
    longest values. Text that its character set does not decode is hashed as it is. Call it before a value is
    read: pydicom replaces the bytes of a value by what they mean.
    """
    hashed = _HeaderHash(file, little_endian)
    hashed.add(dataset, CharacterSet.from_terms(()))
    return hashed.digest.hexdigest()


class _HeaderHash:
    def __init__(self, file: BinaryIO, little_endian: bool) -> None:
        self.digest = hashlib.sha256()
        self._file, self._little_endian = file, little_endian

    def add(self, dataset: Dataset, inherited: CharacterSet) -> None:
        """Add a data set, or an item of one with the character set ``inherited``."""
        own = character_sets(dataset)
        charset = CharacterSet.from_terms(own) if any(own) else inherited
        for tag in sorted(dataset.keys()):
            if tag.is_private or tag.element == 0 or tag in _MAY_DIFFER:
                continue
            element = dataset.get_item(tag, keep_deferred=True)
            vr = vr_of(element)
            if vr == "SQ" and (items := _items(dataset, element)) is not None:
                for item in items:
                    self._mark(tag, b"(")
                    self.add(item, charset)
                    self._mark(tag, b")")
            elif value := self._value(element, vr, charset):
                self._mark(tag, b"=")
                self.digest.update(value)

    def _mark(self, tag: BaseTag, kind: bytes) -> None:
        self.digest.update(struct.pack("<L", tag) + kind)

    def _value(self, element: DataElement | RawDataElement, vr: str, charset: CharacterSet) -> bytes:
        """The hash of a value; empty for an empty value, and for a colour model, which the coding may
        change.
        """
        if not isinstance(element, RawDataElement):
            value = str(element.value or "").encode("utf-8", "surrogatepass")
        elif element.value is None:
            return self._deferred_value(element, vr) if element.length else b""
        elif vr in TEXT | ASCII:
            try:
                value = charset.decode(element.value, vr).rstrip("\0 ").encode()
            except (UnicodeError, LookupError):
                value = element.value.rstrip(b"\0 ")
        else:
            value = self._in_order(element.value, vr)
        if element.tag == _PHOTOMETRIC and not value.startswith((b"MONOCHROME", b"PALETTE")):
            return b""
        return hashlib.sha256(value).digest() if value else b""

    def _deferred_value(self, element: RawDataElement, vr: str) -> bytes:
        """The hash of a value that is still in the file."""
        value, left = hashlib.sha256(), element.length
        self._file.seek(element.value_tell)
        while left > 0 and (block := self._file.read(min(left, 2**20))):
            value.update(self._in_order(block, vr))
            left -= len(block)
        return value.digest()

    def _in_order(self, value: bytes, vr: str) -> bytes:
        """Numbers in Little Endian."""
        if self._little_endian or vr not in _NUMBERS:
            return value
        numbers = array(_NUMBERS[vr])
        if len(value) % numbers.itemsize:
            return value
        numbers.frombytes(value)
        numbers.byteswap()
        return numbers.tobytes()


def _items(dataset: Dataset, element: DataElement | RawDataElement) -> Sequence[Dataset] | None:
    """The items of a sequence; None where its bytes are no items or are still in the file."""
    if isinstance(element, RawDataElement) and element.value is None:
        return None
    try:
        value = dataset[element.tag].value
    except DAMAGE:
        return None
    return value if isinstance(value, Items) else None


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
