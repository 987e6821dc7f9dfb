"""The classifier of a card in torch, with the card's weights."""

from __future__ import annotations

from torch import nn

from ai_pipeline.errors import CardError
from ai_pipeline.models.card import Card
from ai_pipeline.models.engine import parameters
from ai_pipeline.networks.architectures import from_arrays


def torch_network(card: Card) -> nn.Module:
    """The classifier of ``card`` in torch. Raises CardError, or NotThisNetwork if torch cannot build it."""
    if card.input is None:
        raise CardError(f"{card.path.name}: a network needs an input")
    arrays, size = parameters(card.file("classifier")), card.input.size
    network, _ = from_arrays(card.architecture, arrays, len(card.labels), card.input.channels, size)
    return network.eval()
