"""The report on a cleaned image: what went, what stayed, by which models; never a text that was read."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from ai_pipeline.burnin.card import CARD
from ai_pipeline.burnin.cleaning import CleaningResult
from ai_pipeline.burnin.find.annotation import CleaningPolicy
from ai_pipeline.serve.cleaned_object import DISCLAIMER

MOST_PLACES = 500
"""Places that a report names."""


def report_of(result: CleaningResult, policy: CleaningPolicy) -> dict[str, Any]:
    """The report as a JSON object (docs/connect/serve.md). Boxes are left, top, right, bottom in pixels, the
    last two exclusive.
    """
    removed = [mark for mark in result.marks if mark.removed]
    mask = result.mask.frames
    return {
        "removed": _counted(mark.kind.value for mark in removed),
        "kept": _counted(mark.meaning.value for mark in result.marks if not mark.removed),
        "places": [list(mark.box) for mark in removed[:MOST_PLACES]],
        "filled_share": round(float(np.count_nonzero(mask)) / mask.size, 6),
        "frames": len(mask),
        "notes": [{"name": note.name, "text": note.text} for note in result.notes],
        "policy": policy.value,
        "pipeline": {"name": CARD.name, "version": CARD.version},
        "models": [
            {"id": model.id, "version": model.version, "sha256": model.sha256}
            for model in result.image.models
        ],
        "seconds": round(result.timings["total"], 3),
        "disclaimer": DISCLAIMER,
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs."""
    return dict(sorted(Counter(names).items()))
