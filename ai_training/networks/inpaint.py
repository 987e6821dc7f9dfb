"""Networks that fill a hole in an ultrasound picture, and the adversary that one of them learns against.

``OciGan`` is our reading of the published residual inpainting GAN: residual blocks, a patch discriminator and
a sum of losses. Unlike the original it starts from the Navier-Stokes fill and adds a correction, so that it
begins where the classical method ends (a generator that starts from nothing was 1 dB worse after 3 minutes of
training). ``UNet`` and ``Vae`` are for comparison: their input is the picture with its hole. The interface
for their use is :mod:`ai_pipeline.burnin.fill.inpainters`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

LATENT = 16


class Filler(nn.Module):
    """The interface of every inpainting architecture.

    ``start [N, 3, h, w]`` in -1..1: the picture with its hole filled by Navier-Stokes. ``hole [N, 1, h, w]``:
    1 inside. Returns a picture in the shape of ``start``; the caller uses only the pixels inside the hole.
    """

    def forward(self, start: Tensor, hole: Tensor) -> Tensor:
        raise NotImplementedError


class OciGan(Filler):
    """A generator of residual blocks with growing dilation; it predicts the correction of the
    classical fill.
    """

    def __init__(self, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(16, width // 2, 3, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.body = nn.Sequential(*(_Residual(width, 2 ** (index % 4)) for index in range(blocks)))
        self.leave = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(width // 2, 12, 3, padding=1),
        )

    def forward(self, start: Tensor, hole: Tensor) -> Tensor:
        x = self.enter(pixel_unshuffle(torch.cat([start, 2 * hole - 1], 1), 2))
        return start + hole * pixel_shuffle(self.leave(self.body(x)), 2)


class UNet(Filler):
    """A plain U-Net: the hole is black in its input, and it predicts the content, not a correction."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 72, 96)) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _double(before, after) for before, after in zip((16, *widths[:-1]), widths, strict=True)
        )
        self.up = nn.ModuleList(
            _double(below + beside, beside)
            for below, beside in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], 12, 1)

    def forward(self, start: Tensor, hole: Tensor) -> Tensor:
        x = pixel_unshuffle(torch.cat([_emptied(start, hole), 2 * hole - 1], 1), 2)
        levels: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.avg_pool2d(x, 2))
            levels.append(x)
        for block, beside in zip(self.up, levels[-2::-1], strict=True):
            x = block(torch.cat([interpolate(x, scale_factor=2.0, mode="nearest"), beside], 1))
        return torch.tanh(pixel_shuffle(self.head(x), 2))


class Vae(Filler):
    """A variational autoencoder with a latent map at an eighth of the size.

    ``moments``: mean and log variance of the last call in training mode. In other modes the mean is decoded.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for before, after in zip((4, *widths[:-1]), widths, strict=True):
            steps += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.1, inplace=True)]
        self.encoder = nn.Sequential(*steps, _Residual(widths[-1], 1), nn.Conv2d(widths[-1], 2 * LATENT, 1))
        steps = [nn.Conv2d(LATENT, widths[-1], 3, padding=1), _Residual(widths[-1], 1)]
        for before, after in zip(widths[::-1], (*widths[-2::-1], widths[0]), strict=True):
            steps += [
                nn.Conv2d(before, 4 * after, 3, padding=1),
                nn.PixelShuffle(2),
                nn.LeakyReLU(0.1, inplace=True),
            ]
        self.decoder = nn.Sequential(*steps, nn.Conv2d(widths[0], 3, 3, padding=1), nn.Tanh())
        self.moments: tuple[Tensor, Tensor] | None = None

    def forward(self, start: Tensor, hole: Tensor) -> Tensor:
        mean, logarithm = self.encoder(torch.cat([_emptied(start, hole), 2 * hole - 1], 1)).chunk(2, 1)
        latent = mean
        if self.training:
            logarithm = logarithm.clamp(-10, 5)
            self.moments = mean, logarithm
            latent = mean + torch.randn_like(mean) * torch.exp(0.5 * logarithm)
        decoded: Tensor = self.decoder(latent)
        return decoded


class PatchDiscriminator(nn.Module):
    """Rates how real overlapping patches of about 34 pixels look; the hole is part of its input."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        normed = nn.utils.parametrizations.spectral_norm
        self.layers = nn.Sequential(
            normed(nn.Conv2d(4, width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2, inplace=True),
            normed(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2, inplace=True),
            normed(nn.Conv2d(2 * width, 4 * width, 3, padding=1)),
            nn.LeakyReLU(0.2, inplace=True),
            normed(nn.Conv2d(4 * width, 1, 3, padding=1)),
        )

    def forward(self, picture: Tensor, hole: Tensor) -> Tensor:
        scores: Tensor = self.layers(torch.cat([picture, hole], 1))
        return scores


ARCHITECTURES: dict[str, type[Filler]] = {"oci-gan": OciGan, "unet": UNet, "vae": Vae}


def _emptied(start: Tensor, hole: Tensor) -> Tensor:
    """Black where the hole is: these networks get no help from the classical fill."""
    return start * (1 - hole) - hole


def _double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(after, after, 3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=reach, dilation=reach),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.layers(x)
        return x + added
