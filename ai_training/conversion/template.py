"""The first card of a converted model: its known properties; no figures, since none was measured."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from ai_pipeline.contract import Code
from ai_pipeline.errors import CardError
from ai_pipeline.models.card import NAME
from ai_pipeline.models.registry import load
from ai_training.conversion.label_map import LabelMap, NodeLabel, node_labels, plain
from ai_training.conversion.messages import ConvertedNetwork

PRIVATE = "99AINODE"
THRESHOLD = 0.5
UNKNOWN_LICENCE = "not known: ask the authors before use"
USE = "To be evaluated on this site's images before anyone reads its findings. Not for diagnostic use."
NO_GATE = "No domain gate: an image that is no chest X-ray is refused by its header alone."
NOT_ACCEPTED = (
    "Converted from a checkpoint; nobody has evaluated it here: every label is hidden until `ai-pipeline "
    "models "
    "accept` or `ai-pipeline evaluate chest --write-card` supports it with figures.",
    "Thresholds are the checkpoint's own or .5; probabilities are not calibrated.",
)
LIMITS = ("Not for diagnostic use. Not cleared by any authority.", *NOT_ACCEPTED, NO_GATE)


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
    """Write ``ID.onnx`` and its first card ``ID.toml`` into ``out``; returns the card. Raises CardError."""
    name = model_id or answer.id
    if not NAME.fullmatch(name) or not NAME.fullmatch(version):
        raise CardError("id and version must be letters, digits, '.', '_', '+' and '-', 64 at most")
    out.mkdir(parents=True, exist_ok=True)
    file, card = out / f"{name}.onnx", out / f"{name}.toml"
    digest = hashlib.sha256(network).hexdigest()
    text = card_text(
        answer,
        model_id=name,
        version=version,
        licence=licence,
        file=file.name,
        sha256=digest,
        label_map=label_map,
    )
    file.write_bytes(network)
    card.write_text(text, encoding="utf-8")
    load(card)
    return card


def card_text(
    answer: ConvertedNetwork,
    *,
    model_id: str,
    version: str,
    licence: str,
    file: str,
    sha256: str,
    label_map: LabelMap | None = None,
) -> str:
    """The card as TOML, for the converted ``file`` with that SHA-256; an empty ``licence`` is taken from
    ``answer``.

    Without a ``label_map`` the labels keep the names that the model gives them.
    """
    softmax = answer.kind == "probabilities"
    lines = [
        "# Written by `ai-pipeline models convert`; `ai-pipeline evaluate chest --write-card` adds figures.",
        "",
        *_pairs(
            id=model_id,
            version=version,
            task="multi-label classification of frontal chest X-rays",
            architecture=answer.architecture,
            licence=licence or answer.licence or UNKNOWN_LICENCE,
            intended_use=USE,
            limits=LIMITS,
        ),
        *_table("[weights]", role="classifier", file=file, sha256=sha256),
        *_table("input", size=answer.size, channels=answer.channels, mean=answer.mean, scale=answer.scale),
        *_pairs(photometric="MONOCHROME2", preprocess=answer.preprocess),
        *_pairs(crop=answer.crop, squash=answer.squash, interpolation=answer.interpolation),
        *_table("outputs", scores="logits", kind=answer.kind, place_kind="activation"),
        *_table("calibration", calibrated=False, method="softmax, as trained" if softmax else "none"),
        *_table("training", data=("not known to this card: see the checkpoint's authors",)),
    ]
    known, given = node_labels(), label_map or {}
    for name in answer.labels:
        lines += _label(given.get(name) or known.get(plain(name)) or _unknown(name), name, label_map)
    return "\n".join(lines) + "\n"


def _label(label: NodeLabel, own: str, label_map: LabelMap | None) -> list[str]:
    """``own``: what the model itself calls it."""
    return [
        *_table("[labels]", name=label.name if label_map else own),
        f"code = {_inline(label.code, label.source)}",
        *([f"site = {_inline(label.site)}"] if label.site is not None else []),
        *_pairs(supported=False, threshold=THRESHOLD, absent_below=THRESHOLD),
        *(_pairs(model_label=own) if label_map else []),
    ]


def _unknown(name: str) -> NodeLabel:
    private = Code(re.sub("[^A-Z0-9]+", "_", name.upper())[:16], PRIVATE, name)
    return NodeLabel(name, private, "private: no code whose source could be checked")


def _inline(code: Code, source: str = "") -> str:
    parts = {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}
    parts |= {"source": source} if source else {}
    return "{ " + ", ".join(_pairs(**parts)) + " }"


def _table(header: str, **values: object) -> list[str]:
    return ["", f"[{header}]", *_pairs(**values)]


def _pairs(**values: object) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in values.items()]


def _value(value: object) -> str:
    if isinstance(value, tuple):
        items = [_value(part) for part in value]
        short = f"[{', '.join(items)}]"
        return short if len(short) < 100 else "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    # A JSON string is a TOML string but for DEL, and JSON's numbers and booleans are TOML's.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
