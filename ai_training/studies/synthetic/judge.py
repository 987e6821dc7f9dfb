"""How good synthetic images are: KID in the features of EfficientNet-Lite0 (ImageNet), and how many are
copies.

KID (Bińkowski et al., ICLR 2018) is the unbiased squared maximum mean discrepancy with the kernel (x·y / d +
1)³, in the paper on features of Inception. The numbers here are comparable with each other only.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import pairwise_distances

from ai_pipeline.models.preprocess import normalise
from ai_training.chest.batches import MEAN, SCALE
from ai_training.metrics import SEED, Interval, interval
from ai_training.networks.perception import SIDE, Perception

SUBSETS = 200
AT_ONCE = 64
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Judged:
    """The quality of synthetic images. ``kid``: of synthetic against held-out real images; ``floor``: of as
    many real training images against the held-out ones.

    ``nearer_training``: share of the synthetic images whose nearest real image is a training image rather
    than one of as many held-out images; one half if nothing was copied. ``real_nearer_training``: the same
    for other real images.
    """

    kid: Interval
    floor: Interval
    nearer_training: Interval
    real_nearer_training: Interval


def judge(made: Bytes, training: Bytes, held_out: Bytes) -> Judged:
    """Judge ``made [N, side, side]`` by the real images of the training and by held-out images of other
    patients.
    """
    network = Perception()
    random = np.random.default_rng(SEED)
    held_out, training = (random.permutation(part) for part in (held_out, training))
    half = len(held_out) // 2
    asked, compared = held_out[:half], held_out[half:]
    synthetic, learned, kept, others = (
        features(network, part) for part in (made, training[: len(compared)], compared, asked)
    )
    return Judged(
        kid_interval(synthetic, kept),
        kid_interval(learned, kept),
        nearer(synthetic, learned, kept),
        nearer(others, learned, kept),
    )


def features(network: Perception, pixels: Bytes) -> Floats:
    """Features ``[N, 1280]`` of the images ``pixels [N, side, side]``, resized to 128 × 128 pixels."""
    parts = []
    for start in range(0, len(pixels), AT_ONCE):
        sized = [cv2.resize(image, (SIDE, SIDE)) for image in pixels[start : start + AT_ONCE]]
        with torch.inference_mode():
            inputs = torch.from_numpy(normalise(np.stack(sized).astype(np.uint8), MEAN, SCALE))
            parts.append(network.pooled(inputs).numpy())
    return np.concatenate(parts)


def kid(one: Floats, other: Floats) -> float:
    """The unbiased estimate of KID for features ``[N, d]`` and ``[M, d]``; about 0 if both are alike."""
    within = [_without_diagonal(part) for part in (_kernel(one, one), _kernel(other, other))]
    return float(sum(within) - 2 * _kernel(one, other).mean())


def kid_interval(one: Floats, other: Floats) -> Interval:
    """:func:`kid` with a 95 % interval from random halves of both sets, which spread like the whole sets."""
    random = np.random.default_rng(SEED)
    drawn = [
        kid(*(part[random.permutation(len(part))[: max(2, len(part) // 2)]] for part in (one, other)))
        for _ in range(SUBSETS)
    ]
    return interval(kid(one, other), np.array(drawn))


def nearer(asked: Floats, one: Floats, other: Floats) -> Interval:
    """Share of ``asked`` whose nearest neighbour in ``one`` is nearer than that in ``other``, of equal
    numbers.
    """
    many = min(len(one), len(other))
    to_one, to_other = (pairwise_distances(asked, part[:many]).min(1) for part in (one, other))
    hits = (to_one < to_other).astype(np.float64)
    random = np.random.default_rng(SEED)
    drawn = hits[random.integers(len(hits), size=(1000, len(hits)))].mean(1)
    return interval(float(hits.mean()), drawn)


def _kernel(one: Floats, other: Floats) -> Floats:
    return np.asarray((one.astype(np.float64) @ other.T / one.shape[1] + 1) ** 3)


def _without_diagonal(kernel: Floats) -> float:
    size = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (size * (size - 1)))
