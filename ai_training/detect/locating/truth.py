"""Radiologists' boxes as one table of :class:`TruthBox`, from ``--data`` and from further lists.

``boxes.csv`` of the public sets and ``BBox_List_2017.csv`` of the NIH download come with ``--data``
(:mod:`ai_training.sets`). A further list may be ``BBox_List_2017.csv`` alone, used for whichever images are
there, or a list of ChestX-Det (:mod:`ai_training.sets.box_lists`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ai_training.errors import DataMissing
from ai_training.metrics import overlap
from ai_training.sets.box_lists import listed_boxes
from ai_training.sets.chest import chest_set
from ai_training.sets.images import ChestImage, TruthBox

SAME = 0.5  # two boxes of one label that overlap so much are one


def detection_boxes(data: Path, more: Sequence[Path] = ()) -> tuple[TruthBox, ...]:
    """The boxes in ``data``, and the boxes in the lists ``more`` for images of ``data``.

    A box in several lists counts once. Labels that the classifier does not know (fractures, calcifications)
    and images that are not there are left out. Raises DataMissing if no box is left, or a list cannot be
    read.
    """
    found = chest_set(data)
    boxes = list(found.boxes)
    by_name = {image.path.stem: image for image in found.images}
    for path in more:
        boxes += _new(boxes, _boxes_on(by_name, path))
    if not boxes:
        raise DataMissing(f"{data} holds no boxes: name a list with --boxes (docs/reference/data-sets.md)")
    return tuple(boxes)


def corners(box: TruthBox) -> tuple[float, float, float, float]:
    """``(left, top, right, bottom)`` as shares of the image's side, cut at the image's edges."""
    left, top, right, bottom = (min(max(edge / box.side, 0.0), 1.0) for edge in box.corners)
    return left, top, right, bottom


def _boxes_on(images: Mapping[str, ChestImage], path: Path) -> Iterator[TruthBox]:
    """The boxes of a list on ``images``, which are named by their files without ending."""
    for file, box in listed_boxes(path):
        if image := images.get(Path(file).stem):
            yield TruthBox(
                file,
                box.label,
                *box.corners,
                split=image.split,
                path=image.path,
                side=box.side,
                patient=image.patient,
                adult=image.adult,
            )


def _new(known: Iterable[TruthBox], listed: Iterable[TruthBox]) -> Iterator[TruthBox]:
    there: dict[tuple[Path, str], list[tuple[float, float, float, float]]] = {}
    for box in known:
        there.setdefault((box.path, box.label), []).append(corners(box))
    for box in listed:
        others = there.setdefault((box.path, box.label), [])
        if all(overlap(corners(box), other) < SAME for other in others):
            others.append(corners(box))
            yield box
