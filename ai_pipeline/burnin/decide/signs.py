"""Signs that look like text and name nobody: pairs of crosses, a maker's mark, marks of focus; and panels
that look like bars."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ai_pipeline.burnin.decide.layout import overlap
from ai_pipeline.burnin.decide.letters import FEWEST, are_letters
from ai_pipeline.burnin.decide.texts import Text
from ai_pipeline.burnin.decide.writing import SAME
from ai_pipeline.burnin.find.annotation import (
    AnnotationKind,
    Box,
    Mask,
    Picture,
    component_boxes,
    components,
    gaps,
    index_of,
)
from ai_pipeline.burnin.find.drawings import Drawings, is_mirrored
from ai_pipeline.contract import Meaning

SIGNS = (AnnotationKind.CALIPER, AnnotationKind.MARKER, AnnotationKind.SCALE)
"""Drawings that are no letters. A logo counts as letters, because it may be a hospital's."""


def is_drawing(text: Text, drawn: Drawings, others: Iterable[Box]) -> bool:
    """Whether a place that the text detector took for text holds only drawn symbols, such as a pair of
    crosses: no letters are proven, and the mark network (``drawn``) finds hardly any there.
    """
    pixels = {kind: int(mask[index_of(text.box.box)].sum()) for kind, mask in drawn.masks.items()}
    symbols = sum(pixels[kind] for kind in SIGNS)
    # Pixels of letters as a share of those of symbols, up to which a place holds no text.
    no_letters = symbols > 0 and sum(pixels.values()) <= 1.05 * symbols
    return no_letters and (
        not text.line.legible
        # "X2" is the zoom of a focus.
        or (
            (not are_letters(text) or re.fullmatch("[Xx][1-9]", text.line.text) is not None)
            and is_lone_sign(text, others)
        )
    )


def is_sign(text: Text, picture: Picture, texts: Iterable[Text]) -> bool:
    """Whether a place that the text detector took for text holds a maker's mark, one letter, or a mark of
    focus, which alone among ``texts`` names nobody.
    """
    if text.meaning is not Meaning.IDENTITY or not text.line.legible or are_letters(text):
        return False
    if not (_is_low_letter(text, picture) or is_mirrored_sign(text, picture)):
        return False
    # Apart from other readings of the same sign.
    others = [
        other
        for other in texts
        if other.letters != text.letters or overlap(other.box.box, text.box.box) < SAME
    ]
    return is_lone_sign(text, may_name(others))


def _is_low_letter(text: Text, picture: Picture) -> bool:
    """Whether a text is one letter, and lower than those of a hospital's logo."""
    # Height of such a letter, at most (share of the picture's shorter side).
    low = text.box.height <= max(24.0, 0.05 * min(picture.shape[:2]))
    return low and text.letters.isalpha() and max(text.line.letters, text.small.letters) == 1


def is_mirrored_sign(text: Text, picture: Picture) -> bool:
    """Whether a place is its own mirror image, as a mark of focus is, and no reader reads a number ("88")."""
    return is_mirrored(picture[index_of(text.box.box)]) and not any(
        map(str.isdigit, text.line.text + text.small.text)
    )


def may_name(texts: Iterable[Text]) -> list[Box]:
    """The boxes of texts that may name somebody, also of single letters: of a name they may stand apart."""
    return [
        text.box.box
        for text in texts
        if text.meaning is Meaning.IDENTITY or (len(text.letters) == 1 and text.letters.isalpha())
    ]


def is_lone_sign(text: Text, others: Iterable[Box]) -> bool:
    """Whether one sign stands alone at a place, as a maker's mark beside the sector or a mark of focus does:
    about as wide as high, with no proven letters, and far from all ``others`` that may be text. A single
    letter names nobody, but several letters far apart do, and M and F say the sex.
    """
    left, top, right, bottom = text.box.box
    height = bottom - top
    # A word is wider; an hourglass is higher.
    if not 0.5 * height <= right - left <= 1.7 * height or text.line.text in {"M", "F"}:
        return False
    if text.line.legible and not (text.line.text.isascii() and text.line.letters <= FEWEST):
        return False
    away = (gaps(text.box.box, other) for other in others if overlap(text.box.box, other) < SAME)
    # How far another text of its row or column is from a sign that stands alone (its heights).
    return all(min(gap) >= 0 or max(gap) > 2 * height for gap in away)


def behind_names(bars: Mask, texts: Iterable[Text]) -> Mask:
    """The connected parts of the ``bars`` on which one of the ``texts`` stands that may name somebody: these
    are panels.
    """
    names = [text.box.box for text in texts if text.meaning is Meaning.IDENTITY and are_letters(text)]
    labels, stats = components(bars)
    chosen = [
        label
        for label, place in enumerate(component_boxes(stats), start=1)
        # Share of a text's box within the bar's box, from which it stands on it.
        if any(overlap(name, place) >= SAME for name in names)
    ]
    return np.asarray(np.isin(labels, chosen), np.bool_)
