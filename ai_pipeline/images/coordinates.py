"""Maps between the coordinates of pictures: source image, upright image, network input.

How an image is shown (turned by quarter turns, inverted, mirrored), and how to put it upright.

A chest that is shown turned or inverted is the same chest: it is put upright and analysed, and the results
are mapped back to the source image's coordinates by the same affine map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import Grey, Point


@dataclass(frozen=True, slots=True)
class Affine:
    """An affine map from source to model coordinates: ``x' = a·x + b·y + c``, ``y' = d·x + e·y + f``. Both
    sides count from the top left corner of the top left pixel (see :mod:`ai_pipeline.contract`).
    """

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def __call__(self, points: Sequence[Point]) -> tuple[Point, ...]:
        """Map points (x, y)."""
        return tuple((self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f) for x, y in points)

    def after(self, first: Affine) -> Affine:
        """The map that applies ``first`` and then this map."""
        return Affine(
            self.a * first.a + self.b * first.d,
            self.a * first.b + self.b * first.e,
            self.a * first.c + self.b * first.f + self.c,
            self.d * first.a + self.e * first.d,
            self.d * first.b + self.e * first.e,
            self.d * first.c + self.e * first.f + self.f,
        )

    def between_centres(self) -> npt.NDArray[np.float64]:
        """The map as a matrix ``[2, 3]`` for OpenCV, which counts from the centres of pixels."""
        rows = ((self.a, self.b, self.c), (self.d, self.e, self.f))
        return np.array([(x, y, offset + (x + y) / 2 - 0.5) for x, y, offset in rows])

    def inverse(self) -> Affine:
        """The map back from model to source coordinates. Raises ValueError when the map has no inverse."""
        determinant = self.a * self.e - self.b * self.d
        if determinant == 0.0:
            raise ValueError("an affine map without inverse")
        a, b = self.e / determinant, -self.b / determinant
        d, e = -self.d / determinant, self.a / determinant
        return Affine(a, b, -(a * self.c + b * self.f), d, e, -(d * self.c + e * self.f))


@dataclass(frozen=True, slots=True)
class Pose:
    """How a picture is shown: first mirrored left to right, then turned clockwise, then inverted.

    ``turned`` in degrees: 0, 90, 180 or 270.
    """

    turned: int = 0
    inverted: bool = False
    mirrored: bool = False

    @property
    def name(self) -> str:
        """The pose as a short text: ``upright``, ``turned 90``, ``inverted``, ``turned 90, inverted`` …"""
        parts = [f"turned {self.turned}"] if self.turned else []
        parts += ["inverted"] if self.inverted else []
        parts += ["mirrored"] if self.mirrored else []
        return ", ".join(parts) or "upright"

    @property
    def sentence(self) -> str:
        """How the picture deviates from upright, in words: ``shown turned by 90° clockwise and inverted``."""
        turned = f"turned by {self.turned}°" + (" clockwise" if self.turned in {90, 270} else "")
        parts = [turned] if self.turned else []
        parts += ["inverted (black and white exchanged)"] if self.inverted else []
        parts += ["mirrored"] if self.mirrored else []
        return f"shown {' and '.join(parts)}" if parts else "shown upright"


UPRIGHT = Pose()
POSES = tuple(Pose(turned, inverted) for inverted in (False, True) for turned in (0, 90, 180, 270))
"""The poses that pixels can tell. Pixels do not show mirroring: the side of the heart is too uncertain."""


def shown(upright: Grey, pose: Pose) -> Grey:
    """Return the picture ``upright`` as it looks in ``pose``."""
    picture = upright[:, ::-1] if pose.mirrored else upright
    picture = np.rot90(picture, -pose.turned // 90)
    return np.ascontiguousarray(~picture if pose.inverted else picture)


def upright(picture: Grey, pose: Pose) -> tuple[Grey, Affine]:
    """The upright copy of a picture shown in ``pose``, and the map from the picture to that copy."""
    back = np.rot90(picture, pose.turned // 90)
    rows, columns = map(float, picture.shape)
    to_upright = {  # corners stay corners
        0: Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        90: Affine(0.0, 1.0, 0.0, -1.0, 0.0, columns),
        180: Affine(-1.0, 0.0, columns, 0.0, -1.0, rows),
        270: Affine(0.0, -1.0, rows, 1.0, 0.0, 0.0),
    }[pose.turned]
    if pose.mirrored:
        back = back[:, ::-1]
        to_upright = Affine(-1.0, 0.0, float(back.shape[1]), 0.0, 1.0, 0.0).after(to_upright)
    return np.ascontiguousarray(~back if pose.inverted else back), to_upright
