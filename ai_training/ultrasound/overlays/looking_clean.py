"""Find graphics that scanners draw over an ultrasound picture: calipers, dotted lines, rulers, pointers.

It uses image processing, no network, so that the search for clean frames does not depend on the detector that
learns from them. Anatomy and colour Doppler must not count as marks: large coloured areas are flow, only thin
or small drawings in overlay colours are marks.
"""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.pixels import (
    Box,
    Mask,
    Picture,
    brightest,
    component_boxes,
    components,
    dilated,
    index_of,
)
from ai_pipeline.burnin.find.flow import red_or_blue
from ai_pipeline.burnin.find.lines import coloured_line

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


def find_graphics(picture: Picture, text: Mask) -> tuple[Mask, list[Box]]:
    """The pixels of all drawings in an RGB picture, and the boxes of calipers; ``text``: pixels of text
    already found.
    """
    grey = brightest(picture)
    sector = _sector(grey, text)
    mask = _outside(grey, text, sector)
    calipers: list[Box] = []
    for drawn in (_coloured(picture, text, sector), _crosses(grey, text)):
        calipers += component_boxes(components(drawn & ~dilated(mask, 3))[1])
        mask = mask | drawn
    # Two pixels more: the soft edge and the ringing of lossy compression belong to the drawing.
    return dilated(mask, 5), calipers


def overlay_colours(picture: Picture) -> tuple[Picture, Picture, Picture]:
    """How much yellower, greener and more cyan than grey each pixel is (levels): the colours that scanners
    write in.
    """
    red, green, blue = cv2.split(np.ascontiguousarray(picture))
    pairs = (cv2.min(red, green), blue), (green, cv2.max(red, blue)), (cv2.min(green, blue), red)
    yellow, lime, cyan = (np.asarray(cv2.subtract(more, less), np.uint8) for more, less in pairs)
    return yellow, lime, cyan


def chroma(picture: Picture) -> Picture:
    """The difference between the largest and the smallest channel of each pixel (grey levels)."""
    return np.asarray(brightest(picture) - picture.min(axis=2), np.uint8)


def _sector(grey: Picture, text: Mask) -> Mask:
    """The hull of the echo picture: the largest bright areas once text is taken away."""
    soft = cv2.blur(np.where(text, 0, grey).astype(np.uint8), (9, 9))
    lit = cv2.morphologyEx((soft > 10).astype(np.uint8), cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))
    hull = np.zeros(grey.shape, np.uint8)
    contours, _ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        if cv2.contourArea(contour) >= 0.02 * grey.size:
            cv2.fillPoly(hull, [cv2.convexHull(contour)], 1)
    return hull.astype(np.bool_)


def _outside(grey: Picture, text: Mask, sector: Mask) -> Mask:
    """Ticks, pointers, single letters: small bright things on the black surround."""
    labels, stats = components((grey > BLACK) & ~text)
    limit = LARGEST_SHARE * float(np.hypot(*grey.shape))
    keep = np.zeros(len(stats), np.bool_)
    for index, box in enumerate(component_boxes(stats), start=1):
        if stats[index, cv2.CC_STAT_AREA] < 2 or max(box[2] - box[0], box[3] - box[1]) > limit:
            continue
        cut = index_of(box)
        own = labels[cut] == index
        keep[index] = float(sector[cut][own].mean()) < 0.5 and int(grey[cut][own].max()) >= DRAWN
    return keep[labels]


def _coloured(picture: Picture, text: Mask, sector: Mask) -> Mask:
    """Yellow, green or cyan drawings, thin ones by their colour against the tint around them.

    Where the picture holds colour flow nothing near the flow is touched.
    """
    flow = _flow(picture, text) & sector
    flows = int(flow.sum()) >= FLOW_AREA
    near_flow = dilated(flow, 25) if flows else np.zeros_like(flow)
    coloured = (chroma(picture) > MIN_CHROMA) & ~text
    filled = cv2.morphologyEx(coloured.astype(np.uint8), cv2.MORPH_OPEN, np.ones((7, 7), np.uint8))
    labels, stats = components(_thin_overlay(picture, EXCESS_BESIDE_FLOW if flows else EXCESS) & ~text)
    keep = np.zeros(len(stats), np.bool_)
    ends: list[tuple[int, int]] = []
    limit = 0.2 * max(labels.shape)
    for index, box in enumerate(component_boxes(stats), start=1):
        left, top, right, bottom = box
        cut = index_of(box)
        own = labels[cut] == index
        trace = max(right - left, bottom - top) > limit and not sector[cut][own].any()  # an ECG below
        if own.sum() >= 3 and not (trace or near_flow[cut][own].any() or filled[cut][own].mean() > 0.5):
            keep[index] = True
            ends.append((left + (right - left) // 2, top + (bottom - top) // 2))
    drawn = keep[labels]
    for one, other in combinations(ends[:MOST_CROSSES], 2):
        drawn |= coloured_line(picture, one, other) > 0
    return drawn & ~near_flow


def _thin_overlay(picture: Picture, least: int) -> Mask:
    """Thin structures that are yellower, greener or more cyan than what is around them."""
    overlay = np.zeros(picture.shape[:2], np.bool_)
    for excess in overlay_colours(picture):
        stands_out = cv2.morphologyEx(excess, cv2.MORPH_TOPHAT, np.ones((11, 11), np.uint8))
        overlay |= _grown(stands_out > least, stands_out > least // 2)
    return overlay


def _grown(seeds: Mask, body: Mask) -> Mask:
    """The connected parts of ``body`` that hold a seed (hysteresis)."""
    labels, stats = components(body)
    keep = np.zeros(len(stats), np.bool_)
    keep[labels[seeds]] = True
    keep[0] = False
    return keep[labels]


def _flow(picture: Picture, text: Mask) -> Mask:
    """Filled areas of red or blue: colour Doppler paints flow in these first."""
    labels, stats = components(red_or_blue(picture) & ~text)
    large = stats[:, cv2.CC_STAT_AREA] >= 6
    large[0] = False
    return np.asarray(large[labels], np.bool_)


def _crosses(grey: Picture, text: Mask) -> Mask:
    """White "+" and "×" of calipers, the dotted lines between them and the digits beside them."""
    found = np.zeros(grey.shape, np.bool_)
    if min(grey.shape) < 40:
        return found
    centres = _cross_centres(np.where(text, 0, grey).astype(np.uint8))
    thin = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((9, 9), np.uint8))
    for column, row, arm in centres:
        reach = arm + 2
        cut = index_of((column - reach, row - reach, column + reach + 1, row + reach + 1))
        found[cut] |= thin[cut] > 40
    for one, other in combinations(centres, 2):
        found |= _dotted_line(thin, one[:2], other[:2]) > 0
    return found


def _dotted_line(thin: Picture, start: tuple[int, int], end: tuple[int, int]) -> Flags:
    """The dots from ``start`` to ``end`` (column, row) as 1, if they are equally spaced; else all 0.

    ``thin``: the structures of a grey picture that are thinner than 9 pixels (white top-hat).
    """
    flags = np.zeros(thin.shape, np.uint8)
    length = int(np.hypot(end[0] - start[0], end[1] - start[1]))
    if length < 20:
        return flags
    cv2.line(flags, start, end, 1, 3)
    steps = np.linspace(0, 1, length)
    columns = np.rint(start[0] + (end[0] - start[0]) * steps).astype(int)
    rows = np.rint(start[1] + (end[1] - start[1]) * steps).astype(int)
    along = cv2.dilate(thin, np.ones((3, 3), np.uint8))[rows, columns] > 60
    starts = np.flatnonzero(np.diff(along.astype(np.int8)) == 1)
    gaps = np.diff(starts)
    regular = gaps.size >= 4 and float(np.std(gaps)) <= 0.35 * float(np.mean(gaps))
    if not regular or not 0.15 <= float(along.mean()) <= 0.9:
        return np.zeros(thin.shape, np.uint8)
    return flags & (thin > 30).astype(np.uint8)


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
