"""The first card of a converted model: what is known of it; no figures, since none was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from ai_pipeline.contract import Code
from ai_pipeline.models.card import Label
from ai_pipeline.models.registry import find
from ai_pipeline.models.store.conversion_request import ConvertedNetwork
from ai_pipeline.models.store.folder import SHIPPED_MODELS

PRIVATE = "99AINODE"
THRESHOLD = 0.5
OPACITY = Code("112001", "DCM", "Opacity")
FRACTURE = Code("125605004", "SCT", "Fracture of bone")
CODES = {
    "lungopacity": (OPACITY, "PS3.16 CID 6104 Abnormal Opacity Finding or Feature"),
    "fracture": (FRACTURE, "SNOMED CT 125605004 |Fracture of bone (disorder)|"),
}
"""Codes of labels that the shipped model does not have, by their plain names."""

UNKNOWN_LICENCE = "not known: ask the authors before use"
USE = "To be evaluated on this site's images before anyone reads its findings. Not for diagnostic use."
LIMITS = (
    "Not for diagnostic use. Not cleared by any authority.",
    "Converted from a checkpoint; nobody has evaluated it here: every label is hidden until `ai-pipeline "
    "evaluate chest --write-card` supports it with figures.",
    "Thresholds are the checkpoint's own or .5; probabilities are not calibrated.",
    "No domain gate: an image that is no chest X-ray is refused by its header alone.",
)


def card_text(
    answer: ConvertedNetwork, *, model_id: str, version: str, licence: str, file: str, sha256: str
) -> str:
    """The card as TOML, for the converted ``file`` of that SHA-256; no ``licence``: what the answer says."""
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
        *(_pairs(crop=answer.crop, squash=answer.squash, interpolation=answer.interpolation)
          if answer.preprocess == "imagenet" else []),
        *_table("outputs", scores="logits", kind=answer.kind, place_kind="activation"),
        *_table("calibration", calibrated=False, method="softmax, as trained" if softmax else "none"),
        *_table("training", data=("not known to this card: see the checkpoint's authors",)),
    ]  # fmt: skip
    known = {_plain(label.name): label for label in find(SHIPPED_MODELS["chest_xray"]).labels}
    points = answer.operating_points or (None,) * len(answer.labels)
    for name, point in zip(answer.labels, points, strict=True):
        lines += _label(name, point, known.get(_plain(name)))
    return "\n".join(lines) + "\n"


def _label(name: str, point: float | None, known: Label | None) -> list[str]:
    if known is not None:
        code, source = known.code, known.code_source
    else:
        private = Code(re.sub("[^A-Z0-9]+", "_", name.upper())[:16], PRIVATE, name)
        code, source = CODES.get(_plain(name), (private, "private: no code whose source could be checked"))
    site = f"site = {_inline(known.site)}" if known is not None and known.site is not None else ""
    return [
        *_table("[labels]", name=name),
        f"code = {_inline(code, source)}",
        *([site] if site else []),
        *_pairs(supported=False, threshold=THRESHOLD, absent_below=THRESHOLD),
        *([] if point is None else _pairs(operating_point=point)),
    ]


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
        return _list(_value(part) for part in value)
    # A JSON string is a TOML string but for DEL, and JSON's numbers and booleans are TOML's.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(parts: Iterable[str]) -> str:
    items = list(parts)
    short = f"[{', '.join(items)}]"
    return short if len(short) < 100 else "[\n" + "".join(f"    {item},\n" for item in items) + "]"


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
