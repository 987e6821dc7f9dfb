"""A model's scores on its validation images, and how far the scores of other images differ from them.

The table ``[reference]`` of a card: ``set`` (name of the images), ``images`` (their number), ``refused``
(share refused by the pixel gate) and ``[reference.deciles]`` with nine rising probabilities per label, which
cut the calibrated probabilities of the validation images into ten bins of the same share.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import Card

BINS = 10
FEWEST = 50
"""Images from which an index is given: of fewer it would be chance."""
WATCH, DRIFTED = 0.1, 0.25
"""The usual limits of the population stability index (credit scoring; B. Yurdakul, Western Michigan 2018)."""

_SHARE = 1 / BINS


class Verdict(StrEnum):
    """Whether a label's probabilities have drifted from the reference, by their population stability
    index.
    """

    STABLE = "stable"
    WATCH = "watch"
    DRIFTED = "drifted"
    TOO_FEW = "too few"
    NO_REFERENCE = "no reference"


@dataclass(frozen=True, slots=True)
class Reference:
    """The distribution of a model's probabilities on a reference set of images, from the table
    ``[reference]`` of its model card. ``set``: its name; ``images``: how many; ``refused``: the share that
    was refused; ``deciles``: the nine inner edges between ten equal bins, by label.
    """

    set: str
    images: int
    refused: float
    deciles: Mapping[str, tuple[float, ...]]

    def bin(self, label: str, probability: float) -> int | None:
        """The bin, 0 to 9, into which ``probability`` (0 to 1) falls; on an edge the upper bin. None if the
        label has no deciles.
        """
        edges = self.deciles.get(label)
        return None if edges is None else bisect_right(edges, probability)


def reference_of(card: Card) -> Reference | None:
    """The model card's reference, None when it has none. Raises CardError, which names the fault."""
    table = card.details.get("reference")
    if table is None:
        return None
    where = f"{card.path.name}: reference"
    if not isinstance(table, Mapping) or not isinstance(table.get("deciles"), Mapping):
        raise CardError(f"{where}.deciles is missing: nine edges for each label")
    images, refused = table.get("images"), table.get("refused")
    if not isinstance(images, int) or images < 1:
        raise CardError(f"{where}.images must be a number of images, not {images!r}")
    if not isinstance(refused, int | float) or not 0 <= refused <= 1:
        raise CardError(f"{where}.refused must be a share from 0 to 1, not {refused!r}")
    known = {label.name for label in card.labels}
    deciles = {}
    for label, edges in table["deciles"].items():
        if label not in known:
            raise CardError(f"{where}.deciles.{label}: the card has no such label")
        deciles[label] = _edges(f"{where}.deciles.{label}", edges)
    return Reference(str(table.get("set", "")), images, float(refused), deciles)


def stability_index(counts: Sequence[int]) -> float:
    """The population stability index of ten counts against ten equal shares: Σ (a - e) ln(a / e).

    Half an image is added to each bin (Jeffreys' prior), so that an empty one does not make it infinite.
    """
    total = sum(counts) + 0.5 * BINS
    shares = [(count + 0.5) / total for count in counts]
    return sum((share - _SHARE) * math.log(share / _SHARE) for share in shares)


def by_chance(images: int, reference_images: int | None = None) -> float:
    """The 99 % quantile of the stability index without drift, for ``images`` against ``reference_images``
    (None: very many), so that a larger index is no chance. Without drift the index is distributed as
    chi-square with nine degrees of freedom times 1/n + 1/m (Yurdakul).
    """
    # 9 degrees of freedom, 99 %: a dozen labels are judged side by side.
    return 21.666 * (1 / images + (1 / reference_images if reference_images else 0.0))


def verdict(counts: Sequence[int], reference_images: int | None = None) -> Verdict:
    """Judge from the ``counts`` in ten bins whether a label has drifted. An index up to :func:`by_chance` is
    no drift: for 50 images that is up to .4.
    """
    images = sum(counts)
    if images < FEWEST:
        return Verdict.TOO_FEW
    index = stability_index(counts)
    if index < WATCH or index <= by_chance(images, reference_images):
        return Verdict.STABLE
    return Verdict.WATCH if index <= DRIFTED else Verdict.DRIFTED


def _edges(where: str, edges: Any) -> tuple[float, ...]:
    """Check the nine probabilities of a label in a model card that divide its scores into ten bins; returns
    them. Raises CardError; ``where``: the beginning of its text.
    """
    wanted = f"{where} must be nine rising probabilities"
    if (
        not isinstance(edges, list)
        or len(edges) != BINS - 1
        or not all(isinstance(edge, int | float) and 0 <= edge <= 1 for edge in edges)
    ):
        raise CardError(wanted)
    if any(low >= high for low, high in pairwise(edges)):
        raise CardError(f"{wanted}: two are the same, or fall")
    return tuple(float(edge) for edge in edges)
