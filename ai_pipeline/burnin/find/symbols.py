"""The symbols of the reader of small letters, in the order of the network's outputs after the blank."""

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
    """The text with every character that is not among the symbols replaced by :data:`UNKNOWN`."""
    return "".join(letter if letter in SYMBOLS else UNKNOWN for letter in text)
