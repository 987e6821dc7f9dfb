"""Read model cards from TOML; all mistakes are reported at once, each with its file and key."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, fields
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ai_pipeline.errors import CardError
from ai_pipeline.mistakes import mistakes
from ai_pipeline.models.card import BoxOutput, Card, Chain, Gate, Input, Label, Outputs, Weights

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
        box_output=card.box_output,
        calibrated=card.calibration is not None and card.calibration.calibrated,
        details={key: value for key, value in values.items() if key not in {*_DESCRIPTION, *_PARTS}},
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
        apart = folder.parent / "weights" / self.file
        return apart if folder == SHIPPED or not beside.exists() else beside


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
    box_output: BoxOutput | None = None
    calibration: _CalibrationTable | None = None


_PARTS = ("weights", "input", "outputs", "labels", "gate", "box_output")
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
