"""A U-Net that decides for every pixel whether it belongs to burned-in annotation, and to which kind.

The input is in colour, because calipers and labels are mostly yellow or cyan. The picture is folded to half
its size with four times the channels, and unfolded at the end: output at full resolution for a quarter of the
work (a single layer of 16 channels at 1024 × 768 would take as long as the whole network).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

CLASSES = ("background", "text", "caliper", "marker", "scale", "logo")
"""In the order of the outputs."""
STEP = 16
"""Rows and columns of an input are multiples of this."""
WIDTHS = (24, 40, 72, 112)
OUTPUTS = ("marked", "classes")


class MarkNetwork(nn.Module):
    """The mark detector. ``forward`` takes float32 RGB ``[N, 3, rows, columns]`` of 0..255 and returns logits
    ``[N, 6, …]``.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _block(before, after) for before, after in zip((12, *widths[:-1]), widths, strict=True)
        )
        self.narrow = nn.ModuleList(
            nn.Conv2d(below, beside, 1) for below, beside in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.up = nn.ModuleList(_block(2 * beside, beside) for beside in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], 4 * len(CLASSES), 1)

    def forward(self, frames: Tensor) -> Tensor:
        x = pixel_unshuffle((frames - 127.5) / 127.5, 2)
        levels: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            levels.append(x)
        for narrow, block, beside in zip(self.narrow, self.up, levels[-2::-1], strict=True):
            x = block(torch.cat([interpolate(narrow(x), scale_factor=2.0, mode="nearest"), beside], 1))
        return pixel_shuffle(self.head(x), 2)


class MarkFinderGraph(nn.Module):
    """The exported graph: ``marked [N, rows, columns]`` 0..1, and the class of the likeliest mark (uint8, 1
    to 5).
    """

    def __init__(self, network: MarkNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(frames)
        marks = logits[:, 1:]
        marked = torch.sigmoid(torch.logsumexp(marks, 1) - logits[:, 0])
        return marked, (marks.argmax(1) + 1).to(torch.uint8)


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
