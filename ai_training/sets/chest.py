"""Chest X-ray images as one table, whatever layout ``--data`` has, and their splits by patient."""

import csv
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from iterstrat.ml_stratifiers import IterativeStratification

from ai_pipeline.models.inputs import reduce
from ai_pipeline.models.registry import Chain
from ai_training.base import DataMissing
from ai_training.sets.images import LABELS, ChestImage, ChestSet, TruthBox, read_grey
from ai_training.sets.published import CHEST, read_set


def chest_set(data: Path) -> ChestSet:
    """The images that ``data`` names, children included.

    Raises DataMissing when they cannot be read, or no label or no age is known.
    """
    found = read_set(data, CHEST)
    labels = tuple(label for label in LABELS if label in found.labels)
    if not labels:
        raise DataMissing(f"{data} has no column or folder of one label, such as Effusion")
    if all(math.isnan(image.age) for image in found.images):
        raise DataMissing(f"{data} says no age (column age): the model is for adults")
    images = tuple(
        ChestImage(
            path=image.path,
            labels=tuple(
                # Unknown where the set says nothing of it, or is unsure.
                math.nan if label in image.unsure or label not in labels else float(label in image.labels)
                for label in LABELS
            ),
            soft=image.soft,
            patient=image.patient,
            split=image.split,
            source=image.source,
            repository=image.repository,
            age=image.age,
            sex=image.sex,
            view=image.view,
        )
        for image in found.images
    )
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
    try:  # folder, name and bytes, since two sets may hold the same names
        names = "\n".join(
            f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in (one.path for one in images)
        )
    except FileNotFoundError as error:
        raise DataMissing(f"{error.filename} is missing: its manifest names it") from error
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


SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def split_by_patient(
    patients: Sequence[str], truth: npt.NDArray[np.floating], shares: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each of N images: ``patients [N]``, ``truth [N, labels]``, ``shares`` of the patients.

    The same input and seed give the same splits. Raises ValueError if the shares do not sum to 1.
    """
    if not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6) or min(shares.values()) < 0:
        raise ValueError(f"the shares of {', '.join(shares)} must sum to 1, not to {sum(shares.values()):g}")
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    united = np.zeros((len(names), truth.shape[1]), bool)
    np.logical_or.at(united, owner, truth > 0)
    wanted = {name: share for name, share in shares.items() if share > 0}
    random = np.random.RandomState(seed)  # what the library takes
    order = random.permutation(len(names))
    dealt = IterativeStratification(united[order], np.array(list(wanted.values())), random)
    of_patient = np.empty(len(names), int)
    of_patient[order] = dealt
    splits = list(wanted)
    return [splits[number] for number in of_patient[owner]]


def table(
    images: Sequence[ChestImage], splits: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    """The contents of each split: patients, images, and the positives of each label."""
    held = {
        name: [image for image, split in zip(images, splits, strict=True) if split == name]
        for name in dict.fromkeys((*SHARES, *splits))
    }
    numbers = {label: LABELS.index(label) for label in labels}
    return {
        "patients": {name: len({image.patient for image in inside}) for name, inside in held.items()},
        "images": {name: len(inside) for name, inside in held.items()},
        **{
            label: {name: sum(one.labels[number] == 1 for one in inside) for name, inside in held.items()}
            for label, number in numbers.items()
        },
    }


def write_manifest(found: ChestSet, splits: Sequence[str], path: Path, *, force: bool = False) -> None:
    """Write the images of ``found`` with their new splits as a manifest that ``--data`` takes.

    Raises FileExistsError if ``path`` exists and ``force`` is not set: figures belong to one split.
    """
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already: --force replaces it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header = ("patient_id", "age", "sex", "view", "split", "source", "source_repo")
        writer.writerow(("file", *found.labels, *header))
        for image, split in zip(found.images, splits, strict=True):
            # -1 for what is neither 1 nor 0, as CheXpert writes it
            marks = [int(np.nan_to_num(image.labels[LABELS.index(name)], nan=-1)) for name in found.labels]
            age = "" if math.isnan(image.age) else f"{image.age:g}"
            known = (image.patient, age, image.sex, image.view, split, image.source, image.repository)
            writer.writerow((os.path.relpath(image.path, path.parent), *marks, *known))
