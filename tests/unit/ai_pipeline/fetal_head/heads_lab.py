"""A network that takes what is bright for a head."""

from collections.abc import Mapping

import numpy as np

from ai_pipeline.contract import ModelRef
from ai_pipeline.networks.heads import HeadLimits

LIMITS = HeadLimits(
    present=0.5,
    shape=0.95,
    spread=0.05,
    roundness=(0.5, 1.0),
    outside=0.1,
    unevenness=(0.0, 0.0),
    inset=0.0,
)
REF = ModelRef("head", "1", "a" * 64, "b" * 64)


def by_brightness(values: np.ndarray) -> Mapping[str, np.ndarray]:
    """An engine that knows a drawn head by its dark brain and bright skull, wherever it is."""
    skull = values[:, 0] * 128 + 127 > 150
    ends = np.maximum.accumulate(skull, axis=2) & np.maximum.accumulate(skull[:, :, ::-1], axis=2)[:, :, ::-1]
    return {"head": ends.astype(np.float32), "present": skull.any((1, 2)).astype(np.float32)}
