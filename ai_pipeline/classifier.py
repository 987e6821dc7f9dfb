"""A card's classifier at work on one displayed image: probabilities, activation maps, distance to the domain.

Used by the pipeline and by ``ai-pipeline evaluate``, so that what is measured is what runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import Decision, Region
from ai_pipeline.engine import Backend, load
from ai_pipeline.explain import Activation, BoxTemplates, activation
from ai_pipeline.gate import FeatureGate
from ai_pipeline.preprocess import Affine, normalise, prepare
from ai_pipeline.registry import Card, CardError, Input, Label, find, read

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """All that the network says about one image of ``rows`` × ``columns``.

    ``logits [labels]``, ``places [labels, h, w]``; ``distance`` to the domain of the training images.
    """

    logits: Floats
    places: Floats
    distance: float
    to_model: Affine
    rows: int
    columns: int


class Classifier:
    """The classifier of one card. Raises CardError when the card or its weights are not usable."""

    def __init__(self, card: Card, backend: Backend = "onnxruntime", threads: int = 0) -> None:
        if card.input is None or card.gate is None:
            raise CardError(f"{card.path.name}: a classifier's card needs input and gate")
        self.card = card
        self._input: Input = card.input
        self._gate = FeatureGate.from_bytes(read(card.file(card.gate.role)))
        self._threshold = card.gate.threshold
        self._templates = BoxTemplates.from_bytes(read(card.file("boxes")))
        self._engine = load(card, "classifier", backend, threads)

    @staticmethod
    def of(model_id: str, models_dir: Path | None = None) -> Classifier:
        """The classifier of the card with this id."""
        return Classifier(find(model_id, models_dir))

    def analyse(self, image: npt.NDArray[np.uint8]) -> Analysis:
        """Run the network on a displayed image: uint8 grey, bright = dense, any size."""
        prepared, to_model = prepare(image, self._input.chain, self._input.size)
        outputs = self._engine(normalise(prepared[None], self._input.mean, self._input.scale))
        distance = float(self._gate.distance(outputs["features"].mean((2, 3)))[0])
        rows, columns = image.shape
        return Analysis(outputs["logits"][0], outputs["places"][0], distance, to_model, rows, columns)

    def in_domain(self, found: Analysis) -> bool:
        """True when the image looks like those that the model was made for."""
        return found.distance <= self._threshold

    def probability(self, found: Analysis, label: int) -> float:
        """The calibrated probability of the card's label number ``label``."""
        return probability(self.card.labels[label], float(found.logits[label]))

    def activation(self, found: Analysis, label: int) -> Activation:
        """Where the evidence for label number ``label`` lies."""
        return activation(found.places[label], self._input.size, found.to_model, found.rows, found.columns)

    def box(self, found: Activation, label: int) -> Region | None:
        """One box for label number ``label``, in source coordinates; None where the card gives none."""
        if not self.card.labels[label].box:
            return None
        return self._templates.box(found, label)


def probability(label: Label, logit: float) -> float:
    """A logit as a probability by the card's calibration."""
    return float(1.0 / (1.0 + np.exp(-(label.slope * logit + label.intercept))))


def decide(label: Label, value: float) -> Decision:
    """What a probability means at the card's two thresholds."""
    if value >= label.threshold:
        return Decision.PRESENT
    if value < label.absent_below:
        return Decision.ABSENT
    return Decision.INDETERMINATE
