"""Text of an object as text: decoded strictly by its Specific Character Set (PS3.5 6.1, PS3.3 C.12.1.1.2).

pydicom puts replacement characters where bytes are not of the character set, and reads the default
repertoire as Latin-1. Both would hide that a patient's name is broken, so names are decoded here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from pydicom.charset import CODES_TO_ENCODINGS, convert_encodings, default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from dicom_node.errors import DecodedDifferently

_ASCII = "ascii"  # ISO_IR 6, the default repertoire
_PARTS = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
_END_OF_EXTENSION = re.compile(rb"[\r\n\t\f\\^=]")  # PS3.5 6.1.2.5.3
_STATEFUL = frozenset({"iso2022_jp", "iso2022_jp_2"})  # Python reads their escape sequences itself
_PADDING = " \0"


def strict_text(dataset: Dataset, keyword: str, charset: Sequence[str]) -> str:
    """The value as text. Raises DecodedDifferently when its bytes are not of that character set."""
    raw = _raw(dataset, keyword)
    if isinstance(raw, str):
        return _tidy(raw)
    try:
        return _tidy(decode(raw, charset))
    except (UnicodeError, LookupError):
        raise DecodedDifferently(keyword) from None


def readable_text(dataset: Dataset, keyword: str, charset: Sequence[str]) -> str:
    """The value as text, with U+FFFD where its bytes are of no character set: good for patterns of rules."""
    try:
        return strict_text(dataset, keyword, charset)
    except DecodedDifferently:
        raw = _raw(dataset, keyword)
        assert isinstance(raw, bytes)
        return _tidy(raw.decode("utf-8", "replace"))


def named_charset(dataset: Dataset) -> tuple[str, ...]:
    """Values of Specific Character Set (0008,0005), as they stand there."""
    raw = _raw(dataset, "SpecificCharacterSet")
    text = raw if isinstance(raw, str) else raw.decode(_ASCII, "replace")
    return tuple(value.strip(_PADDING) for value in text.split("\\")) if text.strip(_PADDING) else ()


def decode(raw: bytes, charset: Sequence[str]) -> str:
    """Decode by the values of Specific Character Set. Raises UnicodeError or LookupError."""
    encodings = _encodings(charset)
    if b"\x1b" not in raw:
        return raw.decode(encodings[0])
    return "".join(_decode_part(part, encodings) for part in _PARTS.findall(raw))


def _tidy(value: str) -> str:
    """Without padding; NUL means nothing in text, and PostgreSQL keeps none."""
    return value.replace("\0", "").strip()


def _decode_part(part: bytes, encodings: Sequence[str]) -> str:
    """One stretch that begins with an escape sequence (or the stretch before the first)."""
    if not part.startswith(b"\x1b"):
        return part.decode(encodings[0])
    length = 4 if part.startswith((b"\x1b$(", b"\x1b$)")) else 3
    encoding = CODES_TO_ENCODINGS[part[:length]]
    if encoding in _STATEFUL:
        return part.decode(encoding)
    text = part[length:]
    end = _END_OF_EXTENSION.search(text)
    here = len(text) if end is None else end.start()
    encoding = _ASCII if encoding == default_encoding else encoding
    return text[:here].decode(encoding) + text[here:].decode(encodings[0])


def _encodings(charset: Sequence[str]) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # common misspellings are put right, unknown ones become the default
        found = convert_encodings(list(charset) or [""])
    return [_ASCII if encoding == default_encoding else encoding for encoding in found]


def _raw(dataset: Dataset, keyword: str) -> bytes | str:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    element = dataset.get_item(tag, keep_deferred=True) if tag in dataset else None
    if element is None or element.value is None:
        return b""
    if isinstance(element, RawDataElement):
        return bytes(element.value)
    return str(element.value)
