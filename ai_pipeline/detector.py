"""A card's box detector at work on one displayed image, beside its classifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ai_pipeline.card import Card, CardError
from ai_pipeline.contract import Region
from ai_pipeline.detection import PARTS, BoxHead, Floats, Found, region
from ai_pipeline.engine import load
from ai_pipeline.inputs import network_input
from ai_pipeline.pose import UPRIGHT, Pose, upright
from ai_pipeline.preprocess import Affine
from ai_pipeline.registry import read

NETWORK, CANDIDATES = "detector", "detector-boxes"
"""The roles of a card's weights: the network in ONNX, and the candidate boxes with their priors."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the network says of one image of ``rows`` × ``columns``: ``maps [labels, parts, h, w]``."""

    maps: Floats
    to_model: Affine
    rows: int
    columns: int


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

    @staticmethod
    def of(card: Card, threads: int = 0) -> BoxDetector | None:
        """The detector of ``card``; None where it has none."""
        return BoxDetector(card, threads) if card.plays(NETWORK) else None

    def look(self, image: npt.NDArray[np.uint8], pose: Pose = UPRIGHT) -> Look:
        """Run the network on a displayed image (uint8 grey, bright = dense) that is shown in ``pose``."""
        picture, to_upright = upright(image, pose)
        values, to_model = network_input(picture, self._input)
        maps = self._engine(values)["parts"][0]
        if maps.shape[:2] != (len(self.head.labels), len(PARTS)):
            raise CardError(f"the detector's maps have the shape {maps.shape}, not that of its boxes")
        rows, columns = image.shape
        return Look(maps, to_model.after(to_upright), rows, columns)

    def find(self, look: Look, label: str) -> Found | None:
        """The likeliest box of ``label``, whether it may be shown or not; None where none was learned."""
        return self.head.find(look.maps, label) if label in self.head.labels else None

    def region(self, look: Look, label: str) -> Region | None:
        """The box of ``label`` in source coordinates; None where the card says that it is not reliable."""
        found = self.find(look, label) if label in self._shown else None
        if found is None:
            return None
        return region(found, self._input.size, look.to_model, look.rows, look.columns)

    def whole(self, found: Found, look: Look) -> Region | None:
        """``found`` in source coordinates."""
        return region(found, self._input.size, look.to_model, look.rows, look.columns)
