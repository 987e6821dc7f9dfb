"""Head circumference, biparietal and occipitofrontal diameter from the ellipse of a head.

By ISUOG's guideline for biometry (L. Salomon et al., Ultrasound Obstet Gynecol 2019): the ellipse runs along
the outside of the skull. Its short axis is the biparietal diameter from outer to outer edge, which is a
skull's thickness more than from outer to inner edge; the name and a coded method say so.
"""

from dataclasses import replace
from typing import Final

import cv2
import numpy as np

from ai_pipeline.contract import (
    OUTER_TO_OUTER,
    Code,
    DerivedAge,
    ImageHeader,
    MeasuredQuantity,
    Measurement,
    ModelRef,
    Point,
)
from ai_pipeline.images.header import calibrated_regions
from ai_pipeline.networks.heads import Ellipse
from ai_pipeline.repeatability import repeatability

# PS3.16 CID 12005 Fetal Biometry Measurement
HEAD_CIRCUMFERENCE: Final = Code("11984-2", "LN", "Head Circumference")
HEAD: Final = Code("69536005", "SCT", "Head")  # PS3.16 CID 4031, CID 7151
MILLIMETRES: Final = Code("mm", "UCUM", "mm")
PIXELS: Final = Code("{pixels}", "UCUM", "pixels")
MEASURES: Final = (
    MeasuredQuantity("Head circumference", HEAD_CIRCUMFERENCE),
    MeasuredQuantity(
        "BPD (outer-outer)", Code("11820-8", "LN", "Biparietal Diameter"), method=OUTER_TO_OUTER
    ),
    MeasuredQuantity("Occipitofrontal diameter", Code("11851-3", "LN", "Occipital-Frontal Diameter")),
)
_HADLOCK_HC: Final = Code("11932-1", "LN", "HC, Hadlock 1984")  # PS3.16 CID 12013
_HADLOCK: Final = (
    (12.0, 18.0, 1.19),
    (18.0, 24.0, 1.48),
    (24.0, 30.0, 2.06),
    (30.0, 36.0, 2.98),
    (36.0, 42.0, 2.70),
)
"""Weeks from, weeks to, and two standard deviations in weeks, of the age by head circumference."""


def spacing_of(header: ImageHeader, head: Ellipse) -> tuple[float, float] | None:
    """Millimetres between rows and between columns at the head: from the smallest calibrated region of
    (0018,6011) that holds all of the head inside the picture, else from Pixel Spacing; None without either.
    """
    points = inside(head.polygon(), header)
    holding = (one for one in calibrated_regions(header) if all(map(one.contains, points)))
    return next(((one.row_spacing, one.column_spacing) for one in holding), None)


def impossible(head: Ellipse, spacing: tuple[float, float] | None) -> str:
    """A sentence on why no head can have this size; "" if one can, or if the pixel spacing is unknown."""
    if spacing is None:
        return ""
    # Millimetres of a head's circumference between ten weeks and birth; references: 44 to 346.
    low, high, size = 40, 380, in_millimetres(head, spacing).circumference
    if low <= size <= high:
        return ""
    return f"a circumference of {size:.0f} mm is implausible: heads of {low} to {high} mm are measured"


def measurements(
    uid: str,
    header: ImageHeader,
    head: Ellipse,
    spacing: tuple[float, float] | None,
    model: ModelRef,
    fetus: str,
    agreement: tuple[float, float] | None = None,
) -> tuple[Measurement, ...]:
    """The circumference, short and long axis of ``head`` in the image ``uid``, in mm, or in pixels without
    ``spacing``. ``fetus``: as in Measurement. ``agreement``: the range in which 95 % of the differences from
    a sonographer's circumference lay on test images (mm), or None. Lines are cut off at the picture's
    edge.
    """
    unit = MILLIMETRES if spacing else PIXELS
    error = repeatability(agreement, 1.0) if agreement and spacing else None
    sizes = in_millimetres(head, spacing) if spacing else head
    rows = (
        (sizes.circumference, head.polygon(), True),
        (sizes.short, head.short_axis(), False),
        (sizes.long, head.long_axis(), False),
    )
    return tuple(
        Measurement(
            uid,
            quantity.name,
            quantity.code,
            round(value, 1),
            unit,
            (inside(line, header),),
            model,
            HEAD,
            closed=closed,
            fetus=fetus,
            statement=_statement(value, unit) if quantity is MEASURES[0] else "",
            error=error if quantity is MEASURES[0] else None,
            method=quantity.method,
            age=_age(value, unit) if quantity is MEASURES[0] else None,
        )
        for quantity, (value, line, closed) in zip(MEASURES, rows, strict=True)
    )


def _statement(circumference: float, unit: Code) -> str:
    """The short result in words: the head circumference and, for 12 to 42 weeks, the gestational age with two
    standard deviations.
    """
    if unit != MILLIMETRES:
        return "Head outlined, not measured in mm: the image does not give the size of its pixels"
    number, weeks = f"Head circumference {circumference:.0f} mm", _weeks(circumference)
    spread = _two_deviations(weeks)
    if spread is None:
        return number
    return f"{number}, as at {weeks:.1f} weeks ({weeks - spread:.1f} to {weeks + spread:.1f}, Hadlock 1984)"


def _age(circumference: float, unit: Code) -> DerivedAge | None:
    """The gestational age by a head circumference in mm, for 12 to 42 weeks; None outside, or in pixels."""
    weeks = _weeks(circumference)
    spread = _two_deviations(weeks)
    if unit != MILLIMETRES or spread is None:
        return None
    return DerivedAge(round(7 * weeks), round(7 * spread), _HADLOCK_HC)


def _weeks(circumference: float) -> float:
    """The gestational age in weeks by the head circumference in mm (F. Hadlock et al., Radiology
    1984;152:497).
    """
    head = circumference / 10
    return 8.96 + 0.540 * head + 0.0003 * head**3


def _two_deviations(weeks: float) -> float | None:
    """Two standard deviations of that age, in weeks; None outside of 12 to 42 weeks."""
    return next((spread for first, last, spread in _HADLOCK if first <= weeks < last), None)


def in_millimetres(head: Ellipse, spacing: tuple[float, float]) -> Ellipse:
    """Convert ``head`` to millimetres; if pixels are not square, fit an ellipse to the stretched outline."""
    down, across = spacing
    # Axes of pixels that differ by less, as a share, are alike.
    if abs(down - across) <= 0.01 * across:
        mean = (down + across) / 2
        return replace(head, x=head.x * mean, y=head.y * mean, long=head.long * mean, short=head.short * mean)
    points = np.array(head.polygon(), np.float32) * np.array([across, down], np.float32)
    (x, y), axes, degrees = cv2.fitEllipseDirect(points[:, None])
    return Ellipse(x, y, max(axes), min(axes), float(np.deg2rad(degrees)))


def inside(line: tuple[Point, ...], header: ImageHeader) -> tuple[Point, ...]:
    """Return ``line`` with points outside the picture moved to its edge."""
    return tuple(
        (min(max(x, 0.0), float(header.columns)), min(max(y, 0.0), float(header.rows))) for x, y in line
    )
