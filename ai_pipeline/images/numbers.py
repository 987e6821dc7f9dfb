"""Read numbers of a header: a number within its limits, or none.

A sender decides what a header says: 5,000 digits, which int() refuses with an error of its own, "1e999",
"NaN", digits of other scripts, several values instead of one, bytes that do not fit the VR.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.tag import TagType

LARGEST_WHOLE: Final = 2**31 - 1
"""Largest value of the VR IS (PS3.5 6.2); Rows, Columns and bits (US) are smaller."""
LARGEST_DECIMAL: Final = 1e16
"""Largest value of the VR DS in practice: a product of several such values is still finite."""
_LONGEST = 64  # characters: DS has 16, some makers write more
DAMAGE: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    BytesLengthException,
    struct.error,
)
"""What pydicom raises for bytes that are no value of their VR."""
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def value_of(dataset: Dataset, tag: str | TagType) -> object:
    """The value of an attribute; None if it is missing or its bytes do not fit its VR."""
    try:
        return dataset[tag].value if tag in dataset else None
    except DAMAGE:
        return None


def is_empty(dataset: Dataset, keyword: str) -> bool:
    """Whether an attribute is missing or blank. Text that is no number is not blank."""
    value = dataset.get_item(keyword).value if keyword in dataset else None
    blank = value.strip(b" \0") if isinstance(value, bytes) else value
    return blank is None or blank == b"" or (isinstance(blank, str) and not blank.strip(" \0"))


def whole(value: object, least: int = 0, most: int = LARGEST_WHOLE) -> int | None:
    """Convert ``value`` to a whole number from ``least`` to ``most``; None for any other value."""
    number: float | None
    if isinstance(value, str):
        text = value.strip(" \0")
        number = int(text) if len(text) <= _LONGEST and _WHOLE.fullmatch(text) else None
    else:
        number = value if isinstance(value, int | float) else None
    if number is None or not least <= number <= most or number != int(number):  # NaN is within no limits
        return None
    return int(number)


def decimal(value: object, largest: float = LARGEST_DECIMAL) -> float | None:
    """Convert ``value`` to a finite number whose absolute value is at most ``largest``; None for any other
    value.
    """
    if isinstance(value, str):
        text = value.strip(" \0")
        value = float(text) if len(text) <= _LONGEST and _DECIMAL.fullmatch(text) else None
    if not isinstance(value, int | float) or not abs(value) <= largest:  # NaN is within no limits
        return None
    return float(value)


def whole_of(dataset: Dataset, keyword: str, default: int, least: int = 0, most: int = LARGEST_WHOLE) -> int:
    """The whole number in an attribute with one value; ``default`` if it has no usable one."""
    number = whole(value_of(dataset, keyword), least, most)
    return default if number is None else number


def decimal_of(dataset: Dataset, keyword: str, default: float) -> float:
    """The decimal number in an attribute with one value; ``default`` if it has no usable one."""
    number = decimal(value_of(dataset, keyword))
    return default if number is None else number
