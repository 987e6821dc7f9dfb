"""The published autoencoders that ours is compared with: cards with weights that no pipeline runs."""

from __future__ import annotations

from pathlib import Path

from ai_pipeline.despeckle.despeckler import Despeckler
from ai_pipeline.models.card_file import load
from ai_training.despeckle.afterwards import Filter

FOLDER = Path(__file__).parent / "compared"


def autoencoders() -> dict[str, Filter]:
    """Those that were trained, by the loss that taught them. Raises CardError."""
    cards = [load(path) for path in sorted(FOLDER.glob("*.toml"))]
    return {
        f"DiConvAE, {card.architecture.removeprefix('diconvae-')}": Despeckler.of(card).picture
        for card in cards
    }
