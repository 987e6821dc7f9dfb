"""Turn hand-drawn shapes into mark masks, and show a frame enlarged while drawing.

`python tests/data/marks/draw.py view 12 --out frame.png [--crop L,T,R,B] [--overlay] [--gamma .5]`
shows frame 12 of frames.csv enlarged, with a coordinate grid, and on demand the outline of what is drawn.
`python tests/data/marks/draw.py make` writes every mask, which object each of its pixels belongs to, and
objects.csv from shapes/*.json and the images.

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

from __future__ import annotations

import argparse
import csv
import json
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
TINTS = {1: (0, 255, 0), 2: (255, 0, 255), 3: (0, 128, 255), 4: (255, 255, 0), 5: (0, 0, 255)}  # BGR
COLUMNS = ["file", "set", "object_id", "class", "left", "top", "right", "bottom", "colour", "note"]

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Shape = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("make", help="write masks and objects.csv")
    view = verbs.add_parser("view", help="write an enlarged frame")
    view.add_argument("number", type=int)
    view.add_argument("--out", type=Path, required=True)
    view.add_argument("--crop", help="L,T,R,B in pixels of the frame")
    view.add_argument("--scale", type=int, default=3)
    view.add_argument("--overlay", action="store_true", help="outline what is drawn, with object numbers")
    view.add_argument("--gamma", type=float, default=1.0, help="below 1 lightens dark parts")
    arguments = parser.parse_args()
    if arguments.verb == "make":
        make(arguments.data)
        return
    frame = frames()[arguments.number - 1]
    image = read(arguments.data, frame)
    crop = (
        tuple(map(int, arguments.crop.split(",")))
        if arguments.crop
        else (0, 0, image.shape[1], image.shape[0])
    )
    objects = shapes(frame) if arguments.overlay else []
    cv2.imwrite(str(arguments.out), enlarged(image, objects, crop, arguments.scale, arguments.gamma))


def make(data: Path) -> None:
    """Write <set>__<stem>.png, owners/<set>__<stem>.png for every frame with a shape file; one objects.csv.

    Raises ValueError, once all else is written, when a drawn object holds no pixel past its threshold.
    """
    rows: list[dict[str, str | int]] = []
    empty: list[str] = []
    (HERE / "owners").mkdir(exist_ok=True)
    for frame in frames():
        if not shape_file(frame).exists():
            continue
        image = read(data, frame)
        mask, owners = np.zeros(image.shape[:2], np.uint8), np.zeros(image.shape[:2], np.uint8)
        for number, shape in enumerate(shapes(frame), 1):
            found = ink(image, shape)
            if not found.any():
                empty.append(f"{name(frame)} {number}")
                continue
            mask[found], owners[found] = CLASSES[shape["class"]], number
            rows.append(_row(frame, number, shape, found))
        for folder, pixels in ((HERE, mask), (HERE / "owners", owners)):
            cv2.imwrite(str(folder / f"{name(frame)}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    with (HERE / "objects.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if empty:
        raise ValueError(f"no pixels in the object of {', '.join(empty)}")


def frames() -> list[dict[str, str]]:
    with (HERE / "frames.csv").open(newline="") as source:
        return list(csv.DictReader(source))


def name(frame: dict[str, str]) -> str:
    return f"{frame['set']}__{Path(frame['file']).stem}"


def shape_file(frame: dict[str, str]) -> Path:
    return HERE / "shapes" / f"{name(frame)}.json"


def read(data: Path, frame: dict[str, str]) -> Image:
    """The frame in BGR; raises FileNotFoundError when the data folder lacks it."""
    path = data / frame["set"] / frame["file"]
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(path)
    return np.asarray(image, np.uint8)


def shapes(frame: dict[str, str]) -> list[Shape]:
    """The drawn objects; raises ValueError for a word that the format does not know."""
    path = shape_file(frame)
    if not path.exists():
        return []
    known = {"class", "colour", "box", "boxes", "polygon", "line", "width", "grow", "drop", "note", *INKS}
    objects: list[Shape] = json.loads(path.read_text())["objects"]
    for shape in objects:
        unknown = set(shape) - known
        if unknown or shape["class"] not in CLASSES or shape["colour"] not in COLOURS:
            raise ValueError(f"{path.name}: {shape} has {sorted(unknown) or 'an unknown class or colour'}")
    return objects


def ink(image: Image, shape: Shape) -> Mask:
    """The pixels of one mark: inside its shape, past one of its thresholds, widened by `grow`."""
    inside = _inside(image.shape[:2], shape)
    used = [kind for kind in INKS if kind in shape]
    grow = int(shape.get("grow", 1 if used else 0))
    found = inside.copy()
    if used:
        strengths = _strengths(image)
        found &= np.logical_or.reduce([strengths[kind] >= shape[kind] for kind in used])
    if grow:
        found = cv2.dilate(found.astype(np.uint8), np.ones((2 * grow + 1,) * 2, np.uint8)).astype(bool)
    for left, top, right, bottom in shape.get("drop", []):
        found[top:bottom, left:right] = False
    return np.asarray(found, np.bool_)


def enlarged(
    image: Image, objects: list[Shape], crop: tuple[int, ...], scale: int, gamma: float = 1.0
) -> Image:
    """The crop, `scale` times as large, with pixel coordinates in the margins and outlines of the objects."""
    left, top, right, bottom = crop
    light = (255 * (image[top:bottom, left:right] / 255) ** gamma).astype(np.uint8)
    large = cv2.resize(light, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    for number, shape in enumerate(objects, 1):
        part = ink(image, shape)[top:bottom, left:right].astype(np.uint8)
        if part.any():
            _outline(
                large, np.repeat(np.repeat(part, scale, 0), scale, 1), number, TINTS[CLASSES[shape["class"]]]
            )
    return _with_grid(large, left, top, scale)


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


def _outline(large: Image, part: Image, number: int, tint: tuple[int, int, int]) -> None:
    contours, _ = cv2.findContours(part, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(large, contours, -1, tint, 1)
    ys, xs = np.nonzero(part)
    cv2.putText(large, str(number), (int(xs.min()), max(int(ys.min()) - 2, 9)), 0, 0.4, tint, 1)


def _with_grid(large: Image, left: int, top: int, scale: int) -> Image:
    margin = 26
    high, wide = large.shape[:2]
    page = np.zeros((high + margin, wide + margin, 3), np.uint8)
    page[margin:, margin:] = large
    faint = page.copy()
    for x in range(-(-left // 10) * 10, left + wide // scale, 10):
        at = margin + (x - left) * scale
        cv2.line(page, (at, margin - (10 if x % 50 == 0 else 5)), (at, margin), (255, 255, 255), 1)
        if x % 20 == 0:
            cv2.putText(page, str(x), (at - 8, 13), 0, 0.35, (200, 200, 200), 1)
            cv2.line(faint, (at, margin), (at, margin + high), (120, 90, 90), 1)
    for y in range(-(-top // 10) * 10, top + high // scale, 10):
        at = margin + (y - top) * scale
        cv2.line(page, (margin - (10 if y % 50 == 0 else 5), at), (margin, at), (255, 255, 255), 1)
        if y % 20 == 0:
            cv2.putText(page, str(y), (0, at + 4), 0, 0.35, (200, 200, 200), 1)
            cv2.line(faint, (margin, at), (margin + wide, at), (120, 90, 90), 1)
    page[margin:, margin:] = cv2.addWeighted(page, 0.65, faint, 0.35, 0)[margin:, margin:]
    return page


if __name__ == "__main__":
    main()
