"""The drawing of all packages in ``reference/code.md``: who imports whom, read from the code.

An arrow that follows from others is left out (cli uses store through services too), and so is what every room
may use. ``CycleError`` where the arrows do not go one way.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dicom_node", "dicom_connectors", "dicom_console", "ai_pipeline", "ai_training")
BASE = ("config", "dicom", "model", "object_store", "store")
NODE = "node.py"
"""The files beside the folders that put them together; those that do not are base."""

Arrows = Mapping[str, frozenset[str]]


def packages_part() -> str:
    """A picture (Mermaid), with the people's side and the pipelines outside of the node."""
    arrows = reduced(imports())
    inside = sorted({*arrows, *(to for targets in arrows.values() for to in targets)} - {*PACKAGES})
    lines = ["flowchart LR", "    subgraph dicom_node", *(f"        {room}" for room in inside), "    end"]
    lines += [f"    {room} --> {to}" for room in sorted(arrows) for to in sorted(arrows[room])]
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def imports() -> Arrows:
    """What the modules of each room import from other rooms. Raises CycleError."""
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            room = _room(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for target in _imported(path):
                if room and (to := _room(target)) and to != room:
                    found.setdefault(room, set()).add(to)
    TopologicalSorter(found).prepare()
    return {room: frozenset(targets) for room, targets in found.items()}


def reduced(arrows: Arrows) -> Arrows:
    """Without arrows that follow from two others or more."""
    return {
        room: frozenset(
            to for to in targets if not any(to in _reached(arrows, other) for other in targets - {to})
        )
        for room, targets in arrows.items()
    }


def _reached(arrows: Arrows, room: str) -> set[str]:
    reached = set(arrows.get(room, ()))
    return reached.union(*(_reached(arrows, one) for one in reached))


@cache
def _room(module: str) -> str:
    """The room that a module belongs to in the drawing, "" for base and for packages of others."""
    package, _, rest = module.partition(".")
    if package != "dicom_node":
        return package if package in PACKAGES else ""
    folder = rest.partition(".")[0]
    if (ROOT / package / folder).is_dir() and folder:
        return "" if folder in BASE else folder
    if folder == "__main__":
        return "cli"
    path = ROOT / package / f"{folder}.py"
    return NODE if path.is_file() and any(_is_room(target) for target in _imported(path)) else ""


def _is_room(module: str) -> bool:
    package, _, rest = module.partition(".")
    folder = rest.partition(".")[0]
    return package == "dicom_node" and (ROOT / package / folder).is_dir() and folder not in (*BASE, "")


@cache
def _imported(path: Path) -> Sequence[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            is_package = node.module in PACKAGES
            found += [f"{node.module}.{alias.name}" if is_package else node.module for alias in node.names]
    return found
