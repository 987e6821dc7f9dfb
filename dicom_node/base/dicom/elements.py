"""The raw elements of an encoded data set (PS3.5 7.1, 7.5), walked before any parser reads it.

It decides which element counts, for all that opens received objects. Where a tag stands twice, DCMTK and
Orthanc go by the first element, pydicom by the last: here the first counts, and the object is faulty. So is
whatever else two readers may read in two ways, because a result must never go to another patient than the one
under whom the PACS files the source.

The header of a Part 10 file, its File Meta Information (PS3.10 7.1), ends where its Group Length says:
elements of group 0002 behind it are of the data set, which may not have any. A parser that reads them as a
part of the header lets a sender replace what the listener wrote there.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, Final, NamedTuple

from pydicom.datadict import dictionary_description, dictionary_VR

from dicom_node.base.dicom.uids import TransferSyntax
from dicom_node.base.errors import FaultyObject

BULK_BYTES: Final = 65536
"""Longer values (bytes) outside of items are not read: no attribute that is read is so long."""
PIXEL_DATA: Final = (0x7FE00008, 0x7FE00009, 0x7FE00010)
"""Float, Double Float, Pixel Data."""
LONG: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # PS3.5 7.1.2
_SHORT: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LITTLE, _BIG = (tuple(struct.Struct(order + form) for form in ("HH", "I", "H")) for order in ("<", ">"))
_IN_FRAGMENTS: Final = frozenset({"OB", "OW", "OB or OW"})
_NOT_IN_DATA_SETS: Final = (0x0000, 0x0002)  # of commands (PS3.7 6.3.1), of headers of files (PS3.10 7.1)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_ITEM_IN_BYTES: Final = b"\xfe\xff\x00\xe0"
_UNDEFINED: Final = 0xFFFFFFFF
_MISPLACED: Final = " is in the data set, where its group has no place (PS3.10 7.1)"
_TRUNCATED: Final = "the data set is truncated"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for the header of a received object; an object beyond any of them is quarantined."""

    items: int = 20_000
    """Maximum number of sequence items and of fragments outside the pixel data; a reader needs 0.1 ms and 1
    kB for each.
    """
    elements: int = 200_000
    """Maximum number of attributes, including those in sequence items."""
    depth: int = 32
    """Maximum nesting of sequences."""
    header_mib: int = 64
    """Maximum MiB of the values that are read: not of pixel data, private attributes, or top-level values
    over 64 KiB.
    """
    inflated_mib: int = 512
    """Maximum MiB of a deflated data set after inflating (on disk, not in memory)."""
    memory_mib: int = 512
    """Maximum MiB of memory (address space) that reading may add to the reading process."""
    seconds: float = 30
    """Maximum seconds for reading one object, plus one second for every 10 MiB."""


class Element(NamedTuple):
    """A data element outside of sequences; its value is ``length`` bytes at the file position ``start``,
    without a delimiter.

    ``vr``: "" if unknown in Implicit VR. ``is_undefined``: whether its length is undefined. ``is_implicit``:
    whether its items are in Implicit VR.
    """

    tag: int
    vr: str
    start: int
    length: int
    is_undefined: bool
    is_implicit: bool

    @property
    def is_private(self) -> bool:
        """Whether the tag has an odd group number."""
        return bool(self.tag >> 16 & 1)

    def __str__(self) -> str:
        """Return the tag with its name in PS3.6."""
        return named(self.tag)


class Walk:
    """Reads the elements of a data set one by one, from the present position of ``file`` to its end.

    ``fault``: one sentence on the first fault found, "" for a sound data set; final once ``elements`` is
    exhausted. ``stray``: the first element of a file's header that stands before the data set, "" without
    one; no reader takes such elements for the header (``ai_pipeline.images.part10``).
    """

    def __init__(self, file: BinaryIO, syntax: TransferSyntax | None, limits: Limits) -> None:
        """Begin at the present position of ``file``. ``syntax``: None if unknown, which is read as Explicit
        VR Little Endian.
        """
        self.fault = self.stray = ""
        self.is_little_endian = syntax is None or syntax.is_little_endian
        self._is_implicit = syntax is not None and syntax.is_implicit_vr
        self._file, self._limits = file, limits
        self._at = self._begun = file.tell()
        self.size = file.seek(0, io.SEEK_END)
        """Where the data set ends."""
        self._window, self._window_at = b"", 0
        self._items = self._elements = self._depth = self._read = 0
        self._tag, self._long, self._short = _LITTLE if self.is_little_endian else _BIG

    def elements(self) -> Iterator[Element]:
        """Yield the first element of each tag, up to the first damage after which no element can be found.
        Faulty sequences are skipped.
        """
        try:
            # The header of a file (PS3.10 7.1), which some senders leave before the data set.
            if self._peek(132)[128:] == b"DICM":
                self._note("a whole file with its preamble (PS3.10 7.1) is in the place of the data set")
                self._at += 132
            while self.is_little_endian and self._peek(2) == b"\2\0":
                element = self._head(self.size, is_implicit=not self._seems_explicit())
                self.stray = self.stray or str(element)
                self._at += element.length
            # The first element counts, as for parsers, where the transfer syntax says something else of VRs.
            if len(self._peek(6)) == 6 and self._seems_explicit() is self._is_implicit:
                found, said = ("Explicit", "Implicit") if self._is_implicit else ("Implicit", "Explicit")
                self._note(f"the data set is in {found} VR, its transfer syntax says {said} VR")
                self._is_implicit = not self._is_implicit
            yield from self._data_set(self.size, self._is_implicit, is_delimited=False)
        except _Damage as damage:
            if not self._is_padding():
                self._note(str(damage))

    def _seems_explicit(self) -> bool:
        """Return whether the next element has two capital letters where Explicit VR has the VR."""
        vr = self._peek(6)[4:]
        return vr.isalpha() and vr.isupper()

    def _is_padding(self) -> bool:
        """Return whether the file contains only zeros from the beginning of the damaged element to its end,
        with which some writers pad files.
        """
        self._file.seek(self._begun)
        while block := self._file.read(BULK_BYTES):
            if block.strip(b"\0"):
                return False
        return True

    def _data_set(
        self, end: int, is_implicit: bool, *, is_delimited: bool, inside: Element | None = None
    ) -> Iterator[Element]:
        """Yield the elements up to the position ``end`` or, if ``is_delimited``, up to the delimiter of the
        item.

        ``inside``: the sequence in which this data set is an item; None for the outermost data set.
        """
        last, seen = -1, set[int]()
        while is_delimited or self._at < end:
            if inside is None:
                self._begun = self._at
            element = self._head(end, is_implicit)
            tag = element.tag
            if tag >> 16 == _ITEM >> 16:
                if tag == _ITEM_END and inside and (is_delimited or self._at == end):
                    return
                raise _Damage(f"{element} is where no item begins or ends{_in(inside)}")
            if tag <= last and not (inside or element).is_private:  # no result has a private attribute
                wrong = "twice" if tag in seen else f"after {named(last)}, out of order (PS3.5 7.1)"
                self._note(f"{element} is given {wrong}{_in(inside)}")
            if inside is None and tag >> 16 in _NOT_IN_DATA_SETS:
                self._note(f"{element}{_MISPLACED}")
            length = self._value(element, end, inside)
            if length is not None and tag not in seen:
                yield element if length == element.length else element._replace(length=length)
            seen.add(tag)
            last = max(last, tag)

    def _head(self, end: int, is_implicit: bool) -> Element:
        """Read tag, VR and length of the next element, and move to its value. Raises _Damage."""
        at = self._pass(8, end)
        group, number = self._tag.unpack_from(self._window, at)
        tag, code = group << 16 | number, self._window[at + 4 : at + 6]
        if not tag:
            raise _Damage("zeros are in the place of an element")
        if group == _ITEM >> 16:
            return Element(tag, "", self._at, 0, is_undefined=False, is_implicit=is_implicit)
        if is_implicit:
            vr = _vr(tag)
            (length,) = self._long.unpack_from(self._window, at + 4)
        elif code in LONG:
            vr = code.decode()
            at = self._pass(4, end)  # which may read on, into another window
            (length,) = self._long.unpack_from(self._window, at)
        elif code in _SHORT:
            vr = code.decode()
            (length,) = self._short.unpack_from(self._window, at + 6)
        else:  # DCMTK reads a length of two bytes here, pydicom one of four
            raise _Damage(f"{named(tag)} has no VR of PS3.5 6.2")
        is_undefined = length == _UNDEFINED
        if vr in ("", "UN"):  # its items are in Implicit VR Little Endian (PS3.5 6.2.2)
            is_implicit = True
            is_listed = _vr(tag) == "SQ"
            if not self.is_little_endian and (is_undefined or (is_listed and length)):
                raise _Damage(f"{named(tag)} is a sequence with VR UN, in big endian")
            # Of a private element without VR the parser of a PACS may know that it is a sequence.
            known = is_listed if vr else self._peek(4) == _ITEM_IN_BYTES
            vr = "SQ" if is_undefined or known else vr
        return Element(tag, vr, self._at, length, is_undefined, is_implicit)

    def _value(self, element: Element, end: int, inside: Element | None) -> int | None:
        """Move to the end of the element's value, checking the limits; return its length in bytes, None for a
        faulty sequence.
        """
        self._elements += 1
        if self._elements > self._limits.elements:
            raise _LimitReached(f"more than {self._limits.elements} attributes")
        if not element.is_undefined and element.start + element.length > end:
            raise _Damage(f"{element}{_in(inside)} is longer than its item" if inside else _TRUNCATED)
        if element.vr == "SQ":
            if not self._sequence(element, end, inside):
                return None
        elif not element.is_undefined:
            # No bytes are read of private elements, nor of bulk data outside of items.
            if not (inside or element).is_private and (inside or element.length <= BULK_BYTES):
                self._read += element.length
            if self._read > self._limits.header_mib * 2**20:
                raise _LimitReached(f"the attributes are more than {self._limits.header_mib} MiB")
            self._at += element.length
        elif element.vr in _IN_FRAGMENTS:
            self._fragments(element, end)
        else:
            raise _Damage(f"{element}{_in(inside)} has VR {element.vr} and no length")
        return self._at - 8 - element.start if element.is_undefined else element.length

    def _sequence(self, element: Element, end: int, inside: Element | None) -> bool:
        """Move to the end of a sequence, checking its items; return False if it is damaged but its end is
        known, by its length or the next element. ``end``: the end of what encloses it, for a sequence of
        undefined length. ``inside``: the sequence in which it lies, None for none. Raises _Damage for a
        damaged one of undefined length.
        """
        self._depth += 1
        if self._depth > self._limits.depth:
            raise _LimitReached(f"sequences within more than {self._limits.depth} others")
        outer = inside if inside and inside.is_private else element
        try:
            self._walk_items(element, outer, end if element.is_undefined else self._at + element.length)
        except _LimitReached:
            raise
        except _NoEnd as damage:
            self._note(str(damage))
            self._at -= 8  # what was taken for an item's head
            return False
        except _Damage as damage:
            if element.is_undefined:
                raise
            self._note(str(damage))
            self._at = element.start + element.length
            return False
        finally:
            self._depth -= 1
        return True

    def _walk_items(self, element: Element, outer: Element, end: int) -> None:
        """Check all items of a sequence. Raises _Damage.

        ``outer``: the element that decides whether the content is private. ``end``: the position where the
        sequence must end.
        """
        while element.is_undefined or self._at < end:
            first = self._at == element.start
            if first and end - self._at < 8:
                raise _Damage(f"{element} has text where a sequence belongs")
            tag, length = self._item_head(end)
            if tag == _SEQUENCE_END and (element.is_undefined or self._at == end):
                return
            if element.is_undefined and element.tag < tag < _ITEM:
                raise _NoEnd(f"{element} never ends: {named(tag)} is where its next item would begin")
            if tag != _ITEM:
                wrong = "has text where a sequence belongs" if first else "has no item where one belongs"
                raise _Damage(f"{element} {wrong}")
            self._count_item()
            is_delimited = length == _UNDEFINED
            if not is_delimited and self._at + length > end:  # DCMTK reads on behind the sequence
                raise _Damage(f"an item of {element} is longer than its sequence")
            if length and element.is_implicit and not self._is_implicit and self._seems_explicit():
                raise _Damage(f"an item of {element} is in Explicit VR (PS3.5 6.2.2)")
            item_end = end if is_delimited else self._at + length
            for _ in self._data_set(item_end, element.is_implicit, is_delimited=is_delimited, inside=outer):
                pass

    def _fragments(self, element: Element, end: int) -> None:
        """Move to the end of a value that consists of fragments (PS3.5 A.4). Raises _Damage."""
        name = "the Pixel Data" if element.tag in PIXEL_DATA else str(element)
        while True:
            if self._at + 8 > end:
                raise _Damage(f"{name} is truncated")
            tag, length = self._item_head(end)
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM or length == _UNDEFINED:
                raise _Damage(f"{name} is not made of fragments (PS3.5 A.4)")
            if element.tag not in PIXEL_DATA:
                self._count_item()
            self._at += length

    def _item_head(self, end: int) -> tuple[int, int]:
        """Read tag and length of an item or a delimiter."""
        at = self._pass(8, end)
        group, number = self._tag.unpack_from(self._window, at)
        return group << 16 | number, self._long.unpack_from(self._window, at + 4)[0]

    def _count_item(self) -> None:
        """Count one sequence item. Raises _LimitReached."""
        self._items += 1
        if self._items > self._limits.items:
            raise _LimitReached(f"more than {self._limits.items} items")

    def _peek(self, count: int) -> bytes:
        """Return the next ``count`` bytes, fewer at the end of the file, without moving on."""
        at = self._offset(count)
        return self._window[at : at + count]

    def _pass(self, count: int, end: int) -> int:
        """Move on by ``count`` bytes; return their offset in the buffer ``_window``. Raises _Damage if they
        reach beyond ``end``.
        """
        if self._at + count > end:
            raise _Damage(_TRUNCATED if end == self.size else "an item ends within an element")
        at = self._offset(count)
        self._at += count
        return at

    def _offset(self, count: int) -> int:
        """Return the offset of the present position in the buffer ``_window``, refilled if it lacks the next
        ``count`` bytes.
        """
        at = self._at - self._window_at
        if at < 0 or at + count > len(self._window):
            self._file.seek(self._at)
            self._window, self._window_at, at = self._file.read(8192), self._at, 0
        return at

    def _note(self, fault: str) -> None:
        """Store a fault, unless an earlier one is stored."""
        self.fault = self.fault or fault


class _Damage(Exception):
    """The data set is damaged, so that the rest of it cannot be divided into elements."""


class _NoEnd(_Damage):
    """A sequence of undefined length ends without its delimiter: the next element stands there."""


class _LimitReached(_Damage):
    """A limit is exceeded: reading of the whole object stops."""


def named(tag: int) -> str:
    """Return the tag with its name in PS3.6, such as "Patient ID (0010,0020)"."""
    number = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    try:
        return f"{dictionary_description(tag)} {number}"
    except KeyError:
        return f"the private attribute {number}" if tag >> 16 & 1 else number


def _in(inside: Element | None) -> str:
    """Return where an element is, as the end of a sentence (" in an item of …"); "" outside of sequences."""
    return f" in an item of {inside}" if inside else ""


@lru_cache(maxsize=4096)
def _vr(tag: int) -> str:
    """Return the VR of a tag in PS3.6; "" for an unknown tag."""
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return ""


META_BYTES = 64 * 1024
"""In which a header must end."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_GROUP_LENGTH = struct.Struct("<HH2sHI")  # (0002,0000), 12 bytes


@dataclass(frozen=True, slots=True)
class FileMeta:
    """The File Meta Information of a DICOM file (group 0002).

    ``values``: element number in group 0002 -> raw value. ``length``: the file position at which the data set
    begins. The UIDs are Media Storage SOP Class UID (0002,0002), Media Storage SOP Instance UID (0002,0003)
    and Transfer Syntax UID (0002,0010); "" if missing or invalid.
    """

    values: Mapping[int, bytes]
    length: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def read_file_meta(start: bytes) -> FileMeta:
    """Read the File Meta Information from the first ``META_BYTES`` bytes of a file. Raises FaultyObject."""
    if start[128:132] != b"DICM":
        raise FaultyObject("not DICOM: the prefix DICM is missing")
    at, end, last = 132, len(start), -1
    if len(start) >= at + 12:
        *tag, vr, _, length = _GROUP_LENGTH.unpack_from(start, at)
        if (*tag, vr) == (2, 0, b"UL"):
            end = at + 12 + length
    values: dict[int, bytes] = {}
    while at < end or 0x0010 not in values:  # a length that ends before the transfer syntax is wrong
        if at + 12 > len(start):
            if at >= end:
                break
            raise FaultyObject("the header of the file does not end")
        group, element, vr = struct.unpack_from("<HH2s", start, at)
        if group != 2:
            break
        if element <= last:
            raise FaultyObject(f"{named(group << 16 | element)} is given twice or out of order in the header")
        long = vr in LONG
        (length,) = struct.unpack_from("<I" if long else "<H", start, at + (8 if long else 6))
        at += 12 if long else 8
        values[element] = start[at : at + length]
        at += length
        last = element
    if at > len(start):
        raise FaultyObject("the header of the file does not end")
    return FileMeta(values, at, *(uid_of(values.get(number, b"")) for number in (0x0002, 0x0003, 0x0010)))


def uid_of(value: bytes) -> str:
    """Return the UID in the bytes of a value; "" if they are not a valid UID.

    All code reads UIDs by this function, whatever the VR: parsers also accept a UID with a leading space, an
    escape sequence or a numeric VR, and would store the object where nobody finds it.
    """
    uid = value.rstrip(b"\0 ").decode("ascii", "replace")
    return uid if is_uid(uid) else ""


def is_uid(text: str) -> bool:
    """Whether the text has the form of a UID (PS3.5 9.1)."""
    return bool(_UID.fullmatch(text)) and len(text) <= 64


UIDS: Final = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
"""SOP Class, SOP Instance, Study Instance and Series Instance UID."""


def read_uids(
    encoded: bytes | bytearray, syntax: TransferSyntax, inflated: int = 2**10
) -> tuple[str, str, str, str]:
    """Read SOP Class, SOP Instance, Study and Series Instance UID, in this order, from the beginning of a
    data set; "" for a UID that is missing in these bytes or invalid.

    ``inflated``: how many bytes of a deflated data set to inflate and read.
    """
    if syntax.is_deflated:
        try:
            encoded = zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(encoded), inflated)
        except zlib.error:
            encoded = b""
    found = dict.fromkeys(UIDS, "")
    for element in Walk(io.BytesIO(encoded), syntax, Limits()).elements():
        if element.tag > UIDS[-1]:
            break
        if element.tag in found:
            found[element.tag] = uid_of(bytes(encoded[element.start : element.start + element.length]))
    sop_class, instance, study, series = found.values()
    return sop_class, instance, study, series
