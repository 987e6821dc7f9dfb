"""A network that reads a line of letters: convolutions, then a symbol or blank for every four columns (CTC).

A. Graves et al., Connectionist Temporal Classification, ICML 2006. All layers are convolutions: a line takes
two milliseconds on one core, and a line of any length is read in one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HEIGHT, STEP = 32, 4
"""Rows of an input, and columns of it for each output."""
WIDTHS = (32, 48, 96, 128)
LINE = 192
"""Channels of the part that knows columns only."""


class ReaderNetwork(nn.Module):
    """The text reader. ``forward``: float32 ``[N, 1, 32, columns]`` of -1..1 to logits ``[N, columns / 4,
    symbols]``.

    ``symbols``: their number with the blank, which is symbol 0.
    """

    def __init__(self, symbols: int) -> None:
        super().__init__()
        first, second, third, fourth = WIDTHS
        self.picture = nn.Sequential(
            _block(1, first, (2, 2)),
            _block(first, second),
            _block(second, second, (2, 2)),
            _block(second, third),
            _block(third, third, (2, 1)),
            _block(third, fourth),
            _block(fourth, fourth, (2, 1)),
        )
        rows = HEIGHT // 16
        self.narrow = nn.Conv1d(rows * fourth, LINE, 1)
        self.line = nn.ModuleList(_Neighbours(dilation) for dilation in (1, 2, 4))
        self.head = nn.Conv1d(LINE, symbols, 1)

    def forward(self, lines: Tensor) -> Tensor:
        x = self.picture(lines)
        x = self.narrow(x.flatten(1, 2))
        for block in self.line:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits.transpose(1, 2)


class ReaderGraph(nn.Module):
    """The exported graph: probabilities ``[N, columns / 4, symbols]`` 0..1."""

    def __init__(self, network: ReaderNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, lines: Tensor) -> Tensor:
        return torch.softmax(self.network(lines), dim=2)


class _Neighbours(nn.Module):
    """Letters beside a letter say what it is: ``x`` plus what its neighbours add."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.depth = nn.Conv1d(
            LINE, LINE, 5, padding=2 * dilation, dilation=dilation, groups=LINE, bias=False
        )
        self.norm = nn.BatchNorm1d(LINE)
        self.mix = nn.Conv1d(LINE, LINE, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.mix(torch.relu(self.norm(self.depth(x)))))


def _block(before: int, after: int, stride: tuple[int, int] = (1, 1)) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
