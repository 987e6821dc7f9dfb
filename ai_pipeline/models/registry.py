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
import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ai_pipeline.errors import CardError
from ai_pipeline.mistakes import mistakes
from ai_pipeline.models.card import Card, Chain, Gate, Input, Label, Outputs, Weights

__all__ = [
    "MODELS_DIR",
    "SHIPPED",
    "STORED",
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
        _check(weights, weights.path.stat().st_ctime_ns if weights.path.is_file() else 0)


@lru_cache(maxsize=100)
def _check(weights: Weights, _changed_at: int) -> None:
    read(weights)


def from_environment() -> Path | None:
    """The user's folder of models that the environment variable names; None if it is not set."""
    value = os.environ.get(MODELS_DIR)
    return Path(value) if value else None


def _cards(paths: Iterator[Path]) -> list[Card]:
    return [load(path) for path in sorted(paths)]


SHIPPED = Path(__file__).parents[1] / "cards"


def load(path: Path) -> Card:
    """Read one card. Raises CardError, which names the file and every wrong key."""
    data = path.read_bytes()
    values, card = _parsed(path, data)
    return Card(
        **{key: getattr(card, key) for key in _DESCRIPTION},
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        weights=tuple(Weights(one.role, one.path(path.parent), one.sha256) for one in card.weights),
        input=card.input,
        labels=card.labels,
        gate=card.gate,
        outputs=card.outputs,
        calibrated=card.calibration is not None and card.calibration.calibrated,
        details={
            key: value
            for key, value in values.items()
            if key not in {*_DESCRIPTION, "weights", "input", "outputs", "labels", "gate"}
        },
    )


@lru_cache(maxsize=64)
def _parsed(path: Path, data: bytes) -> tuple[dict[str, Any], _CardFile]:
    """The file's values and what they mean; once for the same bytes, as each job asks for cards."""
    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CardError(f"{path} is not TOML: {error}") from error
    try:
        # As JSON: only from that does pydantic take lists for tuples, but no text for a number.
        return values, _CardFile.model_validate_json(json.dumps(_in_card_types(values), default=str))
    except ValidationError as error:
        faults = [f"{path}: {mistake.key} {mistake.remedy}" for mistake in mistakes(error)]
        raise CardError("\n".join(faults)) from error


class _CardTable(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _WeightsTable(_CardTable):
    """One of ``[[weights]]``: a file beside the card, in ``weights/`` next to its folder, or of a package."""

    role: str
    file: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    package: str | None = None

    @model_validator(mode="after")
    def _is_a_name(self) -> Self:
        if self.package is not None and not self.package.isidentifier():
            raise ValueError(f"package must be the name of an installed package, not {self.package!r}")
        if self.package is None and Path(self.file).name != self.file:
            raise ValueError("file must be the name of a file beside the card")
        return self

    def path(self, folder: Path) -> Path:
        """Where the file is, for a card in ``folder``; no package is imported to find it."""
        if self.package is not None:
            try:
                return Path(str(distribution(self.package).locate_file(self.package))) / self.file
            except PackageNotFoundError:
                return Path(self.package) / self.file  # the card can be read, its weights cannot
        beside = folder / self.file
        return folder.parent / "weights" / self.file if folder == SHIPPED or not beside.exists() else beside


class _CalibrationTable(_CardTable):
    calibrated: bool


class _CardFile(_CardTable):
    id: str
    version: str
    task: str
    architecture: str
    licence: str
    intended_use: str
    limits: tuple[str, ...]
    weights: tuple[_WeightsTable, ...] = ()
    input: Input | None = None
    labels: tuple[Label, ...] = ()
    gate: Gate | None = None
    outputs: Outputs = Outputs()
    calibration: _CalibrationTable | None = None


_DESCRIPTION = ("id", "version", "task", "architecture", "licence", "intended_use", "limits")


def _in_card_types(values: dict[str, Any]) -> dict[str, Any]:
    """The card's tables with the keys of the types in :mod:`ai_pipeline.models.card`; None: is missing."""
    made = dict(values)
    if isinstance(given := values.get("input"), dict):
        listed = {key: [given[key]] for key in ("mean", "scale") if isinstance(given.get(key), int | float)}
        chain = given.get("chain") if given.get("preprocess", "chain") == "chain" else asdict(Chain())
        every = dict.fromkeys(field.name for field in fields(Chain))
        made["input"] = given | listed | {"chain": every | chain if isinstance(chain, dict) else chain}
    if isinstance(labels := values.get("labels"), list):
        made["labels"] = [_label(row) for row in labels]
    return made


def _label(row: Any) -> Any:
    code = row.get("code") if isinstance(row, dict) else None
    return {"site": None, **row, "code_source": code.get("source")} if isinstance(code, dict) else row
