"""Lengths that are written in a picture, where value, unit and calipers agree.

A length "D 2.31 cm" counts if, by the calibration of an ultrasound region, exactly one pair of calipers in it
is that far apart, and no other text fits that pair. Other quantities are ignored.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from ai_pipeline.burnin.decide.meaning import LEAST_CONFIDENCE, LENGTH_LABELS, LENGTH_LABELS_ELSEWHERE, spaced
from ai_pipeline.burnin.find.annotation import AnnotationKind, centre_of
from ai_pipeline.contract import Code, ImageHeader, Measurement, Point, Reading
from ai_pipeline.images.header import Calibration, calibrated_regions

LENGTH = Code("410668003", "SCT", "Length")
UNITS = {"mm": Code("mm", "UCUM", "mm"), "cm": Code("cm", "UCUM", "cm")}
MILLIMETRES = {"mm": 1.0, "cm": 10.0}

TOLERANCE_SHARE, TOLERANCE_PIXELS = 0.01, 1.5
"""Difference between the distance of two calipers and the written value, at most: the larger of a share of it
and of pixels, to which the calipers' centres are known, plus half a step of the last digit."""
_NOT_STRAIGHT = frozenset({"hc", "ac", "circ", "perim", "ellipse", "afi", "mean", "avg"})
"""Labels of lengths that are not a straight line, or of several."""

_LINEAR = re.compile(
    rf"(?:[#+×x*] ?)?(?:[1-9] ?)?(?:[+×x*] ?)?(?P<label>{LENGTH_LABELS}|{LENGTH_LABELS_ELSEWHERE})?"
    r" ?(?:[1-9] )?[=~]? ?(?P<value>\d{1,3}(?:[.,]\d{1,3})?) ?(?P<unit>mm|cm)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class WrittenLength:
    """A length as written in the picture: value, unit (``mm`` or ``cm``), and the step of its last digit."""

    value: float
    unit: str
    step: float


def measurements_of(readings: Sequence[Reading], header: ImageHeader) -> tuple[Measurement, ...]:
    """The lengths among the readings of one image that its calipers confirm, in the order of the readings.

    Readings of a cine are matched frame by frame; a measurement in several frames is given once, of the first
    one. Without a calibration in the header (ultrasound regions, else Pixel Spacing) there is none.
    """
    regions = calibrated_regions(header)
    found: dict[tuple[float, str, tuple[tuple[Point, ...], ...]], Measurement] = {}
    for frame in dict.fromkeys(reading.frame for reading in readings):
        shown = [reading for reading in readings if reading.frame == frame]
        calipers = [centre_of(reading.bounds) for reading in shown if reading.kind == AnnotationKind.CALIPER]
        texts = [
            (written, reading)
            for reading in shown
            if reading.kind == AnnotationKind.TEXT and reading.confidence >= LEAST_CONFIDENCE
            for written in _lengths(reading.text)
        ]
        fitting = [(written, reading, _fitting(written, calipers, regions)) for written, reading in texts]
        claims = [pairs[0] for _, _, pairs in fitting if len(pairs) == 1]
        for written, reading, pairs in fitting:
            if len(pairs) == 1 and claims.count(pairs[0]) == 1:
                lines = (tuple(calipers[place] for place in pairs[0]),)
                measurement = Measurement(
                    source_uid=reading.source_uid,
                    name=LENGTH.meaning,
                    quantity=LENGTH,
                    value=written.value,
                    unit=UNITS[written.unit],
                    lines=lines,
                    frame=reading.frame,
                )
                found.setdefault((written.value, measurement.unit.value, lines), measurement)
    return tuple(found.values())


def _lengths(text: str) -> list[WrittenLength]:
    """The lengths in a text that holds nothing else, such as "1 D 2.31 cm 2 D 1.45 cm"."""
    parts = re.findall(r".+?(?<=[mc]m)(?= |$)|.+$", spaced(text), re.IGNORECASE)
    found = [parse_length(part.strip()) for part in parts]
    return [] if None in found else [written for written in found if written is not None]


def parse_length(text: str) -> WrittenLength | None:
    """A text that is one length with its unit and nothing else, else None."""
    match = _LINEAR.fullmatch(spaced(text))
    if match is None or (match["label"] or "").lower() in _NOT_STRAIGHT:
        return None
    number = match["value"].replace(",", ".")
    value, digits = float(number), len(number.partition(".")[2])
    unit = match["unit"].lower()
    if value <= 0.0:
        return None
    return WrittenLength(value, unit, 10.0**-digits)


def _fitting(
    written: WrittenLength, calipers: Sequence[Point], regions: Sequence[Calibration]
) -> list[tuple[int, int]]:
    """The pairs of calipers that are as far apart as is written."""
    wanted, step = (size * MILLIMETRES[written.unit] for size in (written.value, written.step))
    # Step of the last digit of a value that calipers can confirm, at most (millimetres).
    if step > 1.0:
        return []
    fitting = []
    for region in regions:
        # Where regions overlap, a caliper belongs to the first of them, the smallest.
        inside = [
            place
            for place, point in enumerate(calipers)
            if next((other for other in regions if other.holds(point)), None) is region
        ]
        # Calipers in one region, at most: with more, pairs fit by chance.
        if len(inside) > 24:
            continue
        tolerance = max(TOLERANCE_SHARE * wanted, TOLERANCE_PIXELS * region.coarsest) + step / 2
        for one, other in combinations(inside, 2):
            across, down = (calipers[one][axis] - calipers[other][axis] for axis in (0, 1))
            apart = math.hypot(across * region.column_spacing, down * region.row_spacing)  # millimetres
            if abs(apart - wanted) <= tolerance:
                fitting.append((one, other))
    return fitting
