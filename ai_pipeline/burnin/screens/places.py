"""Places of a screen that is being learnt, and the forms of text that stood there."""

from __future__ import annotations

from dataclasses import dataclass, field

from ai_pipeline.burnin.find.annotation import Box

_FEWEST_NAMED = 3
_SHARE_OF_PLACE, _SHARE_OF_FORM = 5, 20


@dataclass(slots=True)
class Form:
    """A form of text at a place. ``hash``: keyed hash of the form; ``patients``: a map of the patients for
    whom it stood there; ``named``: of those whose header says that it is of the identity; ``first``: keyed
    hash of the text as it was at first; ``varies``: whether it was another later, as in a field; ``text``:
    the text, "" until enough patients had it.
    """

    hash: str
    patients: int = 0
    named: int = 0
    first: str = ""
    varies: bool = False
    text: str = ""

    @property
    def count(self) -> int:
        """For how many different patients it stood there, at least."""
        return max(self.patients.bit_count(), self.named.bit_count())

    @property
    def is_of_identity(self) -> bool:
        """Whether headers say that it is of the identity, in one of twenty images at least. A label may be
        the name of a patient once.
        """
        return self.named > 0 and self.named.bit_count() * _SHARE_OF_FORM >= self.patients.bit_count()


@dataclass(slots=True)
class Place:
    """A place of a screen: its box, a map of the patients of whom a part of the identity or a date stood
    there, and the forms of text.
    """

    box: Box
    identity: int = 0
    forms: list[Form] = field(default_factory=list)

    @property
    def count(self) -> int:
        """For how many different patients one form, or the identity, stood there, at least."""
        return max((self.identity.bit_count(), *(form.count for form in self.forms)))

    @property
    def is_of_identity(self) -> bool:
        """Whether names, identifiers or dates stand there: of three patients at least, and in one of five
        images.
        """
        seen = self.identity.bit_count()
        return seen >= _FEWEST_NAMED and seen * _SHARE_OF_PLACE >= self.count
