"""A card's classifier on one displayed image: probabilities, activation maps, distance to the domain.

The pipeline and ``ai-pipeline evaluate`` both use it, so that the evaluation measures what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ai_pipeline.chest.explain import Activation, BoxTemplates, activation, heatmap
from ai_pipeline.contract import Decision, Floats, Grey, Heatmap, Region
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import UPRIGHT, Affine, Pose, upright
from ai_pipeline.models.engine import load
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import Card, Input, Label, read
from ai_pipeline.networks.gate import UNKNOWN, FeatureGate, Kind

CERTAIN = 1e-7  # a probability of 0 or 1 has no logit


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """The network's input and output for one image of ``rows`` × ``columns``.

    ``values [1, channels, size, size]``: the input, which the card's other networks share. ``logits
    [labels]``; ``places [labels, h, w]``, None if the network gives no maps; ``distance`` to the domain of
    the training images, NaN if the card has no gate. ``pose``: how the image was shown before it was put
    upright for the analysis; ``kind`` and ``shown_distance`` belong to the image as it was shown.
    """

    values: Floats
    logits: Floats
    places: Floats | None
    distance: float
    to_model: Affine
    rows: int
    columns: int
    kind: Kind = UNKNOWN
    shown_distance: float = float("nan")
    pose: Pose = UPRIGHT

    def seen(self, way: Affine, rows: int, columns: int) -> Analysis:
        """This analysis of a smaller copy, in the coordinates of the image of ``rows`` × ``columns``; ``way``
        maps the copy to the image.
        """
        return replace(self, to_model=self.to_model.after(way.inverse()), rows=rows, columns=columns)


class Classifier:
    """The classifier of one card. Raises CardError when the card or its weights are not usable."""

    def __init__(self, card: Card, threads: int = 0) -> None:
        if card.input is None or not card.labels:
            raise CardError(f"{card.path.name}: a classifier's card needs input and labels")
        self.card = card
        self._input: Input = card.input
        self._gate = FeatureGate.from_bytes(read(card.file(card.gate.role))) if card.gate else None
        self._templates = BoxTemplates.from_bytes(read(card.file("boxes"))) if card.plays("boxes") else None
        self._engine = load(card, "classifier", threads)

    def analyse(self, image: Grey) -> Analysis:
        """Run the network on a displayed image: uint8 grey, bright = dense, any size.

        An image that the gate refuses as turned or inverted is reoriented and analysed again; if that copy is
        in the domain, its analysis is returned, in coordinates of ``image``.
        """
        found = self.analyse_as_shown(image)
        if self.in_domain(found) or found.kind.pose == UPRIGHT:
            return found
        picture, to_upright = upright(image, found.kind.pose)
        reoriented = self.analyse_as_shown(picture)
        if not self.in_domain(reoriented):
            return found
        return replace(
            reoriented,
            to_model=reoriented.to_model.after(to_upright),
            rows=found.rows,
            columns=found.columns,
            pose=found.kind.pose,
            kind=found.kind,
            shown_distance=found.shown_distance,
        )

    def analyse_as_shown(self, image: Grey) -> Analysis:
        """Run the network once on the image as it is shown, whatever its pose."""
        values, to_model = network_input(image, self._input)
        outputs = self._engine(values)
        distance, kind = float("nan"), UNKNOWN
        if self._gate is not None:
            pooled = self._pooled(outputs)
            distance, kind = float(self._gate.distance(pooled)[0]), self._gate.kind(pooled)
        places = outputs[self.card.outputs.places][0] if self.card.outputs.places in outputs else None
        rows, columns = image.shape
        logits = self._output(outputs, "scores")[0]
        if logits.shape != (len(self.card.labels),):
            raise CardError(
                f"{self.card.name}: the network's scores have the shape {logits.shape}, "
                f"the card has {len(self.card.labels)} labels"
            )
        if self.card.outputs.kind == "probabilities":
            chance = np.clip(logits.astype(np.float64), CERTAIN, 1.0 - CERTAIN)
            logits = np.asarray(np.log(chance / (1.0 - chance)), np.float32)
        return Analysis(values, logits, places, distance, to_model, rows, columns, kind, distance)

    def features(self, image: Grey) -> Floats:
        """The pooled features ``[1, C]`` of an image as shown; the gate is fitted to such features."""
        return self._pooled(self._engine(network_input(image, self._input)[0]))

    def in_domain(self, found: Analysis) -> bool:
        """Whether the image looks like the training images; True if the card has no gate."""
        return self.card.gate is None or found.distance <= self.card.gate.threshold

    def probability(self, found: Analysis, label: int) -> float:
        """The calibrated probability of the card's label number ``label``."""
        return probability(self.card.labels[label], float(found.logits[label]))

    def activation(self, found: Analysis, label: int) -> Activation | None:
        """The map of the evidence for label number ``label``; None where the network has no map for it."""
        class_activation = self.card.outputs.place_kind == "activation"
        if found.places is None or not (class_activation or self.card.labels[label].box):
            return None
        places = found.places[label]
        if class_activation:  # evidence against the label counts as none
            places = np.log(np.maximum(places, 0.0) + 1e-6 * max(float(np.abs(places).max()), 1e-6))
        return activation(places, self._input.size, found.to_model, found.rows, found.columns)

    def heatmap(self, found: Activation) -> Heatmap:
        """``found`` as a picture of the source image's size, with the name of the method."""
        drawn = heatmap(found)
        class_activation = self.card.outputs.place_kind == "activation"
        return replace(drawn, method="class activation") if class_activation else drawn

    def box(self, found: Activation, label: int) -> Region | None:
        """One box for label number ``label``, in source coordinates; None if the card provides none."""
        if self._templates is None or not self.card.labels[label].box:
            return None
        return self._templates.box(found, label)

    def _pooled(self, outputs: Mapping[str, Floats]) -> Floats:
        return np.asarray(self._output(outputs, "features").mean((2, 3)), np.float32)

    def _output(self, outputs: Mapping[str, Floats], part: Literal["scores", "features"]) -> Floats:
        name = self.card.outputs.scores if part == "scores" else self.card.outputs.features
        if name not in outputs:
            known = ", ".join(sorted(outputs))
            raise CardError(
                f"{self.card.name}: the network has no output {name!r} (it has {known}): "
                f"name the {part} in the card's [outputs]"
            )
        return outputs[name]


def probability(label: Label, logit: float) -> float:
    """A logit as a probability, 0 to 1, by the card's calibration."""
    # exp(709) is the largest that a double holds.
    scaled = max(label.slope * logit + label.intercept, -700.0)
    return float(1.0 / (1.0 + np.exp(-scaled)))


def decide(label: Label, value: float) -> Decision:
    """The decision for ``value``, a probability 0 to 1, by the two thresholds of a label."""
    if value >= label.threshold:
        return Decision.PRESENT
    if value < label.absent_below:
        return Decision.ABSENT
    return Decision.INDETERMINATE
