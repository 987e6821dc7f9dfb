"""The ovarian card's networks on one displayed picture: probabilities of the classes, and the gate.

The pipeline and ``ai-pipeline evaluate`` both use it, so that the evaluation measures what runs.

The lesion (the ovary if it is normal) is outlined if the network is sure. The network outlines the picture
and its mirror image. If the two disagree, or the outline is not a single place in the picture, there is no
outline: a wrong one is worse than none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ai_pipeline.contract import Bools, Decision, Floats, Grey, Heatmap, Origin, Region
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.engine import Engine, load
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import Card, Input, Label, find, read
from ai_pipeline.networks.gate import FeatureGate
from ai_pipeline.networks.heads import HeadModel

METHOD = "class activation, coarse"
NORMAL = "Ovary_Normal"
"""Never called present: in five folds two of three such answers were right, and five cancers got it."""


@dataclass(frozen=True, slots=True, eq=False)
class OvarianAnalysis:
    """The classifier's output for a picture of ``rows`` × ``columns``.

    ``values [1, 3, size, size]``: the network's input; ``probabilities [labels]`` 0 to 1 with the sum 1;
    ``places [labels, h, w]``: class activation; ``distance`` to the training frames, accepted up to the
    card's threshold; ``to_model``: the map from source coordinates to those of the input.
    """

    values: Floats
    probabilities: Floats
    places: Floats
    distance: float
    to_model: Affine
    rows: int
    columns: int


class OvarianClassifier:
    """The classifier of one card. Raises CardError when the card or its weights are not usable."""

    def __init__(self, card: Card) -> None:
        if card.input is None or not card.labels or card.gate is None:
            raise CardError(f"{card.path.name}: the ovarian model needs input, labels and gate")
        self.card = card
        self.input: Input = card.input
        self._gate, self._limit = FeatureGate.from_bytes(read(card.file(card.gate.role))), card.gate.threshold
        self._engine = load(card, "classifier")

    def analyse(self, picture: Grey) -> OvarianAnalysis:
        """Run the networks on ``picture``: as displayed, uint8, RGB or grey, any size."""
        grey = grey_of(picture)
        values, to_model = network_input(grey, self.input)
        outputs = self._engine(values)
        pooled = np.asarray(outputs[self.card.outputs.features].mean((2, 3)), np.float32)
        return OvarianAnalysis(
            values,
            probabilities(outputs[self.card.outputs.scores], self.card.labels)[0],
            np.asarray(outputs[self.card.outputs.places][0], np.float32),
            float(self._gate.distance(pooled)[0]),
            to_model,
            *grey.shape,
        )

    def in_domain(self, found: OvarianAnalysis) -> bool:
        """Whether the picture looks like the frames that the model was made for."""
        return found.distance <= self._limit


def grey_of(picture: Grey) -> Grey:
    """A displayed picture, RGB or grey, as grey levels ``[rows, columns]``."""
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def probabilities(logits: Floats, labels: Sequence[Label]) -> Floats:
    """Calibrated probabilities with the sum 1 from logits, both ``[N, labels]``: the softmax of slope · logit
    + intercept (vector scaling, C. Guo et al., ICML 2017).
    """
    slopes, intercepts = ([getattr(label, key) for label in labels] for key in ("slope", "intercept"))
    scaled = logits.astype(np.float64) * slopes + intercepts
    scaled -= scaled.max(1, keepdims=True)
    odds = np.exp(scaled)
    return np.asarray(odds / odds.sum(1, keepdims=True), np.float32)


def decisions(found: Floats, labels: Sequence[Label], *, hidden: bool) -> tuple[Decision, ...]:
    """The decision for each label from the probabilities ``found [labels]``.

    The likeliest label is present from its threshold on. No label is present if the likeliest one is below
    its threshold, is :data:`NORMAL`, or is not supported and ``hidden``. A label that is not supported is
    never absent. If such a label is the likeliest and hidden, no label is absent: the others would reveal it.
    """
    best = int(np.argmax(found))
    named = labels[best].supported or not hidden
    sure = named and found[best] >= labels[best].threshold and labels[best].name != NORMAL
    return tuple(
        Decision.PRESENT
        if sure and index == best
        else Decision.ABSENT
        if named and label.supported and value < label.absent_below
        else Decision.INDETERMINATE
        for index, (value, label) in enumerate(zip(found.tolist(), labels, strict=True))
    )


def heatmap(found: OvarianAnalysis, label: int) -> Heatmap:
    """The evidence for a label at the source's size: its class activation above zero, the peak set to 1."""
    activation = np.maximum(found.places[label], 0.0)
    # To the input's size by a cubic: linear interpolation of six cells shows as diamonds.
    fine = cv2.resize(activation, found.values.shape[:1:-1], interpolation=cv2.INTER_CUBIC)
    # Activation up to which a map says nothing of a place: it is not stretched to 1.
    fine = np.clip(fine / max(float(fine.max()), 1e-6), 0.0, 1.0)
    return Heatmap(in_source(fine, found.to_model, found.rows, found.columns), METHOD)


def in_source(layer: Floats, to_model: Affine, rows: int, columns: int) -> Floats:
    """A map on the network's input, ``[size, size]``, transformed to the source image: ``[rows,
    columns]``.
    """
    way, flags = to_model.between_centres(), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(layer, way, (columns, rows), flags=flags), np.float32)


NOT_LIKE = "the pixels do not look like an ultrasound frame of an ovary"


class PixelGate:
    """The classifier's own gate, and the model of fetal heads: a round head may look like a large cyst."""

    def __init__(self, classifier: OvarianClassifier, models_dir: Path | None = None) -> None:
        """Raises CardError where a model is missing or altered."""
        self.classifier = classifier
        self._heads = HeadModel.of(find("fetal-head-unet", models_dir))

    def refused(self, picture: Grey, analysis: OvarianAnalysis) -> str | None:
        """Why ``picture``, uint8, RGB or grey, must not be classified; None if it may be."""
        if not self.classifier.in_domain(analysis):
            return NOT_LIKE
        return None if self._heads.outline(grey_of(picture)).fault else "the pixels show a fetal head"


SURE = 0.5
"""Probability from which a pixel belongs to the lesion."""
AREA = (0.005, 0.8)
"""Share of the picture that a lesion takes: that of all masks of the training frames but the extremes."""


@dataclass(frozen=True, slots=True, eq=False)
class LesionOutline:
    """``mask [rows, columns]`` of the source image, and its polygon; both None if ``fault`` says why."""

    mask: Bools | None
    region: Region | None
    fault: str = ""


class Outliner:
    """The outline network of the ovarian card. Raises CardError."""

    def __init__(self, card: Card) -> None:
        self._engine: Engine = load(card, "outline")

    def outline(self, seen: OvarianAnalysis) -> LesionOutline:
        """The outline of the lesion in the picture of the analysis ``seen``."""
        twice = np.concatenate([seen.values, seen.values[..., ::-1]])
        (found,) = self._engine(np.ascontiguousarray(twice)).values()
        shown, mirrored = found[0, 0], found[1, 0, :, ::-1]
        # Least Dice of the outlines of the picture and of its mirror image.
        if dice(shown >= SURE, mirrored >= SURE) < 0.85:
            return LesionOutline(None, None, "the outline changes when the picture is mirrored")
        mean = np.asarray((shown + mirrored) / 2, np.float32)
        return of_mask(in_source(mean, seen.to_model, seen.rows, seen.columns) >= SURE)


def of_mask(mask: Bools) -> LesionOutline:
    """The outline of the largest part of ``mask``, if it can be a lesion."""
    count, parts, sizes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return LesionOutline(None, None, "no lesion was outlined")
    largest = 1 + int(sizes[1:, cv2.CC_STAT_AREA].argmax())
    area = int(sizes[largest, cv2.CC_STAT_AREA])
    # Least share of the outlined pixels that lies in the largest part.
    if area < 0.8 * mask.sum():
        return LesionOutline(None, None, "the outline falls apart into several places")
    if not AREA[0] <= area / mask.size <= AREA[1]:
        return LesionOutline(None, None, "the outline is too small or too large for a lesion")
    part = parts == largest
    lines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = max(lines, key=cv2.contourArea)
    # How far the polygon may leave the outline, as a share of the outline's length.
    polygon = cv2.approxPolyDP(line, 0.0025 * cv2.arcLength(line, True), True)[:, 0]
    points = tuple((float(x) + 0.5, float(y) + 0.5) for x, y in polygon.tolist())  # from pixels' centres
    return LesionOutline(np.asarray(part, np.bool_), Region("polygon", points, Origin.DETECTOR))


def dice(one: Bools, other: Bools) -> float:
    """The Dice coefficient of two masks: twice the common pixels over the sum of both; 0 where both are
    empty.
    """
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 0.0
