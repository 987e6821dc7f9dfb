"""Data that a pipeline returns for the node's own records: no result shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ai_pipeline.contract.findings import ModelRef


class Meaning(StrEnum):
    """The purpose of a burned-in mark; by it a destination's policy decides what must be removed."""

    IDENTITY = "identity"
    MEASUREMENT = "measurement"
    ORIENTATION = "orientation"
    SCALE = "scale"
    ACOUSTIC = "acoustic"
    LOGO = "logo"


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of a burned-in annotation, or the place of a drawn one. The text may be a name.

    For the node's access-controlled record alone: never for logs, events, errors, results or JSON. ``bounds``
    is (left, top, right, bottom) in the coordinates of :class:`Region`; ``frame`` as in :class:`Finding`;
    ``kind``: a MarkKind; ``text`` is empty for drawings; ``removed``: False if the policy kept the mark.
    """

    source_uid: str
    frame: int | None
    kind: str
    meaning: Meaning
    bounds: tuple[float, float, float, float]
    confidence: float
    removed: bool
    text: str = field(default="", repr=False)


class RefusedBy(StrEnum):
    """The check that an image did not pass."""

    HEADER = "header"
    PIXELS = "pixels"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An image that ``accepts`` refused, and the model that it was refused for. Counted, never shown."""

    source_uid: str
    model: ModelRef
    by: RefusedBy


@dataclass(frozen=True, slots=True)
class JudgedView:
    """The View Position (0018,5101), such as AP, as which an image was judged: a stamp in it may contradict
    its header.
    """

    source_uid: str
    view: str


@dataclass(frozen=True, slots=True)
class Scores:
    """The calibrated probability (0 to 1) of every label of a classifier's card for one image.

    Labels that are not reported are included: the node counts them to notice drift and never shows them. One
    per image and model; ``reoriented``: the image was turned or inverted before the analysis.
    """

    source_uid: str
    model: ModelRef
    values: Mapping[str, float]
    reoriented: bool = False

    def __post_init__(self) -> None:
        if not all(0.0 <= value <= 1.0 for value in self.values.values()):
            raise ValueError("a probability is not between 0 and 1")
