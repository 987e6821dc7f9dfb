"""Headers with all text decoded strictly: undecodable text is refused, never replaced by "?".

The inbox decodes the data set that it has parsed under its limits (``inbox.inspection``); builders of results
read the file again. Both use ``decoded``, so that they cannot disagree. ``ai_pipeline.images.header`` is
separate: it knows nothing of the node, and reads no text that identifies a patient.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom import config
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag

from dicom_node.dicom.character_sets import ASCII, CHARACTER_SET, TEXT, CharacterSet, named, terms
from dicom_node.errors import DecodedDifferently, FaultyObject

_ONE_VALUE = frozenset({"LT", "ST", "UR", "UT"})


def read_header(path: Path, keywords: Collection[str], assume_charset: str = "") -> Dataset:
    """Read the named attributes of a Part 10 file, without Pixel Data, with all text decoded.

    ``SpecificCharacterSet`` of the returned data set is the set that was used. Raises
    :class:`~dicom_node.errors.DecodedDifferently`, which names the attribute but not its value.
    """
    with quiet_pydicom():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        used = named(dataset)
        try:
            header = decoded(dataset, keywords, used)
        except DecodedDifferently:
            if not assume_charset:
                raise
            used = terms(assume_charset)
            header = decoded(dataset, keywords, used)
    if CharacterSet.from_terms(used).known:
        header.SpecificCharacterSet = list(used) if len(used) > 1 else used[0]
    header.file_meta = dataset.file_meta
    header.set_original_encoding(*dataset.original_encoding)
    return header


def decoded(dataset: Dataset, keywords: Collection[str], charset: Sequence[str]) -> Dataset:
    """The named attributes, decoded by these values of Specific Character Set, also in items of sequences.

    Values that are invalid for their VR are left out. Raises DecodedDifferently, and FaultyObject for a value
    so long that the parser did not read it.
    """
    codecs = CharacterSet.from_terms(charset)
    header = Dataset()
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is not None and tag in dataset and tag != CHARACTER_SET:
            element = _element(dataset, Tag(tag), codecs)
            if element is not None:
                header[element.tag] = element
    return header


def readable_text(dataset: Dataset, keyword: str, charset: Sequence[str]) -> str:
    """A value as text for the patterns of rules, with U+FFFD for bytes outside the character set."""
    tag = Tag(keyword)
    element = dataset.get_item(tag, keep_deferred=True) if tag in dataset else None
    if element is None or element.value is None:
        return ""
    if not isinstance(element, RawDataElement):
        return without_padding(str(element.value))
    try:
        return without_padding(CharacterSet.from_terms(charset).decode(element.value, "LO"))
    except (UnicodeError, LookupError):
        return without_padding(element.value.decode("utf-8", "replace"))


def without_padding(text: str) -> str:
    """The text without NUL characters, which have no meaning and which PostgreSQL cannot store."""
    return text.replace("\0", "").strip()


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


def _element(dataset: Dataset, tag: BaseTag, charset: CharacterSet) -> DataElement | None:
    found = dataset.get_item(tag, keep_deferred=True)
    vr = _vr(found)
    if isinstance(found, RawDataElement):
        if found.value is None and found.length:
            raise FaultyObject(f"{keyword_for_tag(tag)} {tag} is longer than an attribute may be")
        if vr in TEXT | ASCII:
            return _text_element(tag, vr, found.value or b"", charset)
    try:
        element = dataset[tag]
    except (BytesLengthException, ValueError, TypeError, NotImplementedError, OverflowError):
        return None  # an optional attribute that is no value of its VR; required ones are checked by the gate
    if element.VR != "SQ":
        return DataElement(tag, element.VR, element.value, validation_mode=config.IGNORE)
    return _made(tag, "SQ", Items([_item(item, charset) for item in element.value]))


def _text_element(tag: BaseTag, vr: str, value: bytes, charset: CharacterSet) -> DataElement | None:
    try:
        text = charset.decode(value, vr).rstrip("\0 ")
    except (UnicodeError, LookupError) as error:
        raise DecodedDifferently(
            f"{keyword_for_tag(tag)} {tag} cannot be decoded with its Specific Character Set (0008,0005): "
            "set assume_charset for this peer"
        ) from error
    values = [text] if vr in _ONE_VALUE else text.split("\\")
    return _made(tag, vr, values[0] if len(values) == 1 else values)


def _item(item: Dataset, inherited: CharacterSet) -> Dataset:
    own = named(item)
    charset = CharacterSet.from_terms(own) if any(own) else inherited
    copy = Dataset()
    for tag in item.keys():  # noqa: SIM118  iterating a Dataset converts (and decodes) its elements
        if tag != CHARACTER_SET and not tag.is_private and dictionary_has_tag(tag):
            element = _element(item, tag, charset)
            if element is not None:
                copy[tag] = element
    return copy


def _made(tag: BaseTag, vr: str, value: Any) -> DataElement | None:
    try:
        return DataElement(tag, vr, value, validation_mode=config.IGNORE)
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        return None


def _vr(element: DataElement | RawDataElement) -> str:
    if element.VR not in {None, "UN"}:
        return str(element.VR)
    return dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else "UN"
