"""Scores of a classifier beside the truth, per image, and the curves of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.models.registry import Label
from ai_training.base import Report, silent
from ai_training.metrics import Bools, Floats, patient_weights, probabilities, reliability_curve
from ai_training.sets.chest import label_matrix
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS, SetImage, known_label


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The classifier's outputs and the truth for N images and the K labels ``names``: ``truth`` (0 or 1),
    ``logit``, calibrated probability ``chance``, all ``[N, K]``. ``columns``: the labels' positions in
    :data:`LABELS`; ``labels``: the model card's entries for them. ``analysed [N]``: whether the node analyses
    the image; of those that its gate or the exposure refuses nothing is called.
    """

    images: tuple[SetImage, ...]
    names: tuple[str, ...]
    columns: tuple[int, ...]
    labels: tuple[Label, ...]
    truth: Floats
    logit: Floats
    chance: Floats
    analysed: Bools

    def where(self, chosen: Iterable[bool]) -> Scored:
        """Return only the images for which ``chosen`` is true."""
        rows = [row for row, yes in enumerate(chosen) if yes]
        return Scored(
            tuple(self.images[row] for row in rows),
            self.names,
            self.columns,
            self.labels,
            self.truth[rows],
            self.logit[rows],
            self.chance[rows],
            self.analysed[rows],
        )

    def called(self, thresholds: Floats) -> Bools:
        """The positive decisions ``[N, K]`` at ``thresholds [K]``."""
        return np.asarray((self.chance >= thresholds) & self.analysed[:, None])

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
class Outputs:
    """What the node computes of N images: ``logits [N, labels of the model card]``, ``distances [N]`` of the
    domain gate (NaN without one), and whether it analyses the image (``analysed [N]``).
    """

    logits: Floats
    distances: Floats
    analysed: Bools

    def of(self, rows: npt.NDArray[np.intp]) -> Outputs:
        """The outputs of these ``rows``."""
        return Outputs(self.logits[rows], self.distances[rows], self.analysed[rows])


def run(classifier: Classifier, images: Sequence[SetImage], cache: Path, report: Report = silent) -> Outputs:
    """Run the classifier on every image as at run time. The outputs are stored in the folder ``cache`` by
    model and list of files.
    """
    names = "\n".join(str(image.path) for image in images)
    card = classifier.card
    made_by = [weights.sha256 for weights in card.weights], card.input, card.outputs, card.gate
    digest = hashlib.sha256(f"{made_by} {Outputs.__slots__}\n{names}".encode())
    stored = cache / f"outputs-{digest.hexdigest()[:16]}.npz"
    if stored.exists():
        with np.load(stored) as arrays:
            return Outputs(**arrays)
    logits = np.empty((len(images), len(card.labels)), np.float32)
    distances = np.empty(len(images), np.float32)
    analysed = np.empty(len(images), np.bool_)
    for index, image in enumerate(images):
        picture = read_grey(image.path)
        analysis = classifier.analyse(picture)
        logits[index], distances[index] = analysis.logits, analysis.distance
        analysed[index] = classifier.in_domain(analysis) and Exposure.from_image(picture).refusal is None
        report((index + 1) / len(images), "running the network")
    cache.mkdir(parents=True, exist_ok=True)
    found = Outputs(logits, distances, analysed)
    np.savez(stored, logits=logits, distances=distances, analysed=analysed)
    return found


def scored(
    images: Sequence[SetImage],
    outputs: Outputs,
    labels: Sequence[Label],
    known: Sequence[str],
) -> Scored:
    """Join the images' truth with the classifier's ``outputs``, for those of the model card's ``labels`` that
    are among ``known``. Labels are matched as :func:`known_label` does.
    """
    named = ((known_label(label.name), k) for k, label in enumerate(labels))
    pairs = [(name, k) for name, k in named if name is not None and name in known]
    pairs.sort(key=lambda pair: LABELS.index(pair[0]))
    names = tuple(name for name, _ in pairs)
    chosen = tuple(labels[k] for _, k in pairs)
    columns = tuple(LABELS.index(name) for name in names)
    logit = outputs.logits[:, [k for _, k in pairs]].astype(np.float64)
    return Scored(
        images=tuple(images),
        names=names,
        columns=columns,
        labels=chosen,
        truth=label_matrix(images)[:, list(columns)] if images else np.zeros((0, len(names)), np.float32),
        logit=logit,
        chance=probabilities(chosen, logit),
        analysed=outputs.analysed,
    )


def curves(found: Scored, fewest: int) -> dict[str, Any]:
    """The curves of each label with at least ``fewest`` positives: ``roc`` and ``pr`` as two lists,
    ``reliability`` as points.

    ``roc``: false and true positive rate; ``pr``: recall and precision; ``reliability``: mean probability,
    rate, images. ``rate`` is the label's prevalence, ``operating`` the shipped thresholds as (false positive
    rate, true positive rate) of "not absent" and "present".
    """
    result: dict[str, Any] = {}
    for k in found.with_positives(fewest):
        label = found.labels[k]
        cuts = (label.absent_below, label.threshold)
        scores = found.truth[:, k], found.logit[:, k], found.chance[:, k]
        result[found.names[k]] = curves_of_label(*scores, cuts)
    return result


def curves_of_label(truth: Floats, score: Floats, chance: Floats, cuts: Sequence[float]) -> dict[str, Any]:
    """The curves of one label (:func:`curves`) from ``truth [N]``, a ``score [N]`` by which images are
    ordered, and calibrated probabilities ``chance [N]``; ``cuts``: absent below, and present from.
    """
    false, true, _ = roc_curve(truth, score)
    precision, recall, _ = precision_recall_curve(truth, score)
    return {
        "roc": _thin(false, true),
        "pr": _thin(recall, precision),
        "reliability": [[round(p, 4), round(r, 4), n] for p, r, n in reliability_curve(truth, chance)],
        "rate": round(float(truth.mean()), 4),
        "operating": [
            [round(float((chance >= cut)[part].mean()), 4) for part in (truth <= 0, truth > 0)]
            for cut in cuts
        ],
    }


def _thin(x: Floats, y: Floats) -> list[list[float]]:
    """Reduce the curve with the coordinates ``x`` and ``y`` to at most 120 points."""
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), 120)).round().astype(int))
    return [[round(float(value), 4) for value in values[places]] for values in (x, y)]
