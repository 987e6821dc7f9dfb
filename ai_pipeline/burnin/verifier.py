"""What is left in a cleaned picture: text that must be removed, and codes for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import partial
from math import ceil, floor

import cv2
import numpy as np
import zxingcpp

from ai_pipeline.burnin.decide.candidates import Candidate, candidates
from ai_pipeline.burnin.decide.layout import FILLED, covered, level_box, overlap, share_of
from ai_pipeline.burnin.decide.letters import SURELY_FEWEST, are_letters, strokes_in
from ai_pipeline.burnin.decide.lines import reads_alike
from ai_pipeline.burnin.decide.writing import SAME
from ai_pipeline.burnin.find.annotation import (
    Box,
    CleaningPolicy,
    Mask,
    Picture,
    brightest,
    colourfulness,
    component_boxes,
    components,
    dilated,
    index_of,
)
from ai_pipeline.burnin.find.text import TextBox, high_contrast
from ai_pipeline.burnin.planning import RemovalPlan, RemovalTask
from ai_pipeline.contract import Meaning

CORNERS = ("top_left", "top_right", "bottom_right", "bottom_left")
"""Corners of a code, by zxing-cpp's names."""


@dataclass(frozen=True, slots=True, eq=False)
class Verifier(RemovalTask):
    """Searches cleaned pictures for remaining text that ``policy`` removes and that is not ``allowed``."""

    def residue(
        self, picture: Picture, filled: Mask, plan: RemovalPlan, kept: Mask, changed: Mask | None = None
    ) -> list[TextBox]:
        """Find the text and the QR codes in a cleaned picture that still must be removed; text at several
        sizes and contrasts. ``filled`` pixels hold nothing of the source: text read there does not count.
        Text in ``kept`` was read before and stays. ``changed``: the pixels that were filled since the last
        reading, as in :func:`candidates`.
        """
        return codes_in(picture) + [
            one.box
            for one in candidates(picture, self.tools.reader, plan.waves, changed)
            if self.is_residue(one, filled, plan, kept)
        ]

    def still_read(self, picture: Picture, filled: Mask, plan: RemovalPlan) -> list[TextBox]:
        """Find the lines that went over the image area and of which several letters in a row are still read
        at their place in a cleaned ``picture``, as it is or with more contrast. Of a faint line the strokes
        may not stand out from the tissue. ``filled``: pixels that hold nothing of the source.
        """
        contrasty = high_contrast(picture)
        lines = [
            # Of no confidence: it is read the way it was read before, not upside down.
            (level_box((floor(left), floor(top), ceil(right), ceil(bottom)), 0.0), reading.text)
            for reading in plan.readings
            for left, top, right, bottom in (reading.bounds,)
            if reading.removed and reading.meaning is Meaning.IDENTITY
        ]
        return [
            replace(box, confidence=1.0)
            for box, words in lines
            if share_of(plan.ground, box) > 0
            and not covered(box, filled)
            and any(
                _share_letters(words, read(view, _not_filled(box, filled)).text)
                for view in (picture, contrasty)
                for read in (self.tools.reader.read, self.tools.reader.read_small)
            )
        ]

    def still_stays(self, line: Box, before: Picture, now: Picture) -> bool:
        """Whether a line that was read in the picture ``before`` reads the same ``now``, or as other text
        that stays.
        """
        reader = self.tools.reader
        text = Candidate(now, level_box(line, 1.0), 0.0).text(reader, self.allowed)
        return not self.policy.removes(text.meaning) or reads_alike(line, before, now, reader)

    def is_residue(self, candidate: Candidate, filled: Mask, plan: RemovalPlan, kept: Mask) -> bool:
        """Whether the place ``candidate`` of a cleaned picture holds text that must be removed; masks as in
        :meth:`residue`. In the image area the text must be proven letters, elsewhere it need not be legible.
        """
        box = candidate.box
        stay = [line for line in plan.lines if kept[index_of(line)].any()]
        if _are_lines(box, stay) or _is_known(candidate, filled | kept):
            return False
        # Confidence of the text detector from which an unreadable box of a text's shape counts as residual
        # text.
        certain = candidate.certain and box.confidence >= 0.6
        if certain and self.policy is CleaningPolicy.RESEARCH:
            return True
        text = candidate.text(self.tools.reader, self.allowed)
        # A number of an axis that stays is read here with its tick: "-20-".
        tick = text.letters.isdigit() and len(text.letters) <= 3
        if (tick and any(overlap(line, box.box) > SAME for line in stay)) or not self.policy.removes(
            text.meaning
        ):
            return False
        return are_letters(text) if share_of(plan.ground, box) > 0.5 else text.line.legible or certain


def _not_filled(line: TextBox, filled: Mask) -> TextBox:
    """The part of a level ``line`` from the first to the last column that is not all ``filled``, with half a
    height beside it; the whole of another line.
    """
    left, top, right, bottom = line.box
    inside = filled[index_of(line.box)]
    open_columns = np.flatnonzero(inside.mean(axis=0) < FILLED)
    if right - left <= bottom - top or not open_columns.size:
        return line
    start, rim = max(left, 0), (bottom - top) // 2
    first, last = start + int(open_columns[0]) - rim, start + int(open_columns[-1]) + 1 + rim
    return level_box((max(left, first), top, min(right, last), bottom), line.confidence)


def _share_letters(words: str, others: str) -> bool:
    """Whether two readings have letters or digits in a row in common, as many as a name or a year has."""
    one, other = ("".join(filter(str.isalnum, text)).casefold() for text in (words, others))
    return SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size >= SURELY_FEWEST


def _are_lines(box: TextBox, stay: Sequence[Box]) -> bool:
    """Whether a find is a line that stays, or a part of it: it was read whole and proven harmless. Or a box
    around several, one above another, which is no line: a column of labels looks like one.
    """
    rows = [line for line in stay if overlap(line, box.box) > SAME]
    return any(overlap(box.box, _with_rim(line)) > SAME for line in stay) or any(
        one[3] <= other[1] for one in rows for other in rows
    )


def _with_rim(line: Box) -> Box:
    """The box in which a reading of a line may lie: a detector's box is higher than its letters."""
    rim = round(0.25 * min(line[3] - line[1], line[2] - line[0]))
    return line[0] - rim, line[1] - rim, line[2] + rim, line[3] + rim


def _is_known(candidate: Candidate, known: Mask) -> bool:
    """Whether nearly all strokes of a find are of what was filled or stays, as in a box around two lines."""
    # How far a stroke stands out from what is beside it, at least (grey levels).
    strokes = strokes_in(candidate.view, candidate.box, 24)
    return covered(candidate.box, known) or bool(strokes.any() and known[strokes].mean() >= FILLED)


def codes_in(picture: Picture) -> list[TextBox]:
    """Find the QR codes and bar codes in ``picture`` that a machine can read: any may name a person. Two
    colours always differ in a channel; each is searched around what has a colour, the brightest everywhere.
    """
    # Modules of a code and its quiet zone are near each other (pixels).
    tinted = (
        dilated(colourfulness(picture) > 16, 65) if picture.ndim == 3 else np.zeros_like(picture, np.bool_)
    )
    planes = [(0, 0, brightest(picture))] + [
        (left, top, plane)
        for left, top, right, bottom in component_boxes(components(tinted)[1])
        for plane in cv2.split(picture[top:bottom, left:right])
    ]
    return [
        TextBox(
            np.array(
                [(left + at.x, top + at.y) for at in map(partial(getattr, code.position), CORNERS)],
                np.float32,
            ),
            1.0,
        )
        for left, top, plane in planes
        for code in zxingcpp.read_barcodes(np.ascontiguousarray(plane))
    ]
