"""A file that maps each label of a foreign model to a label of the node.

TOML, one line for each label: ``"Pleural effusion" = "Effusion"`` takes name, codes and site from the node's
label, ``"No Finding" = ""`` leaves the label out of the model, and a table with ``name`` and ``code``
describes a label that the node does not know.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_pipeline.contract import Code
from ai_pipeline.errors import CardError
from ai_pipeline.mistakes import mistakes
from ai_pipeline.models.card import CODE, LABEL
from ai_pipeline.models.registry import SHIPPED, load

LONGEST = 1 << 20  # bytes
OPACITY = Code("112001", "DCM", "Opacity")
FRACTURE = Code("125605004", "SCT", "Fracture of bone")
_PLACEHOLDER = re.compile(r"LABEL_\d+")
_EXAMPLE = '"LABEL_0" = "Effusion"'


@dataclass(frozen=True, slots=True)
class NodeLabel:
    """A label as results name it; ``source`` says where its code comes from."""

    name: str
    code: Code
    source: str
    site: Code | None = None


LabelMap = Mapping[str, NodeLabel | None]
"""By the model's own label; None where the label is left out."""


class _Coded(BaseModel):
    """Lengths as PS3.5 has them for Code Value and Code Meaning."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    value: str = Field(max_length=16, pattern=f"^{CODE.pattern}$")
    scheme: str = Field(max_length=16, pattern=f"^{CODE.pattern}$")
    meaning: str = Field(max_length=64, pattern=f"^{LABEL.pattern}$")
    source: str = "the site's label map"


class _OwnLabel(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field(max_length=64, pattern=f"^{LABEL.pattern}$")
    code: _Coded


_LABELLED: Final = "chest-efficientnet-lite0"
"""The shipped card whose labels a model of the site may have under other names."""


def node_labels() -> dict[str, NodeLabel]:
    """The labels for which the node has codes, by their plain names."""
    shipped = load(SHIPPED / f"{_LABELLED}.toml").labels
    known = [NodeLabel(label.name, label.code, label.code_source, label.site) for label in shipped]
    known += [
        NodeLabel("Lung Opacity", OPACITY, "PS3.16 CID 6104 Abnormal Opacity Finding or Feature"),
        NodeLabel("Fracture", FRACTURE, "SNOMED CT 125605004 |Fracture of bone (disorder)|"),
    ]
    return {plain(label.name): label for label in known}


def plain(name: str) -> str:
    """``name`` without differences of spelling: case, spaces and signs."""
    return re.sub("[^a-z0-9]", "", name.lower())


def read(path: Path) -> LabelMap:
    """The map in ``path``. Raises CardError, which names every mistake on a line of its own."""
    try:
        if path.stat().st_size > LONGEST:
            raise CardError(f"{path.name} is larger than {LONGEST >> 20} MiB: a label map has a line a label")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CardError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CardError(f"{path} is not TOML: {error}; a line of a label map is {_EXAMPLE}") from error
    known = node_labels()
    faults: list[str] = []
    found = {name: _label(name, value, known, faults) for name, value in values.items()}
    faults += [
        f'two labels become "{name}": give each a name of its own, or leave one out with ""'
        for name, count in Counter(label.name for label in found.values() if label is not None).items()
        if count > 1
    ]
    if not found:
        faults.append(f"holds no label: a line is {_EXAMPLE}")
    if faults:
        raise CardError("\n".join(f"{path.name}: {fault}" for fault in faults))
    return found


def check(found: LabelMap, labels: Sequence[str]) -> None:
    """Compare the map with the ``labels`` of the model itself. Raises CardError, which names every
    mistake.
    """
    faults = [
        f'the label map names "{name}", the model has no such label: it has {", ".join(labels)}'
        for name in found
        if name not in labels
    ]
    faults += [
        f'the label map does not name "{name}": say which label it is, or "" to leave it out'
        for name in labels
        if name not in found
    ]
    if faults:
        raise CardError("\n".join(faults))


def refuse_placeholders(labels: Sequence[str]) -> None:
    """Raise CardError for LABEL_0 and the like, which transformers writes where nobody named the outputs."""
    if any(_PLACEHOLDER.fullmatch(label) for label in labels):
        raise CardError(
            f"the model calls its outputs {', '.join(labels[:3])} …: say what they are with --label-map "
            "FILE, whose "
            f"lines are {_EXAMPLE}"
        )


def _label(name: str, value: Any, known: Mapping[str, NodeLabel], faults: list[str]) -> NodeLabel | None:
    if value == "":
        return None
    if isinstance(value, str):
        if plain(value) not in known:
            names = ", ".join(label.name for label in known.values())
            faults.append(
                f'"{name}" = "{value}" is none of the node\'s labels ({names}): take one of them, "" to '
                "leave it out, "
                'or { name = "…", code = { value = "…", scheme = "…", meaning = "…" } }'
            )
            return None
        return known[plain(value)]
    try:
        own = _OwnLabel.model_validate(value)
    except ValidationError as error:
        faults += [
            f'"{name}" {mistake.key} {mistake.remedy}'.replace("  ", " ") for mistake in mistakes(error)
        ]
        return None
    return NodeLabel(own.name, Code(own.code.value, own.code.scheme, own.code.meaning), own.code.source)
