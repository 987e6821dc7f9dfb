"""Images with their true labels and a model's outputs, from which all figures are computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.models.registry import Label
from ai_training.calibrate import probabilities
from ai_training.metrics import Floats, patient_weights
from ai_training.progress import Report, silent
from ai_training.sets.chest import label_matrix
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS, ChestImage


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """N images and the K labels ``names``: ``truth``, ``logit``, calibrated ``chance``, all ``[N, K]``.

    ``columns``: the labels' positions in :data:`LABELS`; ``labels``: the card's entries for them.
    """

    images: tuple[ChestImage, ...]
    names: tuple[str, ...]
    columns: tuple[int, ...]
    labels: tuple[Label, ...]
    truth: Floats
    logit: Floats
    chance: Floats

    def where(self, chosen: Iterable[bool]) -> Scored:
        """Only the images for which ``chosen`` is true."""
        rows = [row for row, yes in enumerate(chosen) if yes]
        return Scored(
            tuple(self.images[row] for row in rows),
            self.names,
            self.columns,
            self.labels,
            self.truth[rows],
            self.logit[rows],
            self.chance[rows],
        )

    @property
    def patients(self) -> list[str]:
        """The patient of each image."""
        return [image.patient for image in self.images]

    def weights(self) -> Floats:
        """The weights of bootstrap resamples by patient, as :func:`patient_weights`."""
        return patient_weights(self.patients)

    def with_positives(self, fewest: int) -> list[int]:
        """The columns of the labels that have at least ``fewest`` positives and as many negatives."""
        positives = self.truth.sum(0)
        least = np.minimum(positives, len(self.images) - positives)
        return [int(k) for k in np.flatnonzero(least >= fewest)]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredOutputs:
    """A network's outputs for N images: ``logits [N, labels of the card]`` and ``distances [N]``."""

    logits: Floats
    distances: Floats


def run(
    classifier: Classifier, images: Sequence[ChestImage], cache: Path, report: Report = silent
) -> ScoredOutputs:
    """Run the classifier on every image as at run time; outputs are stored in ``cache`` by model and list of
    files.
    """
    names = "\n".join(str(image.path) for image in images)
    card = classifier.card
    made_by = [weights.sha256 for weights in card.weights], card.input, card.outputs, card.gate
    digest = hashlib.sha256(f"{made_by}\n{names}".encode())
    stored = cache / f"outputs-{digest.hexdigest()[:16]}.npz"
    if stored.exists():
        with np.load(stored) as arrays:
            return ScoredOutputs(arrays["logits"], arrays["distances"])
    logits = np.empty((len(images), len(card.labels)), np.float32)
    distances = np.empty(len(images), np.float32)
    for index, image in enumerate(images):
        analysis = classifier.analyse(read_grey(image.path))
        logits[index], distances[index] = analysis.logits, analysis.distance
        report((index + 1) / len(images), "running the network")
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(stored, logits=logits, distances=distances)
    return ScoredOutputs(logits, distances)


def scored(
    images: Sequence[ChestImage],
    logits: npt.NDArray[np.floating],
    labels: Sequence[Label],
    known: Sequence[str],
) -> Scored:
    """The truth with logits ``[N, labels]``, for those of the card's ``labels`` that are among ``known``.

    Labels are matched by name, whatever their capitals, spaces and underscores.
    """
    wanted = {_plain(name): name for name in known}
    pairs = [
        (wanted[_plain(label.name)], k) for k, label in enumerate(labels) if _plain(label.name) in wanted
    ]
    pairs.sort(key=lambda pair: LABELS.index(pair[0]))
    names = tuple(name for name, _ in pairs)
    chosen = tuple(labels[k] for _, k in pairs)
    columns = tuple(LABELS.index(name) for name in names)
    logit = logits[:, [k for _, k in pairs]].astype(np.float64)
    return Scored(
        images=tuple(images),
        names=names,
        columns=columns,
        labels=chosen,
        truth=label_matrix(images)[:, list(columns)] if images else np.zeros((0, len(names)), np.float32),
        logit=logit,
        chance=probabilities(chosen, logit),
    )


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "_")
