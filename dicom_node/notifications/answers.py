"""What became of sending: in our words, since a server's may quote what was sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

MAXIMUM_ANSWER_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """``taken``: it is sent. ``for_good``: waiting does not cure it."""

    taken: bool
    text: str
    for_good: bool = False

    CUT_OFF: ClassVar[str] = "cut off: the server was too slow"
