"""Measurements over time: spectra, M-mode, ECG. They are no text, and no pixel is made up there.

Colour and power Doppler: filled areas from red to blue, which are not annotation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import (
    Box,
    Mask,
    Picture,
    brightest,
    colourfulness,
    component_boxes,
    components,
    dilated,
    gaps,
    index_of,
    mask_of,
)
from ai_pipeline.contract import UltrasoundRegion

THIN = 4
"""Median height of a trace in a column, at most (pixels; in proportion in pictures of more than 768 rows)."""
CROSSINGS = 1.3
"""Crossings of a column by a trace, on average at most: letters and frames cross most columns twice."""


def believed_regions(
    regions: Sequence[UltrasoundRegion], shape: tuple[int, ...]
) -> tuple[UltrasoundRegion, ...]:
    """Return the header's ultrasound regions; none at all if one of them reaches beyond the picture. Such
    regions describe the image before somebody scaled or cropped it (seen in real files). A maximum edge one
    pixel too large is accepted: some makers write exclusive edges.
    """
    rows, columns = shape[:2]
    if any(region.box[2] > columns + 1 or region.box[3] > rows + 1 for region in regions):
        return ()
    return tuple(regions)


@dataclass(frozen=True, slots=True, eq=False)
class Waves:
    """The pixels of a picture that show curves over time: the ``strips`` (spectrum, M-mode, ECG) that the
    header names, and thin ``traces`` that were found.
    """

    strips: Mask
    traces: Mask

    @property
    def pixels(self) -> Mask:
        """The pixels of strips and traces together."""
        return self.strips | self.traces

    def seen_in(self, picture: Picture, area: Mask) -> Waves:
        """Return a copy with the traces found in another ``picture``, such as another frame, added."""
        return Waves(self.strips, self.traces | find_traces(picture, area))

    def without(self, letters: Mask, proven: Mask) -> Waves:
        """Return a copy without traces that lie mostly in ``letters``, and without pixels of ``proven``
        letters.
        """
        return Waves(self.strips, mostly_outside(self.traces, letters) & ~proven)


def mostly_outside(parts: Mask, filled: Mask) -> Mask:
    """The connected parts of a mask of which more than half is not ``filled``."""
    labels, stats = components(parts)
    outside = np.bincount(labels[filled], minlength=len(stats)) < 0.5 * stats[:, cv2.CC_STAT_AREA]
    outside[0] = False
    return np.asarray(outside[labels], np.bool_)


def no_waves(shape: tuple[int, ...]) -> Waves:
    """Return Waves without any pixel, for a picture of ``shape``."""
    return Waves(np.zeros(shape[:2], np.bool_), np.zeros(shape[:2], np.bool_))


def find_strips(regions: Sequence[UltrasoundRegion], shape: tuple[int, ...]) -> Mask:
    """The mask of the regions that the header names as a spectrum, M-mode, or a waveform such as an ECG."""
    strips = [
        region.box
        for region in believed_regions(regions, shape)
        # Spatial Format (PS3.3 C.8.5.5.1.1) of M-mode, spectra and waveforms; Data Type (C.8.5.5.1.2) of
        # spectra, traces, ECG, pulse and other physiological inputs: not of tissue, colour flow or bars.
        if region.spatial_format in {0x2, 0x3, 0x4}
        or region.data_type in {*range(0x3, 0xD), 0xF, 0x10, 0x11, 0x12}
    ]
    return mask_of(strips, shape)


def find_traces(picture: Picture, area: Mask) -> Mask:
    """The mask of thin curves that run without a gap over much of the picture, as an ECG does.

    Coloured curves are found anywhere, grey ones only outside the image ``area``: tissue forms such curves.
    """
    traces: Mask = np.zeros_like(area)
    # Width of a trace, at least: a tenth of the picture's, and 60 pixels. Up to gaps of 5 it is one.
    for drawn in _drawn(picture, area):
        joined = cv2.morphologyEx(drawn.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((1, 5), np.uint8))
        labels, stats = components(joined.astype(np.bool_))
        wide = stats[:, cv2.CC_STAT_WIDTH] >= max(60, 0.1 * picture.shape[1])
        for label, box in enumerate(component_boxes(stats), start=1):
            if wide[label] and _is_trace(labels[index_of(box)] == label, picture.shape[0]):
                traces |= _with_spikes(labels == label, picture, area)
    # Side of the square by which a trace is grown: its soft edge and the ringing of compression (pixels).
    return dilated(traces, 5)


def _with_spikes(trace: Mask, picture: Picture, area: Mask) -> Mask:
    """Return the mask of a trace and of what touches it in its colour, if both are one curve: steep waves are
    paler, or dashed. ``area``: the image area, in which tissue may touch a grey trace.
    """
    light = cv2.morphologyEx(np.ascontiguousarray(picture), cv2.MORPH_TOPHAT, np.ones((9, 9), np.uint8))
    colours = light.reshape(*trace.shape, -1).astype(np.float32)
    own = np.median(colours[trace], axis=0)
    is_grey, faintest = own.max() - own.min() <= STRONG / 2, 0.0
    if not is_grey:  # a paler colour is mixed with white: without it the hue is left
        colours, own = colours - colours.mean(axis=2, keepdims=True), own - own.mean()
        faintest = 0.2 * float(np.linalg.norm(own))
    lengths = np.linalg.norm(colours, axis=2)
    # Likeness of two colours, at least (cosine), and the brightness of a stroke above its surroundings.
    alike = (colours @ own >= 0.97 * lengths * np.linalg.norm(own)) & (lengths >= faintest)
    alike &= brightest(light) > 30
    if is_grey:
        alike &= ~area
    labels, _ = components(dilated(alike | trace, 3))
    grown = np.isin(labels, labels[trace]) & (alike | trace)
    labels, stats = components(grown & ~dilated(trace, 3))
    boxes = component_boxes(stats)
    letters = [
        label
        for label, box in enumerate(boxes, start=1)
        # Taller than three times its width is a side of a steep wave, whose dashes cross a column often.
        if crossings(grown[:, box[0] : box[2]]) > CROSSINGS
        and box[3] - box[1] <= 3 * (box[2] - box[0])
        and (
            crossings(labels[index_of(box)] == label) > CROSSINGS
            or any(_is_next_letter(box, other) for other in boxes)
        )
    ]
    return np.asarray(grown & ~np.isin(labels, letters), np.bool_)


def _is_next_letter(box: Box, other: Box) -> bool:
    """Whether ``other`` may be the next letter of a word: at least half as high as ``box``, not much wider
    than high, and no farther from ``box`` than that is high. A steep wave stands alone.
    """
    high, wide = other[3] - other[1], other[2] - other[0]
    return box != other and gaps(box, other)[0] < box[3] - box[1] <= 2 * high and wide <= 2 * high


def crossings(own: Mask) -> float:
    """How often the columns of a mask cross what is drawn in it, on average."""
    return float((np.diff(np.pad(own, ((1, 0), (0, 0))).astype(np.int8), axis=0) == 1).sum(axis=0).mean())


def _drawn(picture: Picture, area: Mask) -> list[Mask]:
    """Masks of what may be a trace: thin and light outside the image ``area``; coloured green or yellow;
    coloured otherwise. They are apart, because a trace crosses frames and rulers, which have other
    colours.
    """
    thin = cv2.morphologyEx(
        np.ascontiguousarray(brightest(picture)), cv2.MORPH_TOPHAT, np.ones((2 * THIN + 1, 1), np.uint8)
    )
    # Brightness above the background around it, from which a thin curve may be a trace (grey levels).
    light = np.asarray(thin > 60, np.bool_) & ~area
    if picture.ndim == 2:
        return [light]
    found = coloured(picture)
    _, green, blue = cv2.split(np.ascontiguousarray(picture).astype(np.int16))
    green_or_yellow = (green - blue > STRONG) & (green > 0.7 * brightest(picture))
    return [light, found & green_or_yellow, found & ~green_or_yellow]


def _is_trace(own: Mask, rows: int) -> bool:
    """Whether the pixels ``own`` of a wide component, cut out to its box, are a curve with spikes, or a line.
    ``rows``: of the picture.
    """
    thin = THIN * max(1.0, rows / 768)
    heights = own.sum(axis=0)
    # Columns that hold a spike of more than half its height: in a line of text every third holds a stem.
    spikes = float((heights > 0.5 * own.shape[0]).mean())
    return (
        float(np.median(heights)) <= thin
        and crossings(own) <= CROSSINGS
        and (spikes <= 0.1 or own.shape[0] <= 2 * thin)
    )


STRONG = 60
"""Difference of the channels from which a pixel is coloured (grey levels)."""
SMALLEST = 100
"""Connected coloured pixels, from which they may be flow."""
THICK, FILLED = 5, 0.3
"""Flow is an area, letters are strokes: share of it that squares of this side (pixels) cover, at least."""
FILLS, TOUCHES = 0.35, 0.15
"""Share of a place that is flow: from the first on it is no text, from the second on a single character is a
vessel."""


def coloured(picture: Picture) -> Mask:
    """The mask of the pixels of an RGB picture whose channels differ clearly."""
    return np.asarray(colourfulness(picture) > STRONG, np.bool_)


def red_or_blue(picture: Picture) -> Mask:
    """The mask of the pixels of an RGB picture in red or blue, as Doppler shows flow."""
    found = coloured(picture)
    red, green, blue = picture[found].astype(np.int16).T
    found[found] = (red > 1.4 * green + 10) | (blue > 1.4 * green + 10)
    return found


def find_flow(picture: Picture) -> Mask:
    """The mask of the pixels that colour or power Doppler has coloured; empty for a grey picture."""
    if picture.ndim == 2:
        return np.zeros(picture.shape, np.bool_)
    strong = coloured(picture)
    labels, stats = components(strong)
    area = stats[:, cv2.CC_STAT_AREA]
    hues = np.bincount(labels[red_or_blue(picture)], minlength=len(stats))
    thick = cv2.morphologyEx(
        strong.astype(np.uint8), cv2.MORPH_OPEN, np.ones((THICK, THICK), np.uint8)
    ).astype(np.bool_)
    filled = np.bincount(labels[thick], minlength=len(stats))
    # Share of them that is red or blue: Doppler shows flow in these first, and yellow only inside them.
    hued = (hues >= 0.2 * area) & ~_bars(stats)
    hued[0] = False
    flow = hued & (area >= SMALLEST) & (filled >= FILLED * area)
    if not flow.any():
        return np.zeros_like(strong)
    # Distance from flow up to which small areas in its colours are flow (share of the shorter side).
    near = dilated(flow[labels], 2 * round((1 / 12) * min(picture.shape[:2])) + 1)
    flow |= hued & (np.bincount(labels[near], minlength=len(stats)) == area)
    return dilated(flow[labels], 3)


def colour_bars(picture: Picture) -> Mask:
    """The mask of the colour bars: filled rectangles in Doppler's colours, which letters never are."""
    if picture.ndim == 2:
        return np.zeros(picture.shape, np.bool_)
    labels, stats = components(coloured(picture))
    bars = _bars(stats) & (np.bincount(labels[red_or_blue(picture)], minlength=len(stats)) > 0)
    bars[0] = False
    return np.asarray(bars[labels], np.bool_)


def _bars(stats: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Which of the connected parts are rectangles, as colour bars are and flow is not."""
    width, height, area = (
        stats[:, column] for column in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA)
    )
    # Share of its box that a bar fills, or fills where the box is so many times longer than wide.
    slender = np.maximum(width, height) >= 2.5 * np.minimum(width, height)
    full = area / (width * height)
    return np.asarray((area >= SMALLEST) & ((full >= 0.97) | ((full >= 0.92) & slender)), np.bool_)
