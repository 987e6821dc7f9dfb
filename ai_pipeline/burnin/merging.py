"""One removal plan for all frames of a cine, made of the plans of the frames that were searched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import filterfalse
from operator import attrgetter
from typing import cast

import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.decide.lines import whole
from ai_pipeline.burnin.find.annotation import (
    AnnotationKind,
    Box,
    Mark,
    Mask,
    Picture,
    brightest,
    components,
    index_of,
    mask_of,
)
from ai_pipeline.burnin.find.traces import Waves
from ai_pipeline.burnin.planning import RemovalPlan, check_share

STANDS = 24.0
"""Mean difference of a drawing's pixels between the searched frames, at most (grey levels)."""
SAME_PLACE = 6
"""Distance of the sides of two marks at about one place, at most (pixels)."""

StillStays = Callable[[Box, Picture, Picture], bool]
"""Whether a line that was read in one picture may stay as another picture shows it."""


def merged_plan(
    plans: Sequence[RemovalPlan],
    pictures: Sequence[Picture],
    numbers: Sequence[int],
    still_stays: StillStays,
) -> RemovalPlan:
    """Merge the ``plans`` of frames of a cine, which show ``pictures`` and have these ``numbers`` (from 1),
    into one: text goes from all frames if it goes from any, drawings only where they do not move. Text stays
    only as the first frame shows it, and only while it does not change. Raises :class:`CleaningFailed` when
    too much of the picture would be removed.
    """
    first, greys = plans[0], [brightest(picture).astype(np.float32) for picture in pictures]
    motion = np.max(greys, axis=0) - np.min(greys, axis=0)
    standing = [_standing(plan, motion) for plan in plans]
    banner = _union(plan.banner for plan in plans)
    check_share(_union(standing) & ~banner)
    changed = _changed_lines(first.lines, standing, pictures, still_stays)
    mask = (_union(standing) | whole(changed, pictures[0], first.ground)) & ~banner
    strips, traces = (_union(planes) for planes in zip(*map(_curves, plans), strict=True))
    readings = (
        replace(reading, frame=number)
        for number, plan in zip(numbers, plans, strict=True)
        for reading in plan.readings
    )
    doubts = (box for plan in plans for box in plan.in_doubt)
    return replace(
        first,
        banner=banner,
        mask=mask,
        kept=first.kept & ~mask & ~banner,
        not_tissue=first.not_tissue & ~mask,
        lines=tuple(filterfalse(changed.__contains__, first.lines)),
        area=_union(map(attrgetter("area"), plans)),
        waves=Waves(strips, traces),
        marks=tuple(_marks(plans, standing, numbers)),
        readings=tuple(readings),
        ground=_union(map(attrgetter("ground"), plans)),
        in_doubt=tuple(dict.fromkeys(doubts)),
        always=_union(map(attrgetter("always"), plans)),
    )


def _curves(plan: RemovalPlan) -> tuple[Mask, Mask]:
    """The strips and the traces of a plan."""
    return plan.waves.strips, plan.waves.traces


def _changed_lines(
    lines: Iterable[Box], masks: Sequence[Mask], pictures: Sequence[Picture], still_stays: StillStays
) -> set[Box]:
    """The lines, read in the first of the pictures, that a later one shows as text that must go; it is read
    where the mask of that picture takes some of it.
    """
    return {
        line
        for line in lines
        for mask, picture in zip(masks[1:], pictures[1:], strict=True)
        if mask[index_of(line)].any() and not still_stays(line, pictures[0], picture)
    }


def _union(masks: Iterable[Mask]) -> Mask:
    """The pixels that any of the masks has."""
    return cast(Mask, np.logical_or.reduce(list(masks)))


def _standing(plan: RemovalPlan, motion: npt.NDArray[np.float32]) -> Mask:
    """The parts of the plan's mask that are text, or drawings that do not move. ``motion``: the difference of
    each pixel between the searched frames, in grey levels.
    """
    standing: Mask = np.zeros_like(plan.mask)
    labels, stats = components(plan.mask)
    texts = mask_of([mark.box for mark in plan.marks if mark.kind is AnnotationKind.TEXT], standing.shape)
    for label in range(1, len(stats)):
        own = labels == label
        if bool((own & texts).any()) or float(motion[own].mean()) <= STANDS:
            standing |= own
    return standing


def _marks(plans: Sequence[RemovalPlan], standing: Sequence[Mask], numbers: Sequence[int]) -> list[Mark]:
    """The marks of all plans that stay, are of a banner or lie in what is removed up to their frame: each
    once, with the number of the first frame that shows it.
    """
    marks: list[Mark] = []
    mask: Mask = np.zeros_like(standing[0])
    for plan, own, number in zip(plans, standing, numbers, strict=True):
        mask = mask | own
        marks += [
            replace(mark, frame=number)
            for mark in plan.marks
            if (not mark.removed or mark.kind is AnnotationKind.BANNER or mask[index_of(mark.box)].any())
            and not any(_is_same_mark(mark, known) for known in marks)
        ]
    return marks


def _is_same_mark(mark: Mark, other: Mark) -> bool:
    """Whether two marks are of one kind and at about one place."""
    return other.kind is mark.kind and all(
        abs(side - another) <= SAME_PLACE for side, another in zip(mark.box, other.box, strict=True)
    )
