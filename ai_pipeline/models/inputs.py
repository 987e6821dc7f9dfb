"""Preprocess an image for the network of a card, and give the map from source to network coordinates.

The map includes all cropping, padding and stretching, so that heat maps and boxes land in the right place.

``chain``     the project's own, see below.
``imagenet``  torchvision's and timm's for evaluation: resized so that the shorter side is ``size / crop``
              (both sides with ``squash``), then the square in the middle.

Training, evaluation and pipeline preprocess in the same way. The chain: grey levels stretched between
percentiles, fitted into a square, reduced to ``chain.side`` pixels, blurred, compressed as JPEG, enlarged to
the network's size. In the public sets the label can be guessed from the file's sharpness and compression
alone (source repository → pneumonia, AUC .954 on our images); after the chain all sources have the same.

Under small changes of its input a network's reliable answer stays the same (test-time augmentation). The same
film comes from another device darker, and from another archive at another size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from ai_pipeline.contract import Floats, Grey
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.registry import Chain, Input


def network_input(image: Grey, wanted: Input) -> tuple[Floats, Affine]:
    """Preprocess ``image`` (uint8 grey, any size) to ``[1, channels, size, size]``; also the map source →
    model.
    """
    square, to_model = _SQUARES[wanted.preprocess](image, wanted)
    values = np.broadcast_to(square.astype(np.float32), (wanted.channels, *square.shape))
    mean = np.array(wanted.mean, np.float32)[:, None, None]
    scale = np.array(wanted.scale, np.float32)[:, None, None]
    return np.ascontiguousarray(((values - mean) / scale)[None]), to_model


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
    "chain": lambda image, wanted: prepare(image, wanted.chain, wanted.size),
    "imagenet": _imagenet,
}


def reduce(image: Grey, chain: Chain) -> tuple[Grey, Affine]:
    """``image`` (uint8 grey, any size) after the chain, ``[side, side]`` uint8, and the map
    source → reduced.
    """
    rows, columns = image.shape
    scale = chain.side / max(rows, columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(image, (width, height), interpolation=way)
    low, high = np.percentile(small, (chain.low, chain.high))
    if high > low:
        small = np.clip((small - low) * (255.0 / (high - low)), 0, 255)
    top, left = (chain.side - height) // 2, (chain.side - width) // 2
    square = np.zeros((chain.side, chain.side), np.uint8)
    square[top : top + height, left : left + width] = small
    if chain.blur > 0:
        square = np.asarray(cv2.GaussianBlur(square, (0, 0), chain.blur), np.uint8)
    done, data = cv2.imencode(".jpg", square, [cv2.IMWRITE_JPEG_QUALITY, chain.jpeg_quality])
    if not done:
        raise ValueError(f"an image of {square.shape} could not be compressed as JPEG")
    affine = Affine(width / columns, 0.0, float(left), 0.0, height / rows, float(top))
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8), affine


def enlarge(reduced: Grey, size: int) -> Grey:
    """A reduced image at the network's input size, ``[size, size]`` uint8."""
    return np.asarray(cv2.resize(reduced, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


def normalise(images: Grey, mean: float, scale: float) -> Floats:
    """``images [N, size, size]`` as float32 ``[N, 3, size, size]``: ``(value - mean) / scale``, in 3 equal
    channels.
    """
    values = (images.astype(np.float32) - np.float32(mean)) / np.float32(scale)
    return np.ascontiguousarray(np.broadcast_to(values[:, None], (len(images), 3, *images.shape[1:])))


def prepare(image: Grey, chain: Chain, size: int) -> tuple[Grey, Affine]:
    """``image`` as the network sees it, ``[size, size]`` uint8, and the map source → model coordinates."""
    reduced, affine = reduce(image, chain)
    factor = size / chain.side
    model = Affine(affine.a * factor, 0.0, affine.c * factor, 0.0, affine.e * factor, affine.f * factor)
    return enlarge(reduced, size), model


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the picture: scaled by ``size`` about the middle, grey levels to the power ``gamma``, moved
    by ``shift`` across and down (shares of the side), ``reduced`` to a share of the side and enlarged again.
    """

    size: float = 1.0
    gamma: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    reduced: float = 1.0

    @property
    def offsets(self) -> tuple[float, float]:
        """How far the upper left corner moves across and down, in shares of the side."""
        across, down = ((1 - self.size) / 2 + part for part in self.shift)
        return across, down


def changed(values: Floats, change: Change, wanted: Input) -> tuple[Floats, Affine]:
    """``values [channels, s, s]`` after ``change``, and the map from the unchanged to the changed
    coordinates.

    ``wanted``: the input of the network, by which values are normalised.
    """
    if change == Change():
        return values, Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    mean, scale = (np.float32(pair[0]) for pair in (wanted.mean, wanted.scale))
    share = np.clip((values[0] * scale + mean) / 255, 0, 1) ** np.float32(change.gamma)
    side = share.shape[0]
    if change.reduced < 1:
        less = round(side * change.reduced)
        small = cv2.resize(share, (less, less), interpolation=cv2.INTER_AREA)
        share = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
    offsets = [side * offset for offset in change.offsets]
    centred = [offset + 0.5 * change.size - 0.5 for offset in offsets]  # OpenCV counts from pixel centres
    matrix = np.array([[change.size, 0, centred[0]], [0, change.size, centred[1]]])
    moved = cv2.warpAffine(share, matrix, (side, side), flags=cv2.INTER_LINEAR)
    seen = np.broadcast_to((moved * 255 - mean) / scale, values.shape)
    way = Affine(change.size, 0.0, offsets[0], 0.0, change.size, offsets[1])
    return np.ascontiguousarray(seen, np.float32), way
