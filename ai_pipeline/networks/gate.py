"""The domain gate: whether an image is of the kind that the model was trained on, by its pooled features.

Two tests must pass. *Directions*: the part of the features that the principal directions of the training
images' features leave unexplained (mean squared residual, in units of the spread) is small for chest X-rays
and large for other images. *Head*: a linear classifier that was trained on images to refuse: chests turned,
inverted, tilted, cut off, clipped, of small children, and images of anything else. The head names the kind
too, so that a turned chest can be turned back.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import Floats
from ai_pipeline.images.coordinates import POSES, UPRIGHT, Pose

ASKEW, CUT_OFF, CLIPPED, CHILD, OTHER = "askew", "cut off", "clipped", "child", "other"
KINDS = (*(pose.name for pose in POSES), ASKEW, CUT_OFF, CLIPPED, CHILD, OTHER)
"""The classes of a head; the first is the intended one."""
SURE = 0.5
"""Probability of a pose from which the image is put upright and analysed again."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The likeliest kind of an image, one of :data:`KINDS` such as "turned 90", and its probability, 0 to 1.
    A domain gate without a classifier of kinds gives "".
    """

    name: str
    probability: float

    @property
    def pose(self) -> Pose:
        """The pose of an image of this kind; upright if the kind's probability is below :data:`SURE`."""
        if self.probability < SURE:
            return UPRIGHT
        return next((pose for pose in POSES if pose.name == self.name), UPRIGHT)


UNKNOWN = Kind("", 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The part of a domain gate that classifies an image's kind, linearly in its features: ``kinds`` (names
    of :data:`KINDS`, the upright chest first). ``weights [K, C]``, ``biases [K]``; ``limits``: the distances
    that are scaled to 1, first of the gate's directions, then of this classifier (minus the logarithm of the
    probability of an upright chest).
    """

    kinds: tuple[str, ...]
    weights: Floats
    biases: Floats
    limits: tuple[float, float]

    def probabilities(self, features: Floats) -> Floats:
        """The probability of each kind of image, ``[N, K]``, for pooled features ``[N, C]``."""
        return np.asarray(np.exp(self._logarithms(features)), np.float32)

    def distance(self, features: Floats) -> Floats:
        """The distance ``[N]`` of ``features [N, C]``: 0 for a typical upright adult chest, 1
        at the limit.
        """
        return np.asarray(-self._logarithms(features)[:, 0] / self.limits[1], np.float32)

    def _logarithms(self, features: Floats) -> npt.NDArray[np.float64]:
        """The logarithm of the probability of each kind, ``[N, K]``."""
        scores = features.astype(np.float64) @ self.weights.T + self.biases
        scores -= scores.max(1, keepdims=True)
        return np.asarray(scores - np.log(np.exp(scores).sum(1, keepdims=True)))


@dataclass(frozen=True, slots=True, eq=False)
class FeatureGate:
    """The domain gate: it measures how far an image's features are from those of chest X-rays, so that other
    images can be refused. ``mean [C]``, ``spread [C]`` and ``directions [K, C]`` (orthonormal rows) describe
    the features of chest X-rays. ``head``: a classifier as a second measure, None in old gates. ``usual``:
    the share of the deviation from the mean that the directions leave unexplained at most in nine of ten
    chest X-rays. Severe disease also deviates far, but along the directions; so below this share the
    unexplained part counts less. 0 in old gates: there it always counts in full.
    """

    mean: Floats
    spread: Floats
    directions: Floats
    head: Head | None = None
    usual: float = 0.0

    @staticmethod
    def from_bytes(data: bytes) -> FeatureGate:
        """Read the domain gate from the bytes of an ``.npz`` file. Raises ValueError or KeyError for other
        bytes.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            head = None
            if "kinds" in arrays:
                kinds = tuple(str(kind) for kind in arrays["kinds"])
                first, second = arrays["limits"]
                head = Head(kinds, arrays["weights"], arrays["biases"], (float(first), float(second)))
            usual = float(arrays["usual"]) if "usual" in arrays else 0.0
            return FeatureGate(arrays["mean"], arrays["spread"], arrays["directions"], head, usual)

    def to_bytes(self) -> bytes:
        """The domain gate as the bytes of an ``.npz`` file; equal gates give equal bytes."""
        arrays: dict[str, Any] = {
            "mean": self.mean,
            "spread": self.spread,
            "directions": self.directions,
            "usual": np.float64(self.usual),
        }
        if self.head is not None:
            arrays["kinds"] = np.array(self.head.kinds)
            arrays["weights"], arrays["biases"] = self.head.weights, self.head.biases
            arrays["limits"] = np.array(self.head.limits)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    def distance(self, features: Floats) -> Floats:
        """The distance of mean features ``[N, C]`` from those of chest X-rays, 0 and up. With a head, 1 is
        the limit, and the larger of the distances by directions and by head counts. Without a head it is the
        residual, about .3 for chest X-rays.
        """
        residual = self.residual(features)
        if self.head is None:
            return residual
        farther = np.maximum(residual / self.head.limits[0], self.head.distance(features))
        return np.asarray(farther, np.float32)

    def residual(self, features: Floats) -> Floats:
        """The part of mean features ``[N, C]`` that the directions do not explain, weighted by how usual it
        is: ``[N]``.
        """
        residual, share = self.unexplained(features)
        if self.usual:
            # Exponent by which a small unexplained share is weighted down: at half the usual share, by a
            # quarter.
            residual = residual * np.minimum(share / self.usual, 1.0) ** 2
        return np.asarray(residual, np.float32)

    def unexplained(self, features: Floats) -> tuple[Floats, Floats]:
        """The mean squared residual of ``features [N, C]``, and its share of the deviation from the mean:
        ``[N]`` each.
        """
        standard = (features - self.mean) / self.spread
        explained = standard @ self.directions.T
        whole = (standard**2).sum(1)
        residual = whole - (explained**2).sum(1)
        return residual / standard.shape[1], residual / np.maximum(whole, 1e-12)

    def kind(self, features: Floats) -> Kind:
        """The kind of one image by its mean features ``[1, C]``."""
        if self.head is None:
            return UNKNOWN
        probabilities = self.head.probabilities(features)[0]
        likeliest = int(np.argmax(probabilities))
        return Kind(self.head.kinds[likeliest], float(probabilities[likeliest]))
