"""Text decoded strictly by Specific Character Set (0008,0005) (PS3.5 6.1, PS3.3 C.12.1.1.2).

pydicom puts replacement characters where bytes do not fit the character set, and reads the default repertoire
as ISO 8859-1. Both would hide that a patient's name is broken, and a wrong name on a result is worse than no
result. The inbox and the builders of results both decode with this module, so they read the same text.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName
from pydicom.values import convert_PN

from dicom_node.dicom.walk import values

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
