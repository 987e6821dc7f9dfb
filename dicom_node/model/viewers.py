"""How viewers show each kind of result, as observed (``docs/viewers.md``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from dicom_node.model.kinds import ResultKind


class ViewerOutcome(StrEnum):
    """The viewer's handling of an object that a reader opens."""

    DRAWN = "drawn"
    IGNORED = "listed, and not drawn"
    BREAKS = "opening it breaks the viewer: leave it out of results"
    UNTRIED = "not tried with this viewer"


_K = ResultKind
VIEWERS: Mapping[str, Mapping[ResultKind, ViewerOutcome]] = {
    "ohif": {
        **dict.fromkeys((_K.SR, _K.SC, _K.SUMMARY, _K.HEATMAP, _K.CLEANED), ViewerOutcome.DRAWN),
        _K.GSPS: ViewerOutcome.IGNORED,
        _K.PDF: ViewerOutcome.UNTRIED,
        _K.SEG: ViewerOutcome.BREAKS,
    },
}


def drawn_by(viewer: str, kinds: Iterable[ResultKind]) -> tuple[ResultKind, ...]:
    """The ``kinds`` that ``viewer`` draws. Raises KeyError for an unknown viewer or kind."""
    return tuple(kind for kind in kinds if VIEWERS[viewer][kind] is ViewerOutcome.DRAWN)


def not_drawn_by(viewer: str, kinds: Iterable[ResultKind]) -> list[tuple[ResultKind, ViewerOutcome]]:
    """The ``kinds`` that ``viewer`` does not draw, with the viewer's handling of each. Raises KeyError."""
    return [
        (kind, VIEWERS[viewer][kind]) for kind in kinds if VIEWERS[viewer][kind] is not ViewerOutcome.DRAWN
    ]
