"""Chest X-ray images as one table: files, labels, soft labels, patients, splits, sources.

``--data`` names one of three things, recognised by its files (docs/training.md): the public sets of this
project (``cxr_nih/manifest.csv`` …), the full NIH download (``Data_Entry_2017.csv``), or a manifest of one's
own, as a CSV file or as a folder with ``manifest.csv``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_pipeline.models.preprocess import reduce
from ai_pipeline.models.registry import Chain
from ai_training.errors import DataMissing
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS, ChestImage, ChestSet, TruthBox
from ai_training.sets.manifests import listed_set, public_sets
from ai_training.sets.nih_download import is_download, nih_download


def chest_set(data: Path) -> ChestSet:
    """The images that ``data`` names, children included.

    Raises DataMissing when it is none of the three things above, or incomplete.
    """
    if data.is_file():
        return listed_set(data)
    if is_download(data):
        return nih_download(data)
    if (data / "manifest.csv").is_file():
        return listed_set(data / "manifest.csv")
    return public_sets(data)


def chest_images(data: Path) -> tuple[ChestImage, ...]:
    """All images of ``data`` with all 14 labels, as training needs them.

    Raises DataMissing as :func:`chest_set` does, and when a manifest lacks a label.
    """
    found = chest_set(data)
    missing = [label for label in LABELS if label not in found.labels]
    if missing:
        raise DataMissing(f"{data} says nothing of {', '.join(missing)}: training needs all 14 labels")
    return found.images


def truth_boxes(data: Path) -> tuple[TruthBox, ...]:
    """The lesion boxes of ``data``; none where it has none."""
    return chest_set(data).boxes


def boxes_of(
    data: Path, images: Sequence[ChestImage]
) -> tuple[tuple[tuple[int, float, float, float, float], ...], ...]:
    """For each of ``images`` its boxes: label number, left, top, right, bottom as shares of the side."""
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
    """All ``images`` through the chain, ``[N, side, side]`` uint8, stored in the folder ``cache``.

    The file is named after the chain and the list of files, so a change of either makes a new one.
    Raises DataMissing when a file is not there or no image.
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


def label_matrix(images: Sequence[ChestImage]) -> npt.NDArray[np.float32]:
    """``[N, 14]`` of 0 and 1."""
    return np.array([image.labels for image in images], np.float32)


def soft_matrix(images: Sequence[ChestImage]) -> npt.NDArray[np.float32]:
    """``[N, 14]`` of the teacher's probabilities, NaN where it saw the image in its own training or never."""
    unknown = (np.nan,) * len(LABELS)
    return np.array([image.soft or unknown for image in images], np.float32)


def _name(path: Path) -> str:
    """A file as the cache knows it: folder, name and bytes, since two sets may hold the same names."""
    try:
        return f"{path.parent.name}/{path.name} {path.stat().st_size}"
    except FileNotFoundError as error:
        raise DataMissing(f"{path} is missing: its manifest names it") from error
