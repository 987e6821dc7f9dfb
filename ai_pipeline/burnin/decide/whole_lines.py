"""Keep or remove whole lines: no letter of a line that stays is cut when text beside it is removed.

A line that cannot be kept whole is removed. A place that was read twice counts by its best reading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ai_pipeline.burnin.decide.meaning import LEAST_CONFIDENCE
from ai_pipeline.burnin.decide.vocabulary import PRESETS
from ai_pipeline.burnin.decide.writing import FEW_CHARACTERS, Text, overlap
from ai_pipeline.burnin.find.annotation import Box, Mask, centre_of, index_of
from ai_pipeline.burnin.find.text import TextBox, paint
from ai_pipeline.contract import Meaning

RIM = 0.15
"""What a box has above and below its letters (share of its height); boxes of close lines overlap by it."""
ALIGNED = 0.7
"""Distance of two lines of a block and of their ends or middles, at most (heights of a line)."""
BLOCK = 2.5
"""Distance up to which the lines of a block prove what stands between them (heights of a line)."""
AMBIGUOUS = re.compile(r"9\d|100 ?[^\s\dAaFfJjMmWwYy]?|FR ?\d\d|P (?:Low|Med|High)")
"""Settings that could be an age or a name elsewhere; a padlock beside a power is read as a letter, and no
letter of a sex or of years is taken for one."""
COUNTER = re.compile(r"\d+ ?/ ?\d+")
"""A loop's frame: as the name of a preset it stands beside a patient's name, too, and proves no setting."""


def by_best_reading(texts: Sequence[Text]) -> list[Text]:
    """The texts, each with the meaning that another reading of the same place proves.

    A proving reading has more than a few characters and no letter less: "45" does not prove "45Y" harmless.
    """
    proven = [
        text
        for text in texts
        if text.meaning not in {Meaning.IDENTITY, Meaning.SCALE} and len(text.letters) > FEW_CHARACTERS
    ]
    return [_as_proven(text, proven) for text in texts]


def by_their_block(texts: Sequence[Text]) -> list[Text]:
    """The texts, some with a meaning that lines above and below prove: a power in per cent, a model's number.

    A number of two digits from 90 on could be an age, "FR 32" a Mrs of 32 and "P Low" a name. Between two
    settings of one block they count as settings, as do "C 50" and "3/2/0" below settings.
    """
    found = list(texts)
    for index in sorted(range(len(found)), key=lambda one: found[one].box.box[1]):  # each by those above it
        found[index] = _in_block(found[index], found)
    return found


def around(
    residue: Sequence[TextBox], lines: Sequence[Box], stays: Mask, margin: float, *, spare: bool
) -> Mask:
    """The places of text that is still found, grown as :func:`paint` does, and of the ``lines`` they touch.

    ``lines``: the letters of each line that was read and stays, if all of it lies in ``stays``. A line that
    is touched is taken whole. With ``spare`` it is left whole if the text only lies beside it: a line that
    overlaps the text could be left in part.
    """
    place = paint(list(residue), stays.shape, margin)
    for line in lines:
        letters = index_of(line)
        if place[letters].any() and stays[letters].all():
            place[letters] = not (spare and all(overlap(line, box.box) <= 0 for box in residue))
    return place


def inner(box: TextBox) -> TextBox:
    """The box without its rim: only the letters of the line."""
    corners = box.corners
    across, down = corners[1] - corners[0], corners[3] - corners[0]
    rim = RIM * (down if np.linalg.norm(down) <= np.linalg.norm(across) else across)
    towards = (1, 1, -1, -1) if np.linalg.norm(down) <= np.linalg.norm(across) else (1, -1, -1, 1)
    return TextBox(corners + np.outer(towards, rim).astype(np.float32), box.confidence)


def _as_proven(text: Text, proven: Sequence[Text]) -> Text:
    if text.meaning is not Meaning.IDENTITY:
        return text
    for other in proven:
        if _is_same_place(text.box.box, other.box.box) and (not text.line.legible or text.may_say(other)):
            return replace(text, meaning=other.meaning, proof="as another reading of it shows")
    return text


def _in_block(text: Text, texts: Sequence[Text]) -> Text:
    if text.meaning is not Meaning.IDENTITY or text.line.confidence < LEAST_CONFIDENCE:
        return text
    written = text.line.text.strip()
    above = {_as_proof(other) for other in texts if _is_above(other.box.box, text.box.box)}
    if above == {Meaning.LOGO} and re.fullmatch(r"[A-Z]\d{1,2}", written):
        return replace(text, meaning=Meaning.LOGO, proof="a model's number below its maker")
    if (above == {Meaning.ACOUSTIC} and re.fullmatch(r"C ?\d\d|\d/\d/\d", written)) or (
        AMBIGUOUS.fullmatch(written) and _is_between_settings(text, texts)
    ):
        return replace(text, meaning=Meaning.ACOUSTIC, proof="among settings of one block")
    return text


def _is_between_settings(text: Text, texts: Sequence[Text]) -> bool:
    """Whether the next line above and the next below are settings, and no other identity is near."""
    others = [
        other for other in texts if other is not text and not _is_same_place(text.box.box, other.box.box)
    ]
    above = [other for other in others if _is_above(other.box.box, text.box.box, BLOCK)]
    below = [other for other in others if _is_above(text.box.box, other.box.box, BLOCK)]
    if not above or not below:
        return False
    next_lines = max(above, key=lambda one: one.box.box[3]), min(below, key=lambda one: one.box.box[1])
    near = [other for other in others if other.meaning is Meaning.IDENTITY and _is_near(text, other)]
    return all(_as_proof(one) is Meaning.ACOUSTIC for one in next_lines) and all(
        AMBIGUOUS.fullmatch(one.line.text.strip()) for one in near
    )


def _is_near(text: Text, other: Text) -> bool:
    """Whether a text stands no more than a block's reach above, below or beside another."""
    (left, top, right, bottom), (left2, top2, right2, bottom2) = text.box.box, other.box.box
    reach = BLOCK * (bottom - top)
    return max(left, left2) - min(right, right2) <= reach and max(top, top2) - min(bottom, bottom2) <= reach


def _as_proof(text: Text) -> Meaning:
    """What a line says of the next one."""
    written = text.line.text.strip()
    proves_nothing = written.upper() in PRESETS or COUNTER.fullmatch(written)
    return Meaning.IDENTITY if proves_nothing else text.meaning


def _is_above(box: Box, other: Box, apart: float = ALIGNED) -> bool:
    """Whether a line is above another of its block, no farther ``apart`` (heights of a line)."""
    height = min(box[3] - box[1], other[3] - other[1])
    reach = ALIGNED * height
    edges = zip((box[0], box[2], centre_of(box)[0]), (other[0], other[2], centre_of(other)[0]), strict=True)
    aligned = any(abs(one - another) <= reach for one, another in edges)
    return aligned and -reach <= other[1] - box[3] <= apart * height


def _is_same_place(box: Box, proven: Box) -> bool:
    height = max(proven[3] - proven[1], box[3] - box[1])
    beyond = max(proven[0] - box[0], box[2] - proven[2])
    common = min(box[3], proven[3]) - max(box[1], proven[1])
    # How far a second reading's box reaches beyond the first one's at either end, at most, and their common
    # height, at least (heights of the higher, and of the first): a letter is wider.
    return beyond <= 0.3 * height and common >= 0.6 * (proven[3] - proven[1])
