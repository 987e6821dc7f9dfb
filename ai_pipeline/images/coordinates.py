"""Maps between the coordinates of pictures: source image, upright image, network input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ai_pipeline.contract import Point


@dataclass(frozen=True, slots=True)
class Affine:
    """Maps source to model coordinates: ``x' = a·x + b·y + c``, ``y' = d·x + e·y + f``.

    Both sides count from the top left corner of the top left pixel (see :mod:`ai_pipeline.contract`).
    """

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def __call__(self, points: Sequence[Point]) -> tuple[Point, ...]:
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

    def inverse(self) -> Affine:
        """The map back from model to source coordinates. Raises ValueError when the map has no inverse."""
        determinant = self.a * self.e - self.b * self.d
        if determinant == 0.0:
            raise ValueError("an affine map without inverse")
        a, b = self.e / determinant, -self.b / determinant
        d, e = -self.d / determinant, self.a / determinant
        return Affine(a, b, -(a * self.c + b * self.f), d, e, -(d * self.c + e * self.f))
