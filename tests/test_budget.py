"""What is measured of the code, and when the budget is at fault."""

import ast
from collections import Counter

import pytest
import tomlkit

from tests.budget import Measured, decisions, decisions_of, faults, lines_of, lower, tokens


def test_docstrings_comments_and_imports_are_free() -> None:
    text = '"""A module."""\nimport os  # why\n\n\ndef f():\n    """Shape."""\n    return os\n'
    assert tokens(text, ast.parse(text)) == 7  # def f ( ) : return os


@pytest.mark.parametrize(
    ("body", "counted"),
    [
        ("return a", 1),
        ("return a and b or c", 3),
        ("return a if b else c", 2),
        ("return [a for a in b if a if not a]", 4),
        ("if a:\n  return b\nelif c:\n  return d", 3),
        ("while a:\n  b()\nfor c in d:\n  c()", 3),
        ("try:\n  a()\nexcept A:\n  b()\nexcept B:\n  c()", 3),
        ("match a:\n  case 1:\n    b()\n  case _:\n    c()", 3),
        ("def g():\n  return a and b\nreturn g", 1),
        ("return sorted(a, key=lambda b: b or c)", 2),
    ],
)
def test_decisions_of_a_function(body: str, counted: int) -> None:
    lines = body.replace("\n", "\n  ")
    function = ast.parse(f"def f():\n  {lines}").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert decisions_of(function) == counted


def test_decisions_of_a_statement_are_those_of_its_expressions() -> None:
    assert decisions(ast.parse("x = [a for a in b if c and d]").body[0], whole=False) == 3


def test_a_docstring_is_no_line_of_a_function() -> None:
    function = ast.parse('def f():\n    """Two\n\n    lines."""\n    a()\n    b()\n').body[0]
    assert isinstance(function, ast.FunctionDef)
    assert lines_of(function) == 2


def found(**tokens_of: int) -> Measured:
    return Measured(tokens=Counter(tokens_of))


def test_what_is_above_its_ceiling_is_a_fault() -> None:
    assert faults(found(store=10), {"tokens": {"store": 10}}, {}) == []
    assert faults(found(store=11), {"tokens": {"store": 10}}, {}) == ["store: 11 tokens of 10"]


def test_a_feature_adds_its_allowance() -> None:
    budget = {"tokens": {"store": 10}, "allowances": {"Upload": {"store": 5}}}
    assert faults(found(store=15), budget, {"tokens": {"store": 10}}) == []
    assert faults(found(store=16), budget, {"tokens": {"store": 10}}) == ["store: 16 tokens of 15"]


def test_a_ceiling_rises_by_no_more_than_allowances() -> None:
    landed = {"tokens": {"store": 10}, "allowances": {"Upload": {"store": 5}}}
    assert faults(found(), {"tokens": {"store": 15}}, landed) == []
    assert faults(found(), {"tokens": {"store": 16}}, landed) == ["budget.toml: store was 15 and is 16"]


def test_what_is_above_a_limit_stands_in_its_list() -> None:
    crowded = Measured(files={"a.py": "900 lines"})
    assert faults(crowded, {"files": {"a.py": "why"}}, {}) == []
    assert faults(crowded, {}, {}) == ["a.py: 900 lines: too many for one of the files"]


def test_a_list_only_shrinks() -> None:
    longer = {"files": {"a.py": "why", "b.py": "why"}}
    assert faults(found(), longer, {"files": {"a.py": "why"}}) == [
        "budget.toml: 1 files were listed and 2 are"
    ]


def test_lowered_ceilings_are_at_what_is_there() -> None:
    budget = tomlkit.parse(
        "[tokens]\nstore = 10\n[allowances]\nUpload = { store = 5 }\n"
        "[files]\n'a.py' = 'why'\n'b.py' = 'why'\n"
    )
    lower(budget, Measured(tokens=Counter(store=12), files={"a.py": "900 lines"}))
    assert budget.unwrap() == {"tokens": {"store": 12}, "files": {"a.py": "why"}}
