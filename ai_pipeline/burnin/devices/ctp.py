"""Read pixel scripts of RSNA's CTP: ``{ signature } (x,y,w,h) (x,y,w,h) …``, all else is comment.

Source: "The CTP DICOM Pixel Anonymizer" (mircwiki.rsna.org). There the first signature that matches counts;
as device rules all of them do, so that more is removed, never less.
"""

import re
from collections.abc import Iterator

from ai_pipeline.burnin.devices.signatures import (
    MOST_CONDITIONS,
    Alternatives,
    CannotTake,
    Comparison,
    Condition,
    NotTaken,
    Signature,
    both,
    corners,
    either,
    keyword_of,
)
from ai_pipeline.burnin.find.annotation import Box

_DEEPEST = 20  # parentheses within parentheses
_FUNCTIONS = {
    function + ending: comparison
    for function, comparison in (
        ("equals", Comparison.EQUALS),
        ("contains", Comparison.CONTAINS),
        ("startsWith", Comparison.STARTS),
        ("endsWith", Comparison.ENDS),
    )
    for ending in ("", "IgnoreCase")
}
_REGION = re.compile(r"\(([^()]*)(\)?)")
_SPACE = re.compile(r"(?:\s|//[^\n]*)*")
_CONDITION = re.compile(
    r'(\[[^\]\n"]{1,40}\]|[A-Za-z]\w{0,63})\s*\.\s*([A-Za-z]{1,40})\s*\(\s*"([^"\n]*)"\s*\)', re.ASCII
)


def is_pixel_script(text: str) -> bool:
    """Whether a file may be a pixel script of CTP: it has a signature in braces."""
    return "{" in text


def read_pixel_script(text: str) -> Iterator[Signature | NotTaken]:
    """Yield each signature of a script with its rectangles, and each part that cannot be taken."""
    start = text.find("{")
    line, above = 1 + text.count("\n", 0, start), text[:start]
    while start < len(text):
        comment = above.rstrip().rpartition("\n")[2].strip(" \t:-")
        name = "" if "(" in comment else comment
        if (end := text.find("}", start)) < 0:
            yield NotTaken(line, name, "the signature has no closing brace")
            return
        following = text.find("{", end)
        following = len(text) if following < 0 else following
        above = text[end + 1 : following]
        yield from _signature(line, name, text[start + 1 : end], above)
        line += text.count("\n", start, following)
        start = following


def _signature(line: int, name: str, condition: str, below: str) -> Iterator[Signature | NotTaken]:
    """Yield the signature of a ``condition`` with the rectangles in the text ``below`` it, and what of them
    cannot be taken. ``line``: of its brace; ``name``: its comment.
    """
    boxes: list[Box] = []
    at, seen = line + condition.count("\n"), 0
    for region in _REGION.finditer(below):
        at, seen = at + below.count("\n", seen, region.start()), region.start()
        try:
            if not region[2]:
                raise CannotTake("the parenthesis is not closed")
            boxes.append(corners(region[1], sized=True))
        except CannotTake as error:
            yield NotTaken(at, region[0], str(error))
    try:
        alternatives = _Expression(condition).alternatives()
        if not boxes:
            raise CannotTake("has no rectangle: device rules spare no image from cleaning")
        yield Signature(line, name, alternatives, tuple(boxes))
    except CannotTake as error:
        yield NotTaken(line, name or condition, str(error))


class _Expression:
    """A parser of a signature: conditions joined by ``*`` (and) and ``+`` (or), with parentheses."""

    def __init__(self, text: str) -> None:
        """``text``: what is between the braces."""
        self._text, self._at, self._conditions = text, 0, 0

    def alternatives(self) -> Alternatives:
        """Parse the whole text. Raises CannotTake for what is no signature or has no device rule."""
        found = self._either(0)
        if self._sign():
            raise CannotTake(f"cannot be read from {self._text[self._at :][:20]!r} on")
        return found

    def _either(self, depth: int) -> Alternatives:
        """Parse parts that are joined by ``+``."""
        found = self._both(depth)
        while self._take("+"):
            found = either(found, self._both(depth))
        return found

    def _both(self, depth: int) -> Alternatives:
        """Parse parts that are joined by ``*``."""
        found = self._part(depth)
        while self._take("*"):
            found = both(found, self._part(depth))
        return found

    def _part(self, depth: int) -> Alternatives:
        """Parse a condition, or parts in parentheses; ``depth``: how many are open."""
        if self._take("!"):
            raise CannotTake("has a negation (!): device rules have none")
        if self._take("("):
            if depth >= _DEEPEST:
                raise CannotTake(f"has more than {_DEEPEST} parentheses within each other")
            found = self._either(depth + 1)
            if not self._take(")"):
                raise CannotTake("a parenthesis is not closed")
            return found
        return ((self._condition(),),)

    def _condition(self) -> Condition:
        """Parse ``Keyword.function("value")``."""
        self._sign()
        condition = _CONDITION.match(self._text, self._at)
        if condition is None:
            raise CannotTake(f"cannot be read from {self._text[self._at :][:20]!r} on")
        self._at, self._conditions = condition.end(), self._conditions + 1
        if self._conditions > MOST_CONDITIONS:
            raise CannotTake(f"has more than {MOST_CONDITIONS} conditions")
        tag, function, value = condition.groups()
        if function not in _FUNCTIONS:
            raise CannotTake(f"compares by {function}: device rules do not")
        return Condition(keyword_of(tag), _FUNCTIONS[function], value)

    def _sign(self) -> str:
        """The next character after spaces and comments; "" at the end."""
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def _take(self, sign: str) -> bool:
        """Whether ``sign`` comes next; if so it is read."""
        found = self._sign() == sign
        self._at += found
        return found
