"""The API as Markdown, from signatures and docstrings, without importing anything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("dicom_node", "dicom_connectors", "dicom_console", "ai_pipeline", "ai_training")
_ROLE = re.compile(r":[a-z]+:`+[.~]?([^`]+)`+")
Definition = ast.FunctionDef | ast.AsyncFunctionDef


def rooms() -> dict[str, str]:
    """Each folder of the packages by its name, as the text of a page."""
    folders = [path.parent for package in PACKAGES for path in sorted((ROOT / package).rglob("__init__.py"))]
    return {".".join(folder.relative_to(ROOT).parts): _room(folder) for folder in folders}


def first_sentence(name: str) -> str:
    """What a folder says of itself."""
    text = (ROOT / name.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
    return _sentences(ast.get_docstring(ast.parse(text))).partition("\n\n")[0].replace("\n", " ")


def _room(folder: Path) -> str:
    parts = [f"# {'.'.join(folder.relative_to(ROOT).parts)}"]
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and path.stem == "__init__":
            parts.append(_sentences(ast.get_docstring(tree)))
        elif tree.body:
            parts += [f"## {path.stem}", _sentences(ast.get_docstring(tree)), *_members(tree.body, 3)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _members(body: Sequence[ast.stmt], level: int) -> Iterator[str]:
    """Public classes and functions, and the names that have a docstring of their own."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.ClassDef(name=name) if not name.startswith("_"):
                bases = ", ".join(ast.unparse(base) for base in node.bases)
                yield _entry(level, name, f"class {name}({bases})" if bases else f"class {name}", node)
                yield from _members(node.body, level + 1)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if not name.startswith("_"):
                yield _entry(level, name, _signature(node), node)
            case ast.AnnAssign(ast.Name(name)) | ast.Assign([ast.Name(name)]) if not name.startswith("_"):
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    kind = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
                    yield f"* `{name}{kind}`: {_sentences(str(after.value.value)).replace(chr(10), ' ')}"


def _entry(level: int, name: str, signature: str, node: ast.ClassDef | Definition) -> str:
    text = _sentences(ast.get_docstring(node))
    return f"{'#' * min(level, 6)} `{name}`\n\n```python\n{signature}\n```\n\n{text}".rstrip()


def _signature(node: Definition) -> str:
    """The first line; with a line for each parameter where it would be long."""
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    arguments = ast.unparse(node.args)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{word} {node.name}({arguments}){returns}"


def _sentences(docstring: str | None) -> str:
    """Markdown of what is written as reStructuredText in docstrings; no sign of it is a link or a tag."""
    text = _ROLE.sub(r"`\1`", docstring or "").replace("``", "`")
    return re.sub(r"(?<!`)([<\[])", r"\\\1", text)
