"""The size and density of the code against ``budget.toml``, whose ceilings and lists may only shrink.

``python -m tests.budget [--write]`` measures three things:

* tokens of each package (comments, docstrings and imports are free) and words of the pages written by hand,
  each below a ceiling. A feature adds its allowance as a line of ``[allowances]``;
* functions with more than 20 decisions or 60 lines, and statements with more than 6 decisions. A decision is
  an ``if``, ``for``, ``while``, ``except`` or ``case``, and also an ``and``, an ``or``, a conditional
  expression, a loop and a condition of a comprehension;
* files with more than 800 lines.

What is above a limit stands in its list with the reason. No list may be longer than on the main branch, and
no ceiling higher than its allowances make it. ``--write`` lowers the ceilings to what is there, uses up the
allowances and drops from the lists what is no longer above a limit.
"""

import ast
import io
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import tomlkit
from tomlkit import TOMLDocument

from tests import ROOT

FILE = ROOT / "budget.toml"
MAIN = ("origin/main", "main")  # the first that git knows
MOST_DECISIONS: Final = 20
MOST_LINES: Final = 60
MOST_DECISIONS_OF_A_STATEMENT: Final = 6
MOST_LINES_OF_A_FILE: Final = 800
LISTS: Final = ("functions", "statements", "files")

_GENERATED = ("docs/reference/", "docs/conformance.md", "docs/statement/")
_COUNTED = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.ClassDef)
_BLOCKS = (*_SCOPES, ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


@dataclass
class Measured:
    """Tokens by package, and by name what is above a limit, with what was counted as text."""

    tokens: Counter[str] = field(default_factory=Counter)
    functions: dict[str, str] = field(default_factory=dict)
    statements: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def measured() -> Measured:
    """What git tracks here, and what it neither tracks nor ignores; migrations are left out."""
    found = Measured()
    for name in _git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        path = ROOT / name
        if path.suffix == ".py" and path.is_file() and "/migrations/" not in name:
            _measure_file(found, name, path.read_text(encoding="utf-8"))
        elif path.suffix == ".md" and name.startswith("docs/") and not name.startswith(_GENERATED):
            found.tokens["words"] += len(path.read_text(encoding="utf-8").split())
    return found


def _measure_file(found: Measured, name: str, text: str) -> None:
    """Add the file ``name`` to what was found."""
    folders = name.split("/")
    tree = ast.parse(text)
    found.tokens["tests" if "tests" in folders[:-1] else folders[0]] += tokens(text, tree)
    if (lines := text.count("\n")) > MOST_LINES_OF_A_FILE:
        found.files[name] = f"{lines} lines"
    for place, node in _nodes(tree):
        key = f"{name} {place}"
        if isinstance(node, _FUNCTIONS):
            decided, lines = decisions_of(node), lines_of(node)
            if decided > MOST_DECISIONS or lines > MOST_LINES:
                found.functions[key] = f"{decided} decisions, {lines} lines"
        elif not isinstance(node, _BLOCKS) and (decided := decisions(node, whole=False)) > (
            MOST_DECISIONS_OF_A_STATEMENT
        ):
            found.statements[key] = f"{decided} decisions"


def _nodes(tree: ast.AST, place: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """Every statement below ``tree``, with the names of the classes and functions it is in or defines."""
    for child in ast.iter_child_nodes(tree):
        inside = f"{place}.{child.name}".lstrip(".") if isinstance(child, _SCOPES) else place
        if isinstance(child, ast.stmt):
            yield inside, child
        yield from _nodes(child, inside)


def tokens(text: str, tree: ast.Module) -> int:
    """Names, operators, numbers and strings of a file, without its docstrings and imports."""
    free = {
        line
        for node in ast.walk(tree)
        if _is_docstring(node) or isinstance(node, (ast.Import, ast.ImportFrom))
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)  # type: ignore[attr-defined]
    }
    read = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type in _COUNTED and token.start[0] not in free for token in read)


def _is_docstring(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def decisions_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """One more than the decisions of a function, without those of functions inside it."""
    return 1 + decisions(function, whole=True)


def decisions(node: ast.AST, *, whole: bool) -> int:
    """The decisions of a node; ``whole``: also of the statements inside it, else of its expressions."""
    count = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _SCOPES):
            continue
        count += _own_decisions(child, whole=whole)
        if whole or not isinstance(child, ast.stmt):
            count += decisions(child, whole=whole)
    return count


def _own_decisions(node: ast.AST, *, whole: bool) -> int:
    """The decisions of this node alone."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return int(isinstance(node, ast.IfExp) or (whole and isinstance(node, _BRANCHES)))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body, without its docstring."""
    body = function.body
    first = body[1] if _is_docstring(body[0]) and len(body) > 1 else body[0]
    return (function.end_lineno or first.lineno) - first.lineno + 1


def ceilings(budget: Mapping[str, Any]) -> Counter[str]:
    """The most tokens of each package: its number and what the allowances add."""
    most = Counter[str](budget.get("tokens", {}))
    for allowance in budget.get("allowances", {}).values():
        most.update(allowance)
    return most


def faults(found: Measured, budget: Mapping[str, Any], landed: Mapping[str, Any]) -> list[str]:
    """What is above its ceiling or in no list, and what grew against the ``landed`` budget, if any."""
    most = ceilings(budget)
    lines = [
        f"{package}: {number} tokens of {most[package]}"
        for package, number in sorted(found.tokens.items())
        if number > most[package]
    ]
    for kind in LISTS:
        listed = budget.get(kind, {})
        lines += [
            f"{name}: {counted}: too many for one of the {kind}"
            for name, counted in getattr(found, kind).items()
            if name not in listed
        ]
        if len(listed) > len(landed.get(kind, listed)):
            lines.append(f"budget.toml: {len(landed[kind])} {kind} were listed and {len(listed)} are")
    return lines + _grown(budget, landed)


def _grown(budget: Mapping[str, Any], landed: Mapping[str, Any]) -> list[str]:
    """The ceilings that rose above the landed ones by more than the allowances of either."""
    if not landed.get("tokens"):
        return []
    before = ceilings({**landed, "allowances": landed.get("allowances", {}) | budget.get("allowances", {})})
    return [
        f"budget.toml: {package} was {before[package]} and is {number}"
        for package, number in budget.get("tokens", {}).items()
        if number > before[package]
    ]


def lower(budget: TOMLDocument, found: Measured) -> None:
    """Set the ceilings to what is there, and drop the allowances and the names that are below a limit."""
    most = ceilings(budget.unwrap())
    for package, number in found.tokens.items():
        budget["tokens"][package] = min(number, most.get(package, number))  # type: ignore[index]
    budget.pop("allowances", None)
    for kind in LISTS:
        for name in budget.get(kind, {}).keys() - getattr(found, kind).keys():
            del budget[kind][name]  # type: ignore[union-attr]


def _landed() -> dict[str, Any]:
    """The budget where this branch left the main one; empty where there is none."""
    fork = next(filter(None, (_git("merge-base", "HEAD", name).strip() for name in MAIN)), "")
    return tomllib.loads(_git("show", f"{fork}:{FILE.name}")) if fork else {}


def _git(*words: str) -> str:
    """What git prints; "" where it fails or there is none."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> int:
    """The exit status: 1 with a line for each fault."""
    found = measured()
    budget = tomlkit.parse(FILE.read_text(encoding="utf-8"))
    if "--write" in sys.argv[1:]:
        lower(budget, found)
        FILE.write_text(tomlkit.dumps(budget), encoding="utf-8")
    lines = faults(found, budget.unwrap(), _landed())
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
