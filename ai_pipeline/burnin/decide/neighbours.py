"""Texts judged by what stands beside them, or by another reading of the same place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

from ai_pipeline.burnin.decide.axes import AXIS
from ai_pipeline.burnin.decide.layout import aligned, in_one_row, is_above, is_same_place, overlap
from ai_pipeline.burnin.decide.letters import strokes_in
from ai_pipeline.burnin.decide.meaning import NOTHING_MORE, Allowed, meaning_of, names_a_place
from ai_pipeline.burnin.decide.results import HEAD, OF_A_HEAD
from ai_pipeline.burnin.decide.texts import FEW_CHARACTERS, TOGETHER, Text
from ai_pipeline.burnin.find.annotation import Box, Picture, gaps
from ai_pipeline.burnin.find.text import UPRIGHT
from ai_pipeline.contract import Meaning

SURELY = 0.9
"""Confidence of a reading that is sure of every letter."""


def judged_in_its_line(text: Text, texts: Sequence[Text], allowed: Allowed) -> Text:
    """Return a short ``text`` as IDENTITY if it stands beside a possible name. A few characters prove nothing
    by themselves: of "12", "03", "67" each could be a ruler's number.
    """
    if text.meaning is Meaning.IDENTITY or len(text.line.text) > FEW_CHARACTERS:
        return text
    beside = _beside(text, texts)
    if any(other.meaning is Meaning.IDENTITY for other in beside) or _may_identify(text, beside, allowed):
        return replace(text, meaning=Meaning.IDENTITY, proof="too short, and beside a possible name")
    return text


def by_best_reading(texts: Sequence[Text]) -> list[Text]:
    """Give each of ``texts`` the meaning that another reading of the same place proves. A proving reading has
    more than a few characters and no letter less: "45" does not prove "45Y" harmless.
    """
    proven = [
        text
        for text in texts
        if text.meaning not in {Meaning.IDENTITY, Meaning.SCALE} and len(text.letters) > FEW_CHARACTERS
    ]
    return [_as_proven(text, proven) for text in texts if not any(_is_worse(text, other) for other in proven)]


def by_their_pair(texts: Sequence[Text], allowed: Allowed = NOTHING_MORE) -> list[Text]:
    """Give two texts that belong together one meaning, so that both stay or both are removed: a label and its
    value, or two words of a line. Of texts above each other only a label and its value belong together,
    because a name may stand above an examination; a heart rate may also stand above its label.
    """
    found = list(texts)
    for first, second in permutations(range(len(texts)), 2):
        one, other = texts[first], texts[second]
        number, value = (AXIS.fullmatch(text.line.text.strip()) is not None for text in (one, other))
        if number and value:  # neither says what the other is
            continue
        level = in_one_row(one.box.box, other.box.box, 2.0) and one.box.box[0] < other.box.box[0]
        above = is_above(one.box.box, other.box.box, 1.5) or (
            re.fullmatch("F?HR|BPM", one.line.text.strip()) and is_above(other.box.box, one.box.box, 1.5)
        )
        paired = level or (value and above)
        if paired and one.letters != other.letters and Meaning.IDENTITY in (one.meaning, other.meaning):
            sure = min(one.line.confidence, other.line.confidence)
            together = meaning_of(f"{one.line.text} {other.line.text}", sure, allowed)
            harmless = together is not Meaning.IDENTITY and (level or together is not Meaning.ORIENTATION)
            if harmless or (
                # Labels that say nothing without their values.
                value
                and re.fullmatch(
                    r"F?HR|BPM|PRF|DR|FR|WF|MI|TI[SBC]?|T[Ii][sbc]|Gn|Frq|FOV|AO%", one.line.text.strip(" :")
                )
            ):
                for index in (first, second):
                    found[index] = replace(found[index], meaning=together, proof=TOGETHER)
    return found


def _beside(text: Text, texts: Sequence[Text]) -> list[Text]:
    """The other ``texts`` in the line of ``text``, as far as one may say more about it."""
    places = [other.box.box for other in texts if other is text or is_same_place(text.box.box, other.box.box)]
    return [
        other
        for other in texts
        if (other.letters != text.letters and any(_is_beside(place, other.box.box) for place in places))
        # A number that far from a sex may be an age (heights of the line).
        or (other.line.text in {"M", "F"} and in_one_row(text.box.box, other.box.box, 8.0))
    ]


def _may_identify(text: Text, beside: Sequence[Text], allowed: Allowed) -> bool:
    """Whether ``text`` and the short texts ``beside`` it, as one line, may be a date or initials."""
    # A whole setting or measurement is no part of these.
    short = [
        other
        for other in beside
        if other.meaning not in {Meaning.ACOUSTIC, Meaning.MEASUREMENT}
        or len(other.line.text) <= FEW_CHARACTERS
    ]
    if not short:
        return False
    line = sorted([text, *short], key=lambda part: part.box.box[0])
    together = " ".join(part.line.text for part in line)
    return meaning_of(together, min(part.line.confidence for part in line), allowed) is Meaning.IDENTITY


def _is_beside(box: Box, other: Box) -> bool:
    """Whether two boxes stand on one line, level or upright, no farther apart than a word's space."""
    left, top, right, bottom = other
    upright = bottom - top > UPRIGHT * (right - left) and box[2] - box[0] <= box[3] - box[1]
    turned, beside = ((one[1], one[0], one[3], one[2]) for one in (box, other))
    return in_one_row(box, other) or (upright and in_one_row(turned, beside))


def _as_proven(text: Text, proven: Sequence[Text]) -> Text:
    """Return ``text`` with the meaning of a reading of the same place in ``proven``, if there is one."""
    for other in proven if text.meaning is Meaning.IDENTITY else ():
        if is_same_place(text.box.box, other.box.box) and (not text.line.legible or text.may_say(other)):
            return replace(text, meaning=other.meaning, proof="as another reading of it shows")
    return text


def stands_alone(text: Text, others: Sequence[Text], rows: int, apart: float) -> bool:
    """Whether a text is no part of a patient's line: not at the top of a picture of so many ``rows``, not
    near the row of a date, a time, an identifier or a comma, and without a possible name or a number beside
    it, or above or below it within ``apart`` heights. Other readings of it, and other places, are no names.
    """
    box, height = text.box.box, text.box.height
    if box[1] + height / 2 < HEAD * rows:
        return False
    return not any(_may_be_of_its_line(text, other, apart) for other in others if other is not text)


def _may_be_of_its_line(text: Text, other: Text, apart: float) -> bool:
    """Whether another text may be of a patient's line that ``text`` is of, too, or is a possible name that
    stands within ``apart`` heights above or below.
    """
    box, height = text.box.box, text.box.height
    across, down = gaps(box, other.box.box)
    named = other.meaning is Meaning.IDENTITY and other.line.letters > 1
    again = across < 0 and down < -height / 2 and other.line.letters <= text.line.letters
    if again or (named and names_a_place(other.line.text)):
        return False
    of_head = OF_A_HEAD.search(other.line.text) or (named and "," in other.line.text)
    if of_head and down < 2.0 * height:
        return True
    number = re.fullmatch(r"\W*\d{2,}\W*\w?", other.line.text) is not None
    beside = in_one_row(box, other.box.box, 6.0) or max(across, down) < 0.8 * height
    above = across < 0 and down < (apart if named else 1.0) * height
    return bool(named or number) and (above or beside)


def cut_by_the_edge(text: Text, others: Sequence[Text], picture: Picture) -> bool:
    """Whether the picture's edge may cut a text to what it is: a number that is of no axis, or a single word,
    whose strokes touch the left or right edge. "28" may begin a date, and "RIGHT" end a name.
    """
    left, top, right, bottom = text.box.box
    columns = picture.shape[1]
    if (left > 2 and right < columns - 2) or not re.fullmatch(r"[\d\s.,:/-]+|\w{2,}", text.line.text.strip()):
        return False
    drawn = strokes_in(picture, text.box)[max(0, top) : bottom]
    if not (drawn[:, :2].any() or drawn[:, -2:].any()):
        return False
    column = [
        other
        for other in others
        if other.meaning is Meaning.SCALE
        and other.letters != text.letters
        and aligned(other.box.box, text.box.box)
    ]
    return len(column) < 2


def _is_worse(text: Text, other: Text) -> bool:
    """Whether a text is a worse reading of a line that was surely read as the text ``other``: of the same
    letters, or not sure, in a box that has the line's lower or upper part.
    """
    one, line = text.box.box, other.box.box
    if text.meaning is not Meaning.IDENTITY or is_same_place(one, line) or not text.may_say(other):
        return False
    if text.letters == other.letters:
        return max(overlap(one, line), overlap(line, one)) > 0.6
    within = one[0] >= line[0] - 2 and one[2] <= line[2] + 2 and overlap(one, line) >= 0.45
    return within and text.line.confidence < SURELY < other.line.confidence
