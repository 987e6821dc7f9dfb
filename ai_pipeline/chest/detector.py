"""The box detector of a card: boxes of findings in one displayed image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ai_pipeline.chest.classifier import Analysis
from ai_pipeline.chest.explain import PARTS, BoxHead, ScoredBox, overlaps, region
from ai_pipeline.contract import Floats, Grey, Region
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import UPRIGHT, Affine, Pose, upright
from ai_pipeline.models.engine import load
from ai_pipeline.models.inputs import Change, changed, network_input
from ai_pipeline.models.registry import Card, Input, read

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
