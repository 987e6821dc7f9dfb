"""The terms of the loss for a filled hole: values, edges, spectrum, features, style, an adversary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, max_pool2d, relu

from ai_training.networks.perception import Perception


@dataclass(frozen=True, slots=True)
class LossWeights:
    """The weight of each term. Pictures are in -1..1; features come from EfficientNet-Lite0.

    Measured at the start, on the Navier-Stokes fill: absolute .055, squared .012, gradient .020, spectrum
    .006, perceptual 2.0, style 4.5 (sums over three layers). With these weights, errors of the values
    contribute .17 and the terms for appearance .06; with style at .5 it was 2.2 of 2.5, and nothing else
    counted.
    """

    absolute: float = 1.0
    squared: float = 10.0
    gradient: float = 0.5
    spectrum: float = 0.5
    perceptual: float = 0.01
    style: float = 0.004
    adversarial: float = 0.01
    divergence: float = 1e-3


def reconstruction(
    made: Tensor, truth: Tensor, hole: Tensor, weights: LossWeights, perception: Perception
) -> Tensor:
    """The sum of all loss terms but the adversary's. ``made`` equals the picture outside ``hole``."""
    difference = (made - truth) * hole
    inside = 3 * hole.sum().clamp(min=1)
    loss = weights.absolute * difference.abs().sum() / inside
    loss = loss + weights.squared * difference.square().sum() / inside
    if weights.gradient:
        loss = loss + weights.gradient * _edges(made, truth, hole)
    if weights.spectrum:
        loss = loss + weights.spectrum * l1_loss(_spectrum(made), _spectrum(truth))
    if weights.perceptual or weights.style:
        with torch.no_grad():
            wanted = perception.layers(truth)
        for have, want in zip(perception.layers(made), wanted, strict=True):
            loss = loss + weights.perceptual * l1_loss(have, want)
            loss = loss + weights.style * l1_loss(_gram(have), _gram(want))
    return loss


def divergence(moments: tuple[Tensor, Tensor]) -> Tensor:
    """Kullback-Leibler divergence of the latent from the standard normal, mean over its elements."""
    mean, logarithm = moments
    return 0.5 * (mean.square() + logarithm.exp() - 1 - logarithm).mean()


def generator_loss(scores: Tensor, hole: Tensor) -> Tensor:
    """The generator's hinge loss, over the patches that the hole touches."""
    return -_over_holes(scores, scores, hole)


def discriminator_loss(real: Tensor, made: Tensor, hole: Tensor) -> Tensor:
    """The discriminator's hinge loss, over the patches that the hole touches."""
    return _over_holes(relu(1 - real), real, hole) + _over_holes(relu(1 + made), made, hole)


def _over_holes(values: Tensor, like: Tensor, hole: Tensor) -> Tensor:
    touched = torch.nn.functional.adaptive_max_pool2d(hole, list(like.shape[-2:]))
    return (values * touched).sum() / touched.sum().clamp(min=1)


def _edges(made: Tensor, truth: Tensor, hole: Tensor) -> Tensor:
    near = max_pool2d(hole, 3, 1, 1)
    total = made.new_zeros(())
    for axis in (-1, -2):
        difference = (torch.diff(made, dim=axis) - torch.diff(truth, dim=axis)).abs()
        total = total + (difference * near.narrow(axis, 0, difference.shape[axis])).sum()
    return total / (6 * near.sum().clamp(min=1))


def _spectrum(picture: Tensor) -> Tensor:
    """Logarithm of the amplitudes: speckle is recognised by its spectrum, not by its values."""
    transformed = torch.fft.rfft2(picture.mean(1), norm="ortho")
    return torch.log1p(transformed.abs())


def _gram(features: Tensor) -> Tensor:
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[-1]
