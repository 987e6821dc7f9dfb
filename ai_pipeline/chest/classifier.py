"""A card's classifier on one displayed image: probabilities, activation maps, distance to the domain.

The pipeline and ``ai-pipeline evaluate`` both use it, so that the evaluation measures what runs.

The box detector of a card: boxes of findings in one displayed image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from ai_pipeline.chest.explain import (
    PARTS,
    Activation,
    BoxHead,
    BoxTemplates,
    ScoredBox,
    activation,
    heatmap,
    overlaps,
    region,
)
from ai_pipeline.contract import Decision, Floats, Grey, Heatmap, Region
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import UPRIGHT, Affine, Pose, upright
from ai_pipeline.models.engine import load
from ai_pipeline.models.inputs import Change, changed, network_input
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


NETWORK, CANDIDATES, YOLO = "detector", "detector-boxes", "detector-yolo"
"""The roles of a card's weights: the network in ONNX; the candidate boxes with their priors; optionally a
YOLO in ONNX with the classifier's input, which gives rows of left, top, right, bottom in pixels of the input,
score (0 to 1), index of the label among those that have candidates."""


Corners = tuple[float, float, float, float]
CHANGES = (
    Change(size=0.95, gamma=1.2),
    Change(size=1.05, gamma=0.85),
    Change(shift=(0.03, -0.03)),
    Change(shift=(-0.03, 0.03), reduced=0.8),
)
"""Changes of the networks' input under which a box must be found again."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkOutput:
    """``maps [labels, parts, h, w]`` of the network, and for each label the ``detections [K, 5]`` of the
    YOLO, in the form of :func:`ai_pipeline.chest.explain.nearness`; no detections without a YOLO.
    """

    maps: Floats
    detections: Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class DetectorInput:
    """A prepared image of ``rows`` × ``columns``. The networks run only when the first box is asked for: most
    images have no finding that needs one.
    """

    values: Floats = field(repr=False)
    wanted: Input
    run: Callable[[Floats], NetworkOutput] = field(repr=False)
    to_model: Affine
    rows: int
    columns: int

    @cached_property
    def output(self) -> NetworkOutput:
        """The networks' output for the image; computed once."""
        return self.run(self.values)

    @cached_property
    def changed(self) -> tuple[NetworkOutput, ...]:
        """The networks' output for the input after each of :data:`CHANGES`; computed once."""
        inputs = (changed(self.values[0], change, self.wanted)[0] for change in CHANGES)
        return tuple(self.run(values[None]) for values in inputs)


class BoxDetector:
    """The box detector of one card. Raises CardError when its weights are missing, altered or unusable."""

    def __init__(self, card: Card) -> None:
        if card.input is None:
            raise CardError(f"{card.path.name}: a detector's card needs input")
        self._input = card.input
        self._shown = {label.name for label in card.labels if label.detector}
        try:
            self.head = BoxHead.from_bytes(read(card.file(CANDIDATES)))
        except (ValueError, KeyError) as error:
            raise CardError(f"{card.path.name}: {card.file(CANDIDATES).path.name} holds no boxes") from error
        self._engine = load(card, NETWORK)
        self._yolo = load(card, YOLO) if card.plays(YOLO) else None

    def prepare(self, image: Grey, pose: Pose = UPRIGHT) -> DetectorInput:
        """Prepare a displayed image (uint8 grey, bright = dense) that is shown in ``pose`` for
        :meth:`find`.
        """
        picture, to_upright = upright(image, pose)
        values, to_model = network_input(picture, self._input)
        return self.take(values, to_model.after(to_upright), *image.shape)

    def take(self, values: Floats, to_model: Affine, rows: int, columns: int) -> DetectorInput:
        """Prepare the classifier's input ``values [1, channels, size, size]`` for :meth:`find`.

        ``to_model``: the map to that input from a source image of ``rows`` × ``columns``.
        """
        return DetectorInput(values, self._input, self._run, to_model, rows, columns)

    def boxes_in(self, image: Grey, analysis: Analysis) -> Callable[[str], tuple[Region, ...]]:
        """A function from a label to its boxes in a displayed ``image``; the input of the classifier's
        analysis is used.
        """
        prepared = self.take(analysis.values, analysis.to_model, *image.shape)

        def regions(label: str) -> tuple[Region, ...]:
            found = self.region(prepared, label)
            return (found,) if found else ()

        return regions

    def _run(self, values: Floats) -> NetworkOutput:
        maps = self._engine(values)["parts"][0]
        if maps.shape[:2] != (len(self.head.labels), len(PARTS)):
            raise CardError(f"the detector's maps have the shape {maps.shape}, not that of its boxes")
        if self._yolo is None:
            return NetworkOutput(maps, {})
        rows = self._yolo(values)["boxes"][0]
        return NetworkOutput(maps, detections_by_label(rows, self.head.labels, self._input.size))

    def find(self, prepared: DetectorInput, label: str) -> ScoredBox | None:
        """The likeliest box of ``label``, reliable or not; None for a label without candidates."""
        return self._found(prepared.output, label) if label in self.head.labels else None

    def region(self, prepared: DetectorInput, label: str) -> Region | None:
        """The box of ``label`` in source coordinates; None if the card marks it as not reliable, or if it
        moves with small changes of the image.
        """
        found = self.find(prepared, label) if label in self._shown else None
        # Overlap (IoU) with the box of every changed input from which a box is shown: in five folds the
        # lowest that removes as many wrong boxes of effusions as any up to .4 does
        # (docs/studies/detection.md).
        if found is None or self.agreement(prepared, label, found) < 0.2:
            return None
        return self.in_source(found, prepared)

    def agreement(self, prepared: DetectorInput, label: str, found: ScoredBox) -> float:
        """The least overlap (IoU) of ``found`` with the box of ``label`` in a changed input, 0 to 1."""
        boxes = [
            moved_back(self._found(output, label).corners, change)
            for output, change in zip(prepared.changed, CHANGES, strict=True)
        ]
        return float(overlaps(np.array([found.corners], np.float32), np.array(boxes, np.float32)).min())

    def _found(self, output: NetworkOutput, label: str) -> ScoredBox:
        return self.head.find(output.maps, label, output.detections.get(label))

    def in_source(self, found: ScoredBox, prepared: DetectorInput) -> Region | None:
        """``found`` in source coordinates; None if it lies outside the image."""
        return region(found, self._input.size, prepared.to_model, prepared.rows, prepared.columns)


def moved_back(corners: Corners, change: Change) -> Corners:
    """``corners`` in a changed input as corners in the unchanged input; both in shares of the
    input's sides.
    """
    (across, down), size = change.offsets, change.size
    left, top, right, bottom = corners
    return (left - across) / size, (top - down) / size, (right - across) / size, (bottom - down) / size


def detections_by_label(rows: Floats, labels: Sequence[str], size: int) -> dict[str, Floats]:
    """The detections ``[K, 5]`` of each label from a YOLO's ``rows [N, 6]`` for an input of ``size`` pixels a
    side: corners as shares of the sides (0 to 1), and score.
    """
    number = rows[:, 5].round()
    shares = np.concatenate([np.clip(rows[:, :4] / size, 0, 1), rows[:, 4:5]], 1).astype(np.float32)
    return {label: shares[number == index] for index, label in enumerate(labels)}
