"""Which module imports which, read from the sources without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dicom_node", "dicom_console", "ai_pipeline", "ai_training")


@dataclass(frozen=True)
class Import:
    """One import statement. ``target`` is the most exact module that it names."""

    module: str
    target: str
    lazy: bool
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules(*packages: str) -> dict[str, Path]:
    """Every module below these packages, by name."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return found


MODULES = modules(*PACKAGES)


def imports(module: str, source: str) -> Iterator[Import]:
    """Every import of ``source``. What of a module is imported counts as the module."""
    for node, lazy in _statements(ast.parse(source), lazy=False):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute here"
            base = node.module or ""
            targets = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names
            ]
        for target in targets:
            yield Import(module, target, lazy, node.lineno)


def _statements(outer: ast.AST, lazy: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement below ``outer``, and whether it runs later than the module's own body."""
    for node in ast.iter_child_nodes(outer):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, lazy
        elif not isinstance(node, ast.expr):
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)
            yield from _statements(node, lazy or later)


@cache
def imports_of(module: str) -> list[Import]:
    """Those of a module of ours."""
    return list(imports(module, MODULES[module].read_text(encoding="utf-8")))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
