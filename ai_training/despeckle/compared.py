"""The published autoencoders to compare with: cards with weights that no pipeline runs."""

from __future__ import annotations

from pathlib import Path

from ai_pipeline.despeckle.despeckler import Despeckler
from ai_pipeline.models.card import Card
from ai_pipeline.models.card_file import load
from ai_training.despeckle.afterwards import Filter

FOLDER = Path(__file__).parent / "compared"


def compared_cards() -> tuple[Card, ...]:
    """The cards of the trained autoencoders, by name. Raises CardError."""
    return tuple(load(path) for path in sorted(FOLDER.glob("*.toml")))


def autoencoders() -> dict[str, Filter]:
    """The autoencoders as filters, by the loss that trained them. Raises CardError."""
    return {
        f"DiConvAE, {card.architecture.removeprefix('diconvae-')}": Despeckler.from_card(card).picture
        for card in compared_cards()
    }
