"""What a card's network sees of an image: its own preprocessing, and the one map from source to model.

Whatever is cropped, padded or stretched on the way is in the map, so maps and boxes land where they belong.

``chain``     the project's own: see :mod:`ai_pipeline.models.preprocess`.
``xrv``       torchxrayvision's: the largest square in the middle, reduced to the size by area (its
              ``XRayCenterCrop`` and ``XRayResizer(engine="cv2")``).
``imagenet``  torchvision's and timm's for evaluation: resized so that the shorter side is ``size / crop``
              (both sides with ``squash``), then the square in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.preprocess import Grey, prepare
from ai_pipeline.models.registry import Input

Floats = npt.NDArray[np.float32]


def network_input(image: Grey, wanted: Input) -> tuple[Floats, Affine]:
    """``image`` (uint8 grey, any size) as ``[1, channels, size, size]``, and the map source → model."""
    square, to_model = _SQUARES[wanted.preprocess](image, wanted)
    values = np.broadcast_to(square.astype(np.float32), (wanted.channels, *square.shape))
    mean = np.array(wanted.mean, np.float32)[:, None, None]
    scale = np.array(wanted.scale, np.float32)[:, None, None]
    return np.ascontiguousarray(((values - mean) / scale)[None]), to_model


def _chain(image: Grey, wanted: Input) -> tuple[Grey, Affine]:
    return prepare(image, wanted.chain, wanted.size)


def _xrv(image: Grey, wanted: Input) -> tuple[Floats, Affine]:
    rows, columns = image.shape
    side = min(rows, columns)
    top, left = rows // 2 - side // 2, columns // 2 - side // 2
    square = image[top : top + side, left : left + side].astype(np.float32)
    small = cv2.resize(square, (wanted.size, wanted.size), interpolation=cv2.INTER_AREA)
    factor = wanted.size / side
    return np.asarray(small, np.float32), Affine(factor, 0.0, -left * factor, 0.0, factor, -top * factor)


def _imagenet(image: Grey, wanted: Input) -> tuple[Grey, Affine]:
    rows, columns = image.shape
    edge = math.floor(wanted.size / wanted.crop)
    shorter = min(rows, columns)
    height = edge if wanted.squash else edge * rows // shorter
    width = edge if wanted.squash else edge * columns // shorter
    method = Image.Resampling.BICUBIC if wanted.interpolation == "bicubic" else Image.Resampling.BILINEAR
    resized = np.asarray(Image.fromarray(image).resize((width, height), method), np.uint8)
    top, left = round((height - wanted.size) / 2), round((width - wanted.size) / 2)
    square = resized[top : top + wanted.size, left : left + wanted.size]
    across, down = width / columns, height / rows
    return square, Affine(across, 0.0, -float(left), 0.0, down, -float(top))


_SQUARES: dict[str, Callable[[Grey, Input], tuple[Grey | Floats, Affine]]] = {
    "chain": _chain,
    "xrv": _xrv,
    "imagenet": _imagenet,
}
