"""What resumable training runs share: checkpoints that are whole or not there, and a moving average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

CHECKPOINT = "checkpoint.pt"


def save(out: Path, recipe: str, state: dict[str, Any]) -> None:
    """Write ``out/checkpoint.pt`` in one step, so that an interrupted run leaves the one before."""
    partial = out / "checkpoint.partial"
    torch.save({"recipe": recipe, **state}, partial)
    partial.replace(out / CHECKPOINT)


def load(out: Path, recipe: str) -> dict[str, Any]:
    """Read ``out/checkpoint.pt``. ValueError when it is of another recipe, FileNotFoundError when missing."""
    state: dict[str, Any] = torch.load(out / CHECKPOINT, weights_only=True)
    if state["recipe"] != recipe:
        raise ValueError(f"{CHECKPOINT} was made by another recipe: train into a new folder")
    return state


def move_average(average: nn.Module, network: nn.Module, done: int, keep: float) -> None:
    """Move ``average`` towards ``network``; quickly in the first iterations."""
    keep = min(keep, (1 + done) / (10 + done))
    current = network.state_dict()
    with torch.no_grad():
        for name, value in average.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(current[name], 1 - keep)
            else:
                value.copy_(current[name])
