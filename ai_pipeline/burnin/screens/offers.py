"""What a person is asked about a screen that was learnt: which text stays, which goes, which is not clear.

Never offered are texts of persons, places and days: what headers say of these, what is in the head line or
beside a date, and what has the form of any. A number with a technical unit is offered wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import inf
from typing import Final

from ai_pipeline.burnin.decide.layout import in_one_row, is_above
from ai_pipeline.burnin.decide.meaning import meaning_of
from ai_pipeline.burnin.devices.forms import form_of, has_unit, says_whose
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
        """Whether it is a setting wherever it stands: by its unit or by its words."""
        # Numbers that "#" may stand for; a bare one proves nothing.
        ways = (self.text.replace("#", number) for number in ("5", "0.5", "50"))
        return has_unit(self.text) or (
            self.letters > 1 and any(meaning_of(way, 1.0) is not Meaning.IDENTITY for way in ways)
        )


def offers_of(places: Sequence[Place], rows: int) -> list[Offer]:
    """The places of a screen of so many pixel ``rows``, each with what is proposed, from top to bottom."""
    forget_of_somebody(places, rows)
    cells = _cells(places)
    found = [Offer(place.box, Choice.GOES, "", place.count) for place in places if place.is_of_identity]
    for cell in cells:
        choice = _choice(cell, cells)
        found.append(Offer(cell.box, choice, "" if choice is Choice.GOES else cell.text, cell.form.count))
    return sorted(found, key=lambda offer: (offer.box[1], offer.box[0]))


def forget_of_somebody(places: Sequence[Place], rows: int) -> None:
    """Delete the texts of ``places`` that are never offered, whatever is learnt later."""
    named = [place for place in places if place.is_of_identity]
    for cell in _cells(places):
        if _is_of_somebody(cell, [place.box for place in named], rows):
            cell.form.text = ""
    for place in named:
        place.forms.clear()


def _cells(places: Sequence[Place]) -> list[_Cell]:
    """The texts that enough patients had."""
    return [_Cell(place.box, form) for place in places for form in place.forms if form.text]


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


def _choice(cell: _Cell, cells: Sequence[_Cell]) -> Choice:
    """What is proposed for a text that may be a setting, by the other ``cells`` around it."""
    if cell.is_proven:
        return Choice.STAYS
    in_block = _is_in_block(cell, cells)
    if cell.has_number and cell.letters:
        # A number that never varies may be that of a room: "Nord 3".
        if in_block and cell.form.varies:
            return Choice.STAYS
        return Choice.ASK if in_block or cell.form.varies else Choice.GOES
    if cell.has_number:
        labels = [other for other in cells if not other.has_number and _is_value_of(cell, other)]
        return Choice.STAYS if any(_is_label(label, cells) for label in labels) else Choice.GOES
    if _is_label(cell, cells):
        return Choice.STAYS
    return Choice.ASK if in_block and cell.letters >= _WORD else Choice.GOES


def _is_label(cell: _Cell, cells: Sequence[_Cell]) -> bool:
    """Whether words are the label of a field: proven, or of a block with a number behind them."""
    return cell.is_proven or (
        _is_in_block(cell, cells) and any(other.has_number and _is_value_of(other, cell) for other in cells)
    )


def _is_value_of(value: _Cell, label: _Cell) -> bool:
    """Whether a text stands right of another in its row, near enough to be its value."""
    return label.box[2] <= value.box[0] + 1 and in_one_row(label.box, value.box, _VALUE)


def _is_in_block(cell: _Cell, cells: Sequence[_Cell]) -> bool:
    """Whether a text is of a block of three texts or more, one of them a proven setting, that stand below
    each other or in one row.
    """
    block, edge = {cell}, [cell]
    while edge:
        near = [other for other in cells if other not in block and _are_near(edge[0], other)]
        block.update(near)
        edge = [*edge[1:], *near]
    return len(block) >= _BLOCK_OF and any(other.is_proven for other in block)


def _are_near(cell: _Cell, other: _Cell) -> bool:
    """Whether two texts are of one block: in one row, or aligned below each other."""
    boxes = cell.box, other.box
    return in_one_row(*boxes, _VALUE) or is_above(*boxes, _BLOCK) or is_above(*boxes[::-1], _BLOCK)
