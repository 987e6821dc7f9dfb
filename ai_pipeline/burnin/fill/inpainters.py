"""Ways to fill a hole in a picture, classical and by a network, behind one interface; no torch needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.pixels import Mask, Picture
from ai_pipeline.models.engine import OnnxRuntime

RADIUS = 3.0
"""Neighbourhood of a classically filled pixel (pixels)."""
AROUND = 12
"""Distance from which the mean is taken that a hole is emptied to (pixels)."""
CORE, CONTEXT = 96, 32
"""Sides of the tiles that a network fills, and what it sees beyond them on every side (pixels)."""
METHODS = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}

Floats = npt.NDArray[np.float32]
Run = Callable[[Floats, Floats], Floats]
"""From the classical fill ``[N, 3, h, w]`` in -1..1 and the hole ``[N, 1, h, w]`` to the filled tiles."""


class Inpainter(Protocol):
    """Fills holes in a picture. Outside the hole the result equals the picture, bit for bit."""

    @property
    def name(self) -> str: ...
    @property
    def context(self) -> int:
        """How far from a hole pixels still affect its filling, in pixels."""
        ...

    def fill(self, picture: Picture, hole: Mask) -> Picture:
        """Fill ``hole [rows, columns]`` (True = to fill) of a uint8 picture, RGB or grey."""
        ...


class Classical:
    """OpenCV's inpainting, by the ``name`` of a method in :data:`METHODS`."""

    context = 8

    def __init__(self, name: str) -> None:
        self.name = name
        self._method = METHODS[name]

    def fill(self, picture: Picture, hole: Mask) -> Picture:
        if not hole.any() or hole.all():
            return picture.copy()
        filled = cv2.inpaint(emptied(picture, hole), hole.astype(np.uint8), RADIUS, self._method)
        inside = hole if picture.ndim == 2 else hole[..., None]
        return np.where(inside, filled, picture).astype(np.uint8)


class NetworkInpainter:
    """Inpainting by a network, run on the tiles that hold a part of the hole."""

    context = CONTEXT

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self._run = run
        self._start = Classical("navier-stokes")

    def fill(self, picture: Picture, hole: Mask) -> Picture:
        if picture.ndim == 2:
            return self.fill(np.repeat(picture[..., None], 3, axis=2), hole)[..., 1]
        rows, columns = hole.shape
        # The grid reaches beyond the picture, so that every tile has the same size and its context.
        pad = ((CONTEXT, CONTEXT + -rows % CORE), (CONTEXT, CONTEXT + -columns % CORE))
        framed = np.pad(self._start.fill(picture, hole), (*pad, (0, 0)), mode="edge")
        holes = np.pad(hole, pad)
        filled = framed.copy()
        for top in range(0, rows, CORE):
            for left in range(0, columns, CORE):
                inner = _square(top + CONTEXT, left + CONTEXT, CORE)
                if holes[inner].any():
                    tile = _square(top, left, CORE + 2 * CONTEXT)
                    new = self._generate(framed[tile], holes[tile])
                    filled[inner] = new[_square(CONTEXT, CONTEXT, CORE)]
        filled = filled[CONTEXT : CONTEXT + rows, CONTEXT : CONTEXT + columns]
        return np.where(hole[..., None], filled, picture).astype(np.uint8)

    def _generate(self, tile: Picture, hole: Mask) -> Picture:
        start = np.ascontiguousarray(tile.transpose(2, 0, 1)[None], np.float32) / np.float32(127.5) - 1
        made = self._run(start, hole[None, None].astype(np.float32))[0]
        levels = np.rint((made.transpose(1, 2, 0) + 1) * 127.5)
        return np.asarray(np.clip(levels, 0, 255), np.uint8)


def emptied(picture: npt.NDArray[Any], hole: Mask) -> npt.NDArray[Any]:
    """A copy with the hole set to the mean of the known pixels around it, so that none of its pixels is left.

    OpenCV's methods read the hole itself where it touches the picture's edge (5.0: Telea at the left side,
    both in corners): a name in a corner would show through.
    """
    known = (~hole).astype(np.float32)
    side = (2 * AROUND + 1, 2 * AROUND + 1)
    weight = cv2.boxFilter(known, -1, side, normalize=False)
    result = np.array(picture, copy=True)
    for plane in (result[..., index] for index in range(3)) if picture.ndim == 3 else (result,):
        values = plane.astype(np.float32)
        total = cv2.boxFilter(values * known, -1, side, normalize=False)
        far = float(values[~hole].mean()) if known.any() else 0.0
        mean = np.where(weight > 0.5, total / np.maximum(weight, 1), far)
        plane[hole] = np.rint(mean[hole]).astype(picture.dtype)
    return result


def on_onnx(data: bytes, threads: int) -> Run:
    """An exported network (``start``, ``hole`` → ``filled``) on ONNX Runtime with so many ``threads``."""
    network = OnnxRuntime(data, threads)
    return lambda start, hole: network(start, hole)["filled"]


def _square(top: int, left: int, side: int) -> tuple[slice, slice]:
    return slice(top, top + side), slice(left, left + side)
