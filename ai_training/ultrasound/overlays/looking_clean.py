"""Graphics that scanners draw over an ultrasound picture: calipers, dotted lines, rulers, pointers.

Image processing, no network, so that the search for clean frames does not depend on the detector that
learns from them. It is careful with anatomy and with colour Doppler: large coloured areas are flow, only thin
or small drawings in overlay colours are marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation import Annotation, AnnotationKind, Box, Mask, Picture, brightest, contrast
from ai_pipeline.burnin.find.flow import red_or_blue
from ai_pipeline.burnin.find.lines import coloured_line, dotted_line

MIN_CHROMA = 45
"""Difference of the channels from which a pixel is coloured (grey levels; tinted greys stay below)."""
BLACK = 24
"""What is darker than this separates drawings on the black surround (grey levels)."""
DRAWN = 140
"""Brightness that a drawing reaches at its brightest pixel (grey levels)."""
LARGEST_SHARE = 0.07
"""Longest side of a mark as a share of the picture's diagonal: what is larger belongs to the picture."""
EXCESS, EXCESS_BESIDE_FLOW = 20, 36
"""Yellow, green or cyan above the surroundings from which a thin structure is drawn (grey levels)."""
FLOW_AREA = 20
"""Red or blue pixels inside the echo picture from which it holds colour flow."""
CROSS_LIKENESS = 0.72
"""Normalised correlation from which a place looks like a caliper's cross."""
MOST_CROSSES = 16

Flags = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Graphics:
    """The drawings found in one picture: their pixels and one mark each."""

    mask: Mask
    marks: tuple[Annotation, ...]


def find_graphics(picture: Picture, ignore: Mask) -> Graphics:
    """Find drawings in an ultrasound picture; ``ignore`` is text that is already known."""
    grey = brightest(picture)
    known = ignore.astype(np.uint8)
    sector = _sector(grey, known)
    found = [_outside(grey, known, sector)]
    if picture.ndim == 3:
        found.append(_coloured(picture, known, sector))
    found.append(_crosses(grey, known))
    mask = np.zeros(grey.shape, np.uint8)
    marks: list[Annotation] = []
    for flags, kind in found:
        fresh = flags & ~cv2.dilate(mask, np.ones((3, 3), np.uint8)) & 1
        drawn = fresh.astype(np.bool_)
        marks += [Annotation(kind, box, contrast(picture, drawn, box)) for box in _component_boxes(fresh)]
        mask |= flags
    # Two pixels more: the soft edge and the ringing of lossy compression belong to the drawing.
    return Graphics(cv2.dilate(mask, np.ones((5, 5), np.uint8)).astype(np.bool_), tuple(marks))


def _sector(grey: Picture, known: Flags) -> Flags:
    """Return the hull of the echo picture: the largest bright areas once text is taken away."""
    soft = cv2.blur(np.where(known.astype(np.bool_), 0, grey).astype(np.uint8), (9, 9))
    lit = cv2.morphologyEx((soft > 10).astype(np.uint8), cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    hull = np.zeros(grey.shape, np.uint8)
    contours, _ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        if cv2.contourArea(contour) >= 0.02 * grey.size:
            cv2.fillPoly(hull, [cv2.convexHull(contour)], 1)
    return hull


def _outside(grey: Picture, known: Flags, sector: Flags) -> tuple[Flags, AnnotationKind]:
    """Ticks, pointers, single letters: small bright things on the black surround."""
    bright = ((grey > BLACK) & (known == 0)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=8)
    limit = LARGEST_SHARE * float(np.hypot(*grey.shape))
    keep = np.zeros(count, np.uint8)
    for index in range(1, count):
        left, top, width, height, area = stats[index]
        if area < 2 or max(width, height) > limit:
            continue
        cut = slice(top, top + height), slice(left, left + width)
        own = labels[cut] == index
        inside = float(sector[cut][own].mean())
        if inside < 0.5 and int(grey[cut][own].max()) >= DRAWN:
            keep[index] = 1
    return keep[labels], AnnotationKind.MARKER


def _coloured(picture: Picture, known: Flags, sector: Flags) -> tuple[Flags, AnnotationKind]:
    """Yellow, green or cyan drawings, thin ones by their colour against the tint around them.

    Where the picture holds colour flow nothing near the flow is touched.
    """
    coloured = (_chroma(picture) > MIN_CHROMA).astype(np.uint8) & (1 - known)
    flow = _flow(picture, known) & sector
    flows = int(flow.sum()) >= FLOW_AREA
    near_flow = cv2.dilate(flow, np.ones((25, 25), np.uint8)) if flows else np.zeros_like(flow)
    thin = _thin_overlay(picture, EXCESS_BESIDE_FLOW if flows else EXCESS) & (1 - known)
    filled = cv2.morphologyEx(coloured, cv2.MORPH_OPEN, np.ones((7, 7), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(thin, connectivity=8)
    keep = np.zeros(count, np.uint8)
    ends: list[tuple[int, int]] = []
    limit = 0.2 * max(thin.shape)
    for index in range(1, count):
        left, top, width, height, area = stats[index]
        cut = slice(top, top + height), slice(left, left + width)
        own = labels[cut] == index
        trace = max(width, height) > limit and not sector[cut][own].any()  # an ECG below the picture
        if area >= 3 and not (trace or near_flow[cut][own].any() or filled[cut][own].mean() > 0.5):
            keep[index] = 1
            ends.append((int(left + width // 2), int(top + height // 2)))
    drawn = keep[labels]
    for one, other in combinations(ends[:MOST_CROSSES], 2):
        drawn |= coloured_line(picture, one, other)
    return drawn & (1 - near_flow), AnnotationKind.CALIPER


def _thin_overlay(picture: Picture, least: int) -> Flags:
    """Return thin structures that are yellower, greener or more cyan than what is around them."""
    red, green, blue = cv2.split(picture)
    overlay = np.zeros(red.shape, np.uint8)
    yellow = cv2.subtract(cv2.min(red, green), blue)
    lime = cv2.subtract(green, cv2.max(red, blue))
    cyan = cv2.subtract(cv2.min(green, blue), red)
    for excess in (yellow, lime, cyan):
        stands_out = cv2.morphologyEx(excess, cv2.MORPH_TOPHAT, np.ones((11, 11), np.uint8))
        seeds = (stands_out > least).astype(np.uint8)
        body = (stands_out > least // 2).astype(np.uint8)
        overlay |= _grown(seeds, body)
    return overlay


def _grown(seeds: Flags, body: Flags) -> Flags:
    """Return the connected parts of ``body`` that hold a seed (hysteresis)."""
    count, labels = cv2.connectedComponents(body, connectivity=8)
    keep = np.zeros(count, np.uint8)
    keep[np.unique(labels[seeds > 0])] = 1
    keep[0] = 0
    return np.asarray(keep[labels], np.uint8)


def _flow(picture: Picture, known: Flags) -> Flags:
    """Return filled areas of red or blue: colour Doppler paints flow in these first."""
    painted = red_or_blue(picture) & (known == 0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(painted.astype(np.uint8), connectivity=8)
    large = (stats[:, cv2.CC_STAT_AREA] >= 6) & (np.arange(count) > 0)
    return np.asarray(large[labels], np.uint8)


def _chroma(picture: Picture) -> Picture:
    darkest = np.minimum(np.minimum(picture[..., 0], picture[..., 1]), picture[..., 2])
    return brightest(picture) - darkest


def _crosses(grey: Picture, known: Flags) -> tuple[Flags, AnnotationKind]:
    """White "+" and "×" of calipers, the dotted lines between them and the digits beside them."""
    flags = np.zeros(grey.shape, np.uint8)
    if min(grey.shape) < 40:
        return flags, AnnotationKind.CALIPER
    centres = _cross_centres(np.where(known.astype(np.bool_), 0, grey).astype(np.uint8))
    thin = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((9, 9), np.uint8))
    for column, row, arm in centres:
        cut = _around(column, row, arm + 2, grey.shape)
        flags[cut] |= (thin[cut] > 40).astype(np.uint8)
    for one, other in combinations(centres, 2):
        flags |= dotted_line(thin, one[:2], other[:2])
    return flags, AnnotationKind.CALIPER


def _cross_centres(grey: Picture) -> list[tuple[int, int, int]]:
    """Return column, row and arm length of what looks like a drawn cross, best first."""
    candidates: list[tuple[float, int, int, int]] = []
    for arm in (4, 6, 9):
        for template in _cross_templates(arm):
            likeness = cv2.matchTemplate(grey, template, cv2.TM_CCOEFF_NORMED)
            peaks = likeness >= np.maximum(cv2.dilate(likeness, np.ones((7, 7), np.uint8)), CROSS_LIKENESS)
            half = template.shape[0] // 2
            for row, column in np.argwhere(peaks):
                patch = grey[row : row + 2 * half + 1, column : column + 2 * half + 1]
                drawn = template > 90
                arms, quarters = patch[drawn], patch[~drawn]
                # A drawing is one flat bright colour on something darker; speckle is neither.
                flat = float(np.percentile(arms, 25)) >= 0.7 * float(arms.max())
                if arms.max() >= DRAWN and flat and float(arms.mean()) - float(quarters.mean()) >= 70:
                    candidates.append(
                        (float(likeness[row, column]), int(column) + half, int(row) + half, arm)
                    )
    centres: list[tuple[int, int, int]] = []
    for _, column, row, arm in sorted(candidates, reverse=True):
        if all(abs(column - c) + abs(row - r) > 10 for c, r, _ in centres):
            centres.append((column, row, arm))
    return centres[:MOST_CROSSES]


def _cross_templates(arm: int) -> list[Flags]:
    side = 2 * arm + 3
    plus, times = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    middle = arm + 1
    cv2.line(plus, (1, middle), (side - 2, middle), 255, 1)
    cv2.line(plus, (middle, 1), (middle, side - 2), 255, 1)
    cv2.line(times, (1, 1), (side - 2, side - 2), 255, 1)
    cv2.line(times, (1, side - 2), (side - 2, 1), 255, 1)
    return [cv2.GaussianBlur(template, (3, 3), 0.6) for template in (plus, times)]


def _component_boxes(flags: Flags) -> list[Box]:
    count, _, stats, _ = cv2.connectedComponentsWithStats(flags, connectivity=8)
    return [
        (int(left), int(top), int(left + width), int(top + height))
        for left, top, width, height, _ in stats[1:count]
    ]


def _around(column: int, row: int, reach: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    return (
        slice(max(0, row - reach), min(shape[0], row + reach + 1)),
        slice(max(0, column - reach), min(shape[1], column + reach + 1)),
    )
