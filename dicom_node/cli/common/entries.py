"""Peers and rules that are entered, not written into a configuration file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dicom_node.cli.common.options import load
from dicom_node.cli.common.output import say

Kind = Literal["peers", "rules"]


def put(config: Sequence[Path], kind: Kind, file: Path) -> None:
    """Save what stands in a file. Raises FaultyInput, NotAllowedNow."""
    from dicom_node.errors import FaultyInput
    from dicom_node.services import entered

    settings = load(config)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FaultyInput(f"{file} cannot be read: {type(error).__name__}") from None
    name = entered.save(settings, kind, entered.parsed(kind, text))
    say(f"{name} is saved. {_taken_over(entered.apply(settings))}")


def remove(config: Sequence[Path], kind: Kind, name: str) -> None:
    """Take one out. Raises NotFound, FaultyInput."""
    from dicom_node.services import entered

    settings = load(config)
    entered.remove(settings, kind, name)
    say(f"{name} is removed. {_taken_over(entered.apply(settings))}")


def _taken_over(nodes: int) -> str:
    return "The node takes it over (event 6010; 6011 if not)." if nodes else "No node runs here."
