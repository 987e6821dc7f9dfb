"""Two models of speckle, applied to pictures that have speckle already: no picture without it exists.

Pictures are float32 ``[rows, columns]``, 0 to 1, as a scanner shows them: logarithms of echoes.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
SIGMAS = (0.10, 0.25, 0.50, 0.75)
"""Scales of the Rayleigh factor in the published work."""
WIDE = 256
"""Pixels across of the published pictures."""
RANGE_DB = 60.0
"""Dynamic range between black and white."""


def reduced(picture: Floats) -> Floats:
    """The picture reduced to a width of :data:`WIDE` pixels."""
    rows, columns = picture.shape
    size = (WIDE, round(rows * WIDE / columns))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


def rayleigh(picture: Floats, sigma: float, random: np.random.Generator) -> Floats:
    """The published model: each pixel times a factor of mean 1 with the spread of a Rayleigh distribution of
    scale ``sigma``.

    The noise is white and multiplies logarithms as if they were echoes, so it differs from what scanners
    show.
    """
    drawn = random.rayleigh(sigma, picture.shape)
    factor = 1 + drawn - sigma * np.sqrt(np.pi / 2)
    return np.asarray(np.clip(picture * factor, 0, 1), np.float32)


def scattered(
    picture: Floats, random: np.random.Generator, axial: float = 0.8, lateral: float = 1.4
) -> Floats:
    """The physical model: scatterers of random phase, seen through a point spread function, as an envelope.

    The picture's decibels become amplitudes of complex Gaussian scatterers (J. Goodman, 1975), blurred with
    Gaussians of ``axial`` and ``lateral`` pixels. The envelope, scaled to the same mean power, becomes
    decibels.
    """
    noise = random.standard_normal((2, *picture.shape)).astype(np.float32) / np.float32(np.sqrt(2))
    field = [_spread(part * amplitude(picture), axial, lateral) for part in noise]
    energy = float(np.square(_spread(_point(), axial, lateral)).sum())
    return decibels(np.asarray(np.hypot(*field) / np.sqrt(energy), np.float32))


def amplitude(picture: Floats) -> Floats:
    """Grey levels as relative echo amplitudes: 1 is white, black is :data:`RANGE_DB` below."""
    return np.asarray(np.power(10.0, (picture - 1) * (RANGE_DB / 20)), np.float32)


def decibels(amplitudes: Floats) -> Floats:
    """The inverse of :func:`amplitude`, cut off at black and white."""
    level = 1 + 20 / RANGE_DB * np.log10(np.maximum(amplitudes, 1e-6))
    return np.clip(level, 0, 1).astype(np.float32)


def _spread(part: Floats, axial: float, lateral: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(part, (0, 0), lateral, sigmaY=axial), np.float32)


def _point() -> Floats:
    point = np.zeros((33, 33), np.float32)
    point[16, 16] = 1
    return point
