"""The text in a picture: places of possible text are searched in several views of it, read, and judged.

Text counts as identity until all of it is read and proven harmless.

Lines stay or go whole: no letter of a line that stays is cut when text beside it is removed. A line that
cannot be kept whole is removed. A place that was read twice counts by its best reading.
"""

from __future__ import annotations

from collections.abc import Sequence

from ai_pipeline.burnin.decide.candidates import candidates
from ai_pipeline.burnin.decide.layout import covered, overlap
from ai_pipeline.burnin.decide.letters import FEWEST
from ai_pipeline.burnin.decide.meaning import LEAST_CONFIDENCE, NOTHING_MORE, Allowed
from ai_pipeline.burnin.decide.neighbours import judged_in_its_line
from ai_pipeline.burnin.decide.texts import Text
from ai_pipeline.burnin.find.annotation import Mask, Picture, gaps, mask_of
from ai_pipeline.burnin.find.text import TextReader
from ai_pipeline.burnin.find.traces import Waves
from ai_pipeline.contract import Meaning

SAME = 0.8
"""Share of a box within one that was read already, from which it is not read again."""


def find_texts(
    picture: Picture, reader: TextReader, known: Mask, waves: Waves, allowed: Allowed = NOTHING_MORE
) -> list[Text]:
    """Find and read all text of a picture, uint8 grey or RGB; among measured curves (``waves``) only legible
    text. ``known``: pixels that are masked in any case; there doubtful places count only if they are
    level and surely read. ``allowed``: text that may stay.
    """
    texts: list[Text] = []
    for one in candidates(picture, reader, waves):
        hidden = not one.certain and covered(one.box, known)
        read = (
            overlap(one.box.box, text.box.box) >= SAME
            # A line that stays may have been read in a box of two, of which the other is a name.
            # Height of a box within a line, from which it holds that line (share of the line's height).
            and (text.meaning is Meaning.IDENTITY or one.box.height > 0.6 * text.box.height)
            for text in texts
        )
        if (hidden and one.box.is_upright) or any(read):
            continue
        text = one.text(reader, allowed)
        if one.certain or (text.line.legible and text.line.confidence >= hidden * LEAST_CONFIDENCE):
            texts += one.fields(text, reader, allowed)
    return [judged_in_its_line(text, texts, allowed) for text in texts if not holds_lines(text, texts)]


def holds_lines(text: Text, texts: Sequence[Text]) -> bool:
    """Whether a place is a wrong cut through several lower lines, each of which was surely read and is judged
    by itself: level lines read as one upright line, or two as one.
    """
    box = text.box.box
    lines = [
        other.box.box
        for other in texts
        if other.line.letters >= FEWEST
        and other.line.confidence >= LEAST_CONFIDENCE
        and 1.3 * (other.box.box[3] - other.box.box[1]) <= box[3] - box[1]
    ]
    # Rows of the place that such lines cross, at least; the ends of an upright place are often wrong.
    rows = mask_of([one for one in lines if gaps(one, box)[0] < 0], (box[3] + 1, box[2] + 1))[
        max(0, box[1]) :, max(0, box[0]) :
    ]
    return text.meaning is Meaning.IDENTITY and bool(
        rows.any(axis=1).mean() >= (0.5 if text.box.is_upright else 0.8)
    )
