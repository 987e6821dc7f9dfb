"""Headers read with every text decoded strictly: what cannot be decoded is refused, never replaced by "?".

pydicom decodes leniently and takes ISO 8859-1 where no character set is named; a patient name that is wrong
on a result is worse than no result (truth 11).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom import config
from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from dicom_node.errors import DecodedDifferently

_CHARSET: Final = Tag("SpecificCharacterSet")
_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.3: governed by (0008,0005)
_ASCII = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_ONE_VALUE = frozenset({"LT", "ST", "UR", "UT"})
_ESCAPE = b"\x1b"
_RESETS = {0x09, 0x0A, 0x0C, 0x0D, 0x5C}  # PS3.5 6.1.2.5.3: the code elements return to the first set
_NAME_RESETS = _RESETS | {0x3D, 0x5E}


def read_header(path: Path, keywords: Collection[str], assume_charset: str = "") -> Dataset:
    """Read the named attributes of a Part 10 file, without Pixel Data, all text decoded.

    ``SpecificCharacterSet`` of what comes back is the set that was used. Raises
    :class:`~dicom_node.errors.DecodedDifferently`, which names the attribute but not its value.
    """
    with quiet_pydicom():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        named = _terms(dataset)
        try:
            header = _decoded(dataset, keywords, _Charset.of(named))
        except DecodedDifferently:
            if not assume_charset:
                raise
            named = tuple(assume_charset.split("\\"))
            header = _decoded(dataset, keywords, _Charset.of(named))
    if _Charset.of(named).known:
        header.SpecificCharacterSet = list(named) if len(named) > 1 else named[0]
    header.file_meta = dataset.file_meta
    header.set_original_encoding(*dataset.original_encoding)
    return header


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's warnings about values out of the log: they quote the value, which may be PHI."""
    before = config.logger.disabled
    config.logger.disabled = True  # it logs what it warns of as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        config.logger.disabled = before


def can_hold(charset: str | list[str], dataset: Dataset) -> bool:
    """Whether a character set has every text of a dataset; pydicom would write "?" for what it lacks."""
    encodings = convert_encodings(charset)
    before = config.settings.writing_validation_mode
    config.settings.writing_validation_mode = config.RAISE
    try:
        for text in _texts(dataset):
            encode_string(text, encodings)
    except UnicodeError:
        return False
    finally:
        config.settings.writing_validation_mode = before
    return True


def _texts(dataset: Dataset) -> Iterator[str]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in _TEXT and element.value:
            values = element.value if element.VM > 1 else [element.value]
            yield from (part for value in values for part in str(value).split("="))


@dataclass(frozen=True, slots=True)
class _Charset:
    encodings: tuple[str, ...]
    ascii_first: bool
    known: bool

    @classmethod
    def of(cls, terms: tuple[str, ...]) -> _Charset:
        """Of the values of (0008,0005). A set that DICOM does not know is good for ASCII only."""
        with config.strict_reading():
            try:
                encodings = convert_encodings(list(terms) if terms else None)
            except (LookupError, ValueError):
                return cls(("ascii",), ascii_first=True, known=False)
        ascii_first = not terms or terms[0] in {"", "ISO_IR 6", "ISO 2022 IR 6"}
        return cls(tuple(encodings), ascii_first, known=any(terms))

    def decode(self, value: bytes, vr: str, where: str) -> str:
        try:
            if vr in _ASCII or (self.ascii_first and _ESCAPE not in value):
                return value.decode("ascii")
            with config.strict_reading():
                return str(decode_bytes(value, self.encodings, _NAME_RESETS if vr == "PN" else _RESETS))
        except (UnicodeError, LookupError, ValueError) as error:
            raise DecodedDifferently(
                f"{where} cannot be decoded with the Specific Character Set (0008,0005) of the object: "
                "set assume_charset for this peer"
            ) from error


def _decoded(dataset: Dataset, keywords: Collection[str], charset: _Charset) -> Dataset:
    header = Dataset()
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is not None and tag in dataset and tag != _CHARSET:
            element = _element(dataset, Tag(tag), charset)
            if element is not None:
                header[element.tag] = element
    return header


def _element(dataset: Dataset, tag: BaseTag, charset: _Charset) -> DataElement | None:
    found = dataset.get_item(tag)
    vr = _vr(found)
    if isinstance(found, RawDataElement) and vr in _TEXT | _ASCII:
        value: Any = charset.decode(found.value or b"", vr, f"{_name(tag)} {tag}").rstrip("\0 ")
        values = [value] if vr in _ONE_VALUE else value.split("\\")
        return _made(tag, vr, values[0] if len(values) == 1 else values)
    try:
        element = dataset[tag]
    except (ValueError, TypeError, NotImplementedError, OverflowError):
        return None  # an optional attribute that is no value of its VR; required ones are checked by the gate
    if element.VR != "SQ":
        return DataElement(tag, element.VR, element.value, validation_mode=config.IGNORE)
    return _made(tag, "SQ", Sequence([_item(item, charset) for item in element.value]))


def _item(item: Dataset, inherited: _Charset) -> Dataset:
    terms = _terms(item)
    charset = _Charset.of(terms) if any(terms) else inherited
    copy = Dataset()
    for tag in item.keys():  # noqa: SIM118  iterating a Dataset converts (and decodes) its elements
        if tag != _CHARSET and not tag.is_private and dictionary_has_tag(tag):
            element = _element(item, tag, charset)
            if element is not None:
                copy[tag] = element
    return copy


def _made(tag: BaseTag, vr: str, value: Any) -> DataElement | None:
    try:
        return DataElement(tag, vr, value, validation_mode=config.IGNORE)
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        return None


def _terms(dataset: Dataset) -> tuple[str, ...]:
    found = dataset.get_item(_CHARSET) if _CHARSET in dataset else None
    if found is None or not found.value:
        return ()
    if isinstance(found.value, bytes):
        return tuple(term.strip("\0 ") for term in found.value.decode("ascii", "replace").split("\\"))
    return (found.value,) if isinstance(found.value, str) else tuple(found.value)


def _vr(element: DataElement | RawDataElement) -> str:
    if element.VR not in {None, "UN"}:
        return str(element.VR)
    return dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else "UN"


def _name(tag: BaseTag) -> str:
    return str(keyword_for_tag(tag))
