"""Model cards: no card, no model.

A card is a TOML file that says what a model is, what it was made from, how well it does and where it
fails. Its weights lie beside it, in ``weights/`` next to the folder of cards, or in an installed package,
and are refused when their SHA-256 is not the one that the card names.

Cards are looked for in the package's own ``cards/`` and in one folder of the user (``models_dir`` or the
environment variable ``AI_PIPELINE_MODELS_DIR``); a user's card replaces a shipped one of the same id.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from ai_pipeline.contract import Code, ModelRef

T = TypeVar("T")

SHIPPED = Path(__file__).parent / "cards"
MODELS_DIR = "AI_PIPELINE_MODELS_DIR"


class CardError(Exception):
    """A card is missing, incomplete or contradicts its weights. The text names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One file of weights: ``role`` in the model, where it is, and the SHA-256 that it must have."""

    role: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Chain:
    """What every image passes through before the network sees it (:mod:`ai_pipeline.preprocess`).

    ``side`` in pixels: the common resolution. ``blur`` in pixels of the reduced image (Gaussian sigma, 0
    for none). ``jpeg_quality`` 1 to 100. ``low``, ``high``: percentiles that become black and white.
    """

    side: int = 128
    blur: float = 0.5
    jpeg_quality: int = 85
    low: float = 0.5
    high: float = 99.5


@dataclass(frozen=True, slots=True)
class Input:
    """What the network takes: ``size`` pixels square, ``channels``, ``(value - mean) / scale`` of 0..255.

    ``photometric`` is the polarity of the displayed image that goes in. ``chain`` is what every image
    passes through first (:mod:`ai_pipeline.preprocess`).
    """

    size: int
    channels: int
    mean: float
    scale: float
    photometric: str
    chain: Chain


@dataclass(frozen=True, slots=True)
class Label:
    """One output of a classifier, in the order of its logits.

    ``probability = 1 / (1 + exp(-(slope · logit + intercept)))``. At ``threshold`` and above the finding is
    present, below ``absent_below`` absent, between them indeterminate. ``supported`` is False where the
    test set cannot show that the label works; such labels are evaluated but not reported as findings.
    ``box`` is True where the training data teach the model to say where.
    """

    name: str
    code: Code
    code_source: str
    site: Code | None
    supported: bool
    threshold: float
    absent_below: float
    slope: float = 1.0
    intercept: float = 0.0
    box: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """Out-of-domain gate on pooled features: images farther than ``threshold`` are refused."""

    role: str
    threshold: float
    true_positive_rate: float


@dataclass(frozen=True, slots=True)
class Card:
    """One model. ``details`` keeps the descriptive tables (calibration, training, metrics) as read."""

    id: str
    version: str
    task: str
    architecture: str
    licence: str
    intended_use: str
    limits: tuple[str, ...]
    path: Path
    sha256: str
    weights: tuple[Weights, ...] = ()
    input: Input | None = None
    labels: tuple[Label, ...] = ()
    gate: Gate | None = None
    calibrated: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ref(self) -> ModelRef:
        """How results name this model. The first weights count; the card's own hash covers all others."""
        weights = self.weights[0].sha256 if self.weights else ""
        return ModelRef(self.id, self.version, weights, self.sha256, self.calibrated)

    def file(self, role: str) -> Weights:
        """The weights that play ``role``. Raises CardError when the card names none."""
        for weights in self.weights:
            if weights.role == role:
                return weights
        raise CardError(f"{self.path.name} names no weights with role {role!r}")


def cards(models_dir: Path | None = None) -> tuple[Card, ...]:
    """All cards, shipped and of the user, by id. Raises CardError on the first that cannot be read."""
    found: dict[str, Card] = {}
    for folder in (SHIPPED, models_dir or _from_environment()):
        if folder is None:
            continue
        if not folder.is_dir():
            raise CardError(f"the folder of models {folder} does not exist")
        for path in sorted(folder.glob("*.toml")):
            card = load(path)
            found[card.id] = card
    return tuple(found[name] for name in sorted(found))


def find(model_id: str, models_dir: Path | None = None) -> Card:
    """The card with this id. Raises CardError, which lists the ids that there are."""
    known = cards(models_dir)
    for card in known:
        if card.id == model_id:
            return card
    raise CardError(
        f"no card says {model_id!r}: no card, no model (known: {', '.join(c.id for c in known) or 'none'})"
    )


def load(path: Path) -> Card:
    """Read one card. Raises CardError naming the file and the key that is wrong."""
    data = path.read_bytes()
    try:
        table = _Table(path, tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path} is not TOML: {error}") from error
    return _card(table, hashlib.sha256(data).hexdigest())


def read(weights: Weights) -> bytes:
    """The bytes of ``weights``, checked. Raises CardError when they are missing or of another SHA-256."""
    if not weights.path.is_file():
        raise CardError(f"the weights {weights.path} are missing: put them there or install their package")
    data = weights.path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != weights.sha256:
        raise CardError(
            f"the weights {weights.path} have SHA-256 {found}, the card says {weights.sha256}: refused; "
            "restore the file, or write a card with a new version for other weights"
        )
    return data


def verify(card: Card) -> None:
    """Check every file of ``card``. Raises CardError on the first that is missing or altered."""
    for weights in card.weights:
        read(weights)


def _from_environment() -> Path | None:
    value = os.environ.get(MODELS_DIR)
    return Path(value) if value else None


@dataclass(frozen=True, slots=True)
class _Table:
    """A TOML table that complains with the file's name and the key."""

    path: Path
    values: Mapping[str, Any]
    where: str = ""

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self.values.get(key, default)
        if value is None:
            raise CardError(f"{self.path}: {self.where}{key} is missing")
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind):
            raise CardError(f"{self.path}: {self.where}{key} must be {kind.__name__}, not {value!r}")
        return value

    def table(self, key: str) -> _Table:
        return _Table(self.path, self.get(key, dict), f"{self.where}{key}.")

    def tables(self, key: str) -> list[_Table]:
        rows = self.get(key, list, [])
        return [_Table(self.path, row, f"{self.where}{key}[{index}].") for index, row in enumerate(rows)]


def _card(table: _Table, sha256: str) -> Card:
    labels = tuple(_label(row) for row in table.tables("labels"))
    known = {"id", "version", "task", "architecture", "licence", "intended_use", "limits"}
    parts = {"weights", "input", "labels", "gate"}
    return Card(
        id=table.get("id", str),
        version=table.get("version", str),
        task=table.get("task", str),
        architecture=table.get("architecture", str),
        licence=table.get("licence", str),
        intended_use=table.get("intended_use", str),
        limits=tuple(table.get("limits", list)),
        path=table.path,
        sha256=sha256,
        weights=tuple(_weights(row) for row in table.tables("weights")),
        input=_input(table.table("input")) if "input" in table.values else None,
        labels=labels,
        gate=_gate(table.table("gate")) if "gate" in table.values else None,
        calibrated="calibration" in table.values and table.table("calibration").get("calibrated", bool),
        details={key: value for key, value in table.values.items() if key not in known | parts},
    )


def _weights(row: _Table) -> Weights:
    name, sha256 = row.get("file", str), row.get("sha256", str)
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise CardError(f"{row.path}: {row.where}sha256 must be 64 lower-case hexadecimal digits")
    if "package" in row.values:
        return Weights(row.get("role", str), _package_folder(row) / name, sha256)
    beside = row.path.parent / name
    apart = row.path.parent.parent / "weights" / name
    shipped = row.path.parent == SHIPPED
    return Weights(row.get("role", str), apart if shipped or not beside.exists() else beside, sha256)


def _package_folder(row: _Table) -> Path:
    package = row.get("package", str)
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return Path(package)  # not installed: the card can be read, its weights cannot
    return Path(spec.origin).parent


def _input(table: _Table) -> Input:
    chain = table.table("chain")
    return Input(
        size=table.get("size", int),
        channels=table.get("channels", int),
        mean=table.get("mean", float),
        scale=table.get("scale", float),
        photometric=table.get("photometric", str),
        chain=Chain(
            side=chain.get("side", int),
            blur=chain.get("blur", float),
            jpeg_quality=chain.get("jpeg_quality", int),
            low=chain.get("low", float),
            high=chain.get("high", float),
        ),
    )


def _label(row: _Table) -> Label:
    name = row.get("name", str)
    threshold, absent_below = row.get("threshold", float), row.get("absent_below", float)
    if not 0.0 <= absent_below <= threshold <= 1.0:
        raise CardError(
            f"{row.path}: label {name}: 0 ≤ absent_below ≤ threshold ≤ 1 must hold, "
            f"not {absent_below} and {threshold}"
        )
    code = row.table("code")
    return Label(
        name=name,
        code=_code(code),
        code_source=code.get("source", str),
        site=_code(row.table("site")) if "site" in row.values else None,
        supported=row.get("supported", bool),
        threshold=threshold,
        absent_below=absent_below,
        slope=row.get("slope", float, 1.0),
        intercept=row.get("intercept", float, 0.0),
        box=row.get("box", bool, False),
    )


def _code(table: _Table) -> Code:
    return Code(table.get("value", str), table.get("scheme", str), table.get("meaning", str))


def _gate(table: _Table) -> Gate:
    return Gate(
        role=table.get("role", str),
        threshold=table.get("threshold", float),
        true_positive_rate=table.get("true_positive_rate", float),
    )
