"""A YOLO trained for one epoch on ten made pictures: ``python -m tests.unit.ai_training.detect.tiny_yolo X``.

A program of its own, because ultralytics changes torch, OpenCV and warnings at import. It leaves in folder X
``yolo.onnx`` and ``said.npz``: ``values`` (the input of the first picture), ``boxes`` (what torch says).
"""

import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import torch

from ai_pipeline.models.registry import find, network_input
from ai_training import yolo
from ai_training.sets.images import SetImage, TruthBox

SIDE = 96  # pixels that the network sees


def pictures(folder: Path) -> list[TruthBox]:
    """Dark noise with one bright rectangle, of one label or the other."""
    random, boxes = np.random.default_rng(4), []
    for number in range(10):
        grey = random.integers(0, 60, (128, 128), np.uint8)
        left, top = (int(value) for value in random.integers(10, 60, 2))
        grey[top : top + 50, left : left + 40] += 150
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), grey)
        label = ("Mass", "Effusion")[number % 2]
        # In pixels of a square of 512.
        edges = left * 4.0, top * 4.0, left * 4.0 + 160, top * 4.0 + 200
        boxes.append(TruthBox(label, edges, 512.0, SetImage(path.name, path, str(number), "train")))
    return boxes


def main(folder: Path) -> None:
    """Train, export, and note what torch says of the first picture."""
    yolo.export = exported = Mock(wraps=yolo.export)
    shipped = find("chest-efficientnet-lite0")
    small = replace(shipped.input, size=SIDE, chain=replace(shipped.input.chain, side=SIDE))
    card, boxes = replace(shipped, input=small), pictures(folder)
    yolo.train_yolo(boxes, card, folder, yolo.YoloRecipe(epochs=1, batch=5))
    values, _ = network_input(cv2.imread(str(boxes[0].image.path), cv2.IMREAD_GRAYSCALE), small)
    with torch.inference_mode():
        said = yolo._Seeing(*exported.call_args.args[:3]).float().eval()(torch.from_numpy(values))
    np.savez(folder / "said.npz", values=values, boxes=said.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
