"""Is this an image of the kind that the model was made for? Asked of the pooled features.

The gate keeps the mean, the spread and the main directions of the features of training images. What those
directions cannot explain of a new image's features (mean squared residual, in units of the spread) is small
for chest X-rays and large for everything else that was tried: ultrasound, CT, MR, limbs, teeth.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureGate:
    """``mean [C]``, ``spread [C]``, ``directions [K, C]`` (orthonormal rows)."""

    mean: Floats
    spread: Floats
    directions: Floats

    @staticmethod
    def fit(features: Floats, directions: int) -> FeatureGate:
        """From pooled features ``[N, C]`` of images that belong to the domain."""
        mean, spread = features.mean(0), features.std(0) + 1e-3
        rows = np.linalg.svd((features - mean) / spread, full_matrices=False)[2][:directions]
        return FeatureGate(mean.astype(np.float32), spread.astype(np.float32), rows.astype(np.float32))

    @staticmethod
    def from_bytes(data: bytes) -> FeatureGate:
        """From the bytes of an ``.npz`` file. Raises ValueError or KeyError when it is something else."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return FeatureGate(arrays["mean"], arrays["spread"], arrays["directions"])

    def to_bytes(self) -> bytes:
        """The gate as ``.npz``; the same gate gives the same bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, mean=self.mean, spread=self.spread, directions=self.directions)
        return buffer.getvalue()

    def distance(self, features: Floats) -> Floats:
        """How far pooled features ``[N, C]`` are from the domain: 0 and up, about .3 for chest X-rays."""
        standard = (features - self.mean) / self.spread
        explained = standard @ self.directions.T
        residual = (standard**2).sum(1) - (explained**2).sum(1)
        return np.asarray(residual / standard.shape[1], np.float32)
