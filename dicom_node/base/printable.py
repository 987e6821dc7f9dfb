"""Text from outside, made harmless for a terminal and a log file.

A caller chooses its AE title, a modality its patient's name: a line break forges a log line, an escape
sequence (ESC, or U+009B alone) works the terminal, U+202E turns the rest of the line round.
"""

import json
import re

# Categories Cc, Zl and Zp, lone surrogates, and what formats invisibly (Cf) but for the joiners U+200C and
# U+200D, with which Persian and Indic names are written; and the 66 noncharacters (Unicode 23.7), two of
# which no XML parser takes (U+FFFE, U+FFFF).
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    f"\ufff9-\ufffb\U000e0000-\U000e007f{_NONCHARACTERS}]"
)


def printable(text: str) -> str:
    r"""The text on one line, with control characters as escapes, so that no terminal obeys them: ``\n``,
    ``\x9b``, ``\u202e``.
    """
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_json(document: str) -> str:
    r"""A JSON document that means the same and works no terminal: ``\u009b``; its line breaks stay."""
    return _UNSAFE.sub(lambda found: "\n" if found[0] == "\n" else json.dumps(found[0])[1:-1], document)


def redacted(value: str) -> str:
    """A value without what may be a secret in it: user and password before ``@``, a query behind ``?``.

    ``postgresql://***@host/name``, also where the scheme was forgotten; quotes around it stay.
    """
    parts = _ADDRESS.fullmatch(value)
    quote, scheme, rest = parts.groups() if parts else ("", "", value)
    login, at, shown = rest.removesuffix(quote).rpartition("@")
    if "?" in login:  # a password with ?, or a query with @: either way nothing here is the machine's
        return f"{quote}{scheme}***{quote}"
    shown, mark, _ = shown.partition("?")
    return f"{quote}{scheme}{'***@' if at else ''}{shown}{'?…' if mark else ''}{quote}"


_ADDRESS = re.compile(r"""(['"]?)((?:[A-Za-z][A-Za-z0-9+.-]*://)?)(.*)""", re.DOTALL)
