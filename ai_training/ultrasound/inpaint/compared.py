"""Networks that the study compares and that no pipeline runs: cards with their weights beside them."""

from __future__ import annotations

from pathlib import Path

from ai_pipeline.models.card import Card
from ai_pipeline.models.registry import cards, load

COMPARED = Path(__file__).parent / "compared"


def cards_with_compared(models_dir: Path | None = None) -> dict[str, Card]:
    """The cards of :func:`ai_pipeline.models.registry.cards` and those that were compared, sorted by id.

    A card of the registry replaces one of the same id here. Raises CardError on one that cannot be read.
    """
    compared = {card.id: card for card in map(load, COMPARED.glob("*.toml"))}
    known = compared | {card.id: card for card in cards(models_dir)}
    return dict(sorted(known.items()))
