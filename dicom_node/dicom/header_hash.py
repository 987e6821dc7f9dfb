"""The hash of a received header, by which an object that comes again is the same version or another one."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Sequence
from typing import BinaryIO, Final

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag

from ai_pipeline.images.numbers import DAMAGE
from dicom_node.dicom.character_sets import ASCII, TEXT, CharacterSet, named
from dicom_node.dicom.header import vr_of

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
the File Meta Information. ``docs/operate/quarantine.md`` lists them."""
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
        own = named(dataset)
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
