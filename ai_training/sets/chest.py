"""Chest X-ray images as one table, whatever layout ``--data`` has (:mod:`ai_training.sets.published`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_pipeline.models.preprocess import reduce
from ai_pipeline.models.registry import Chain
from ai_training.errors import DataMissing
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS, ChestImage, ChestSet, ImageSet, SetImage, TruthBox
from ai_training.sets.layout import CHEST
from ai_training.sets.published import read_data


def chest_set(data: Path) -> ChestSet:
    """The images that ``data`` names, children included.

    Raises DataMissing when they cannot be read, or no label or no age is known.
    """
    found = read_data(data, CHEST)
    labels = tuple(label for label in LABELS if label in found.labels)
    if not labels:
        raise DataMissing(f"{data} has no column or folder of one label, such as Effusion")
    if not found.adults and all(math.isnan(image.age) for image in found.images):
        raise DataMissing(f"{data} says no age (column age): the model is for adults")
    images = tuple(_chest_image(image, labels, found) for image in found.images)
    sources = [image.source for image in images]
    main = found.main or max(sorted(set(sources)), key=sources.count)
    boxes = tuple(
        TruthBox(
            there.name,
            box.label,
            *box.corners,
            split=image.split,
            path=image.path,
            side=box.side,
            patient=image.patient,
            adult=image.adult,
        )
        for there, image in zip(found.images, images, strict=True)
        for box in there.boxes
        if box.label in labels
    )
    return ChestSet(
        name=found.title.partition(" (")[0],
        images=images,
        boxes=boxes,
        main=main,
        natural=found.natural,
        labels=labels,
        left_out=found.left_out,
        notes=found.notes,
        title=found.title,
    )


def chest_images(data: Path) -> tuple[ChestImage, ...]:
    """All images of ``data`` with all 14 labels, as studies need them.

    Raises DataMissing as :func:`chest_set` does, and when a label is missing.
    """
    found = chest_set(data)
    missing = [label for label in LABELS if label not in found.labels]
    if missing:
        raise DataMissing(f"{data} says nothing of {', '.join(missing)}: all 14 labels are needed")
    return found.images


def truth_boxes(data: Path) -> tuple[TruthBox, ...]:
    """The lesion boxes of ``data``; empty if there are none."""
    return chest_set(data).boxes


def boxes_of(
    data: Path, images: Sequence[ChestImage]
) -> tuple[tuple[tuple[int, float, float, float, float], ...], ...]:
    """The boxes of each of ``images``: label number, left, top, right, bottom as shares of the side."""
    found: dict[Path, list[tuple[int, float, float, float, float]]] = {}
    for box in truth_boxes(data):
        left, top, right, bottom = (edge / box.side for edge in box.corners)
        found.setdefault(box.path, []).append((LABELS.index(box.label), left, top, right, bottom))
    return tuple(tuple(found.get(image.path, ())) for image in images)


def reduced_images(
    images: Sequence[ChestImage],
    chain: Chain,
    cache: Path,
    report: Callable[[float, str], None] = lambda _share, _what: None,
) -> npt.NDArray[np.uint8]:
    """All ``images`` after the preprocessing chain, ``[N, side, side]`` uint8, stored in the folder
    ``cache``.

    The name of the stored file depends on the chain and the list of images, so a change of either makes a new
    one. Raises DataMissing if a file is missing or is no image.
    """
    names = "\n".join(_name(image.path) for image in images)
    digest = hashlib.sha256(f"{chain}\n{names}".encode()).hexdigest()[:16]
    stored = cache / f"reduced-{digest}.npy"
    if stored.exists():
        return np.asarray(np.load(stored, mmap_mode="r"))
    reduced = np.empty((len(images), chain.side, chain.side), np.uint8)
    for index, image in enumerate(images):
        reduced[index] = reduce(read_grey(image.path), chain)[0]
        report((index + 1) / len(images), "reading images")
    cache.mkdir(parents=True, exist_ok=True)
    partial = stored.with_suffix(".partial.npy")
    np.save(partial, reduced)
    partial.replace(stored)
    return reduced


def label_matrix(images: Sequence[ChestImage], unknown: float = 0.0) -> npt.NDArray[np.float32]:
    """The labels ``[N, 14]`` as 0 and 1; ``unknown`` where a label is not known."""
    return np.nan_to_num(np.array([image.labels for image in images], np.float32), nan=unknown)


def soft_matrix(images: Sequence[ChestImage]) -> npt.NDArray[np.float32]:
    """The teacher's probabilities ``[N, 14]``; NaN for images that it learned from or never saw."""
    unknown = (np.nan,) * len(LABELS)
    return np.array([image.soft or unknown for image in images], np.float32)


def _name(path: Path) -> str:
    """A file as the cache knows it: folder, name and bytes, since two sets may hold the same names."""
    try:
        return f"{path.parent.name}/{path.name} {path.stat().st_size}"
    except FileNotFoundError as error:
        raise DataMissing(f"{path} is missing: its manifest names it") from error


def _chest_image(image: SetImage, labels: Sequence[str], found: ImageSet) -> ChestImage:
    """A label is unknown where the set says nothing of it, or is unsure."""
    unknown = image.unsure | (set(LABELS) - set(labels))
    return ChestImage(
        path=image.path,
        labels=tuple(math.nan if label in unknown else float(label in image.labels) for label in LABELS),
        soft=image.soft,
        patient=image.patient,
        split=image.split,
        source=image.source,
        repository=image.repository,
        age=image.age,
        sex=image.sex,
        view=image.view,
        grown=found.adults,
    )
