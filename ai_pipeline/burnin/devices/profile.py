"""Texts that a device writes at known places of its screen: they stay where they stand so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ai_pipeline.burnin.devices.forms import LONGEST, form_of, plain, says_whose
from ai_pipeline.burnin.find.annotation import Box

MOST_TEXTS: Final = 400
"""Texts of one screen, at most."""
LEAST_CONFIDENCE: Final = 0.6
"""Confidence from which a reading counts: place and form are known, and digits may be misread."""
_REACH: Final = 0.7
"""Distance of the rows, and of the left or right ends or the middles, of two texts at one place (heights)."""

Pixel = Annotated[int, Field(strict=True, ge=0, lt=100_000)]


class ScreenText(BaseModel):
    """A text of a screen: the edges of its box in pixels, right and bottom exclusive, and its words:
    a label as it is, or the form of a field, with "#" for each number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    left: Pixel
    top: Pixel
    right: Pixel
    bottom: Pixel
    text: Annotated[str, Field(min_length=1, max_length=LONGEST)]

    @model_validator(mode="after")
    def _is_of_a_machine(self) -> ScreenText:
        """Raise ValueError for a box without area, and for a text that may be of a person or a place."""
        if says_whose(self.text):
            raise ValueError("may name a person, a place or a day: leave it out")
        if self.left >= self.right or self.top >= self.bottom:
            raise ValueError("right must be greater than left, bottom greater than top")
        return self

    @property
    def box(self) -> Box:
        """The place of the text."""
        return self.left, self.top, self.right, self.bottom


class Screen:
    """The known texts of one screen, to be looked up by place and form."""

    def __init__(self, texts: Iterable[ScreenText]) -> None:
        self._places: defaultdict[str, list[Box]] = defaultdict(list)
        for text in texts:
            self._places[plain(text.text).casefold()].append(text.box)

    def __bool__(self) -> bool:
        """Whether any text is known."""
        return bool(self._places)

    def has(self, box: Box, text: str, confidence: float) -> bool:
        """Whether this text, read with this ``confidence`` in a box, is the label or has the form of the
        field that is known there.
        """
        if not confidence >= LEAST_CONFIDENCE or len(text) > 2 * LONGEST:
            return False
        ways = {way.casefold() for way in (plain(text), form_of(text))}
        return any(is_at(box, place) for way in ways for place in self._places.get(way, ()))


NOT_KNOWN: Final = Screen(())
"""The screen of a device without a profile."""


def is_at(box: Box, place: Box) -> bool:
    """Whether a box of text is at a known place: about as high, in its row, and with one of its ends
    or its middle at the same column. A number has more digits in one picture than in another.
    """
    high, wanted = box[3] - box[1], place[3] - place[1]
    reach = _REACH * min(high, wanted)
    columns = ((box[0], place[0]), (box[2], place[2]), ((box[0] + box[2]) / 2, (place[0] + place[2]) / 2))
    return (
        0.6 * wanted <= high <= wanted / 0.6
        and abs(box[1] + box[3] - place[1] - place[3]) / 2 <= reach
        and any(abs(one - other) <= reach for one, other in columns)
    )
