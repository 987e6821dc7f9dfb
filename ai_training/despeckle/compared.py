"""The published autoencoders that ours is compared with: cards with weights that no pipeline runs."""

from __future__ import annotations

from pathlib import Path

from ai_pipeline.models.card import Card
from ai_pipeline.models.card_file import load

FOLDER = Path(__file__).parent / "compared"


def compared_cards() -> tuple[Card, ...]:
    """All of them, by name. Raises CardError."""
    return tuple(load(path) for path in sorted(FOLDER.glob("*.toml")))
