"""An ultralytics YOLO on our trunk: the detector that a site may train, exported to run without torch.

This is the only module that trains with ultralytics (AGPL-3.0). The backbone is the shipped classifier's
EfficientNet-Lite0, so that 500 boxes need not teach what a chest looks like; neck and head start at random.
The head is YOLO26's (one box per object, no non-maximum suppression needed), so the ONNX file returns final
boxes: ``boxes [1, N, 6]``, each left, top, right, bottom in pixels of the input, score, number of the label
in the classifier's card. Its input is the classifier's input.

Pictures are preprocessed as for the classifier (:mod:`ai_pipeline.models.registry`). They are neither
mirrored nor cut into mosaics: the heart has a side, and the place in the chest is half of a finding."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.registry import Card, Input, prepare
from ai_training.cards import strip
from ai_training.networks import FINE, MIDDLE, from_arrays, offer_torchvision_operators, parameters
from ai_training.sets.files import read_grey
from ai_training.sets.images import TruthBox, corners

FILE = "yolo.onnx"
TRUNK_CHANNELS = (40, 112, 320)  # at strides 8, 16 and 32


@dataclass(frozen=True, slots=True)
class YoloRecipe:
    """The settings for training a YOLO box detector."""

    epochs: int = 20
    batch: int = 16
    rate: float = 1e-3
    seed: int = 7
    threads: int = 1


def train_yolo(boxes: Sequence[TruthBox], card: Card, out: Path, recipe: YoloRecipe) -> Path:
    """Train a YOLO on ``boxes`` for all epochs and export the moving average of its weights; returns the ONNX
    file in ``out``. ``card``: the classifier whose backbone and input it uses; it learns the labels of the
    boxes.
    """
    os.environ.setdefault("YOLO_CONFIG_DIR", str(out))
    os.environ["YOLO_OFFLINE"] = "true"
    offer_torchvision_operators()
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn import tasks

    class Trainer(DetectionTrainer):  # type: ignore[misc]
        """Ultralytics' trainer without its own figures: they are not ours, and need torchvision's compiled
        operators.
        """

        def validate(self) -> tuple[dict[str, float], float]:
            """Measure nothing."""
            return {}, 0.0

        def final_eval(self) -> None:
            pass

    labels = sorted({box.label for box in boxes})
    assert card.input is not None
    table = _write_set(boxes, labels, out / "set", card.input)
    trunk = _Trunk(card, card.input.size)
    tasks.TorchVision = lambda *_args, **_options: trunk
    network = YOLO(str(_write_architecture(out, len(labels))), task="detect")
    network.train(
        trainer=Trainer,
        data=str(table),
        project=str(out),
        name="run",
        exist_ok=True,
        **_settings(recipe, card.input.size),
    )
    return export(network.trainer.ema.ema, card, labels, out / FILE)


def export(network: Any, card: Card, labels: Sequence[str], path: Path) -> Path:
    """Write ultralytics' ``network`` of ``labels`` as ONNX to ``path``, with the preprocessing of ``card``:
    the classifier's input ``images [1, 3, size, size]`` → ``boxes [1, N, 6]``.
    """
    assert card.input is not None
    head = network.model[-1]
    head.export, head.format, head.max_det, head.end2end = True, "onnx", 100, True
    unfinished = path.with_suffix(".part")
    torch.onnx.export(
        _Seeing(network, card, labels).float().eval(),
        (torch.zeros(1, 3, card.input.size, card.input.size),),
        str(unfinished),
        input_names=["images"],
        output_names=["boxes"],
        opset_version=17,
        dynamo=False,
    )
    strip(unfinished, "chest-yolo")
    return unfinished.replace(path)


class _Seeing(nn.Module):
    """A wrapper that gives ultralytics' network (pictures from 0 to 1) the classifier's input, and its boxes
    the classifier's label numbers.
    """

    numbers: Tensor

    def __init__(self, network: nn.Module, card: Card, labels: Sequence[str]) -> None:
        """``card``: of the classifier whose input is used; ``labels``: the network's, in its order."""
        super().__init__()
        self.network = network
        self.mean, self.scale = _levels(card)
        known = [row.name for row in card.labels]
        self.register_buffer("numbers", torch.tensor([float(known.index(label)) for label in labels]))

    def forward(self, images: Tensor) -> Tensor:
        """The boxes in ``images``."""
        boxes: Tensor = self.network((images * self.scale + self.mean) / 255.0)
        numbers = self.numbers[boxes[..., 5].round().long()]
        return torch.cat([boxes[..., :5], numbers[..., None]], -1)


class _Trunk(nn.Module):
    """EfficientNet-Lite0 of a classifier's model card as a backbone for ultralytics: it returns the feature
    maps at strides 8, 16 and 32.
    """

    def __init__(self, card: Card, size: int) -> None:
        """Load the backbone of the classifier of ``card``; ``size``: side of the input in pixels."""
        super().__init__()
        arrays = dict(parameters(card.file("classifier")))
        cells = size // 16
        arrays["place_bias"] = np.zeros((len(card.labels), cells, cells), np.float32)
        self.backbone = from_arrays(arrays, len(card.labels), size).backbone
        self.mean, self.scale = _levels(card)
        del self.backbone._conv_head, self.backbone._bn1

    def forward(self, images: Tensor) -> list[Tensor]:
        """The feature maps of ``images``, one per stride, finest first."""
        net = self.backbone
        x = net._swish(net._bn0(net._conv_stem((images * 255.0 - self.mean) / self.scale)))
        maps = []
        for index, block in enumerate(net._blocks):
            x = block(x)
            if index in (FINE, MIDDLE):
                maps.append(x)
        return [*maps, x]


def _levels(card: Card) -> tuple[float, float]:
    """Mean and scale of the classifier's input, in grey levels."""
    assert card.input is not None
    return card.input.mean[0], card.input.scale[0]


def _settings(recipe: YoloRecipe, size: int) -> dict[str, Any]:
    """The arguments of ultralytics' training. ``size``: side of the input in pixels, a multiple of 32."""
    return {
        "imgsz": size,
        "epochs": recipe.epochs,
        "batch": recipe.batch,
        "seed": recipe.seed,
        "lr0": recipe.rate,
        "optimizer": "AdamW",
        "cos_lr": True,
        "warmup_epochs": 1.0,
        "weight_decay": 0.01,
        "degrees": 5.0,
        "translate": 0.06,
        "scale": 0.12,
        "fliplr": 0.0,
        "flipud": 0.0,
        "mosaic": 0.0,
        "mixup": 0.0,
        "copy_paste": 0.0,
        "erasing": 0.0,
        "hsv_h": 0.0,
        "hsv_s": 0.0,
        "hsv_v": 0.3,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "workers": 0,
        "amp": False,
        "val": False,
        "plots": False,
        "pretrained": False,
        "deterministic": True,
        "verbose": False,
        "freeze": [0],  # the trunk
    }


def _write_set(boxes: Sequence[TruthBox], labels: Sequence[str], folder: Path, wanted: Input) -> Path:
    """Write pictures, prepared as ``wanted``, and boxes in ultralytics' layout: one text file per picture,
    boxes as centre and size; returns the file that describes the set.
    """
    pictures, texts = folder / "images" / "train", folder / "labels" / "train"
    for made in (pictures, texts):
        made.mkdir(parents=True, exist_ok=True)
    of_image: dict[Path, list[TruthBox]] = {}
    for box in boxes:
        of_image.setdefault(box.image.path, []).append(box)
    for path, mine in of_image.items():
        grey = read_grey(path)
        picture, to_model = prepare(grey, wanted.chain, wanted.size)
        cv2.imwrite(str(pictures / f"{path.stem}.png"), picture)
        lines = [_line(box, labels.index(box.label), grey.shape, to_model, wanted.size) for box in mine]
        (texts / f"{path.stem}.txt").write_text("".join(lines))
    table = folder / "set.yaml"
    names = "".join(f"  {number}: {label}\n" for number, label in enumerate(labels))
    # Ultralytics asks for a val set, though nothing is chosen by it here.
    table.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/train\nnames:\n{names}")
    return table


def _line(box: TruthBox, number: int, shape: tuple[int, int], to_model: Affine, size: int) -> str:
    """Write a box as a line of ultralytics' label file. ``number``: of its label; ``shape``: rows and columns
    of the picture; ``to_model``: the map to the input of ``size`` pixels.
    """
    (rows, columns), (left, top, right, bottom) = shape, corners(box)
    placed = to_model(((left * columns, top * rows), (right * columns, bottom * rows)))
    (x0, y0), (x1, y1) = ((x / size, y / size) for x, y in placed)
    return f"{number} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}\n"


def _write_architecture(out: Path, labels: int) -> Path:
    """Write ultralytics' description of the network for so many ``labels`` into ``out``; returns its path."""
    fine, middle, last = TRUNK_CHANNELS
    path = out / "yolo-lite0.yaml"
    path.write_text(
        f"""nc: {labels}
end2end: True
reg_max: 1
backbone:
  - [-1, 1, TorchVision, [{last}, trunk]]
  - [0, 1, Index, [{fine}, 0]]
  - [0, 1, Index, [{middle}, 1]]
  - [0, 1, Index, [{last}, 2]]
head:
  - [3, 1, Conv, [128, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 2], 1, Concat, [1]]
  - [-1, 1, C2f, [128]]
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 1], 1, Concat, [1]]
  - [-1, 1, C2f, [64]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [[-1, 7], 1, Concat, [1]]
  - [-1, 1, C2f, [128]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C2f, [128]]
  - [[10, 13, 16], 1, Detect, [nc]]
"""
    )
    return path
