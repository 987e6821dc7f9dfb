"""The published autoencoders that ours is compared with: cards with weights that no pipeline runs."""

from __future__ import annotations

from pathlib import Path

from ai_pipeline.despeckle.despeckler import Despeckler
from ai_pipeline.models.card import Card
from ai_pipeline.models.card_file import load
from ai_training.despeckle.afterwards import Filter

FOLDER = Path(__file__).parent / "compared"


def compared_cards() -> tuple[Card, ...]:
    """The cards of the filters that were trained, by name. Raises CardError."""
    return tuple(load(path) for path in sorted(FOLDER.glob("*.toml")))


def autoencoders() -> dict[str, Filter]:
    """The filters of these cards, by the loss with which they were trained. Raises CardError."""
    return {
        f"DiConvAE, {card.architecture.removeprefix('diconvae-')}": Despeckler.from_card(card).picture
        for card in compared_cards()
    }
