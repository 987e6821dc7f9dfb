"""Overlay planes (60xx, PS3.3 C.9.2): bitmaps that a viewer draws over the picture, often with text in them.

They are never sent. Results are new objects without group 60xx, and the node's decoder clears the old planes
in unused bits of the pixel data (:mod:`ai_pipeline.images.decode`).
"""

from __future__ import annotations

from ai_pipeline.contract import ImageHeader, QualityNote


def overlay_note(header: ImageHeader, source_uid: str | None = None) -> QualityNote | None:
    """A note that the source shows more than the cleaned image; None if it has no overlay planes."""
    drawn, embedded = len(header.overlay_groups), len(header.embedded_overlay_bits)
    if not drawn + embedded:
        return None
    parts = [f"{_planes(drawn)} with drawn pixels"] if drawn else []
    parts += [f"{_planes(embedded)} in unused bits of its pixels"] if embedded else []
    text = f"the source carries {' and '.join(parts)}; what they show is not part of the cleaned image"
    return QualityNote("overlay_planes", text, source_uid)


def _planes(count: int) -> str:
    return f"{count} overlay plane" + "s" * (count > 1)
