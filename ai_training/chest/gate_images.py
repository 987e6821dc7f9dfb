"""Pictures from which the gate learns: correct chest films, and everything that can be wrong with a picture.

They are made from the images of ``--data``: transforms of adults' chests (turned, inverted, cut off,
clipped), small children of another hospital, ultrasound. Sets that are missing are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.images.orientation import Pose, shown
from ai_training.sets.chest import chest_set
from ai_training.sets.files import read_grey
from ai_training.sets.images import ChestImage
from ai_training.sets.published import part_of_set

Grey = npt.NDArray[np.uint8]
Random = np.random.Generator
Change = Callable[[Grey, Random], Grey]
OTHER_CHESTS = "cxr_nih_more/other"
ULTRASOUND = ("us_ovarian", "us_fetal_head", "us_breast")


def adults(data: Path, split: str) -> tuple[ChestImage, ...]:
    """The chest images of ``split`` of patients of 16 years and over."""
    return tuple(image for image in chest_set(data).images if image.is_in(split) and image.adult)


def children(data: Path, split: str) -> tuple[ChestImage, ...]:
    """The chest images of ``split`` of patients known to be under 16, from the same hospital as
    the adults.
    """
    images = chest_set(data).images
    return tuple(
        image for image in images if image.is_in(split) and not np.isnan(image.age) and not image.adult
    )


def other_chests(data: Path, population: str, split: str) -> list[Path]:
    """The files of another hospital: ``hannover`` (adults) or ``pediatric`` (1 to 5 years)."""
    return [path for path in files_of_split(data / OTHER_CHESTS, split) if path.parent.name == population]


def ultrasound(data: Path, name: str, split: str) -> list[Path]:
    """The files of the ultrasound set ``name``, one of :data:`ULTRASOUND`."""
    return files_of_split(data / name, split)


def drawn_from(files: Sequence[Path], most: int, random: Random) -> list[Path]:
    """At most ``most`` of ``files``, drawn without replacement, in their order."""
    chosen = random.permutation(len(files))[:most]
    return [files[index] for index in sorted(chosen)]


def pictures(files: Sequence[Path], made: Change, random: Random) -> list[Grey]:
    """Read ``files`` and change each by ``made``. Raises DataMissing if one cannot be read."""
    return [made(read_grey(path), random) for path in files]


def as_it_is(image: Grey, random: Random) -> Grey:  # noqa: ARG001  (one of the changes, without any)
    """The image itself: a :data:`Change` that changes nothing."""
    return image


def framed(image: Grey, random: Random) -> Grey:
    """A copy with up to 12 % cut off in each direction: other formats and collimations of a whole chest."""
    return _part(image, random.uniform(0.88, 1.0, 2), random)


def cut_off(image: Grey, random: Random) -> Grey:
    """A part with 50 to 75 % of each side: some of the chest is not in the picture."""
    return _part(image, random.uniform(0.5, 0.75, 2), random)


def clipped(share: float | None = None) -> Change:
    """A change by a window so narrow that ``share`` of the pixels (default: 30 to 70 %) become black or
    white.
    """

    def window(image: Grey, random: Random) -> Grey:
        lost = random.uniform(0.3, 0.7) if share is None else share
        return _windowed(image, lost, random)

    return window


def posed(pose: Pose, before: Change = as_it_is) -> Change:
    """A change that applies ``before``, then shows the picture in ``pose``."""
    return lambda image, random: shown(before(image, random), pose)


def tilted(least: float, most: float) -> Change:
    """A change that turns an image by ``least`` to ``most`` degrees, to either side; the corners become
    black.
    """

    def tilt(image: Grey, random: Random) -> Grey:
        rows, columns = image.shape
        degrees = random.uniform(least, most) * random.choice((-1, 1))
        matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), degrees, 1.0)
        return np.asarray(cv2.warpAffine(image, matrix, (columns, rows)), np.uint8)

    return tilt


def varied(image: Grey, random: Random) -> Grey:
    """A whole chest as another hospital might show it: framed, slightly tilted, with other greys and
    sharpness.
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


def _part(image: Grey, share: npt.NDArray[np.floating], random: Random) -> Grey:
    rows, columns = image.shape
    height, width = max(1, int(rows * share[0])), max(1, int(columns * share[1]))
    top, left = random.integers(0, rows - height + 1), random.integers(0, columns - width + 1)
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _windowed(image: Grey, lost: float, random: Random) -> Grey:
    """``lost``: share of the pixels that become black or white, at either end as chance has it."""
    below = random.uniform(0.0, lost)
    low, high = np.percentile(image, (100 * below, 100 * (1 - lost + below)))
    return np.asarray(np.clip((image - low) * (255.0 / max(high - low, 1.0)), 0, 255), np.uint8)


def files_of_split(folder: Path, split: str) -> list[Path]:
    """The files of ``split`` in the set in ``folder``; an empty list if there is no such split."""
    return [image.path for image in part_of_set(folder, split)]
