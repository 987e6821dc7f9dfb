"""Find and read model cards: no card, no model.

A card is a TOML file that says what a model is, what it was made from, how well it works and where it fails.
Its weights are in ``weights/`` next to the folder of cards, or in an installed package, and are refused if
their SHA-256 is not the one in the card.

Cards are searched in the package's own ``cards/`` and in one folder of the user (``models_dir`` or the
environment variable ``AI_PIPELINE_MODELS_DIR``). There a card at the top level (``*.toml``) replaces a
shipped one with the same id; cards in ``ID/VERSION/card.toml`` (:mod:`.store`) coexist, and a pipeline runs
one of them only if it is activated.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ai_pipeline.errors import CardError
from ai_pipeline.models.card import BoxOutput, Card, Chain, Gate, Input, Label, Outputs, Weights
from ai_pipeline.models.card_file import SHIPPED, load

__all__ = [
    "MODELS_DIR",
    "SHIPPED",
    "STORED",
    "BoxOutput",
    "Card",
    "Chain",
    "Gate",
    "Input",
    "Label",
    "Outputs",
    "Weights",
    "cards",
    "find",
    "from_environment",
    "load",
    "read",
    "verify",
]

MODELS_DIR = "AI_PIPELINE_MODELS_DIR"
STORED = "card.toml"  # how a card is called in ID/VERSION/


def cards(models_dir: Path | None = None) -> tuple[Card, ...]:
    """All cards, shipped and the user's, by id and version. Raises CardError if one cannot be read."""
    found = {card.id: card for card in _cards(SHIPPED.glob("*.toml"))}
    folder = models_dir or from_environment()
    stored: list[Card] = []
    if folder is not None:
        if not folder.is_dir():
            raise CardError(f"the folder of models {folder} does not exist")
        found |= {card.id: card for card in _cards(folder.glob("*.toml"))}
        stored += _cards(folder.glob(f"[!.]*/*/{STORED}"))
    return tuple(sorted([*found.values(), *stored], key=lambda card: (card.id, card.version)))


def find(model_id: str, models_dir: Path | None = None) -> Card:
    """The card with this id, or ``id@version``. Raises CardError, which lists the known models.

    Of several versions, ``id`` selects the card outside ``ID/VERSION/``; for a version stored there, give the
    full name.
    """
    known = cards(models_dir)
    name, _, version = model_id.partition("@")
    meant = [card for card in known if card.id == name and version in {"", card.version}]
    if len(meant) > 1:
        meant = [card for card in meant if card.path.name != STORED] or meant
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise CardError(f"there are several {model_id}: say {' or '.join(card.name for card in meant)}")
    raise CardError(
        f"no card says {model_id!r}: no card, no model (known: {', '.join(c.name for c in known) or 'none'})"
    )


def read(weights: Weights) -> bytes:
    """The bytes of ``weights``. Raises CardError when they are missing or have another SHA-256 than the card
    says.
    """
    if not weights.path.is_file():
        raise CardError(f"the weights {weights.path} are missing: put them there or install their package")
    data = weights.path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != weights.sha256:
        raise CardError(
            f"the weights {weights.path} have SHA-256 {found}, the card says {weights.sha256}: refused; "
            "restore the file, or write a card with a new version for other weights"
        )
    return data


def verify(card: Card) -> None:
    """Check every file of ``card``. Raises CardError on the first that is missing or altered.

    A file that has not changed since it was checked is not read again: nobody can set the time of its last
    change (``st_ctime``).
    """
    for weights in card.weights:
        _check(weights, weights.path.is_file() and weights.path.stat().st_ctime_ns)


@lru_cache(maxsize=100)
def _check(weights: Weights, _changed_at: int) -> None:
    read(weights)


def from_environment() -> Path | None:
    """The user's folder of models that the environment variable names; None if it is not set."""
    return Path(value) if (value := os.environ.get(MODELS_DIR)) else None


def _cards(paths: Iterator[Path]) -> list[Card]:
    return [load(path) for path in sorted(paths)]
