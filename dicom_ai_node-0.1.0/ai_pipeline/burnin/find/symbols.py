"""The symbols that the reader of small letters knows, in the order of its outputs after the blank."""

from __future__ import annotations

import string

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""A letter of another script: it is seen, and not read."""
SYMBOLS = (
    " "
    + string.digits
    + string.ascii_letters
    + string.punctuation
    + "°²³·×±µäöüßéèêàáâãçíóôõúñÄÖÜÉÁÍÓÚÑÇ"
    + UNKNOWN
)


def known(text: str) -> str:
    """The text with every letter that is no symbol as :data:`UNKNOWN`."""
    return "".join(letter if letter in SYMBOLS else UNKNOWN for letter in text)
