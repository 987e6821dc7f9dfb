"""A card's box detector at work on one displayed image, beside its classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from ai_pipeline.chest.boxes import PARTS, BoxHead, Floats, ScoredBox, region
from ai_pipeline.contract import Region
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.images.orientation import UPRIGHT, Pose, upright
from ai_pipeline.models.card import Card
from ai_pipeline.models.engine import load
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import read

NETWORK, CANDIDATES, DRAWER = "detector", "detector-boxes", "detector-yolo"
"""The roles of a card's weights: the network in ONNX, the candidate boxes with their priors, and a YOLO in
ONNX that sees what the classifier sees and draws boxes: left, top, right, bottom in pixels of the input,
score, number of the label among those that have candidates. A card may do without the last."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkOutput:
    """What the networks say of an image: ``maps [labels, parts, h, w]``, and what is ``drawn`` for each
    label: ``[K, 5]`` as :func:`ai_pipeline.chest.boxes.nearness` has it.
    """

    maps: Floats
    drawn: Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class DetectorInput:
    """An image of ``rows`` × ``columns`` as the networks see it. They are asked when a box is wanted first:
    most images have nothing that needs one.
    """

    ask: Callable[[], NetworkOutput] = field(repr=False)
    to_model: Affine
    rows: int
    columns: int

    @cached_property
    def said(self) -> NetworkOutput:
        return self.ask()


class BoxDetector:
    """The box detector of one card. Raises CardError when its weights are missing, altered or unusable."""

    def __init__(self, card: Card, threads: int = 0) -> None:
        if card.input is None:
            raise CardError(f"{card.path.name}: a detector's card needs input")
        self._input = card.input
        self._shown = {label.name for label in card.labels if label.detector}
        try:
            self.head = BoxHead.from_bytes(read(card.file(CANDIDATES)))
        except (ValueError, KeyError) as error:
            raise CardError(f"{card.path.name}: {card.file(CANDIDATES).path.name} holds no boxes") from error
        self._engine = load(card, NETWORK, threads=threads)
        self._drawer = load(card, DRAWER, threads=threads) if card.plays(DRAWER) else None

    @staticmethod
    def of(card: Card, threads: int = 0) -> BoxDetector | None:
        """The detector of ``card``; None where it has none."""
        return BoxDetector(card, threads) if card.plays(NETWORK) else None

    def look(self, image: npt.NDArray[np.uint8], pose: Pose = UPRIGHT) -> DetectorInput:
        """Prepare a displayed image (uint8 grey, bright = dense) that is shown in ``pose``."""
        picture, to_upright = upright(image, pose)
        values, to_model = network_input(picture, self._input)
        return self.look_again(values, to_model.after(to_upright), *image.shape)

    def look_again(self, values: Floats, to_model: Affine, rows: int, columns: int) -> DetectorInput:
        """Take what the classifier has seen of an image: its input, and the map from the source to it."""
        return DetectorInput(partial(self._ask, values), to_model, rows, columns)

    def _ask(self, values: Floats) -> NetworkOutput:
        maps = self._engine(values)["parts"][0]
        if maps.shape[:2] != (len(self.head.labels), len(PARTS)):
            raise CardError(f"the detector's maps have the shape {maps.shape}, not that of its boxes")
        if self._drawer is None:
            return NetworkOutput(maps, {})
        rows = self._drawer(values)["boxes"][0]
        return NetworkOutput(maps, drawn_by_label(rows, self.head.labels, self._input.size))

    def find(self, look: DetectorInput, label: str) -> ScoredBox | None:
        """The likeliest box of ``label``, whether it may be shown or not; None where none was learned."""
        if label not in self.head.labels:
            return None
        return self.head.find(look.said.maps, label, look.said.drawn.get(label))

    def region(self, look: DetectorInput, label: str) -> Region | None:
        """The box of ``label`` in source coordinates; None where the card says that it is not reliable."""
        found = self.find(look, label) if label in self._shown else None
        if found is None:
            return None
        return region(found, self._input.size, look.to_model, look.rows, look.columns)

    def whole(self, found: ScoredBox, look: DetectorInput) -> Region | None:
        """``found`` in source coordinates."""
        return region(found, self._input.size, look.to_model, look.rows, look.columns)


def drawn_by_label(rows: Floats, labels: Sequence[str], size: int) -> dict[str, Floats]:
    """A YOLO's ``rows [N, 6]`` for an input of ``size`` pixels a side, as shares and scores of each label."""
    number = rows[:, 5].round()
    shares = np.concatenate([np.clip(rows[:, :4] / size, 0, 1), rows[:, 4:5]], 1).astype(np.float32)
    return {label: shares[number == index] for index, label in enumerate(labels)}
