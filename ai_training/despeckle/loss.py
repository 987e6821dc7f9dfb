"""Losses for a despeckled picture: pixel values, structure, features of EfficientNet-Lite0 (ImageNet)."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, l1_loss, mse_loss

from ai_training.networks.perception import Perception

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of MS-SSIM, from the finest scale on (Z. Wang et al., Asilomar 2003)."""
NEGLIGIBLE = 1e-5
"""Mean square error, 50 dB below white, under which less is no longer worth much."""
PERCEPTUAL = 0.02
"""Weight of the difference of features, beside the difference of pixel values (weight 1)."""


class DespeckleLoss(StrEnum):
    """Names of the losses: those from publications, and the loss of our own network."""

    L1_MS_SSIM = "l1-ms-ssim"
    L1_PERCEPTUAL = "l1-perceptual"
    L2_PERCEPTUAL = "l2-perceptual"
    TASK = "task"


def loss_of(made: Tensor, truth: Tensor, loss: DespeckleLoss, perception: Perception | None) -> Tensor:
    """The loss of filtered pictures ``made`` against ``truth``, both ``[N, 1, rows, columns]``, 0..1.

    For the loss ``task``, the part that needs no segmenter.
    """
    if loss is DespeckleLoss.L1_MS_SSIM:
        return 0.16 * l1_loss(made, truth) + 0.84 * (1 - ms_ssim(made, truth))  # H. Zhao et al., 2017
    if loss is DespeckleLoss.TASK:
        return 0.1 * decibels(made, truth) + 0.1 * (1 - ms_ssim(made, truth, SCALES[:3]))
    assert perception is not None
    values = l1_loss(made, truth) if loss is DespeckleLoss.L1_PERCEPTUAL else mse_loss(made, truth)
    with torch.no_grad():
        wanted = perception.layers(_as_rgb(truth))
    pairs = zip(perception.layers(_as_rgb(made)), wanted, strict=True)
    return values + PERCEPTUAL * torch.stack([l1_loss(have, want) for have, want in pairs]).sum()


def decibels(made: Tensor, truth: Tensor) -> Tensor:
    """The mean square error of each picture in dB above :data:`NEGLIGIBLE`, averaged over pictures: so weak
    noise counts as much as strong noise.
    """
    return 10 * torch.log10(1 + (made - truth).square().mean((1, 2, 3)) / NEGLIGIBLE).mean()


def ms_ssim(made: Tensor, truth: Tensor, scales: tuple[float, ...] = SCALES) -> Tensor:
    """Multi-scale structural similarity, up to 1; the coarsest scale must hold a window of 11 pixels."""
    weights = torch.tensor(scales) / sum(scales)
    product = made.new_ones(())
    for level, weight in enumerate(weights):
        whole, contrast = _ssim(made, truth)
        product = product * (whole if level == len(scales) - 1 else contrast).clamp(min=1e-4) ** weight
        made, truth = avg_pool2d(made, 2), avg_pool2d(truth, 2)
    return product


def _ssim(made: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Structural similarity, and its part without brightness, mean over pictures."""
    offsets = torch.arange(11, device=made.device) - 5.0
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = (line / line.sum()).to(made.dtype)

    def smooth(values: Tensor) -> Tensor:
        return conv2d(conv2d(values, window[None, None, None]), window[None, None, :, None])

    mean_a, mean_b = smooth(made), smooth(truth)
    spread_a, spread_b = smooth(made * made) - mean_a**2, smooth(truth * truth) - mean_b**2
    both = smooth(made * truth) - mean_a * mean_b
    contrast = (2 * both + 0.03**2) / (spread_a + spread_b + 0.03**2)
    bright = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    return (bright * contrast).mean(), contrast.mean()


def _as_rgb(pictures: Tensor) -> Tensor:
    return (2 * pictures - 1).expand(-1, 3, -1, -1)
