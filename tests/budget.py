"""Statements of each package and words of the docs against ``budget.toml``, whose numbers may only fall.

``python -m tests.budget [--write]``: nothing may be above its number, and no number above that of the commit
where this branch left the main one (nor their sum: a new package takes its number from another, and so does a
connector that leaves ``dicom_node``). Docstrings and comments cost nothing. ``--write`` lowers the numbers to
what is there.
"""

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "budget.toml"
MAIN = ("origin/main", "main")  # the first that git knows
_GENERATED = ("docs/reference/", "docs/conformance.md", "docs/statement/")
_CONNECTORS = ("dicom_node", "dicom_connectors")
_HEAD = "# May only fall: statements of packages (docstrings cost nothing), words of docs/ by hand.\n"


def statements(source: str) -> int:
    """Those of a file, docstrings left out."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    return sum(
        not (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
        for node in nodes
    )


def counted() -> Counter[str]:
    """Statements by folder of the root, tests of any folder as ``tests``; ``words`` of the docs."""
    found: Counter[str] = Counter()
    for name in _git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        path = ROOT / name
        if path.suffix not in (".py", ".md") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            folders = Path(name).parts
            found["tests" if "tests" in folders[:-1] else folders[0]] += statements(text)
        elif name.startswith("docs/") and not name.startswith(_GENERATED):
            found["words"] += len(text.split())
    return found


def faults(found: Mapping[str, int], budget: Mapping[str, int], landed: Mapping[str, int]) -> list[str]:
    """What is above its number, and which numbers grew against the ``landed`` ones, if there are any."""
    lines = [
        f"{name}: {number} of {budget.get(name, 0)}"
        for name, number in sorted(found.items())
        if number > budget.get(name, 0)
    ]
    lines += [
        f"budget.toml: {name} was {landed[name]} and is {number}"
        for name, number in budget.items()
        if number > landed.get(name, number)
        # A connector that leaves the core takes its number along.
        and not (name == _CONNECTORS[1] and _sum(budget, _CONNECTORS) <= _sum(landed, _CONNECTORS))
    ]
    if landed and (now := _packages(budget)) > (before := _packages(landed)):
        lines.append(f"budget.toml: all packages were {before} and are {now}")
    return lines


def _sum(budget: Mapping[str, int], names: Sequence[str]) -> int:
    return sum(budget.get(name, 0) for name in names)


def _packages(budget: Mapping[str, int]) -> int:
    return sum(number for name, number in budget.items() if name != "words")


def _landed() -> dict[str, int]:
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
    found = counted()
    budget = tomllib.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else dict(found)
    if "--write" in sys.argv[1:]:
        budget = {name: min(number, budget.get(name, number)) for name, number in sorted(found.items())}
        FILE.write_text(
            _HEAD + "".join(f"{name} = {number}\n" for name, number in budget.items()), encoding="utf-8"
        )
    lines = faults(found, budget, _landed())
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
