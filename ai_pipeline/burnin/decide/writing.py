"""What is written in a picture: places that may hold text, found in several views, read, and judged.

Whoever names a person is believed alone: text counts as identity until all of it is read and proven harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ai_pipeline.burnin.annotation import Box, Mask, Picture
from ai_pipeline.burnin.decide.meaning import meaning_of
from ai_pipeline.burnin.find.flow import FILLS, TOUCHES, find_flow
from ai_pipeline.burnin.find.text import Line, TextBox, TextReader, high_contrast, looks_like_text
from ai_pipeline.contract import Meaning

GENERATED = 0.95
"""Share of a box that is filled pixels from which it cannot hold text of the source."""
SAME = 0.8
"""Share of a box within one that was read already, from which it is not read again."""
WIDEST_CHARACTER = 1.3
"""Widest that a character is on average, in heights of the line; a reading with fewer has left some out."""
FEW_CHARACTERS = 3
"""Texts of so many characters are judged with what stands beside them."""
WORD_SPACE = 1.5
"""Gap up to which two texts belong to one line (heights of the lower one)."""
LARGE_PICTURE = 1200
"""Shorter side from which a reduced view is read too, for letters that fill a tile (pixels)."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A place that may hold text, the view that shows it, and whether its looks alone prove it.

    ``flow`` is the share of it that Doppler has painted: what looks like letters there are vessels.
    """

    view: Picture
    box: TextBox
    flow: float

    @property
    def sure(self) -> bool:
        return self.flow <= FILLS and looks_like_text(self.box, self.view.shape)

    def read(self, reader: TextReader) -> Line:
        return reader.read(self.view, self.box, 2 if self.flow > TOUCHES else 1)


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A place that holds text, what is read there, and what it is for."""

    box: TextBox
    line: Line
    meaning: Meaning


def find_texts(picture: Picture, reader: TextReader, known: Mask) -> list[Text]:
    """All text. ``known`` is taken for text anyway: there only what looks like text is read.

    Reading costs ten times what finding does.
    """
    texts: list[Text] = []
    for one in candidates(picture, reader):
        if (not one.sure and covered(one.box, known)) or any(_within(one.box, text.box) for text in texts):
            continue
        line = one.read(reader)
        if one.sure or line.legible:
            texts.append(Text(one.box, line, text_meaning(one.box, line)))
    texts = [_in_its_text(text, texts) for text in texts]
    return [_in_its_line(text, texts) for text in texts]


def text_meaning(box: TextBox, line: Line) -> Meaning:
    """What a text is for; identity unless all of it was read."""
    wide = box.length / max(1.0, box.height)
    if not line.legible or wide > WIDEST_CHARACTER * (len(line.text) + 1):
        return Meaning.IDENTITY
    return meaning_of(line.text, line.confidence)


def candidates(picture: Picture, reader: TextReader, within: Box | None = None) -> list[Candidate]:
    """Find what may be text as shown, with faint contrast raised and, if large, reduced."""
    flow = find_flow(picture)
    views = [(picture, 1.0), (high_contrast(picture), 0.6)]
    if min(picture.shape[:2]) >= LARGE_PICTURE:
        views.append((picture, 0.35))
    return [one for view, scale in views for one in candidates_of(view, reader, scale, flow, within)]


def candidates_of(
    view: Picture, reader: TextReader, scale: float, flow: Mask, within: Box | None = None
) -> list[Candidate]:
    """Find what may be text in one view of a picture in which Doppler has painted ``flow``."""
    return [Candidate(view, box, share_of(flow, box)) for box in reader.find(view, scale, within)]


def share_of(mask: Mask, box: TextBox) -> float:
    """Share of the box's rectangle that lies in the mask."""
    left, top, right, bottom = box.box
    inside = mask[max(top, 0) : bottom, max(left, 0) : right]
    return float(inside.mean()) if inside.size else 0.0


def _in_its_text(text: Text, texts: Sequence[Text]) -> Text:
    """A word is what the text is that was read around it and holds it: NODE is a name, LYMPH NODE is none."""
    said = text.line.text.casefold()
    if text.meaning is not Meaning.IDENTITY or not text.line.legible:
        return text
    for other in texts:
        longer = said in other.line.text.casefold().split() and overlap(text.box.box, other.box.box) >= SAME
        if longer and other.meaning is not Meaning.IDENTITY:
            return Text(text.box, text.line, other.meaning)
    return text


def _in_its_line(text: Text, texts: Sequence[Text]) -> Text:
    """A few characters prove nothing by themselves: of "12", "03", "67" each could be a ruler's number.

    They are judged with what stands beside them, and beside a name they belong to it.
    """
    if text.meaning is Meaning.IDENTITY or len(text.line.text) > FEW_CHARACTERS:
        return text
    beside = [other for other in texts if other is not text and _beside(text.box, other.box)]
    row = sorted([text, *beside], key=lambda one: one.box.box[0])
    together = Line(
        " ".join(one.line.text for one in row), min(one.line.confidence for one in row), legible=True
    )
    named = any(one.meaning is Meaning.IDENTITY for one in beside)
    if named or (beside and meaning_of(together.text, together.confidence) is Meaning.IDENTITY):
        return Text(text.box, text.line, Meaning.IDENTITY)
    return text


def _beside(box: TextBox, other: TextBox) -> bool:
    """On one line, no farther apart than a word's space."""
    (left, top, right, bottom), (left2, top2, right2, bottom2) = box.box, other.box
    height = min(bottom - top, bottom2 - top2)
    return (
        min(bottom, bottom2) - max(top, top2) > 0.5 * height
        and max(left, left2) - min(right, right2) < WORD_SPACE * height
    )


def covered(box: TextBox, mask: Mask) -> bool:
    """Tell whether the box, which may slope, lies in the mask, but for its rim."""
    left, top, right, bottom = box.box
    inside = mask[max(top, 0) : bottom, max(left, 0) : right]
    place = np.zeros(inside.shape, np.uint8)
    origin = np.array([max(left, 0), max(top, 0)], np.float32)
    cv2.fillPoly(place, [np.rint(box.corners - origin).astype(np.int32)], 1)
    own = inside[place.astype(np.bool_)]
    return not own.size or float(own.mean()) >= GENERATED


def _within(box: TextBox, other: TextBox) -> bool:
    return overlap(box.box, other.box) >= SAME


def overlap(box: Box, other: Box) -> float:
    """Share of ``box`` that lies in ``other``."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(0, width) * max(0, height) / max(1, area)
