"""The report on a cleaned image: what went, what stayed, by which models; never a text that was read."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from ai_pipeline.burnin.card import CARD
from ai_pipeline.burnin.cleaning import CleaningResult
from ai_pipeline.burnin.decide.contents import UNREAD
from ai_pipeline.burnin.find.annotation import AnnotationKind, CleaningPolicy, Mark
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
        "removed": _counted(removed),
        "kept": _counted(mark for mark in result.marks if not mark.removed),
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


def _counted(marks: Iterable[Mark]) -> dict[str, int]:
    """How many marks there are of each kind, and of texts what they are: "possible name"."""
    kinds = Counter[str]()
    for mark in marks:
        is_text = mark.kind is AnnotationKind.TEXT
        kinds.update((mark.contents or (UNREAD,)) if is_text else (mark.kind.value,))
    return dict(sorted(kinds.items()))
