"""The inpainters that studies compare: the network that ships, networks that no pipeline runs (their cards
and weights lie beside this file), and classical methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ai_pipeline.burnin.fill.inpainters import Classical, Inpainter, NetworkInpainter, on_onnx
from ai_pipeline.models import registry
from ai_pipeline.models.card import Card
from ai_training.ultrasound.inpaint.export import file_id

NETWORKS = ("unet", "vae", "oci-gan")
CLASSICAL = ("telea", "navier-stokes")
COMPARED = Path(__file__).parent / "compared"


def cards_with_compared(models_dir: Path | None = None) -> dict[str, Card]:
    """The cards of :func:`ai_pipeline.models.registry.cards` and those for comparison, sorted by id.

    A card in ``models_dir`` replaces one of the same id. Raises CardError if one cannot be read.
    """
    known = {card.id: card for folder in (COMPARED, models_dir) for card in registry.cards(folder)}
    return dict(sorted(known.items()))


def inpainters(known: Mapping[str, Card], threads: int) -> list[Inpainter]:
    """The inpainters of :data:`NETWORKS` whose cards are ``known``, and :data:`CLASSICAL`.
    Raises CardError.
    """
    ways: list[Inpainter] = []
    for name in NETWORKS:
        card = known.get(file_id(name))
        if card is not None:
            ways.append(NetworkInpainter(name, on_onnx(registry.read(card.file("inpainter")), threads)))
    return [*ways, *map(Classical, CLASSICAL)]
