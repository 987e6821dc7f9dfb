"""Full-size checkpoints of other projects, and what those projects say with them: made by their own code.

A program of its own, ``python -m tests.unit.ai_training.foreign_checkpoints KIND FOLDER``: these libraries
change warnings at import. Random weights, a real network. It leaves ``checkpoint.*`` and ``expected.npz`` in
the folder: ``image`` (what a viewer shows), ``input`` (the library's own preprocessing of it) and ``scores``.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ai_training.conversion.foreign import offer_torchvision_operators


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


def yolo11(folder: Path) -> None:
    """YOLO11n of three labels with random weights, exported; ``boxes`` by Ultralytics' own
    post-processing.
    """
    os.environ |= {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true"}
    from ultralytics.data.augment import LetterBox
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import scale_boxes

    network, shown = DetectionModel("yolo11n.yaml", nc=3, verbose=False).float(), image()
    boxed = LetterBox((320, 320), auto=False)(image=np.repeat(shown[:, :, None], 3, 2))
    pixels = torch.from_numpy(np.ascontiguousarray(boxed.transpose(2, 0, 1)[None])).float() / 255
    _learn_norms(network, pixels)
    head = network.model[-1]
    for scores in head.cv3:
        torch.nn.init.normal_(scores[-1].weight, std=0.2)
        torch.nn.init.constant_(scores[-1].bias, -3.0)
    head.export, head.format = True, "onnx"
    with torch.no_grad():
        said = network(pixels)
    names = {"input_names": ["images"], "output_names": ["output0"]}
    torch.onnx.export(network, (pixels,), str(folder / "yolo.onnx"), opset_version=17, dynamo=False, **names)
    sys.modules.pop("torchvision", None)  # its compiled NMS is not there: Ultralytics has its own
    (found,) = non_max_suppression(said.clone(), conf_thres=0.25, iou_thres=0.45, max_det=20)
    found[:, :4] = scale_boxes(pixels.shape[2:], found[:, :4], shown.shape)
    np.savez(folder / "expected.npz", image=shown, input=pixels, scores=said.numpy(), boxes=found.numpy())


@torch.no_grad()
def _learn_norms(network: Any, pixels: torch.Tensor) -> None:
    """The norms learn this picture: else all answers are alike."""
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    network.train()(pixels)
    network.eval()


if __name__ == "__main__":
    torch.manual_seed(1)
    offer_torchvision_operators()
    {"timm": timm, "yolo11": yolo11}[sys.argv[1]](Path(sys.argv[2]))
