"""Repair of attributes copied from a source: invalid values are corrected or left out.

Otherwise a source's mistake would be an error in our result. Old scanners and converters write dates with
dots (ACR-NEMA 300), times with colons, whole numbers with a fraction, and unlisted codes (PS3.5 6.2). UIDs
are kept unchanged: results belong to the study of their source, and refer to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import format_number_as_ds

_UID: Final = re.compile(r"([01]\.[1-3]?\d|2\.(0|[1-9]\d*))(\.(0|[1-9]\d*))*")
_DATE: Final = re.compile(r"(\d{4})([./-]?)(\d{2})\2(\d{2})")
_TIME: Final = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d+))?)?)?")
_YEAR_OR_MONTH: Final = re.compile(r"\d{4}(0[1-9]|1[0-2])?")
_DATE_TIME: Final = re.compile(
    r"(\d{4}[./-]?\d{2}[./-]?\d{2})(?:[T ]?([\d:]+(?:\.\d+)?))?([+-]\d{2}:?\d{2})?"
)
_AGE: Final = re.compile(r"(\d{1,3}) ?([DWMY])")
_CODE_STRING: Final = re.compile(r"[A-Z0-9 _]{1,16}")
_DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE: Final = re.compile(r"[+-]?\d{1,11}")

# Values that PS3.3 enumerates, of the attributes that results take over.
_ENUMERATED: Final = {
    "ImageLaterality": {"R", "L", "U", "B"},
    "Laterality": {"R", "L"},
    "LossyImageCompression": {"00", "01"},
    "PatientSex": {"M", "F", "O"},
    "PatientSexNeutered": {"ALTERED", "UNALTERED"},
    "PixelSpacingCalibrationType": {"GEOMETRY", "FIDUCIAL"},
    "QualityControlSubject": {"YES", "NO"},
    "ShutterShape": {"RECTANGULAR", "CIRCULAR", "POLYGONAL"},
    "SmokingStatus": {"YES", "NO", "UNKNOWN"},
    "SyntheticData": {"YES", "NO"},
    "VOILUTFunction": {"LINEAR", "LINEAR_EXACT", "SIGMOID"},
}
_REFERENCE: Final = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
_CODES: Final = (
    ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"),
    ("LongCodeValue", "CodingSchemeDesignator", "CodeMeaning"),
    ("URNCodeValue", "CodeMeaning"),
)


@dataclass(frozen=True, slots=True)
class Repairs:
    """Keywords of attributes with invalid values; never the values, which may be PHI."""

    repaired: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """UIDs that are none (PS3.5 9.1) and stand in the results nevertheless."""

    def __bool__(self) -> bool:
        return bool(self.repaired or self.left_out or self.kept)


def repair(header: Dataset, emptied: Collection[str] = ()) -> Repairs:
    """Correct faulty values in place; remove values that cannot be corrected, or empty those in ``emptied``.

    Values of VR AS, CS, DA, DS, DT, IS and TM (PS3.5 6.2), in items of sequences too. A sequence of codes or
    references with an incomplete item is removed, and so is a reference without a valid UID.
    """
    notes = _Notes(set(), set(), set())
    for element in list(header):
        keyword = element.keyword
        if element.VR == "SQ":
            if not _is_sound(keyword, element.value, notes):
                notes.left_out.add(keyword)
                del header[element.tag]
            elif not element.value:
                del header[element.tag]  # an empty one says nothing, and codes may not be empty
        elif element.VR == "UI":
            if not _are_uids(element):
                notes.kept.add(keyword)
        elif not _put_right(header, element, notes):
            notes.left_out.add(keyword)
            if keyword in emptied:
                header[element.tag] = DataElement(element.tag, element.VR, None)
            else:
                del header[element.tag]
    return Repairs(*(tuple(sorted(part)) for part in (notes.repaired, notes.left_out, notes.kept)))


@dataclass(frozen=True, slots=True)
class _Notes:
    repaired: set[str]
    left_out: set[str]
    kept: set[str]


def _is_sound(keyword: str, items: Any, notes: _Notes) -> bool:
    """Repair the items of a sequence; False when one is not fit to be repeated.

    Codes must be complete (no attribute of theirs may be empty, PS3.3 8.8), references whole.
    """
    codes = keyword.endswith("CodeSequence")
    for item in items:
        for element in list(item):
            empty = element.value in (None, "", [])
            if element.VR == "SQ":
                whole = empty or _is_sound(element.keyword, element.value, notes)
            elif element.VR == "UI":
                whole = empty or _are_uids(element)
            else:
                whole = _put_right(item, element, notes)
            if not whole or (codes and empty):
                del item[element.tag]
                if not whole:
                    notes.left_out.add(element.keyword)
    if codes:
        wanted: tuple[tuple[str, ...], ...] = _CODES
    else:
        wanted = (_REFERENCE,) if keyword.startswith("Referenced") else ((),)
    return all(any(all(word in item for word in one) for one in wanted) for item in items)


def _put_right(dataset: Dataset, element: DataElement, notes: _Notes) -> bool:
    """Whether the element has values that DICOM allows, now; its keyword is noted if it had others before."""
    right = _RIGHT.get(element.VR)
    allowed = _ENUMERATED.get(element.keyword)
    if right is None or element.value in (None, ""):
        return True
    given = [str(one).strip(" \0") for one in _values(element)]
    values = [right(one) if one else "" for one in given]
    if any(one is None or (one and allowed and one not in allowed) for one in values):
        return False
    if values != given:
        notes.repaired.add(element.keyword)
        value = values if len(values) > 1 else values[0]
        dataset[element.tag] = DataElement(element.tag, element.VR, value, validation_mode=config.IGNORE)
    return True


def _are_uids(element: DataElement) -> bool:
    return all(len(str(one)) <= 64 and _UID.fullmatch(str(one)) for one in _values(element) if one)


def _values(element: DataElement) -> Sequence[Any]:
    several: bool = isinstance(element.value, MultiValue | list)
    return element.value if several else [element.value]


def _date(text: str) -> str | None:
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    year, _, month, day = found.groups()
    with suppress(ValueError):
        date(int(year), int(month), int(day))
        return f"{year}{month}{day}"
    return None


def _time(text: str) -> str | None:
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    hour, minute, second, fraction = found.groups()
    if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 60:  # 60: a leap second
        return None
    return f"{hour}{minute or ''}{second or ''}" + (f".{fraction[:6]}" if fraction else "")


def _date_time(text: str) -> str | None:
    if _YEAR_OR_MONTH.fullmatch(text):
        return text
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        return None
    day, time = _date(found[1]), _time(found[2]) if found[2] else ""
    return None if day is None or time is None else day + time + (found[3] or "").replace(":", "")


def _age(text: str) -> str | None:
    found = _AGE.fullmatch(text.upper())
    return found and f"{int(found[1]):03}{found[2]}"


def _code_string(text: str) -> str | None:
    return text.upper() if _CODE_STRING.fullmatch(text.upper()) else None


def _whole_number(text: str) -> str | None:
    if not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    if abs(number) >= 2**31 or not number.is_integer():
        return None
    return text if _WHOLE.fullmatch(text) else str(int(number))


def _decimal(text: str) -> str | None:
    if not _DECIMAL.fullmatch(text) or not math.isfinite(float(text)):
        return None
    return text if len(text) <= 16 else str(format_number_as_ds(float(text)))


_RIGHT: Final[dict[str, Callable[[str], str | None]]] = {
    "AS": _age,
    "CS": _code_string,
    "DA": _date,
    "DS": _decimal,
    "DT": _date_time,
    "IS": _whole_number,
    "TM": _time,
}
"""By value representation: the text as PS3.5 6.2 wants it, None where its meaning is unclear."""
