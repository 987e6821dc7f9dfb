"""Headers with all text decoded strictly: what cannot be decoded is never replaced by "?".

An object that does not say who it is of is refused; text that names nobody is left out.

The inbox decodes the data set that it has parsed under its limits (``inbox.inspection``); builders of results
read the file again. Both use ``decoded``, so that they cannot disagree. ``ai_pipeline.images.header`` is
separate: it knows nothing of the node, and reads no text that identifies a patient.

Text is decoded strictly by Specific Character Set (0008,0005) (PS3.5 6.1, PS3.3 C.12.1.1.2): pydicom puts
replacement characters where bytes do not fit the character set, and reads the default repertoire as ISO
8859-1. Both would hide that a patient's name is broken, and a wrong name on a result is worse than no result.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName
from pydicom.values import convert_PN

from ai_pipeline.images.numbers import DAMAGE
from dicom_node.dicom.identity import COPIED, IDENTIFYING
from dicom_node.dicom.walk import values
from dicom_node.errors import DecodedDifferently, FaultyObject

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


def named(dataset: Dataset) -> tuple[str, ...]:
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
    :class:`~dicom_node.errors.DecodedDifferently`, which names the attribute but not its value, and
    FaultyObject.
    """
    sets = (named(dataset), *((terms(assume_charset),) if assume_charset else ()))
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
    own = named(item)
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
