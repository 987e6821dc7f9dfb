"""The raw elements of an encoded data set (PS3.5 7.1, 7.5), walked before any parser reads it.

It decides which element counts, for all that opens received objects. Where a tag stands twice, DCMTK and
Orthanc go by the first element, pydicom by the last: here the first counts, and the object is faulty. So is
whatever else two readers may read in two ways, because a result must never go to another patient than the one
under whom the PACS files the source.

Headers with all text decoded strictly: what cannot be decoded is never replaced by "?".

An object that does not say who it is of is refused; text that names nobody is left out.

The inbox decodes the data set that it has parsed under its limits (``inbox.inspection``); builders of results
read the file again. Both use ``decoded``, so that they cannot disagree. ``ai_pipeline.images.header`` is
separate: it knows nothing of the node, and reads no text that identifies a patient.

Text is decoded strictly by Specific Character Set (0008,0005) (PS3.5 6.1, PS3.3 C.12.1.1.2): pydicom puts
replacement characters where bytes do not fit the character set, and reads the default repertoire as ISO
8859-1. Both would hide that a patient's name is broken, and a wrong name on a result is worse than no result.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import pydicom
from pydicom import charset as pydicom_sets
from pydicom import config
from pydicom.charset import (
    CODES_TO_ENCODINGS,
    ENCODINGS_TO_CODES,
    convert_encodings,
    decode_bytes,
    default_encoding,
    encode_string,
    python_encoding,
)
from pydicom.datadict import (
    dictionary_description,
    dictionary_has_tag,
    dictionary_VR,
    keyword_for_tag,
    tag_for_keyword,
)
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName
from pydicom.values import convert_PN

from ai_pipeline.images.numbers import DAMAGE
from dicom_node.base.dicom.identity import COPIED, IDENTIFYING
from dicom_node.base.dicom.uids import TransferSyntax
from dicom_node.base.dicom.walk import values
from dicom_node.base.errors import DecodedDifferently, FaultyObject

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
    """Limits of one walk; ``header_mib``: MiB of all values that are read."""

    items: int = 20_000
    elements: int = 200_000
    depth: int = 32
    header_mib: int = 64


class Element(NamedTuple):
    """An element outside of sequences. Its value: ``length`` bytes at ``start``, without a delimiter.

    ``vr``: "" for an unknown one in Implicit VR. ``is_implicit``: whether its items are in Implicit VR.
    """

    tag: int
    vr: str
    start: int
    length: int
    is_undefined: bool
    is_implicit: bool

    @property
    def is_private(self) -> bool:
        return bool(self.tag >> 16 & 1)

    @property
    def is_sequence(self) -> bool:
        return self.vr == "SQ"

    def __str__(self) -> str:
        return named(self.tag)


class Walk:
    """One walk over a data set that begins at the position of ``file`` and goes on to its end.

    ``fault``: the first thing that is wrong, one sentence, "" for a sound data set; known when ``elements``
    has ended.
    """

    def __init__(self, file: BinaryIO, syntax: TransferSyntax | None, limits: Limits) -> None:
        self.fault = ""
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
        """The first element of each tag, as far as the data set is sound. Without sequences that are none."""
        try:
            # The header of a file (PS3.10 7.1), which some senders leave before the data set.
            if self._peek(132)[128:] == b"DICM":
                self._note("a whole file with its preamble (PS3.10 7.1) is in the place of the data set")
                self._at += 132
            while self.is_little_endian and self._peek(2) == b"\2\0":
                element = self._head(self.size, is_implicit=False)
                self._note(f"{element}{_MISPLACED}")
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
        vr = self._peek(6)[4:]
        return vr.isalpha() and vr.isupper()

    def _is_padding(self) -> bool:
        """Whether only zeros stand where the last element outside of sequences should begin.

        Some writers fill a file up with them.
        """
        self._file.seek(self._begun)
        while block := self._file.read(BULK_BYTES):
            if block.strip(b"\0"):
                return False
        return True

    def _data_set(
        self, end: int, is_implicit: bool, *, is_delimited: bool, inside: Element | None = None
    ) -> Iterator[Element]:
        """The elements up to ``end`` or, ``is_delimited``, the delimiter of the item."""
        last, seen = -1, set[int]()
        is_checked = inside is None or not inside.is_private
        while is_delimited or self._at < end:
            if inside is None:
                self._begun = self._at
            element = self._head(end, is_implicit)
            tag = element.tag
            if tag >> 16 == _ITEM >> 16:
                if tag == _ITEM_END and inside and (is_delimited or self._at == end):
                    return
                raise _Damage(f"{element} is where no item begins or ends{_in(inside)}")
            if tag <= last and is_checked:
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
        """Read tag, VR and length; go to the value."""
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
            (length,) = self._long.unpack_from(self._window, self._pass(4, end))
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
        """Go to the end of the value; its length in bytes, None for a sequence that is none."""
        self._elements += 1
        if self._elements > self._limits.elements:
            raise _LimitReached(f"more than {self._limits.elements} attributes")
        if not element.is_undefined and element.start + element.length > end:
            raise _Damage(f"{element}{_in(inside)} is longer than its item" if inside else _TRUNCATED)
        if element.is_sequence:
            if not self._sequence(element, end, inside):
                return None
        elif not element.is_undefined:
            # No bytes are read of private elements, nor of bulk data outside of items.
            if not (inside or element).is_private and (inside or element.length <= BULK_BYTES):
                self._read += element.length
            if self._read > self._limits.header_mib * 2**20:
                limit = f"{self._limits.header_mib} MiB"
                raise _LimitReached(f"the attributes are more than {limit}")
            self._at += element.length
        elif element.vr in _IN_FRAGMENTS:
            self._fragments(element, end)
        else:
            raise _Damage(f"{element}{_in(inside)} has VR {element.vr} and no length")
        return self._at - 8 - element.start if element.is_undefined else element.length

    def _sequence(self, element: Element, end: int, inside: Element | None) -> bool:
        """Walk the items; False for a damaged sequence, which is passed over if its length is known."""
        self._depth += 1
        if self._depth > self._limits.depth:
            raise _LimitReached(f"sequences within more than {self._limits.depth} others")
        outer = inside if inside and inside.is_private else element
        try:
            self._walk_items(element, outer, end if element.is_undefined else self._at + element.length)
        except _LimitReached:
            raise
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
        while element.is_undefined or self._at < end:
            first = self._at == element.start
            if first and end - self._at < 8:
                raise _Damage(f"{element} has text where a sequence belongs")
            tag, length = self._item_head(end)
            if tag == _SEQUENCE_END and (element.is_undefined or self._at == end):
                return
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
        """Go to the end of a value in fragments (PS3.5 A.4)."""
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
        """Read the tag and the length of an item or a delimiter."""
        at = self._pass(8, end)
        group, number = self._tag.unpack_from(self._window, at)
        return group << 16 | number, self._long.unpack_from(self._window, at + 4)[0]

    def _count_item(self) -> None:
        self._items += 1
        if self._items > self._limits.items:
            raise _LimitReached(f"more than {self._limits.items} items")

    def _peek(self, count: int) -> bytes:
        at = self._offset(count)
        return self._window[at : at + count]

    def _pass(self, count: int, end: int) -> int:
        """Go on by ``count`` bytes; returns where they begin in the window."""
        if self._at + count > end:
            raise _Damage(_TRUNCATED if end == self.size else "an item ends within an element")
        at = self._offset(count)
        self._at += count
        return at

    def _offset(self, count: int) -> int:
        """The position in the window, which is moved if it does not have the next ``count`` bytes."""
        at = self._at - self._window_at
        if at < 0 or at + count > len(self._window):
            self._file.seek(self._at)
            self._window, self._window_at, at = self._file.read(8192), self._at, 0
        return at

    def _note(self, fault: str) -> None:
        self.fault = self.fault or fault


class _Damage(Exception):
    """From here on nobody can say what is an element."""


class _LimitReached(_Damage):
    """The rest is not walked, wherever it is."""


def named(tag: int) -> str:
    """The tag with its name in PS3.6, such as "Patient ID (0010,0020)"."""
    number = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    try:
        return f"{dictionary_description(tag)} {number}"
    except KeyError:
        return f"the private attribute {number}" if tag >> 16 & 1 else number


def _in(inside: Element | None) -> str:
    return f" in an item of {inside}" if inside else ""


@lru_cache(maxsize=4096)
def _vr(tag: int) -> str:
    """The VR in PS3.6, "" for an unknown tag."""
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return ""


CHARACTER_SET: Final = Tag("SpecificCharacterSet")
TEXT: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""Value representations that (0008,0005) governs (PS3.5 6.1.2.3)."""
ASCII: Final = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
"""Value representations in the default repertoire, whatever character set the object names."""
_PARTS: Final = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
# PS3.5 6.1.2.5.3: here the code elements return to the first set.
_RESET: Final = re.compile(rb"[\t\n\f\r\\]")
_RESET_IN_NAME: Final = re.compile(rb"[\t\n\f\r\\=^]")
# pydicom 3.0 takes escape sequences of ISO 2022 IR 58 for text, and lacks Latin alphabet No. 9 (PS3.3
# C.12.1.1.2).
_READ_BY_PYTHON: Final = ("iso2022_jp", "iso2022_jp_2")
pydicom_sets.handled_encodings = _READ_BY_PYTHON
python_encoding.update({"ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15"})
CODES_TO_ENCODINGS[b"\x1b-b"], ENCODINGS_TO_CODES["iso8859_15"] = "iso8859_15", b"\x1b-b"


@dataclass(frozen=True, slots=True)
class CharacterSet:
    """The codecs for the values of (0008,0005), in their order; ``known``: whether DICOM defines all
    values.
    """

    codecs: tuple[str, ...]
    known: bool

    @classmethod
    def from_terms(cls, terms: Sequence[str]) -> CharacterSet:
        """The codecs for the values of (0008,0005). Without a value, or for an unknown set, only ASCII
        decodes.
        """
        with config.strict_reading(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # common misspellings are put right
            try:
                codecs = convert_encodings(list(terms))
            except (LookupError, ValueError):
                return cls(("ascii",), known=False)
        known = any(terms) and all(term in python_encoding for term in terms)
        return cls(tuple(map(_codec, codecs)), known)

    def decode(self, value: bytes, vr: str) -> str:
        """Decode a value with its padding. Raises UnicodeError or LookupError if the bytes do not fit the
        set.
        """
        if vr in ASCII:
            return value.decode("ascii")
        reset = _RESET_IN_NAME if vr == "PN" else _RESET
        text = "".join(self._part(part, reset) for part in _PARTS.findall(value))
        text.encode("utf-8")  # a lone surrogate can stand in no result
        return text

    def _part(self, part: bytes, reset: re.Pattern[bytes]) -> str:
        """One stretch that begins with an escape sequence, or the stretch before the first."""
        first = self.codecs[0]
        if not part.startswith(b"\x1b"):
            return part.decode(first)
        length = 4 if part.startswith((b"\x1b$(", b"\x1b$)")) else 3
        codec = _codec(CODES_TO_ENCODINGS[part[:length]])
        if codec not in (*self.codecs, "ascii"):
            raise LookupError("an escape sequence of a set that is not named")
        if codec in _READ_BY_PYTHON:
            return part.decode(codec)  # with its escape sequence
        text = part[length:]
        found = reset.search(text)
        end = found.start() if found else len(text)
        return text[:end].decode(codec) + text[end:].decode(first)


def character_sets(dataset: Dataset) -> tuple[str, ...]:
    """The values of Specific Character Set, unchanged from the data set."""
    found = dataset.get_item(CHARACTER_SET) if CHARACTER_SET in dataset else None
    if found is None or not found.value:
        return ()
    if isinstance(found.value, bytes):
        return terms(found.value.decode("ascii", "replace"))
    return terms(found.value) if isinstance(found.value, str) else tuple(map(str, found.value))


def terms(text: str) -> tuple[str, ...]:
    """Values that stand in one text, such as a setting: ``\\ISO 2022 IR 149`` has two."""
    return tuple(term.strip("\0 ") for term in text.split("\\"))


def can_hold(charset: Sequence[str], dataset: Dataset) -> bool:
    """Whether every text of a data set, written in this character set, is read back as it is.

    pydicom writes "?" for other letters, and ISO 8859-1 for the default repertoire. It
    reads the text behind ``^`` by the set before it, though PS3.5 6.1.2.5.3 returns to the first set there.
    """
    encodings, read = convert_encodings(list(charset)), CharacterSet.from_terms(charset)
    before = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.RAISE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return all(
                _is_read_back(str(value), element.VR, encodings, read)
                for element, value in values(dataset)
                if element.VR in TEXT
            )
    except (UnicodeError, LookupError, UserWarning):
        return False
    finally:
        config.settings.writing_validation_mode = before


def _is_read_back(text: str, vr: str, encodings: Sequence[str], read: CharacterSet) -> bool:
    if vr == "PN":
        written = bytes(PersonName(text).encode(encodings))
        by_pydicom = str(convert_PN(written, list(encodings)))
    else:
        written = encode_string(text, list(encodings))
        by_pydicom = decode_bytes(written, encodings, TEXT_VR_DELIMS)
    return text == by_pydicom == read.decode(written, vr)


def _codec(encoding: str) -> str:
    return "ascii" if encoding == default_encoding else encoding


_ONE_VALUE = frozenset({"LT", "ST", "UR", "UT"})
_WITHOUT_SPACES = frozenset({"AE", "CS", "LO", "SH"})  # spaces in front mean nothing (PS3.5 6.2)
_NUMBERS = frozenset({"FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
# The VRs that can be read as one that a sender should have written, by the latter.
_READ_AS = {
    **dict.fromkeys(TEXT | ASCII, TEXT | ASCII),
    **dict.fromkeys(("DS", "IS"), TEXT | ASCII | _NUMBERS),
    **dict.fromkeys(_NUMBERS, _NUMBERS),
    **dict.fromkeys(("OB", "OW"), frozenset({"OB", "OW"})),
}


@dataclass(frozen=True, slots=True)
class DecodedHeader:
    """Attributes with their text decoded. ``charset``: the values of Specific Character Set that were used.

    ``left_out``: keywords of what is no value of its attribute, or does not fit the character set.
    """

    dataset: Dataset
    charset: tuple[str, ...]
    left_out: frozenset[str] = frozenset()


def read_header(path: Path, keywords: Collection[str], assume_charset: str = "") -> DecodedHeader:
    """Read the named attributes of a Part 10 file, without Pixel Data, with all text decoded.

    ``SpecificCharacterSet`` of its data set is the set that was used. Raises as ``read_identity``.
    """
    with quiet_pydicom():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        charset, left_out = read_identity(dataset, assume_charset).charset, set[str]()
        header = decoded(dataset, keywords, charset, left_out)
    if CharacterSet.from_terms(charset).known:
        header.SpecificCharacterSet = list(charset) if len(charset) > 1 else charset[0]
    header.file_meta = dataset.file_meta
    header.set_original_encoding(*dataset.original_encoding)
    return DecodedHeader(header, charset, frozenset(left_out))


def read_identity(dataset: Dataset, assume_charset: str = "") -> DecodedHeader:
    """What results copy of patient and study, by the object's own character set, else by the one that its
    peer is known to use.

    Where neither fits all of it, text that names nobody is left out. Raises
    :class:`~dicom_node.base.errors.DecodedDifferently`, which names the attribute but not its value, and
    FaultyObject.
    """
    sets = (character_sets(dataset), *((terms(assume_charset),) if assume_charset else ()))
    faults: list[DecodedDifferently | FaultyObject] = []
    for charset in sets:
        try:
            return DecodedHeader(decoded(dataset, COPIED, charset), charset)
        except (DecodedDifferently, FaultyObject) as fault:
            faults.append(fault)
    for charset in sets:
        try:
            decoded(dataset, IDENTIFYING, charset)
        except (DecodedDifferently, FaultyObject) as fault:
            faults.append(fault)
        else:
            left_out: set[str] = set()
            return DecodedHeader(decoded(dataset, COPIED, charset, left_out), charset, frozenset(left_out))
    raise faults[len(sets)]


def decoded(
    dataset: Dataset, keywords: Collection[str], charset: Sequence[str], left_out: set[str] | None = None
) -> Dataset:
    """The named attributes, decoded by these values of Specific Character Set, also in items of sequences.

    An attribute has the VR of the data dictionary. ``left_out`` takes the keywords of what cannot be read;
    without it that raises DecodedDifferently, or FaultyObject: it is of another VR, or so long that the
    parser did not read it.
    """
    codecs = CharacterSet.from_terms(charset)
    header = Dataset()
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is not None and tag in dataset and tag != CHARACTER_SET:
            _put(header, dataset, Tag(tag), codecs, left_out)
    return header


def readable_text(dataset: Dataset, keyword: str, charset: Sequence[str]) -> str:
    """A value as text for the patterns of rules, with U+FFFD for bytes outside the character set."""
    tag = Tag(keyword)
    element = dataset.get_item(tag, keep_deferred=True) if tag in dataset else None
    if element is None or element.value is None:
        return ""
    if not isinstance(element, RawDataElement):
        text = str(element.value)
    else:
        try:
            text = CharacterSet.from_terms(charset).decode(element.value, "LO")
        except (UnicodeError, LookupError):
            text = element.value.decode("utf-8", "replace")
    # NUL characters have no meaning, and PostgreSQL cannot store them.
    text = "\\".join(part.replace("\0", "").strip() for part in text.split("\\"))
    return text.upper() if dictionary_VR(tag) == "CS" else text


def vr_of(element: DataElement | RawDataElement) -> str:
    """The value representation: that of the standard where the element has none or UN."""
    if element.VR not in {None, "UN"}:
        return str(element.VR)
    return dictionary_VR(element.tag).split(" or ")[0] if dictionary_has_tag(element.tag) else "UN"


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's warnings about values out of the log: they quote the values, which may be PHI."""
    before = config.logger.disabled
    config.logger.disabled = True  # it logs what it warns of as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        config.logger.disabled = before


def _put(
    header: Dataset, dataset: Dataset, tag: BaseTag, charset: CharacterSet, left_out: set[str] | None
) -> None:
    """Put the attribute into ``header``, or its keyword into ``left_out``."""
    try:
        element = _element(dataset, tag, charset, left_out)
    except (DecodedDifferently, FaultyObject):
        if left_out is None:
            raise
        element = None
    if element is not None:
        header[tag] = element
    elif left_out is not None:
        left_out.add(keyword_for_tag(tag))


def _element(
    dataset: Dataset, tag: BaseTag, charset: CharacterSet, left_out: set[str] | None
) -> DataElement | None:
    """The attribute in a VR of the data dictionary; None where its bytes are no value of it."""
    found = dataset.get_item(tag, keep_deferred=True)
    vr, allowed = vr_of(found), dictionary_VR(tag).split(" or ")
    wanted = vr if vr in allowed else allowed[0]
    if vr != wanted and vr not in _READ_AS.get(wanted, ()):
        raise FaultyObject(f"{keyword_for_tag(tag)} {tag} has the value representation {vr}, not {wanted}")
    if isinstance(found, RawDataElement):
        if found.value is None and found.length:
            raise FaultyObject(f"{keyword_for_tag(tag)} {tag} is longer than an attribute may be")
        if vr in TEXT | ASCII:
            return _text_element(tag, vr, wanted, found.value or b"", charset)
    try:
        value = dataset[tag].value
    except DAMAGE:
        return None  # an optional attribute that is no value of its VR; required ones are checked by the gate
    if wanted != "SQ":
        return _made(tag, wanted, value)
    return _made(tag, "SQ", Items([_item(item, charset, left_out) for item in value]))


def _text_element(
    tag: BaseTag, vr: str, wanted: str, value: bytes, charset: CharacterSet
) -> DataElement | None:
    try:
        text = charset.decode(value.rstrip(b"\0 "), vr).rstrip("\0 ")  # padding is of no multi-byte set
        if vr in ASCII and "\x1b" in text:
            raise UnicodeError
    except (UnicodeError, LookupError) as error:
        raise DecodedDifferently(
            f"{keyword_for_tag(tag)} {tag} cannot be decoded with its Specific Character Set (0008,0005): "
            "set assume_charset for this peer"
        ) from error
    values = [text] if wanted in _ONE_VALUE else text.split("\\")
    if wanted in _WITHOUT_SPACES and keyword_for_tag(tag) not in IDENTIFYING:
        values = [one.strip() for one in values]
    return _made(tag, wanted, values[0] if len(values) == 1 else values)


def _item(item: Dataset, inherited: CharacterSet, left_out: set[str] | None) -> Dataset:
    own = character_sets(item)
    charset = CharacterSet.from_terms(own) if any(own) else inherited
    copy = Dataset()
    for tag in item.keys():  # noqa: SIM118  iterating a Dataset converts (and decodes) its elements
        if tag != CHARACTER_SET and not tag.is_private and dictionary_has_tag(tag):
            _put(copy, item, tag, charset, left_out)
    return copy


def _made(tag: BaseTag, vr: str, value: Any) -> DataElement | None:
    try:
        return DataElement(tag, vr, value, validation_mode=config.IGNORE)
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        return None
