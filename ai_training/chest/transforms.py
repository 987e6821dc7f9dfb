"""Pictures for the gate: chest X-rays turned, inverted, cut off, clipped; files of a set to draw from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from ai_pipeline.images.coordinates import Pose, shown
from ai_training.sets.files import Grey, read_grey
from ai_training.sets.layouts import part_of_set

T = TypeVar("T")
Random = np.random.Generator
Change = Callable[[Grey, Random], Grey]
ULTRASOUND = ("us_ovarian", "us_fetal_head", "us_breast")


def other_chests(data: Path, population: str, split: str) -> list[Path]:
    """The chest X-rays of another hospital in ``data``: of the ``population`` ``hannover`` (adults) or
    ``pediatric`` (1 to 5 years), of ``split``.
    """
    return [
        path for path in files_of_split(data / "cxr_nih_more/other", split) if path.parent.name == population
    ]


def drawn_from(files: Sequence[T], most: int, random: Random) -> list[T]:
    """Draw at most ``most`` of ``files`` at random without replacement; they stay in their order."""
    return [files[index] for index in sorted(random.permutation(len(files))[:most])]


def pictures(files: Sequence[Path], made: Change, random: Random) -> list[Grey]:
    """Read the images ``files`` and apply the change ``made`` to each. Raises DataMissing if one cannot be
    read.
    """
    return [made(read_grey(path), random) for path in files]


def as_it_is(image: Grey, random: Random) -> Grey:  # noqa: ARG001  (one of the changes, without any)
    """A :data:`Change` that returns the image unchanged."""
    return image


def _part(image: Grey, random: Random, least: float, most: float) -> Grey:
    """Cut a random part out of a picture, between ``least`` and ``most`` (shares) of each side."""
    share, (rows, columns) = random.uniform(least, most, 2), image.shape
    height, width = max(1, int(rows * share[0])), max(1, int(columns * share[1]))
    top, left = random.integers(0, rows - height + 1), random.integers(0, columns - width + 1)
    return np.ascontiguousarray(image[top : top + height, left : left + width])


framed = partial(_part, least=0.88, most=1.0)
"""Other formats and collimations of a whole chest."""
cut_off = partial(_part, least=0.5, most=0.75)
"""Some of the chest is not in the picture."""


def clipped(image: Grey, random: Random, share: float | None = None) -> Grey:
    """Return a copy with a window so narrow that a ``share`` of the pixels (default: 30 to 70 %) becomes
    black or white.
    """
    return _windowed(image, random.uniform(0.3, 0.7) if share is None else share, random)


def posed(pose: Pose, before: Change = as_it_is) -> Change:
    """Return a :data:`Change` that applies ``before``, then shows the picture in ``pose``."""
    return lambda image, random: shown(before(image, random), pose)


def tilted(image: Grey, random: Random, least: float, most: float) -> Grey:
    """Return a copy turned by ``least`` to ``most`` degrees, to either side; the corners become black."""
    rows, columns = image.shape
    degrees = random.uniform(least, most) * random.choice((-1, 1))
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, matrix, (columns, rows)), np.uint8)


def varied(image: Grey, random: Random) -> Grey:
    """Return a whole chest X-ray as another hospital might show it: framed, slightly tilted, with other greys
    and sharpness.
    """
    picture = framed(image, random) if random.random() < 0.7 else image
    rows, columns = picture.shape
    matrix = cv2.getRotationMatrix2D(
        (columns / 2, rows / 2), random.uniform(-7, 7), random.uniform(0.85, 1.1)
    )
    matrix[:, 2] += random.uniform(-0.04, 0.04, 2) * (columns, rows)
    border = cv2.BORDER_CONSTANT if random.random() < 0.5 else cv2.BORDER_REPLICATE
    picture = np.asarray(cv2.warpAffine(picture, matrix, (columns, rows), borderMode=border), np.uint8)
    picture = _windowed(picture, random.uniform(0.0, 0.15), random)
    values = 255.0 * (picture / 255.0) ** (2 ** random.uniform(-0.8, 0.8))
    if random.random() < 0.3:
        values = cv2.GaussianBlur(values, (0, 0), random.uniform(0.3, 1.2) * max(rows, columns) / 256)
    if random.random() < 0.3:
        values = values + random.normal(0.0, random.uniform(2, 8), values.shape)
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def _windowed(image: Grey, lost: float, random: Random) -> Grey:
    """Return a copy with a window that makes a share ``lost`` of the pixels black or white, divided at random
    between both.
    """
    below = random.uniform(0.0, lost)
    low, high = np.percentile(image, (100 * below, 100 * (1 - lost + below)))
    return np.asarray(np.clip((image - low) * (255.0 / max(high - low, 1.0)), 0, 255), np.uint8)


def files_of_split(folder: Path, split: str) -> list[Path]:
    """The files of ``split`` in the set in ``folder``; an empty list if there is no such split."""
    return [image.path for image in part_of_set(folder, split)]
