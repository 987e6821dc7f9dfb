"""One frame: carry out a removal plan, and read the result until no text is left that must be removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation import Annotation, Box, CleaningPolicy, Mask, Picture, brightest
from ai_pipeline.burnin.decide.planning import RemovalPlan, box_marks, check_share
from ai_pipeline.burnin.decide.writing import Candidate, candidates, covered, text_meaning
from ai_pipeline.burnin.fill.inpaint import black_out, inpaint, unchanged_outside
from ai_pipeline.burnin.fill.inpainters import Inpainter
from ai_pipeline.burnin.find.text import TextBox, paint
from ai_pipeline.burnin.tools import Tools
from ai_pipeline.contract import PixelArray
from ai_pipeline.errors import CleaningFailed

WIDER = 0.6
"""Margin of the mask around text that is still found after filling (share of the text's height)."""
SURE_RESIDUE = 0.6
"""Confidence of the text detector from which an unreadable box of a text's shape counts as residual text."""
CONTEXT = 96
"""Margin around a changed place that is read again with it (pixels)."""
HIDDEN = 0.01
"""Share of the pixels with other stored values than the commonest one that the window shows as the same black
or white, from which it may hide text (percentile windows clip half of this at either end)."""
ROUNDS = 3
"""Attempts to get rid of what is still found; the last one blacks it out."""


@dataclass(frozen=True, slots=True, eq=False)
class Verifier:
    """Searches cleaned pictures for residual text. ``policy``: which text may stay."""

    tools: Tools
    policy: CleaningPolicy

    def residue(self, picture: Picture, filled: Mask, kept: Mask, within: Box | None = None) -> list[TextBox]:
        """Read a cleaned picture at several sizes and contrasts; return the text that must be removed.

        ``filled`` pixels hold nothing of the source, whatever is read in them; ``kept`` ones were read before
        and stay. ``within``: search only there; the rest has not changed since it was read.
        """
        found = candidates(picture, self.tools.reader, within)
        return [one.box for one in found if self.is_residue(one, filled, kept)]

    def is_residue(self, candidate: Candidate, filled: Mask, kept: Mask) -> bool:
        """Whether a place in a cleaned picture holds text that must be removed: readable, or surely text."""
        box = candidate.box
        if covered(box, filled) or covered(box, kept):
            return False
        sure = candidate.sure and box.confidence >= SURE_RESIDUE
        if sure and self.policy is CleaningPolicy.RESEARCH:
            return True
        line = candidate.read(self.tools.reader)
        return self.policy.removes(text_meaning(box, line)) if line.legible else sure


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """A verified frame. ``widened`` and ``blacked_out`` count places that needed it."""

    samples: PixelArray
    mask: Mask
    marks: tuple[Annotation, ...]
    widened: int
    blacked_out: int


@dataclass(frozen=True, slots=True, eq=False)
class Rendition:
    """The grey-level tables from stored samples to the pictures that are read, derived from the display.

    ``table`` gives the picture that a viewer shows. ``equalised`` is given where that window clips grey
    levels that hold structure: any viewer can widen the window, and a name would reappear.
    """

    low: int
    table: Picture | None
    black: float
    equalised: Picture | None = None

    @staticmethod
    def of(stored: PixelArray, display: Picture) -> Rendition:
        if stored.dtype == np.uint8 and stored.ndim == 3:
            return Rendition(0, None, 0.0)
        darkest = stored.reshape(display.shape[0] * display.shape[1], -1)[int(np.argmin(brightest(display)))]
        if stored.ndim == 3 or stored.dtype.kind not in "iu":
            return Rendition(0, None, float(cast(Any, darkest.min())))
        values, first, counts = np.unique(stored, return_index=True, return_counts=True)
        numbers = values.astype(np.int64)
        every = np.arange(int(numbers[0]), int(numbers[-1]) + 1)
        shown = np.interp(every, numbers, display.ravel()[first].astype(np.float64))
        table = np.rint(shown).astype(np.uint8)
        black, low = float(cast(Any, darkest[0])), int(numbers[0])
        return Rendition(low, table, black, _equalised(numbers - low, counts, table))

    def views(self, samples: PixelArray) -> list[Picture]:
        """The pictures in which text is searched, the displayed one first."""
        shown = [self.show(samples)]
        if self.equalised is not None:
            shown.append(self.equalised[self._places(samples)])
        return shown

    def show(self, samples: PixelArray) -> Picture:
        """Return samples within the source's range as the viewer shows them."""
        if self.table is not None:
            return self.table[self._places(samples)]
        if samples.dtype == np.uint8:
            return np.asarray(samples, np.uint8)
        return _stretched(samples)

    def _places(self, samples: PixelArray) -> npt.NDArray[np.int64]:
        last = 0 if self.table is None else len(self.table) - 1
        return np.clip(samples.astype(np.int64) - self.low, 0, last)


def carry_out(source: PixelArray, plan: RemovalPlan, rendition: Rendition, verifier: Verifier) -> Cleaned:
    """Fill the plan's mask, read the result, and repeat until no text is left that must be removed.

    Raises :class:`CleaningFailed` when text is still found after :data:`ROUNDS` attempts.
    """
    filler = verifier.tools.filler
    mask = plan.mask | plan.banner
    result = apply_plan(source, plan, rendition.black, filler)
    marks, widened, blacked_out = plan.marks, 0, 0
    changed: Box | None = None
    for attempt in range(ROUNDS + 1):
        residue = [
            box
            for view in rendition.views(result)
            for box in verifier.residue(view, mask, plan.kept, changed)
        ]
        if not residue:
            break
        if attempt == ROUNDS:
            raise CleaningFailed("text is still found after filling, widening and blacking out")
        more = paint(residue, source.shape, WIDER * (attempt + 1))
        check_share((mask | more) & ~plan.banner)
        if attempt < ROUNDS - 1:
            result = inpaint(result, more, filler, plan.foreign)
            widened += len(residue)
        else:
            result = black_out(result, more, rendition.black)
            blacked_out += len(residue)
        marks += box_marks(residue, source.shape)
        mask = mask | more
        changed = _surroundings(more)
    if not unchanged_outside(source, result, mask):
        raise CleaningFailed("pixels outside the mask have changed")
    return Cleaned(result, mask, marks, widened, blacked_out)


def apply_plan(source: PixelArray, plan: RemovalPlan, black: float, filler: Inpainter) -> PixelArray:
    """Return ``source`` with the plan's pixels filled; the same array when there are none."""
    if not plan.mask.any() and not plan.banner.any():
        return source
    bare = black_out(source, plan.banner, black) if plan.banner.any() else source
    return inpaint(bare, plan.mask, filler, plan.foreign) if plan.mask.any() else bare


def _surroundings(mask: Mask) -> Box:
    """The bounding box of the mask with a margin of :data:`CONTEXT`."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        max(0, int(columns[0]) - CONTEXT), max(0, int(rows[0]) - CONTEXT),
        min(mask.shape[1], int(columns[-1]) + CONTEXT), min(mask.shape[0], int(rows[-1]) + CONTEXT),
    )  # fmt: skip


def _equalised(
    places: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], table: Picture
) -> Picture | None:
    """A table from value to rank where the display clips structure to black or white; else None."""
    shown = table[places]
    if not any(_hides(counts[shown == end], int(counts.sum())) for end in (0, 255)):
        return None
    ranks = np.linspace(0, 255, len(places))
    every = np.interp(np.arange(len(table)), places, ranks)
    return np.asarray(np.rint(every), np.uint8)


def _hides(counts: npt.NDArray[np.int64], pixels: int) -> bool:
    """Whether values with these counts, all displayed alike, could make up letters and their background."""
    return len(counts) > 1 and int(counts.sum() - counts.max()) >= HIDDEN * pixels


def _stretched(samples: PixelArray) -> Picture:
    numbers = samples.astype(np.float64)
    low, high = np.percentile(numbers, [0.1, 99.9])
    shares = np.clip((numbers - low) / max(float(high - low), 1e-12), 0, 1)
    return np.asarray(np.rint(shares * 255), np.uint8)
