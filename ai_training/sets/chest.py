"""Chest X-rays of all sets as one, reduced to the size of a network."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_pipeline.models.registry import Chain, reduce
from ai_training.base import DataMissing
from ai_training.sets.files import read_grey
from ai_training.sets.images import CHEST, LABELS, YOUNGEST, ImageSet, SetImage, says_nothing
from ai_training.sets.layouts import read_set


def chest_set(data: Path) -> ImageSet:
    """Read the chest X-rays that ``data`` names, children included. Raises DataMissing when they cannot be
    read, or no label or no age is known.
    """
    found = read_set(data, CHEST)
    labels = tuple(label for label in LABELS if label in found.labels)
    if not labels:
        raise DataMissing(f"{data} has no column or folder of one label, such as Effusion")
    if all(math.isnan(image.age) for image in found.images):
        raise DataMissing(
            f"{data} says no age in years (column age; 58, 058Y or 006M): the model is for adults"
        )
    images = tuple(
        replace(
            image,
            marks=tuple(
                # Unknown where the set says nothing of it, or is unsure.
                math.nan if label in image.unsure or label not in labels else float(label in image.labels)
                for label in LABELS
            ),
        )
        for image in found.images
    )
    sources = [image.source for image in images]
    main = found.main or max(sorted(set(sources)), key=sources.count)
    named = (word for image in images for word in image.labels if word not in LABELS)
    # A long text may be of a report, with a name in it; what is not printable may move a terminal's cursor.
    words = Counter(word if len(word) <= 40 and word.isprintable() else "longer texts" for word in named)
    others = {word: count for word, count in words.most_common() if not says_nothing(word)}
    notes = found.notes + _counted("no label here, with the number of images", others)
    return replace(found, images=images, main=main, labels=labels, notes=notes)


def adults_of(found: ImageSet, *splits: str) -> tuple[tuple[SetImage, ...], tuple[str, ...]]:
    """The images of adults in ``splits`` (a set without splits has them in each), and the notes of the set,
    with one on the images that are left out: how many, by reason.
    """
    reasons = Counter[str]()
    kept = []
    for image in found.images:
        if image.split and image.split not in splits:
            reasons[f"of split {image.split}"] += 1
        elif math.isnan(image.age):
            reasons["of unknown age"] += 1
        elif not image.adult:
            reasons[f"under {YOUNGEST} years"] += 1
        else:
            kept.append(image)
    return tuple(kept), found.notes + _counted("images left out", reasons)


MOST_NAMED = 20


def _counted(what: str, numbers: Mapping[str, int]) -> tuple[str, ...]:
    """A note with names and their numbers; none without any."""
    counts = [f"{name} {number}" for name, number in list(numbers.items())[:MOST_NAMED]]
    more = len(numbers) - len(counts)
    counts += [f"and {more} more"] if more else []
    return (f"{what}: {', '.join(counts)}",) if counts else ()


def reduced_images(
    images: Sequence[SetImage],
    chain: Chain,
    cache: Path,
    report: Callable[[float, str], None] = lambda _share, _what: None,
) -> npt.NDArray[np.uint8]:
    """Reduce all ``images`` by the preprocessing ``chain`` to ``[N, side, side]`` uint8, stored in the folder
    ``cache``. The name of the stored file depends on the chain and the list of images, so a change of either
    makes a new one. Raises DataMissing if a file is missing or is no image.
    """
    try:  # folder, name and bytes, since two sets may hold the same names
        names = "\n".join(
            f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in (one.path for one in images)
        )
    except FileNotFoundError as error:
        raise DataMissing(f"{error.filename} is missing: its manifest names it") from error
    except OSError as error:
        raise DataMissing(f"{error.filename}: {error.strerror} (its manifest names it)") from error
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


def label_matrix(images: Sequence[SetImage], unknown: float = 0.0) -> npt.NDArray[np.float32]:
    """The labels ``[N, 14]`` as 0 and 1; ``unknown`` where a label is not known."""
    return np.nan_to_num(np.array([image.marks for image in images], np.float32), nan=unknown)


def soft_matrix(images: Sequence[SetImage]) -> npt.NDArray[np.float32]:
    """The teacher model's probabilities ``[N, 14]``; NaN for images that it learned from or never saw."""
    unknown = (np.nan,) * len(LABELS)
    return np.array([image.soft or unknown for image in images], np.float32)
