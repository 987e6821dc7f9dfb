"""Ways to mask the annotation in a picture, for comparison.

Only this module knows how the node does it: it asks :mod:`ai_pipeline.burnin` for its plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_pipeline.burnin.annotation.pixels import Mask, Picture
from ai_pipeline.burnin.decide.writing import candidates
from ai_pipeline.burnin.find.drawings import grown
from ai_pipeline.burnin.find.text import TextReader, paint
from ai_pipeline.burnin.find.traces import no_waves
from ai_pipeline.burnin.planning import MARGIN, RemovalTask, plan_removal
from ai_pipeline.burnin.tools import Tools
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.header import picture_header

MODALITY = "US"
NETWORK, TEXT_BOXES, NODE = "network", "text boxes", "node"


@dataclass(frozen=True, slots=True)
class Masker:
    """One way of masking. ``mask`` gives the pixels to remove, or None if the node returns no image."""

    name: str
    mask: Callable[[Picture], Mask | None]


def maskers(tools: Tools, policy: CleaningPolicy = CleaningPolicy.RESEARCH) -> tuple[Masker, ...]:
    """Three maskers: the network alone, rapidocr's boxes alone, and all that the node removes."""
    return (
        Masker(NETWORK, lambda picture: network_mask(picture, tools)),
        Masker(TEXT_BOXES, lambda picture: text_mask(picture, tools.reader)),
        Masker(NODE, lambda picture: node_mask(picture, tools, policy)),
    )


def network_mask(picture: Picture, tools: Tools) -> Mask:
    """The pixels that the network marks, with the soft edges that cleaning adds."""
    return grown(tools.finder.find(picture).above(tools.threshold))


def text_mask(picture: Picture, reader: TextReader) -> Mask:
    """The text detector's boxes that are text by their shape or by the text read in them."""
    found = candidates(picture, reader, no_waves(picture.shape))
    boxes = [one.box for one in found if one.certain or one.read(reader).legible]
    return paint(boxes, picture.shape, MARGIN)


def node_mask(picture: Picture, tools: Tools, policy: CleaningPolicy) -> Mask | None:
    """All pixels that the node's plan removes before it verifies; None if the node refuses the picture."""
    header = picture_header(picture, MODALITY, lossy=True)
    try:
        plan = plan_removal(picture, header, RemovalTask(tools, policy), graphics=True)
    except CleaningFailed:
        return None
    return np.asarray(plan.mask | plan.banner, np.bool_)


def at_threshold(tools: Tools, threshold: float | None) -> Tools:
    """The tools with another ``threshold`` of the detector; unchanged if it is None."""
    return tools if threshold is None else replace(tools, threshold=threshold)
