"""Fit a domain gate from a site's own images, for a model that has none.

Such a gate knows only the site's images: it refuses an image that is farther away than 99 in 100 of them. A
model that gives no feature maps gets no gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.chest.domain_gate import FeatureGate
from ai_pipeline.errors import CardError
from ai_pipeline.images.orientation import POSES, UPRIGHT, shown
from ai_training.cards import changed_card, weights_row
from ai_training.chest.gates import TRUE_POSITIVE_RATE, Floats, directions_of
from ai_training.metrics import mean_interval, patient_weights
from ai_training.progress import Report
from ai_training.sets.files import read_grey
from ai_training.sets.images import ChestImage

ROLE, FILE = "gate", "gate.npz"
DIRECTIONS = 32
FEWEST = 60
"""Images that the directions and the limit need together."""
TRIED = 30
"""Images that are shown turned and inverted, to see what the gate does with them."""


def fit_and_add(
    path: Path, classifier: Classifier, images: Sequence[ChestImage], fitting: Sequence[bool], report: Report
) -> dict[str, Any]:
    """Fit a gate to the images marked in ``fitting``, add it to the card at ``path`` and measure it on the
    others.

    Returns an empty result if the card has a gate already, the model has no or too few feature maps, or there
    are too few images.
    """
    card = classifier.card
    first = [image for image, yes in zip(images, fitting, strict=True) if yes]
    others = [image for image, yes in zip(images, fitting, strict=True) if not yes]
    if card.gate is not None or len(first) < FEWEST or not others or not _has_features(classifier, first[0]):
        return {}
    report(0.0, "fitting the gate")
    features = _features(classifier, first)
    patients = np.array([image.patient for image in first])
    names = np.unique(patients)
    limit = np.isin(patients, names[::3])  # a third of the patients says how far one may be
    count = min(DIRECTIONS, features.shape[1] // 4, int((~limit).sum()) // 2)
    if count < 1:  # so few features leave nothing unexplained
        return {}
    gate = directions_of(features[~limit], count)
    threshold = float(np.quantile(gate.distance(features[limit]), TRUE_POSITIVE_RATE))
    (path.parent / FILE).write_bytes(gate.to_bytes())
    with changed_card(path) as text:
        text["weights"].append(weights_row(ROLE, path.parent / FILE))
        text["gate"] = {
            "role": ROLE,
            "threshold": round(threshold, 6),
            "true_positive_rate": TRUE_POSITIVE_RATE,
        }
    far = gate.distance(_features(classifier, others)) > threshold
    weights = patient_weights([image.patient for image in others])
    return {
        "threshold": round(threshold, 6),
        "refused": mean_interval(far.astype(np.float32), weights).as_list(),
        "turned_or_inverted_refused": _refused_when_posed(classifier, gate, others, threshold),
    }


def _has_features(classifier: Classifier, image: ChestImage) -> bool:
    try:
        _features(classifier, [image])
    except CardError:
        return False
    return True


def _features(classifier: Classifier, images: Sequence[ChestImage]) -> Floats:
    return np.concatenate([classifier.features(read_grey(image.path)) for image in images])


def _refused_when_posed(
    classifier: Classifier, gate: FeatureGate, images: Sequence[ChestImage], threshold: float
) -> float:
    """The share of the first images, each shown in another wrong pose, that the gate refuses."""
    poses = [pose for pose in POSES if pose != UPRIGHT]
    posed = [
        shown(read_grey(image.path), poses[number % len(poses)])
        for number, image in enumerate(images[:TRIED])
    ]
    features = np.concatenate([classifier.features(picture) for picture in posed])
    return round(float((gate.distance(features) > threshold).mean()), 3)
