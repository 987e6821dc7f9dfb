"""Turn hand-drawn shapes into mark masks.

`python tests/data/marks/draw.py [DATA]` writes every mask, which object each of its pixels belongs to, and
objects.csv from shapes/*.json and the images in DATA (../shared/data).

A shape file is `{"objects": [...]}` with one object per mark:
  class   text, caliper, marker, scale or logo
  colour  yellow, white, cyan, green or other
  one of  box [l, t, r, b], boxes [[l, t, r, b], ...] (a ruler's ticks), polygon [[x, y], ...],
          line [[x, y], ...] with width (3): where the mark is, in pixels of the frame, right and bottom
          exclusive for a box
  any of  bright, dark (255 - bright), tophat, bottomhat, yellow, cyan, green, blue, red: the threshold
          (0-255) that parts mark from picture inside the shape; several mean "one of them"; none means the
          whole shape
  grow    pixels that the found ink is widened by, for the anti-aliased edge (1)
  drop    [[l, t, r, b], ...] inside the shape that is not the mark
  note    what it is, or what is doubtful
A later object lies over an earlier one. Boxes in objects.csv are those of the found pixels.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
CLASSES = {"text": 1, "caliper": 2, "marker": 3, "scale": 4, "logo": 5}
COLOURS = ("yellow", "white", "cyan", "green", "other")
INKS = ("bright", "dark", "tophat", "bottomhat", "yellow", "cyan", "green", "blue", "red")
HAT = np.ones((9, 9), np.uint8)  # wider than any stroke in the frames, narrower than tissue texture

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Shape = dict[str, Any]


def make(data: Path) -> None:
    """Write <set>__<stem>.png, owners/<set>__<stem>.png for every frame; one objects.csv.

    Raises FileNotFoundError when the data folder lacks a frame, ValueError when a drawn object holds no pixel
    past its threshold.
    """
    rows: list[dict[str, str | int]] = []
    (HERE / "owners").mkdir(exist_ok=True)
    with (HERE / "frames.csv").open(newline="") as source:
        listed_frames = list(csv.DictReader(source))
    for frame in listed_frames:
        image = cv2.imread(str(data / frame["set"] / frame["file"]), cv2.IMREAD_COLOR)
        if image is None:
            raise FileNotFoundError(data / frame["set"] / frame["file"])
        mask, owners = np.zeros(image.shape[:2], np.uint8), np.zeros(image.shape[:2], np.uint8)
        for number, shape in enumerate(shapes(frame), 1):
            found = ink(image, shape)
            if not found.any():
                raise ValueError(f"{name(frame)}: no pixels in object {number}")
            mask[found], owners[found] = CLASSES[shape["class"]], number
            rows.append(_row(frame, number, shape, found))
        for folder, pixels in ((HERE, mask), (HERE / "owners", owners)):
            cv2.imwrite(str(folder / f"{name(frame)}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    with (HERE / "objects.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def name(frame: dict[str, str]) -> str:
    return f"{frame['set']}__{Path(frame['file']).stem}"


def shapes(frame: dict[str, str]) -> list[Shape]:
    """The drawn objects; raises ValueError for a word that the format does not know."""
    known = {"class", "colour", "box", "boxes", "polygon", "line", "width", "grow", "drop", "note", *INKS}
    objects: list[Shape] = json.loads((HERE / "shapes" / f"{name(frame)}.json").read_text())["objects"]
    for shape in objects:
        unknown = set(shape) - known
        if unknown or shape["class"] not in CLASSES or shape["colour"] not in COLOURS:
            raise ValueError(f"{name(frame)}: {shape} has {sorted(unknown) or 'an unknown class or colour'}")
    return objects


def ink(image: Image, shape: Shape) -> Mask:
    """The pixels of one mark: inside its shape, past one of its thresholds, widened by `grow`."""
    used = [kind for kind in INKS if kind in shape]
    found = _inside(image.shape[:2], shape)
    if used:
        strengths = _strengths(image)
        found &= np.logical_or.reduce([strengths[kind] >= shape[kind] for kind in used])
    if grow := int(shape.get("grow", 1 if used else 0)):
        found = cv2.dilate(found.astype(np.uint8), np.ones((2 * grow + 1,) * 2, np.uint8)).astype(bool)
    for left, top, right, bottom in shape.get("drop", []):
        found[top:bottom, left:right] = False
    return np.asarray(found, np.bool_)


def _inside(size: tuple[int, ...], shape: Shape) -> Mask:
    canvas = np.zeros(size, np.uint8)
    if "box" in shape or "boxes" in shape:
        for left, top, right, bottom in shape.get("boxes", []) or [shape["box"]]:
            canvas[max(top, 0) : bottom, max(left, 0) : right] = 1
    elif "polygon" in shape:
        cv2.fillPoly(canvas, [np.array(shape["polygon"], np.int32)], 1)
    else:
        cv2.polylines(canvas, [np.array(shape["line"], np.int32)], False, 1, shape.get("width", 3))
    return canvas.astype(bool)


def _strengths(image: Image) -> dict[str, NDArray[np.int16]]:
    blue, green, red = (image[..., channel].astype(np.int16) for channel in range(3))
    grey = image.max(axis=2)
    return {
        "bright": grey.astype(np.int16),
        "dark": (255 - grey).astype(np.int16),
        "tophat": cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, HAT).astype(np.int16),
        "bottomhat": cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, HAT).astype(np.int16),
        "yellow": np.minimum(red, green) - blue,
        "cyan": np.minimum(green, blue) - red,
        "green": green - np.maximum(red, blue),
        "blue": blue - np.maximum(red, green),
        "red": red - np.maximum(green, blue),
    }


def _row(frame: dict[str, str], number: int, shape: Shape, found: Mask) -> dict[str, str | int]:
    ys, xs = np.nonzero(found)
    return {
        "file": frame["file"],
        "set": frame["set"],
        "object_id": number,
        "class": shape["class"],
        "left": int(xs.min()),
        "top": int(ys.min()),
        "right": int(xs.max()) + 1,
        "bottom": int(ys.max()) + 1,
        "colour": shape["colour"],
        "note": shape.get("note", ""),
    }


if __name__ == "__main__":
    make(Path(*sys.argv[1:] or ["../shared/data"]))
