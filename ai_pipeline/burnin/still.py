"""One picture: find the marks, fill them, prove that nothing legible is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ai_pipeline.burnin.banner import find_banner
from ai_pipeline.burnin.graphics import find_graphics
from ai_pipeline.burnin.inpaint import black_out, inpaint, unchanged_outside
from ai_pipeline.burnin.marks import Box, Mark, MarkKind, Mask, Picture, brightest
from ai_pipeline.burnin.text import TextBox, TextReader, high_contrast, looks_like_text, paint
from ai_pipeline.contract import CleaningFailed, ImageHeader, PixelArray

MARGIN = 0.15
"""How far a text's mask reaches beyond the detector's box (share of the line's height)."""
WIDER = 0.6
"""The same where text was still found after filling."""
SURE_RESIDUE = 0.6
"""Detector's confidence from which something unreadable of a text's shape counts as text left over."""
CONTEXT = 96
"""Room around a changed place that is read again with it (pixels)."""
GENERATED = 0.95
"""Share of a box that is filled pixels from which it cannot hold text of the source."""
ROUNDS = 3
"""Attempts to get rid of what is still found; the last one blacks it out."""
LARGEST_SHARE = 0.25
"""More of the picture masked than this (banner not counted): no cleaned picture would be worth its name."""
LARGE_PICTURE = 1200
"""Shorter side from which a reduced view is read too, for letters that fill a tile (pixels)."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is to go from a picture: ``banner`` is blacked out, ``mask`` filled from around it."""

    banner: Mask
    mask: Mask
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """A cleaned picture that was verified. ``widened`` and ``blacked_out`` count places that needed it."""

    samples: PixelArray
    mask: Mask
    marks: tuple[Mark, ...]
    widened: int
    blacked_out: int


@dataclass(frozen=True, slots=True, eq=False)
class Rendition:
    """From stored samples to the picture that is read, learnt from the source's own display."""

    low: int
    table: Picture | None
    black: float

    @staticmethod
    def of(stored: PixelArray, display: Picture) -> Rendition:
        if stored.dtype == np.uint8 and stored.ndim == 3:
            return Rendition(0, None, 0.0)
        darkest = stored.reshape(display.shape[0] * display.shape[1], -1)[int(np.argmin(brightest(display)))]
        if stored.ndim == 3 or stored.dtype.kind not in "iu":
            return Rendition(0, None, float(cast(Any, darkest.min())))
        values, first = np.unique(stored, return_index=True)
        numbers = values.astype(np.int64)
        every = np.arange(int(numbers[0]), int(numbers[-1]) + 1)
        shown = np.interp(every, numbers, display.ravel()[first].astype(np.float64))
        return Rendition(int(numbers[0]), np.rint(shown).astype(np.uint8), float(cast(Any, darkest[0])))

    def show(self, samples: PixelArray) -> Picture:
        """Return samples within the source's range as the viewer shows them."""
        if self.table is not None:
            places = np.clip(samples.astype(np.int64) - self.low, 0, len(self.table) - 1)
            return self.table[places]
        if samples.dtype == np.uint8:
            return np.asarray(samples, np.uint8)
        return _stretched(samples)


def plan_removal(picture: Picture, header: ImageHeader, reader: TextReader, *, graphics: bool) -> Plan:
    """Find what is to go. ``graphics``: ultrasound drawings too; on other pictures only text is taken.

    Raises :class:`CleaningFailed` when it is too much of the picture.
    """
    shape = picture.shape
    nothing: Mask = np.zeros(shape[:2], np.bool_)
    banner, marks = find_banner(header, picture) if graphics else (nothing, ())
    views = read_views(picture, reader)
    sure = [box for view, box in views if looks_like_text(view, box)]
    mask = paint(sure, shape, MARGIN)
    # Reading costs ten times what finding does, so only what is neither sure nor already going is read.
    open_ = [(view, box) for view, box in views if not covered(box, mask | banner)]
    read = [box for view, box in open_ if reader.is_legible(view, box)]
    mask |= paint(read, shape, MARGIN)
    marks += tuple(mark for mark in text_marks(sure + read, shape) if not _inside(mark, banner))
    if graphics:
        drawn = find_graphics(picture, mask | banner)
        mask |= drawn.mask
        marks += tuple(mark for mark in drawn.marks if not _inside(mark, banner))
    check_share(mask & ~banner)
    return Plan(banner, mask & ~banner, marks)


def carry_out(source: PixelArray, plan: Plan, rendition: Rendition, reader: TextReader) -> Cleaned:
    """Fill what the plan names, read the result again, and repeat until nothing legible is left.

    Raises :class:`CleaningFailed` when it is.
    """
    mask = plan.mask | plan.banner
    result = apply_plan(source, plan, rendition.black)
    marks, widened, blacked_out = plan.marks, 0, 0
    changed: Box | None = None
    for attempt in range(ROUNDS + 1):
        residue = find_residue(rendition.show(result), mask, reader, changed)
        if not residue:
            break
        if attempt == ROUNDS:
            raise CleaningFailed("text is still found after filling, widening and blacking out")
        more = paint(residue, source.shape, WIDER * (attempt + 1))
        check_share((mask | more) & ~plan.banner)
        last = attempt == ROUNDS - 1
        result = black_out(result, more, rendition.black) if last else inpaint(result, more)
        marks += text_marks(residue, source.shape)
        mask = mask | more
        changed = _surroundings(more)
        widened += len(residue) * (not last)
        blacked_out += len(residue) * last
    if not unchanged_outside(source, result, mask):
        raise CleaningFailed("pixels outside the mask have changed")
    return Cleaned(result, mask, marks, widened, blacked_out)


def apply_plan(source: PixelArray, plan: Plan, black: float) -> PixelArray:
    """Return ``source`` with the plan's pixels filled; the same array when there are none."""
    if not plan.mask.any() and not plan.banner.any():
        return source
    bare = black_out(source, plan.banner, black) if plan.banner.any() else source
    return inpaint(bare, plan.mask) if plan.mask.any() else bare


def find_residue(
    picture: Picture, filled: Mask, reader: TextReader, within: Box | None = None
) -> list[TextBox]:
    """Read a cleaned picture at several sizes and contrasts; return the places where text is left.

    ``within``: only there; the rest was read before and has not changed since.
    """
    views = read_views(picture, reader, within)
    return [box for view, box in views if is_residue(view, box, filled, reader)]


def is_residue(view: Picture, box: TextBox, filled: Mask, reader: TextReader) -> bool:
    """Tell whether a box in a cleaned picture is text: it can be read, or the detector is rather sure.

    What lies in ``filled`` pixels holds nothing of the source, whatever it may be read as.
    """
    if covered(box, filled):
        return False
    return (looks_like_text(view, box) and box.confidence >= SURE_RESIDUE) or reader.is_legible(view, box)


def covered(box: TextBox, mask: Mask) -> bool:
    """Tell whether the box lies in the mask, but for its rim."""
    left, top, right, bottom = box.box
    inside = mask[max(top, 0) : bottom, max(left, 0) : right]
    return not inside.size or float(inside.mean()) >= GENERATED


def read_views(
    picture: Picture, reader: TextReader, within: Box | None = None
) -> list[tuple[Picture, TextBox]]:
    """Find what looks like text as shown, with faint contrast raised and, if large, reduced."""
    found = [(picture, box) for box in reader.find(picture, 1.0, within)]
    contrasty = high_contrast(picture)
    found += [(contrasty, box) for box in reader.find(contrasty, 0.6, within)]
    if min(picture.shape[:2]) >= LARGE_PICTURE:
        found += [(picture, box) for box in reader.find(picture, 0.35, within)]
    return found


def text_marks(boxes: list[TextBox], shape: tuple[int, ...]) -> tuple[Mark, ...]:
    """Return one mark per box, cut to the picture."""
    marks = []
    for box in boxes:
        left, top, right, bottom = box.box
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, shape[1]), min(bottom, shape[0])
        if left < right and top < bottom:
            marks.append(Mark(MarkKind.TEXT, (left, top, right, bottom), min(box.confidence, 1.0)))
    return tuple(marks)


def check_share(mask: Mask) -> None:
    """Raise :class:`CleaningFailed` when the mask takes too much of the picture."""
    share = float(mask.mean())
    if share > LARGEST_SHARE:
        raise CleaningFailed(
            f"{share:.0%} of the picture would be filled, at most {LARGEST_SHARE:.0%} may be"
        )


def _surroundings(mask: Mask) -> Box:
    """Return the part of the picture that holds the mask, with room for a word around it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        max(0, int(columns[0]) - CONTEXT), max(0, int(rows[0]) - CONTEXT),
        min(mask.shape[1], int(columns[-1]) + CONTEXT), min(mask.shape[0], int(rows[-1]) + CONTEXT),
    )  # fmt: skip


def _inside(mark: Mark, mask: Mask) -> bool:
    left, top, right, bottom = mark.box
    return bool(mask[top:bottom, left:right].mean() > 0.5)


def _stretched(samples: PixelArray) -> Picture:
    numbers = samples.astype(np.float64)
    low, high = np.percentile(numbers, [0.1, 99.9])
    shares = np.clip((numbers - low) / max(float(high - low), 1e-12), 0, 1)
    return np.asarray(np.rint(shares * 255), np.uint8)
