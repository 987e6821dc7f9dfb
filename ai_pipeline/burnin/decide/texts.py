"""A text: a place in a picture, what was read there, and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher

from ai_pipeline.burnin.decide.meaning import NOTHING_MORE, Allowed, meaning_of
from ai_pipeline.burnin.find.networks import Line, is_wide
from ai_pipeline.burnin.find.text import TextBox
from ai_pipeline.contract import Meaning

FEW_CHARACTERS = 3
"""Texts of up to so many characters are judged together with their neighbours."""
TOGETHER = "with what belongs to it"
"""Why a label has the meaning of its value, and the value that of its label."""
NOTHING_READ = Line("", 0.0, legible=False)


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A place with text, the ``line`` read there, its meaning, and the line that the reader of small letters
    read there (``small``). ``proof``: why it has its meaning, if that does not follow from its words; else
    "".
    """

    box: TextBox
    line: Line
    meaning: Meaning
    small: Line = NOTHING_READ
    proof: str = ""

    @property
    def reason(self) -> str:
        """Why the text has its meaning, in a sentence that does not repeat its words."""
        if self.meaning is not Meaning.IDENTITY:
            return self.proof or "all of it was read, and is harmless"
        return self.proof or ("not all of it is known to be harmless" if self.line.legible else "not read")

    @property
    def letters(self) -> str:
        """The letters and digits of the text, in lower case."""
        return "".join(filter(str.isalnum, self.line.text)).casefold()

    def may_say(self, other: Text) -> bool:
        """Whether this text may be a worse reading of the text ``other``, without an additional letter."""
        # Signs that are read as a letter or a digit on small pictures.
        most = len(other.letters) + sum(map(other.line.text.count, "/%-"))
        # .6: likeness of two readings of one place, at least.
        return len(self.letters) <= most and SequenceMatcher(None, self.letters, other.letters).ratio() >= 0.6


def text_meaning(box: TextBox, line: Line, allowed: Allowed = NOTHING_MORE) -> Meaning:
    """The meaning of the text ``line`` read in ``box``, by what is known of the screen there, or by its
    words; IDENTITY unless all of it was read.
    """
    if not line.legible or is_wide(box.length, box.height, line):
        return Meaning.IDENTITY
    if allowed.screen.has(box.box, line.text, line.confidence):
        return Meaning.ACOUSTIC
    return meaning_of(line.text, line.confidence, allowed)
