"""The results of an examination."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of a test; if not ``ok``, it is a warning."""

    subject: str
    ok: bool
    text: str


Problem = tuple[str, str, str]
"""Key, value, remedy: something that keeps the node from working."""
Found = Iterator[Problem | Tried]
