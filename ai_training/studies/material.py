"""The images of a study: read once, kept small, divided into training and test as each arm says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.models.registry import Chain
from ai_training.errors import DataMissing
from ai_training.progress import Report, silent
from ai_training.sets.chest import chest_images, chest_set, label_matrix, reduced_images
from ai_training.sets.images import LABELS, ChestImage
from ai_training.studies.experiment import Arm, ChestStudy, Split, Task

Rows = npt.NDArray[np.intp]
DEALT = 20240601  # one fixed deal of images and patients: arms and seeds are measured on the same ones


@dataclass(frozen=True, slots=True, eq=False)
class StudyMaterial:
    """The images of a study. ``images``: the adults' of all splits; ``pixels [N, side, side]`` uint8; ``truth
    [N, names]``.

    ``left_out``: pairs of source and label number that the set does not measure. ``names``: the labels.
    """

    images: tuple[ChestImage, ...]
    pixels: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.float32]
    left_out: frozenset[tuple[str, int]] = frozenset()
    names: tuple[str, ...] = LABELS

    @staticmethod
    def gather(data: Path, study: ChestStudy, cache: Path, report: Report = silent) -> StudyMaterial:
        """Read ``data`` once, at the largest size that an arm needs. Raises DataMissing."""
        cv2.setNumThreads(1)
        images = tuple(image for image in chest_images(data) if image.adult)
        if study.images:
            images = _few(images, study.images)
        if not images:
            raise DataMissing(f"{data} holds no image of an adult")
        side = max(arm.network.size for arm in study.arms)
        pixels = reduced_images(images, Chain(side=side), cache, report)
        left_out = {(source, LABELS.index(label)) for source, label in chest_set(data).left_out}
        return StudyMaterial(images, pixels, label_matrix(images), frozenset(left_out))

    def with_synthetic(self, kind: str, label: str, made: npt.NDArray[np.uint8]) -> StudyMaterial:
        """A copy with the synthetic images ``made [n, any, any]`` added, all with ``label``, in a split named
        ``kind``.
        """
        side = self.pixels.shape[1]
        marks = tuple(int(name == label) for name in self.names)
        added = tuple(
            ChestImage(Path(), marks, None, f"{kind}-{k}", kind, kind, "", float("nan"), "", "")
            for k in range(len(made))
        )
        sized = [cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in made]
        return replace(
            self,
            images=self.images + added,
            pixels=np.concatenate([self.pixels, np.stack(sized).astype(np.uint8)]),
            truth=np.concatenate([self.truth, label_matrix(added)]),
        )

    def sized(self, size: int) -> npt.NDArray[np.uint8]:
        """All images at ``size`` pixels a side."""
        if size == self.pixels.shape[1]:
            return self.pixels
        small = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in self.pixels]
        return np.stack(small).astype(np.uint8)

    def rows(self, arm: Arm) -> tuple[Rows, Rows]:
        """The indices of the images that ``arm`` learns from, and of those it is measured on.

        Raises DataMissing if there are none.
        """
        train, test = _dealt(self.images, arm.split)
        train, test = (self._of_task(rows, arm.task) for rows in (train, test))
        train = self._limited(_thinned(self.images, train, arm.split), arm.task)
        if not len(train) or not len(test):
            raise DataMissing(f"{arm.name}: {len(train)} images to learn from, {len(test)} to measure on")
        return train, test

    def labels(self, task: Task) -> npt.NDArray[np.float32]:
        """The labels of ``task`` as ``[N, labels]`` of 0 and 1."""
        return self.truth[:, [self.names.index(label) for label in task.labels]]

    def _of_task(self, rows: Rows, task: Task) -> Rows:
        if not task.against_normal:
            return rows
        wanted = self.labels(task)[rows].any(1) | ~self.truth[rows].any(1)
        return rows[wanted]

    def _limited(self, rows: Rows, task: Task) -> Rows:
        positive = self.labels(task)[rows].any(1)
        parts = (rows[positive], task.positives), (rows[~positive], task.normals)
        return np.sort(np.concatenate([_drawn(part, most) for part, most in parts]))


def _few(images: Sequence[ChestImage], each: int) -> tuple[ChestImage, ...]:
    """So many images of each split, in turn one with a finding and one without."""
    found: list[ChestImage] = []
    for split in ("train", "val", "test"):
        inside = [image for image in images if image.split == split]
        kinds = [[i for i in inside if any(i.labels)], [i for i in inside if not any(i.labels)]]
        found += [image for kind in kinds for image in kind[: each // 2]]
    return tuple(found)


def _dealt(images: Sequence[ChestImage], split: Split) -> tuple[Rows, Rows]:
    if split.by == "given":
        given = np.array([image.split for image in images])
        return np.flatnonzero(np.isin(given, split.learned)), np.flatnonzero(np.isin(given, split.held_out))
    names, owner = np.unique([image.patient for image in images], return_inverse=True)
    random = np.random.default_rng(DEALT)
    place = random.permutation(len(names))[owner] / len(names)
    second = random.random(len(images)) < 0.5
    if split.by == "patient":
        return np.flatnonzero(place >= 1 - split.train), np.flatnonzero(place < split.test)
    torn = place < 2 * split.test
    further = np.flatnonzero(torn & ~second) if split.shared_patients else np.array([], np.intp)
    train = np.flatnonzero(~torn & (place >= 1 - split.train))
    return np.concatenate([further, random.permutation(train)]), np.flatnonzero(torn & second)


def _thinned(images: Sequence[ChestImage], rows: Rows, split: Split) -> Rows:
    """At most so many of one patient, at most so many in all: the first of ``rows``."""
    kept: list[int] = []
    taken: dict[str, int] = {}
    for row in rows:
        patient = images[row].patient
        taken[patient] = taken.get(patient, 0) + 1
        if not split.per_patient or taken[patient] <= split.per_patient:
            kept.append(int(row))
    return np.sort(np.array(kept[: split.most] if split.most else kept, np.intp))


def _drawn(rows: Rows, most: int) -> Rows:
    return np.random.default_rng(DEALT).permutation(rows)[:most] if most else rows
