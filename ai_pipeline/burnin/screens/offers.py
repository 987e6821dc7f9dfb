"""What a person is asked about a screen that was learnt: which text stays, which goes, which is not clear.

Never offered are texts of persons, places and days: what headers say of these, what is in the head line or
beside a date, and what has the form of any. A number with a technical unit is offered wherever it stands.
Proposed to stay is what its unit or its words prove; a person is asked about every other text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import inf
from typing import Final

from ai_pipeline.burnin.decide.layout import in_one_row, is_above
from ai_pipeline.burnin.decide.meaning import meaning_of
from ai_pipeline.burnin.devices.forms import form_of, has_unit, is_measured, says_whose
from ai_pipeline.burnin.devices.profile import MOST_TEXTS
from ai_pipeline.burnin.find.annotation import Box, gaps
from ai_pipeline.burnin.screens.places import Form, Place
from ai_pipeline.contract import Meaning

HEAD: Final = 0.15
"""Share of a picture's height, from its top and from its bottom, where rows with a name or date are head
lines over the whole width."""
_BESIDE, _BELOW, _VALUE, _BLOCK = 6.0, 1.5, 8.0, 2.5
"""How far from a name or date a text is beside it, or right above or below it; a value from its label; a line
of a block from the next (heights of a line)."""
_BLOCK_OF: Final = 3
_WORD: Final = 4


class Choice(StrEnum):
    """What becomes of a text: it stays, it goes as any that is not known, or a person has to say."""

    STAYS = "stays"
    GOES = "goes"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Offer:
    """A place of a screen. ``text``: the label, or the form of the field with "#" for a number; "" where it
    goes. ``patients``: for how many it stood there, at least.
    """

    box: Box
    choice: Choice
    text: str
    patients: int


@dataclass(frozen=True, eq=False)
class _Cell:
    """A text that enough patients had at its place."""

    box: Box
    form: Form

    @property
    def text(self) -> str:
        """The label, or the form of the field."""
        return self.form.text

    @cached_property
    def has_number(self) -> bool:
        """Whether a number is in it."""
        return "#" in form_of(self.text)

    @cached_property
    def letters(self) -> int:
        """How many letters it has."""
        return sum(map(str.isalpha, self.text))

    @cached_property
    def is_proven(self) -> bool:
        """Whether it is a setting wherever it stands: a number with its unit alone, or known words."""
        # Numbers that "#" may stand for; a bare one proves nothing.
        ways = (self.text.replace("#", number) for number in ("5", "0.5", "50"))
        return is_measured(self.text) or (
            self.letters > 1 and any(meaning_of(way, 1.0) is not Meaning.IDENTITY for way in ways)
        )

    @cached_property
    def is_of_settings(self) -> bool:
        """Whether it makes the block around it one of settings."""
        return self.is_proven or has_unit(self.text)


def offers_of(places: Sequence[Place], rows: int) -> list[Offer]:
    """The places of a screen of so many pixel ``rows``, each with what is proposed, from top to bottom."""
    forget_of_somebody(places, rows)
    found = [Offer(place.box, Choice.GOES, "", place.count) for place in places if place.is_of_identity]
    found += [Offer(cell.box, choice, cell.text, cell.form.count) for cell, choice in _choices(places)]
    return sorted(found, key=lambda offer: (offer.box[1], offer.box[0]))


def forget_of_somebody(places: Sequence[Place], rows: int) -> None:
    """Delete the texts of ``places`` that are not offered: no text that goes is stored."""
    named = [place for place in places if place.is_of_identity]
    for cell in _cells(places):
        if _is_of_somebody(cell, [place.box for place in named], rows):
            cell.form.text = ""
    for place in named:
        place.forms.clear()
    for cell, choice in _choices(places):
        if choice is Choice.GOES:
            cell.form.text = ""


def _cells(places: Sequence[Place]) -> list[_Cell]:
    """The texts that enough patients had, those of the most patients if there are too many."""
    found = [_Cell(place.box, form) for place in places for form in place.forms if form.text]
    rarest = sorted(found, key=lambda cell: -cell.form.count)[MOST_TEXTS:]
    for cell in rarest:
        cell.form.text = ""
    return [cell for cell in found if cell.text]


def _choices(places: Sequence[Place]) -> list[tuple[_Cell, Choice]]:
    """Each text with what is proposed for it."""
    cells = _cells(places)
    blocks = _in_blocks(cells)
    return [(cell, _choice(cell, cells, blocks)) for cell in cells]


def _is_of_somebody(cell: _Cell, named: Iterable[Box], rows: int) -> bool:
    """Whether a text may be of a person, a place or a day, by its form, by headers, or as it stands in a head
    line or beside a date or name (``named``).
    """
    if says_whose(cell.text) or cell.form.is_of_identity:
        return True
    return not cell.is_proven and any(_is_beside(cell, other, rows) for other in named)


def _is_beside(cell: _Cell, named: Box, rows: int) -> bool:
    """Whether a text stands in the row of a name or date, or without a number that varies right above or
    below it.
    """
    in_head = named[3] <= HEAD * rows or named[1] >= (1 - HEAD) * rows
    if in_one_row(cell.box, named, inf if in_head else _BESIDE):
        return True
    (across, down), height = gaps(cell.box, named), min(cell.box[3] - cell.box[1], named[3] - named[1])
    return not cell.form.varies and across < _BESIDE * height and down <= _BELOW * height


def _choice(cell: _Cell, cells: Sequence[_Cell], blocks: AbstractSet[_Cell]) -> Choice:
    """What is proposed for a text that may be a setting, by the other ``cells`` around it and by the
    ``blocks`` of settings. Only what is proven is proposed to stay: any other word may be a name.
    """
    if cell.is_proven:
        return Choice.STAYS
    in_block = cell in blocks
    if cell.has_number and cell.letters:
        # A number that never varies may be that of a room: "Nord 3".
        return Choice.ASK if in_block or cell.form.varies else Choice.GOES
    if cell.has_number:
        return _choice_of_number(cell, cells, blocks)
    is_label = any(other.has_number and _is_value_of(other, cell) for other in cells)
    return Choice.ASK if in_block and (is_label or cell.letters >= _WORD) else Choice.GOES


def _choice_of_number(cell: _Cell, cells: Sequence[_Cell], blocks: AbstractSet[_Cell]) -> Choice:
    """What is proposed for a number without a word or unit, by the label on its left."""
    labels = [other for other in cells if not other.has_number and _is_value_of(cell, other)]
    if cell.form.varies and any(label.is_proven for label in labels):
        return Choice.STAYS
    return Choice.ASK if any(label.is_proven or label in blocks for label in labels) else Choice.GOES


def _is_value_of(value: _Cell, label: _Cell) -> bool:
    """Whether a text stands right of another in its row, near enough to be its value."""
    return label.box[2] <= value.box[0] + 1 and in_one_row(label.box, value.box, _VALUE)


def _in_blocks(cells: Sequence[_Cell]) -> AbstractSet[_Cell]:
    """The texts in blocks of three texts or more, one of them a setting or with a technical unit, that are
    below each other or in one row.
    """
    found, left = set[_Cell](), dict.fromkeys(cells)
    while left:
        edge = [left.popitem()[0]]
        block = list(edge)
        while edge:
            cell = edge.pop()
            near = [other for other in left if _are_near(cell, other)]
            for other in near:
                del left[other]
            block += near
            edge += near
        if len(block) >= _BLOCK_OF and any(cell.is_of_settings for cell in block):
            found.update(block)
    return found


def _are_near(cell: _Cell, other: _Cell) -> bool:
    """Whether two texts are of one block: in one row, or aligned below each other."""
    boxes = cell.box, other.box
    return in_one_row(*boxes, _VALUE) or is_above(*boxes, _BLOCK) or is_above(*boxes[::-1], _BLOCK)
