"""Syntax mistakes in TOML files, in an admin's words; no value is shown."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

_CURLY = re.compile("[\u2018-\u201f\u00ab\u00bb]")
_BARE = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*=\s*(.*)")
_QUOTES_OPEN = 'the quotes are not closed: put a " at the end of the text'
_TABLE_TWICE = "is given twice: put its keys together under one heading"

# By the beginning of what the standard library's parser says.
_REMEDIES: Mapping[str, str] = {
    "Unterminated string": _QUOTES_OPEN,
    "Illegal character '\\n'": _QUOTES_OPEN,
    "Unclosed array": "a list is not closed, or a comma is missing in it: write [\"a\", \"b\"]",
    "Unclosed inline table": "a table is not closed, or a comma is missing in it: write { key = value }",
    "Duplicate inline table key": "a key is given twice in a table: leave one out",
    "Expected '=' after a key": "write it as key = value",
    "Expected ']": "a heading is not closed: write it as [node] or [[peers]]",
    "Expected newline": "nothing but a # comment may follow the value; text must be in quotes",
    "Invalid hex value": "write \\\\ for a \\ in a text, or put the text in single quotes",
    "Unescaped '\\' in a string": "write \\\\ for a \\ in a text, or put the text in single quotes",
    "Invalid initial character": "a key has letters of ASCII, figures, dash and underscore",
}  # fmt: skip


def fault(error: tomllib.TOMLDecodeError, text: str) -> tuple[int, str]:
    """The line of a syntax mistake (from 1), and the remedy."""
    message, _, where = str(error).partition(" (at ")
    found = re.match(r"line (\d+)", where)
    lines = text.split("\n")
    number = int(found[1]) if found else len(text.rstrip("\n").split("\n"))
    return number, _remedy(message, lines[number - 1].strip())


def _remedy(message: str, line: str) -> str:
    if _CURLY.search(line) and message.startswith(("Invalid", "Expected")):
        return 'quotes must be straight ones: "'
    if message == "Invalid value":
        return _about_value(line)
    heading = re.match(r"\[+\s*([\w.]+)", line)
    if heading and message.startswith("Cannot"):
        name = heading[1]
        return (
            f"write [[{name}]], with two brackets, each time"
            if name in ("peers", "rules")
            else (f"[{name}] {_TABLE_TWICE}")
        )
    if message == "Cannot overwrite a value" and (key := _BARE.match(line)):
        return f"the key {key[1]} is given twice here: leave one out"
    for beginning, remedy in _REMEDIES.items():
        if message.startswith(beginning):
            return remedy
    return f"{message[:1].lower()}{message[1:]}"


def _about_value(line: str) -> str:
    written = _BARE.match(line)
    if written is None:
        return 'text must be in quotes, such as "us1"'
    key, value = written.groups()
    word = value.partition("#")[0].strip()
    if not word:
        return f"{key} has no value: write one, or leave the key out"
    if word.casefold() in ("null", "none", "nil"):
        return f"there is no {word} in TOML: leave {key} out"
    if word.casefold() in ("true", "false"):
        return f"write {word.casefold()}, in small letters"
    return f'text must be in quotes: {key} = "…"'
