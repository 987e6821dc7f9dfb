"""The limits of the gate for fetal heads: fitted on validation pictures, measured on the test split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ai_pipeline.fetal_head.ellipse import Ellipse, ellipse_of
from ai_pipeline.fetal_head.outline import HeadLimits, HeadModel, HeadOutline
from ai_pipeline.fetal_head.picture import fit_to_input
from ai_pipeline.images.coordinates import Affine
from ai_training.errors import ExperimentError
from ai_training.fetal.data import OTHERS, PLANES, Bytes, HeadImage, head_images, other_images, without_head
from ai_training.progress import Report, silent
from ai_training.sets.files import read_grey

OPEN = HeadLimits(present=0.0, shape=0.0, spread=math.inf, roundness=(0.0, 1.0), outside=1.0, inset=0.0)
"""Limits that refuse nothing: for the figures that limits are fitted to."""
REFUSED = 99.5
"""Per cent of validation pictures without a head whose score the limit ``present`` lies above."""
KEPT = 1.0
"""Per cent of validation heads that each of the limits on shape and spread may refuse."""
ROUNDER = 0.03
"""Added to the range of reference heads' roundness on both sides."""
HERE = Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def fit_limits(data: Path, model: HeadModel, report: Report = silent) -> HeadLimits:
    """Fit the limits for the network of ``model``, whose own limits must be :data:`OPEN`.

    Raises DataMissing, or ExperimentError if the network outlines no head.
    """
    heads = [image.read()[0] for image in head_images(data, "val")]
    heads += [read_grey(image.picture) for image in other_images(data, PLANES, "val")]
    others = [picture for name in (*OTHERS, "") for picture in headless(data, name, "val")]
    seen = _seen(model, heads, report)
    scores = [one.present for one in _seen(model, others, report)]
    ellipses = [(image, _reference(image)) for image in head_images(data, "train")]
    round_ = [ellipse.short / ellipse.long for _, ellipse in ellipses]
    outlined = [one for one in seen if one.area is not None]
    if not outlined:
        raise ExperimentError("the network outlines no head of the validation split: train it longer")
    return HeadLimits(
        present=_rounded(max(0.5, float(np.percentile(scores, REFUSED)))),
        shape=_rounded(float(np.percentile([one.shape for one in outlined], KEPT)), up=False),
        spread=_rounded(float(np.percentile([one.spread for one in outlined], 100 - KEPT))),
        roundness=(_rounded(min(round_) - ROUNDER, up=False), 1.0),
        outside=_rounded(float(np.percentile([one.outside for one in outlined], 100 - KEPT))),
        inset=round(float(np.median([_inset(*pair) for pair in ellipses])), 3),
    )


def headless(data: Path, name: str, split: str) -> list[Bytes]:
    """Pictures without a head: of the set ``name``; if ``name`` is empty, parts of frames beside the head."""
    if name:
        return [read_grey(image.picture) for image in other_images(data, name, split)]
    random = np.random.default_rng(7)
    return [without_head(*image.read(), random) for image in head_images(data, split)]


def _seen(model: HeadModel, pictures: Sequence[Bytes], report: Report) -> list[HeadOutline]:
    found = []
    for number, picture in enumerate(pictures):
        report(number / len(pictures), "limits of the gate")
        found.append(model.seen(picture))
    return found


def _reference(image: HeadImage) -> Ellipse:
    ellipse = ellipse_of(image.read()[1], HERE)
    assert ellipse is not None
    return ellipse


def _inset(image: HeadImage, outlined: Ellipse) -> float:
    """By how many pixels of the network's input the reference runs inside its own mask."""
    reference = image.circumference / image.pixel_mm
    return (outlined.circumference - reference) / (2 * math.pi) * fit_to_input(image.read()[0])[1].a


def _rounded(value: float, *, up: bool = True) -> float:
    """To three digits, on the side that refuses less (``up``: where larger values are refused)."""
    return (math.ceil if up else math.floor)(value * 1000) / 1000
