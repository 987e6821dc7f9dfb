"""Pictures, masks and boxes that the search for annotation and its removal share."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Picture = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""``left, top, right, bottom`` in pixels; right and bottom are exclusive."""


def brightest(picture: Picture) -> Picture:
    """The brightest channel of a colour picture; a grey picture unchanged."""
    if picture.ndim == 2:
        return picture
    # Channel by channel: max(axis=2) takes five times as long.
    return np.maximum(np.maximum(picture[..., 0], picture[..., 1]), picture[..., 2])


def colourfulness(picture: Picture) -> Picture:
    """Brightest less darkest channel of a colour picture: ``[rows, columns]``."""
    import cv2

    red, green, blue = cv2.split(np.ascontiguousarray(picture))
    return np.asarray(cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue))


def index_of(box: Box) -> tuple[slice, slice]:
    """The rows and columns of a box as an index of a picture, without parts beyond the picture's edges."""
    left, top, right, bottom = box
    return slice(max(top, 0), bottom), slice(max(left, 0), right)


def centre_of(box: tuple[float, float, float, float]) -> tuple[float, float]:
    """``(column, row)`` of the middle of a box."""
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2


def clipped(box: Box, shape: tuple[int, ...]) -> Box | None:
    """The part of a box inside a picture of ``shape`` (rows, columns, …); None if the box is outside."""
    left, top, right, bottom = box
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, shape[1]), min(bottom, shape[0])
    return (left, top, right, bottom) if left < right and top < bottom else None


def dilated(mask: Mask, side: int) -> Mask:
    """The mask, grown by a square of ``side`` pixels."""
    import cv2  # `check` reads device rules on a machine without it

    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)), np.bool_)


def box_around(mask: Mask, margin: int) -> Box:
    """The bounding box of a mask that is not empty, widened by ``margin`` pixels, within the picture."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        max(0, int(columns[0]) - margin),
        max(0, int(rows[0]) - margin),
        min(mask.shape[1], int(columns[-1]) + 1 + margin),
        min(mask.shape[0], int(rows[-1]) + 1 + margin),
    )


def components(mask: Mask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The 8-connected parts of a mask: the label of each pixel (0 for none) and OpenCV's statistics by label.

    Only the bounding box of the mask is searched, which is faster: a whole picture takes 8 ms.
    """
    import cv2

    labels = np.zeros(mask.shape, np.int32)
    rows, columns = mask.shape
    if not mask.any():
        return labels, np.array([[0, 0, columns, rows, mask.size]], np.int32)
    left, top, right, bottom = box_around(mask, 0)
    left, top = left & ~1, top & ~1  # parts are numbered in blocks of two rows and columns
    inside = mask[top:bottom, left:right].astype(np.uint8)
    _, own, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    labels[top:bottom, left:right] = own
    stats[1:, cv2.CC_STAT_LEFT] += left
    stats[1:, cv2.CC_STAT_TOP] += top
    stats[0] = (0, 0, columns, rows, mask.size - stats[1:, cv2.CC_STAT_AREA].sum())
    return labels, np.asarray(stats, np.int32)


def component_boxes(stats: npt.NDArray[np.int32]) -> list[Box]:
    """The boxes of the parts that :func:`components` has found, from label 1 on."""
    return [(left, top, left + width, top + height) for left, top, width, height, _ in stats[1:].tolist()]


def contrast(picture: Picture, drawn: Mask, box: Box) -> float:
    """The contrast of a drawing, 0 to 1: its mean less the mean around it, in the channel of most difference.

    ``drawn``: the pixels of all drawings; the pixels within ``box`` belong to this drawing.
    """
    left, top, right, bottom = box
    around = index_of((left - 3, top - 3, right + 3, bottom + 3))
    own = drawn[around]
    pixels = picture[around].reshape(own.size, -1).astype(np.float32)
    if own.all() or not own.any():
        return 0.0
    inside, outside = pixels[own.ravel()].mean(axis=0), pixels[~own.ravel()].mean(axis=0)
    return float(np.abs(inside - outside).max() / 255.0)
