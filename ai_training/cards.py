"""Write model cards as new files, or change existing ones and keep their comments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit import TOMLDocument

from ai_training.engine.records import read_times


@contextmanager
def changed_card(path: Path, to: Path | None = None) -> Iterator[TOMLDocument]:
    """Open the card at ``path`` for changes. Without an error it is then written to ``to``, by default to
    ``path``.
    """
    card = tomlkit.parse(path.read_text(encoding="utf-8"))
    yield card
    (to or path).write_text(tomlkit.dumps(card), encoding="utf-8")


def add_figures(path: Path, figures: Mapping[str, Any]) -> None:
    """Put ``figures`` into ``[metrics]`` of the card at ``path``; other figures there are kept."""
    with changed_card(path) as card:
        card.setdefault("metrics", {}).update(figures)


def new_card(
    folder: Path,
    card_id: str,
    made_by: str,
    role: str,
    about: Mapping[str, Any],
    tables: Mapping[str, Mapping[str, Any]],
    version: str = "1",
) -> Path:
    """Write ``card_id.toml`` beside the weights ``card_id.onnx`` of ``role``; returns its path.

    ``made_by``: the comment on top. ``about``: keys before the weights; ``tables``: tables after them. A
    run in ``folder`` adds the milliseconds of its steps to the table ``training``.
    """
    card = tomlkit.document()
    card.add(tomlkit.comment(made_by))
    weights = tomlkit.aot()
    weights.append(weights_row(role, folder / f"{card_id}.onnx"))
    if times := read_times(folder):
        tables = {**tables, "training": {**tables.get("training", {}), "time": times}}
    for key, value in {"id": card_id, "version": version, **about, "weights": weights, **tables}.items():
        card[key] = value
    path = folder / f"{card_id}.toml"
    path.write_text(tomlkit.dumps(card), encoding="utf-8")
    return path


def weights_row(role: str, file: Path) -> Any:
    """A row of ``[[weights]]`` for a file beside the card, with the file's SHA-256."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return tomlkit.item({"role": role, "file": file.name, "sha256": digest})
