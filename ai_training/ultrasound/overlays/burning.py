"""A clean picture with burned-in annotation, its mask, classes and objects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from ai_pipeline.burnin.find.annotation import Picture
from ai_training.ultrasound.overlays.canvas import BurnedObject, Canvas, MarkClass
from ai_training.ultrasound.overlays.drawn_marks import DRAWERS
from ai_training.ultrasound.overlays.hands import StyleFamily, hand, letter_height
from ai_training.ultrasound.overlays.pages import LAYOUTS, Page
from ai_training.ultrasound.overlays.scenes import Storing, scene


@dataclass(frozen=True, slots=True, eq=False)
class BurnIn:
    """A synthetic picture with marks, and the truth on them. All arrays have the picture's rows and columns.
    ``image`` and ``clean``: RGB with and without the marks, as the device stores them (both scaled and
    compressed). ``drawn`` and ``plain``: the same two before compression; they differ exactly where ``mask``
    (uint8, 255 in marks) is not 0. ``owners`` holds 1 + the index in ``objects``, 0 outside marks.
    """

    image: Picture
    clean: Picture
    drawn: Picture
    plain: Picture
    owners: npt.NDArray[np.uint16]
    objects: tuple[BurnedObject, ...]

    @property
    def mask(self) -> npt.NDArray[np.uint8]:
        """The drawn pixels: 255, all others 0."""
        return np.where(self.owners > 0, 255, 0).astype(np.uint8)

    @property
    def classes(self) -> npt.NDArray[np.uint8]:
        """The :class:`MarkClass` of each pixel."""
        table = np.array([MarkClass.BACKGROUND, *(thing.kind for thing in self.objects)], np.uint8)
        return table[self.owners]


def burn_in(part: Picture, family: StyleFamily, seed: tuple[int, ...]) -> BurnIn:
    """Draw one random overlay of ``family`` onto ``part`` (RGB uint8 without annotation).

    The same part, family and seed give the same picture. The picture may be larger than the part: sometimes a
    black surround is added, and devices scale.
    """
    random = np.random.default_rng(seed)
    canvas = Canvas(scene(part, random))
    # There too the detector has to find nothing.
    if random.random() >= 0.1:
        for drawer, share in DRAWERS:
            if random.random() < share:
                drawer(canvas, random, family)
        count = int(random.integers(1, 4))
        for layout in random.permutation(family.layouts)[:count]:
            korean = bool(random.random() < 1 / 6)
            size = letter_height(canvas, random, 0.022, 0.05)
            look = hand(random, family, size, korean=korean)
            LAYOUTS[str(layout)](Page(canvas, *canvas.size, random, family, look, korean))
    # Two of five are scaled after writing, three of five are compressed.
    factor = float(random.uniform(0.6, 1.5)) if random.random() < 0.4 else 1.0
    quality = int(random.integers(60, 97)) if random.random() < 0.6 else None
    way, whole_chroma = (
        int(random.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_NEAREST))),
        bool(random.random() < 0.5),
    )
    return store(canvas, Storing(factor, way, quality, whole_chroma))


def store(canvas: Canvas, storing: Storing) -> BurnIn:
    """Scale and compress a drawn canvas and its clean picture in the same way, as ``storing`` says;
    ``owners`` and boxes are computed from the pixels that differ afterwards. The box of an object that later
    ones cover altogether is empty.
    """
    drawn, plain = storing.scaled(canvas.picture), storing.scaled(canvas.clean)
    owners = _followed(canvas.owners, (drawn != plain).any(axis=2))
    objects = tuple(
        replace(thing, box=(place[1].start, place[0].start, place[1].stop, place[0].stop)) if place else thing
        for thing, place in zip(
            canvas.objects, find_objects(owners, max_label=len(canvas.objects)), strict=True
        )
    )
    return BurnIn(storing.compressed(drawn), storing.compressed(plain), drawn, plain, owners, objects)


def _followed(owners: npt.NDArray[np.uint16], changed: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """Resize ``owners`` to the size of ``changed``: each changed pixel belongs to the nearest drawn object,
    others to none. The nearest is looked for before scaling, since a coarser grid steps over thin strokes and
    lone dots.
    """
    rows, columns = changed.shape
    if not owners.any():
        return np.zeros((rows, columns), np.uint16)
    empty = (owners == 0).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(empty, cv2.DIST_L1, 3, labelType=cv2.DIST_LABEL_PIXEL)
    nearest = np.zeros(int(labels.max()) + 1, np.uint16)
    nearest[labels[empty == 0]] = owners[empty == 0]
    resized = cv2.resize(nearest[labels], (columns, rows), interpolation=cv2.INTER_NEAREST)
    return np.where(changed, resized, 0).astype(np.uint16)
