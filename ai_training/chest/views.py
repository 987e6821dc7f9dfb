"""The views of each image that a network is tried on: whole, mirrored, larger, cropped to the lungs.

The mean over the network's last feature maps is stored for each network and view, so that further tries with
these features take seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from ai_pipeline.chest.anatomy import LEFT_LUNG, RIGHT_LUNG, organ_masks
from ai_pipeline.models.card import Card
from ai_pipeline.models.engine import Engine, OnnxRuntime, parameters
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.preprocess import normalise, prepare
from ai_pipeline.models.registry import Chain, read
from ai_pipeline.networks.efficientnet import fuse
from ai_training.chest.batches import MEAN, SCALE
from ai_training.networks.backbone import FeatureMaps
from ai_training.onnx_file import export
from ai_training.progress import Report, silent
from ai_training.sets.files import read_grey
from ai_training.sets.images import ChestImage

Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
BATCH = 16
MARGIN = 0.06
"""Around the lungs, a share of the longer side of their box: for the chest's wall and errors of outlines."""
SMALLEST = 0.4
"""Of the picture's shorter side; lungs in a smaller box were not found, and the whole picture is seen."""


@dataclass(frozen=True, slots=True)
class View:
    """A view. ``side``: of the network's input in pixels; ``lungs``: cropped to the lungs; ``mirrored``: left
    to right.
    """

    side: int
    lungs: bool = False
    mirrored: bool = False

    @property
    def name(self) -> str:
        parts = ["lungs" if self.lungs else "whole", str(self.side), *(["mirrored"] * self.mirrored)]
        return "-".join(parts)

    def of(self, image: Grey, lungs: Box, chain: Chain) -> Grey:
        """``image`` as the network sees it in this view, ``[side, side]``; ``lungs``: the box around them."""
        left, top, right, bottom = lungs
        seen = image[top:bottom, left:right] if self.lungs else image
        square, _ = prepare(seen, replace(chain, side=self.side), self.side)
        return np.ascontiguousarray(square[:, ::-1]) if self.mirrored else square


class LungBoxes:
    """Finds the lungs with the shipped anatomy network, on the unchanged picture only (one
    variant of three).
    """

    def __init__(self, card: Card, threads: int = 0) -> None:
        assert card.input is not None, card.name
        self._input = card.input
        self._engine = OnnxRuntime(read(card.file("anatomy")), threads)

    def box(self, image: Grey) -> Box:
        """The square around both lungs; the whole picture if they were not found."""
        values, to_model = network_input(image, self._input)
        masks = organ_masks(self._engine(values)["organs"][0])
        lungs = masks[RIGHT_LUNG] | masks[LEFT_LUNG]
        rows, columns = image.shape
        if not (masks[RIGHT_LUNG].any() and masks[LEFT_LUNG].any()):
            return 0, 0, columns, rows
        down, across = (np.flatnonzero(lungs.any(axis)) for axis in (1, 0))
        grid = lungs.shape[0] / self._input.size
        corners = to_model.inverse()(
            [(across[0] / grid, down[0] / grid), ((across[-1] + 1) / grid, (down[-1] + 1) / grid)]
        )
        return square_around(corners[0], corners[1], rows, columns)


def square_around(upper: tuple[float, float], lower: tuple[float, float], rows: int, columns: int) -> Box:
    """The square around a box with a margin, within the picture; the whole picture if the square is too
    small.
    """
    wanted = max(lower[0] - upper[0], lower[1] - upper[1]) * (1 + 2 * MARGIN)
    shorter = min(rows, columns)
    if wanted < SMALLEST * shorter:
        return 0, 0, columns, rows
    side = min(round(wanted), shorter)
    left, top = (
        min(max(round((low + high - side) / 2), 0), whole - side)
        for low, high, whole in zip(upper, lower, (columns, rows), strict=True)
    )
    return left, top, left + side, top + side


def shipped_trunk(card: Card) -> bytes:
    """The shipped network up to its last feature maps, as ONNX that takes any even side.

    The padding of its layers does not depend on the side; only the place head, which is left out, does.
    """
    model = onnx.load_model_from_string(read(card.file("classifier")))
    trunk = onnx.utils.Extractor(model).extract_model(["images"], ["features"])
    opened_sizes(trunk)
    return bytes(trunk.SerializeToString())


def opened_sizes(trunk: onnx.ModelProto) -> None:
    """Make batch, height and width of the inputs and outputs of ``trunk`` variable."""
    del trunk.graph.value_info[:]
    for tensor in (*trunk.graph.input, *trunk.graph.output):
        for axis in (0, 2, 3):
            size = tensor.type.tensor_type.shape.dim[axis]
            size.Clear()
            size.dim_param = f"{tensor.name}_{axis}"


def shipped_head(card: Card) -> tuple[Floats, Floats]:
    """The weights ``[labels, C]`` and the bias of the shipped network's head."""
    arrays = parameters(card.file("classifier"))
    return arrays["head.weight"], arrays["head.bias"]


def imagenet_trunk(name: str, checkpoint: Path, side: int, stored: Path) -> bytes:
    """An EfficientNet-Lite (``efficientnet-lite2``) with ImageNet weights, like ``shipped_trunk``, but for
    one side.
    """
    network = FeatureMaps(name, checkpoint, side)
    fuse(network.eval())
    stored.parent.mkdir(parents=True, exist_ok=True)
    images = {"images": {0: torch.export.Dim("batch")}}
    export(network, (torch.zeros(2, 3, side, side),), images, ["features"], stored)
    return stored.read_bytes()


def lung_boxes(
    images: Sequence[ChestImage], finder: LungBoxes, cache: Path, report: Report = silent
) -> list[Box]:
    """The box around the lungs in each image; stored in ``cache``."""
    stored = cache / f"lungs-{digest(images)}.npy"
    if not stored.exists():
        found = np.zeros((len(images), 4), np.int32)
        for row, image in enumerate(images):
            found[row] = finder.box(read_grey(image.path))
            report((row + 1) / len(images), "finding the lungs")
        save(stored, found)
    return [(left, top, right, bottom) for left, top, right, bottom in np.load(stored).tolist()]


def pooled(
    images: Sequence[ChestImage],
    boxes: Sequence[Box],
    network: tuple[str, Engine],
    view: View,
    chain: Chain,
    cache: Path,
    report: Report = silent,
) -> Floats:
    """The mean of the last feature maps of each image, ``[N, C]``; stored in ``cache``.

    ``network``: its name, for the stored file, and the engine that returns its ``features``.
    """
    name, engine = network
    stored = cache / f"{name}-{view.name}-{digest(images)}.npy"
    if not stored.exists():
        found: list[Floats] = []
        for start in range(0, len(images), BATCH):
            part = range(start, min(start + BATCH, len(images)))
            squares = np.stack([view.of(read_grey(images[row].path), boxes[row], chain) for row in part])
            found.append(engine(normalise(squares, MEAN, SCALE))["features"].mean((2, 3)))
            report((part[-1] + 1) / len(images), f"{name} {view.name}")
        save(stored, np.concatenate(found))
    return np.asarray(np.load(stored), np.float32)


def digest(images: Sequence[ChestImage]) -> str:
    """A short hash of the images' names: it differs for different lists of images."""
    names = "\n".join(f"{image.path.parent.name}/{image.path.name}" for image in images)
    return hashlib.sha256(names.encode()).hexdigest()[:12]


def save(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Store ``array`` in ``path``; after a crash the file is complete or missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_ = path.with_suffix(".partial.npy")
    np.save(partial_, array)
    partial_.replace(path)
