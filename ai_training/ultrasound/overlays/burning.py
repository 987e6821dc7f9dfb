"""Burn a random overlay into a clean frame; gives the clean picture, mask, classes and objects as well."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from ai_pipeline.burnin.annotation.pixels import Box, Picture
from ai_training.ultrasound.overlays.canvas import BurnedObject, Canvas, MarkClass
from ai_training.ultrasound.overlays.device import Storing, scene
from ai_training.ultrasound.overlays.graphics import DRAWERS
from ai_training.ultrasound.overlays.layouts import lay_out
from ai_training.ultrasound.overlays.styles import StyleFamily

UNMARKED = 0.1
"""Share of pictures that get no overlay at all: there too the detector has to find nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class BurnIn:
    """One synthetic picture and its truth. All arrays have the picture's rows and columns.

    ``image`` and ``clean`` are RGB as the device stores them (both scaled and compressed). ``drawn`` and
    ``plain`` are the same two before compression: equal wherever ``mask`` (uint8, 255 in marks) is 0 and
    different wherever it is not. ``owners`` holds 1 + the index in ``objects``, 0 outside marks.
    """

    image: Picture
    clean: Picture
    drawn: Picture
    plain: Picture
    owners: npt.NDArray[np.uint16]
    objects: tuple[BurnedObject, ...]

    @property
    def mask(self) -> npt.NDArray[np.uint8]:
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
    if random.random() >= UNMARKED:
        _overlay(canvas, random, family)
    return store(canvas, Storing.draw(random))


def store(canvas: Canvas, storing: Storing) -> BurnIn:
    """Scale and compress a drawn canvas and its clean picture alike; ``owners`` and boxes are computed from
    the pixels that differ afterwards.
    """
    drawn, plain = storing.scaled(canvas.picture), storing.scaled(canvas.clean)
    owners = _followed(canvas.owners, (drawn != plain).any(axis=2))
    objects = tuple(
        replace(thing, box=box) for thing, box in zip(canvas.objects, _boxes(owners, canvas), strict=True)
    )
    return BurnIn(storing.compressed(drawn), storing.compressed(plain), drawn, plain, owners, objects)


def _overlay(canvas: Canvas, random: np.random.Generator, family: StyleFamily) -> None:
    for drawer, share in DRAWERS:
        if random.random() < share:
            drawer(canvas, random, family)
    count = int(random.integers(1, 4))
    for layout in random.permutation(family.layouts)[:count]:
        lay_out(canvas, random, family, str(layout))


def _followed(owners: npt.NDArray[np.uint16], changed: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """Owners at a new size: each changed pixel belongs to the object drawn nearest to it, the others to none.

    The nearest is looked for before scaling, since a coarser grid steps over thin strokes and lone dots.
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


def _boxes(owners: npt.NDArray[np.uint16], canvas: Canvas) -> list[Box]:
    """The smallest box around each object's pixels; empty where later objects cover all of it."""
    places = find_objects(owners, max_label=len(canvas.objects))
    return [
        (place[1].start, place[0].start, place[1].stop, place[0].stop) if place else (0, 0, 0, 0)
        for place in places
    ]
