"""From a displayed image to a network's input, the same way in training, evaluation and at run time.

Every image passes one chain: grey levels stretched between percentiles, fitted into a square, reduced to
``chain.side`` pixels, blurred, compressed as JPEG, enlarged to the network's size. In the public sets the
label can be guessed from the file's sharpness and compression alone (source repository → pneumonia, AUC .954
on our images); after the chain all sources have the same sharpness and compression.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.registry import Chain

Grey = npt.NDArray[np.uint8]


def reduce(image: Grey, chain: Chain) -> tuple[Grey, Affine]:
    """``image`` (uint8 grey, any size) after the chain, ``[side, side]`` uint8, and the map
    source → reduced.
    """
    rows, columns = image.shape
    scale = chain.side / max(rows, columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    small = cv2.resize(image, (width, height), interpolation=_interpolation(scale))
    small = _stretch(small, chain)
    top, left = (chain.side - height) // 2, (chain.side - width) // 2
    square = np.zeros((chain.side, chain.side), np.uint8)
    square[top : top + height, left : left + width] = small
    affine = Affine(width / columns, 0.0, float(left), 0.0, height / rows, float(top))
    return _compress(square, chain), affine


def enlarge(reduced: Grey, size: int) -> Grey:
    """A reduced image at the network's input size, ``[size, size]`` uint8."""
    return np.asarray(cv2.resize(reduced, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


def normalise(images: npt.NDArray[np.uint8], mean: float, scale: float) -> npt.NDArray[np.float32]:
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


def _interpolation(scale: float) -> int:
    return cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC


def _stretch(image: Grey, chain: Chain) -> Grey:
    low, high = np.percentile(image, (chain.low, chain.high))
    if high <= low:
        return image
    return np.asarray(np.clip((image - low) * (255.0 / (high - low)), 0, 255), np.uint8)


def _compress(image: Grey, chain: Chain) -> Grey:
    if chain.blur > 0:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), chain.blur), np.uint8)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, chain.jpeg_quality])
    if not done:
        raise ValueError(f"an image of {image.shape} could not be compressed as JPEG")
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
