"""Model cards in TOML, read with complaints that name the file and the key, all of them at once."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ai_pipeline.contract import Code
from ai_pipeline.errors import CardError
from ai_pipeline.models.card import (
    Card,
    Chain,
    Gate,
    Input,
    Label,
    Outputs,
    PlaceKind,
    Preprocess,
    ScoreKind,
    Weights,
)

T = TypeVar("T")
SHIPPED = Path(__file__).parents[1] / "cards"


def load(path: Path) -> Card:
    """Read one card. Raises CardError naming the file and every key that is wrong."""
    data = path.read_bytes()
    try:
        table = _Table(path, tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path} is not TOML: {error}") from error
    card = _card(table, hashlib.sha256(data).hexdigest())
    if table.faults:
        raise CardError("\n".join(table.faults))
    return card


@dataclass(frozen=True, slots=True)
class _Table:
    """A TOML table that notes what is wrong with its keys in ``faults``, and gives values to go on with."""

    path: Path
    values: Mapping[str, Any]
    where: str = ""
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        self.faults.append(f"{self.path}: {text}")

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self.values.get(key, default)
        if value is None:
            self.fault(f"{self.where}{key} is missing")
            return kind()
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind):
            self.fault(f"{self.where}{key} must be {kind.__name__}, not {value!r}")
            return kind()
        return value

    def choice(self, key: str, among: Any, default: str) -> Any:
        """One of the words of the Literal type ``among``."""
        value = self.get(key, str, default)
        if value not in get_args(among):
            self.fault(f"{self.where}{key} must be one of {', '.join(get_args(among))}, not {value!r}")
            return default
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """One number, or a list of numbers."""
        value = self.values.get(key)
        rows: list[Any] = value if isinstance(value, list) else [value]
        if not rows or any(isinstance(row, bool) or not isinstance(row, int | float) for row in rows):
            self.fault(f"{self.where}{key} must be a number or a list, not {value!r}")
            return (1.0,)
        return tuple(float(row) for row in rows)

    def table(self, key: str) -> _Table:
        return _Table(self.path, self.get(key, dict), f"{self.where}{key}.", self.faults)

    def tables(self, key: str) -> list[_Table]:
        rows = self.get(key, list, [])
        if not all(isinstance(row, dict) for row in rows):
            self.fault(f"{self.where}{key} must be tables: [[{key}]]")
            return []
        return [
            _Table(self.path, row, f"{self.where}{key}[{index}].", self.faults)
            for index, row in enumerate(rows)
        ]


def _card(table: _Table, sha256: str) -> Card:
    labels = tuple(_label(row) for row in table.tables("labels"))
    known = {"id", "version", "task", "architecture", "licence", "intended_use", "limits"}
    parts = {"weights", "input", "outputs", "labels", "gate"}
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
        outputs=_outputs(table.table("outputs")) if "outputs" in table.values else Outputs(),
    )


def _weights(row: _Table) -> Weights:
    name, sha256 = row.get("file", str), row.get("sha256", str)
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        row.fault(f"{row.where}sha256 must be 64 lower-case hexadecimal digits")
    if "package" in row.values:
        return Weights(row.get("role", str), _package_folder(row) / name, sha256)
    if Path(name).name != name:
        row.fault(f"{row.where}file must be the name of a file beside the card")
    beside = row.path.parent / name
    apart = row.path.parent.parent / "weights" / name
    shipped = row.path.parent == SHIPPED
    return Weights(row.get("role", str), apart if shipped or not beside.exists() else beside, sha256)


def _package_folder(row: _Table) -> Path:
    """The folder of an installed package, by what pip wrote down of it: nothing is imported to find it."""
    package = row.get("package", str)
    if not package.isidentifier():
        row.fault(f"{row.where}package must be the name of an installed package, not {package!r}")
        return Path()
    try:
        return Path(str(distribution(package).locate_file(package)))
    except PackageNotFoundError:
        return Path(package)  # the card can be read, its weights cannot


def _input(table: _Table) -> Input:
    preprocess = table.choice("preprocess", Preprocess, "chain")
    chain = table.table("chain") if preprocess == "chain" else None
    made = Input(
        size=table.get("size", int),
        channels=table.get("channels", int),
        mean=table.numbers("mean"),
        scale=table.numbers("scale"),
        photometric=table.get("photometric", str),
        chain=_chain(chain) if chain else Chain(),
        preprocess=preprocess,
        crop=table.get("crop", float, 1.0),
        squash=table.get("squash", bool, False),
        interpolation=table.choice("interpolation", Literal["bilinear", "bicubic"], "bilinear"),
    )
    if {len(made.mean), len(made.scale)} - {1, made.channels} or 0.0 in made.scale:
        table.fault(f"{table.where}mean and scale need one number or {made.channels}, no scale of 0")
    if not 0.0 < made.crop <= 1.0:
        table.fault(f"{table.where}crop must be above 0 and at most 1, not {made.crop}")
    return made


def _chain(table: _Table) -> Chain:
    return Chain(
        side=table.get("side", int),
        blur=table.get("blur", float),
        jpeg_quality=table.get("jpeg_quality", int),
        low=table.get("low", float),
        high=table.get("high", float),
    )


def _outputs(table: _Table) -> Outputs:
    default = Outputs()
    return Outputs(
        scores=table.get("scores", str, default.scores),
        kind=table.choice("kind", ScoreKind, default.kind),
        features=table.get("features", str, default.features),
        places=table.get("places", str, default.places),
        place_kind=table.choice("place_kind", PlaceKind, default.place_kind),
    )


def _label(row: _Table) -> Label:
    name = row.get("name", str)
    threshold, absent_below = row.get("threshold", float), row.get("absent_below", float)
    if {"threshold", "absent_below"} <= row.values.keys() and not 0.0 <= absent_below <= threshold <= 1.0:
        row.fault(
            f"label {name}: 0 ≤ absent_below ≤ threshold ≤ 1 must hold, not {absent_below} and {threshold}"
        )
    point = row.get("operating_point", float) if "operating_point" in row.values else None
    if point is not None and not 0.0 < point < 1.0:
        row.fault(f"label {name}: operating_point must lie between 0 and 1, not {point}")
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
        operating_point=point,
        detector=row.get("detector", bool, False),
    )


def _code(table: _Table) -> Code:
    return Code(table.get("value", str), table.get("scheme", str), table.get("meaning", str))


def _gate(table: _Table) -> Gate:
    return Gate(
        role=table.get("role", str),
        threshold=table.get("threshold", float),
        true_positive_rate=table.get("true_positive_rate", float),
    )
