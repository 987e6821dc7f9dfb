"""The sentence of each setting: the docstring below its field, for sample, documents and pages."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

from pydantic import BaseModel
from pydantic.fields import FieldInfo


@cache
def documented_fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """The fields of a settings section, with the docstring of each field as its description.

    The docstrings are parsed only when this function is called. Parsing at import, as pydantic would, took
    .12 of the .43 s of processor time that the import needed.
    """
    texts: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if issubclass(one, BaseModel) and one is not BaseModel:
            texts |= _docstrings(one)
    for name, field in model.model_fields.items():
        field.description = field.description or texts.get(name)
    return model.model_fields


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """By field, of the body of this class alone."""
    [written] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(written, ast.ClassDef)
    found = {}
    for field, below in pairwise(written.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found
