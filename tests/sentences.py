"""Every sentence of the code that can reach a PACS, every message and every line of the pages: what
``tests/test_sentences.py`` reads.

A sentence is taken from the literal where it is written, wherever that is in the rooms that word results;
a value that is put in at run time counts as a word.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HOME = Path(__file__).parent.parent
ROOMS = (
    "ai_pipeline",
    "dicom_node/results",
    "dicom_node/jobs/worker",
    "dicom_node/model",
    "dicom_node/base/dicom",
)
_PUT_IN = "12345678"
"""Stands for a value that is put in: as long as a number with its unit, or a short name."""
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_NO_PROSE = ("CHANGELOG", "models", "training")
_END = re.compile(r"(?<=[.!?])\s+|\r?\n")
_NO_SENTENCES = (
    "ai_pipeline/burnin/decide/",
    "ai_pipeline/fetal_head/intended_use.py",
    "ai_pipeline/models/",
    "ai_pipeline/cli/",
    "dicom_node/results/deidentified.py",
    "dicom_node/results/deidentified.py",
)
"""Files with patterns and word lists, and those whose words only the command line shows."""


def sentences() -> Iterator[tuple[str, str]]:
    """File with line, and sentence; of literals with a space that are neither docstrings nor patterns."""
    for room in ROOMS:
        for path in sorted((HOME / room).rglob("*.py")):
            where = path.relative_to(HOME)
            if str(where).startswith(_NO_SENTENCES):
                continue
            for line, text in _literals(ast.parse(path.read_text(encoding="utf-8"))):
                for one in _END.split(text):
                    yield f"{where}:{line}", one.strip()


def messages() -> Iterator[tuple[str, str]]:
    """File with line, and text, of all literals of the packages with a space that are no docstrings."""
    for package in ("ai_pipeline", "ai_training", "dicom_connectors", "dicom_console", "dicom_node"):
        for path in sorted((HOME / package).rglob("*.py")):
            for line, text in _literals(ast.parse(path.read_text(encoding="utf-8"))):
                yield f"{path.relative_to(HOME)}:{line}", text


def prose() -> Iterator[tuple[str, str]]:
    """Page with line, and line, outside of code; not the changes, nor yet models, studies and training."""
    pages = (*(HOME / "docs").rglob("*.md"), *HOME.glob("*.md"), *(HOME / "orthanc").glob("*.md"))
    for page in sorted(pages):
        if page.name.startswith(_NO_PROSE) or "studies" in page.parts:
            continue
        text = _CODE.sub(lambda code: re.sub(r"[^\n]", "·", code[0]), page.read_text(encoding="utf-8"))
        yield from (
            (f"{page.relative_to(HOME)}:{number}", line) for number, line in enumerate(text.splitlines(), 1)
        )


def _literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            inside.add(id(node.value))  # a docstring
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else _PUT_IN for part in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, re.sub(r"\{[a-z_]*\}", _PUT_IN, node.value)
