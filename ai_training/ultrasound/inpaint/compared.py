"""Networks that the study compares and that no pipeline runs: cards with their weights beside them."""

from __future__ import annotations

from pathlib import Path

from ai_pipeline.models.card import Card
from ai_pipeline.models.registry import cards

COMPARED = Path(__file__).parent / "compared"


def cards_with_compared(models_dir: Path | None = None) -> dict[str, Card]:
    """The cards of :func:`ai_pipeline.models.registry.cards` and those that were compared, sorted by id.

    A card in ``models_dir`` replaces one of the same id. Raises CardError on one that cannot be read.
    """
    known = {card.id: card for folder in (COMPARED, models_dir) for card in cards(folder)}
    return dict(sorted(known.items()))
