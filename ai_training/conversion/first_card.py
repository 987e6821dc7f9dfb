"""The first card of a converted model: its known properties and labels; no figures, since none was measured.

A label map is a TOML file with one line for each label of the model: ``"Pleural effusion" = "Effusion"``
takes name, codes and site from the node's label, ``"No Finding" = ""`` leaves the label out of the model, and
a table with ``name`` and ``code`` describes a label that the node does not know.
"""

import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import BaseModel, Field, ValidationError
from tomlkit.items import InlineTable

from ai_pipeline.contract import Code
from ai_pipeline.errors import CardError
from ai_pipeline.mistakes import mistakes
from ai_pipeline.models.registry import CODE, LABEL, NAME, SHIPPED, load
from ai_training.conversion.messages import ConvertedNetwork

LONGEST = 1 << 20  # bytes
_EXAMPLE = '"LABEL_0" = "Effusion"'
THRESHOLD = 0.5
USE = "To be evaluated on this site's images before anyone reads its findings. Not for diagnostic use."
NO_GATE = "No domain gate: an image that is no chest X-ray is refused by its header alone."
NOT_ACCEPTED = (
    "Converted from a checkpoint; nobody has evaluated it here: every label is hidden until `ai-pipeline "
    "models "
    "accept` or `ai-pipeline evaluate chest --write-card` supports it with figures.",
    "Thresholds are the checkpoint's own or .5; probabilities are not calibrated.",
)


@dataclass(frozen=True, slots=True)
class NodeLabel:
    """A label as results name it; ``source`` says where its code comes from."""

    name: str
    code: Code
    source: str
    site: Code | None = None


LabelMap = Mapping[str, NodeLabel | None]
"""By the model's own label; None where the label is left out."""


class _Coded(BaseModel, strict=True, extra="forbid", frozen=True):
    """Lengths as PS3.5 has them for Code Value and Code Meaning."""

    value: str = Field(max_length=16, pattern=f"^{CODE.pattern}$")
    scheme: str = Field(max_length=16, pattern=f"^{CODE.pattern}$")
    meaning: str = Field(max_length=64, pattern=f"^{LABEL.pattern}$")
    source: str = "the site's label map"


class _OwnLabel(BaseModel, strict=True, extra="forbid", frozen=True):
    name: str = Field(max_length=64, pattern=f"^{LABEL.pattern}$")
    code: _Coded


def node_labels() -> dict[str, NodeLabel]:
    """The labels for which the node has codes, by their plain names: those of the shipped classifier, which a
    model of the site may have under other names, and two more.
    """
    shipped = load(SHIPPED / "chest-efficientnet-lite0.toml").labels
    known = [NodeLabel(label.name, label.code, label.code_source, label.site) for label in shipped]
    known += [
        NodeLabel(
            "Lung Opacity",
            Code("112001", "DCM", "Opacity"),
            "PS3.16 CID 6104 Abnormal Opacity Finding or Feature",
        ),
        NodeLabel(
            "Fracture",
            Code("125605004", "SCT", "Fracture of bone"),
            "SNOMED CT 125605004 |Fracture of bone (disorder)|",
        ),
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


def check(found: LabelMap | None, labels: Sequence[str]) -> None:
    """Compare the map with the ``labels`` of the model itself; without a map they must be names.

    Raises CardError, which names every mistake.
    """
    if found is None:  # transformers writes LABEL_0 and the like where nobody named the outputs
        if any(re.fullmatch(r"LABEL_\d+", label) for label in labels):
            raise CardError(
                f"the model calls its outputs {', '.join(labels[:3])} …: say what they are with --label-map "
                f"FILE, whose lines are {_EXAMPLE}"
            )
        return
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


def written(
    out: Path,
    network: bytes,
    answer: ConvertedNetwork,
    *,
    model_id: str = "",
    version: str = "1",
    licence: str = "",
    label_map: LabelMap | None = None,
) -> Path:
    """Write ``ID.onnx`` and its first card ``ID.toml`` into ``out``; returns the card. Raises CardError.

    Empty ``model_id`` and ``licence`` are taken from ``answer``. Without a ``label_map`` the labels keep the
    names that the model gives them.
    """
    name = model_id or answer.id
    if not NAME.fullmatch(name) or not NAME.fullmatch(version):
        raise CardError("id and version must be letters, digits, '.', '_', '+' and '-', 64 at most")
    known, given, labels = node_labels(), label_map or {}, []
    for own in answer.labels:
        private = Code(re.sub("[^A-Z0-9]+", "_", own.upper())[:16], "99AINODE", own)
        unknown = NodeLabel(own, private, "private: no code whose source could be checked")
        label = given.get(own) or known.get(plain(own)) or unknown
        labels.append(
            {
                "name": label.name if label_map else own,
                "supported": False,
                "threshold": THRESHOLD,
                "absent_below": THRESHOLD,
                **({"model_label": own} if label_map else {}),
                "code": _code(label.code, source=label.source),
                **({"site": _code(label.site)} if label.site else {}),
            }
        )
    card = {
        "id": name,
        "version": version,
        "task": "multi-label classification of frontal chest X-rays",
        "architecture": answer.architecture,
        "licence": licence or answer.licence or "not known: ask the authors before use",
        "intended_use": USE,
        "limits": tomlkit.item(
            ["Not for diagnostic use. Not cleared by any authority.", *NOT_ACCEPTED, NO_GATE]
        ).multiline(multiline=True),
        "weights": [
            {"role": "classifier", "file": f"{name}.onnx", "sha256": hashlib.sha256(network).hexdigest()}
        ],
        "input": {
            **answer.model_dump(
                include={"size", "channels", "mean", "scale", "crop", "squash", "interpolation"}
            ),
            "photometric": "MONOCHROME2",
            "preprocess": "imagenet",
        },
        "outputs": {"scores": "logits", "kind": answer.kind, "place_kind": "activation"},
        "calibration": {
            "calibrated": False,
            "method": "softmax, as trained" if answer.kind == "probabilities" else "none",
        },
        "training": {"data": ["not known to this card: see the checkpoint's authors"]},
        "labels": labels,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.onnx").write_bytes(network)
    path = out / f"{name}.toml"
    by = "`ai-pipeline models convert`; `ai-pipeline evaluate chest --write-card` adds figures."
    path.write_text(f"# Written by {by}\n{tomlkit.dumps(card)}", encoding="utf-8")
    load(path)
    return path


def _code(code: Code, **more: str) -> InlineTable:
    table = tomlkit.inline_table()
    table.update({"value": code.value, "scheme": code.scheme, "meaning": code.meaning, **more})
    return table
