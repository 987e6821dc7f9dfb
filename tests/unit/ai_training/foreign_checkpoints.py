"""Full-size checkpoints of other projects, and what those projects say with them: made by their own code.

A program of its own, ``python -m tests.unit.ai_training.foreign_checkpoints KIND FOLDER``: these libraries
change warnings at import. Random weights, a real network. It leaves ``checkpoint.*`` and ``expected.npz`` in
the folder: ``image`` (what a viewer shows), ``input`` (the library's own preprocessing of it) and ``scores``.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ai_training.networks import offer_torchvision_operators


def image() -> Any:
    """A picture with structure at every scale, wider than high."""
    rows, columns = np.mgrid[0:700, 0:840]
    waves = np.sin(rows / 37.0) * np.cos(columns / 23.0) + np.sin((rows + 2 * columns) / 211.0)
    noise = np.random.default_rng(5).normal(0, 0.1, waves.shape)
    return np.clip((waves + noise + 2) * 64, 0, 255).astype(np.uint8)


def timm(folder: Path) -> None:
    """A training script's dictionary around the parameters of timm's ResNet-18 with three outputs."""
    import timm
    from timm.data import create_transform, resolve_data_config

    network, shown = timm.create_model("resnet18", pretrained=False, num_classes=3).eval(), image()
    transform = create_transform(**resolve_data_config({}, model=network))
    pixels = transform(Image.fromarray(shown).convert("RGB"))[None]
    # Fresh weights answer all alike, or beyond what a sigmoid can tell apart; these give logits about ±1.
    with torch.no_grad():
        head = network.get_classifier()
        pooled = network.forward_head(network.forward_features(pixels), pre_logits=True)
        torch.nn.init.normal_(head.weight)
        torch.nn.init.zeros_(head.bias)
        head.weight /= head(pooled).std()
        torch.nn.init.normal_(head.bias)
        scores = network(pixels)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 3, "args": {"lr": 0.1}, "state_dict": state}, folder / "checkpoint.pth")
    np.savez(folder / "expected.npz", image=shown, input=pixels.numpy(), scores=scores.numpy())


if __name__ == "__main__":
    torch.manual_seed(1)
    offer_torchvision_operators()
    {"timm": timm}[sys.argv[1]](Path(sys.argv[2]))
