"""Patterns of a rule's conditions."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(pattern: str, value: str) -> bool:
    """Shell patterns, without case; ``[`` is a plain character, because descriptions have brackets."""
    return fnmatchcase(value.casefold(), pattern.casefold().replace("[", "[[]"))
