"""Mistakes in values of a configuration, in words that an admin uses."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

KeyPath = tuple[str | int, ...]

_REMEDIES: Mapping[str, str] = {
    "missing": "is missing",
    "bool": "must be true or false",
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "string": "must be text, in quotes",
    "path": "must be a path, in quotes",
    "ip": "must be an address, or a network without bits of a host, such as 10.0.0.0/8",
    "tuple": 'must be a list, such as ["a", "b"]',
    "list": 'must be a list, such as ["a", "b"]',
    "model": "must be a table, such as [node] or { key = value }",
    "dict": "must be a table, such as { key = value }",
    "mapping": "must be a table, such as { key = value }",
}

REMOVED: Mapping[str, str] = {
    "console.ldap": "is gone: use [console.oidc]; Entra ID, AD FS and Keycloak offer it for a directory",
}
"""Removed setting or table → what to do instead."""


def described(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[KeyPath, bool, str]]:
    """Each mistake in data for ``model``: its place, whether the key is known, the remedy."""
    for found in error.errors():
        place, known = found["loc"], found["type"] != "extra_forbidden"
        yield place, known, _remedy(found) if known else _unknown_key(place, model)


def did_you_mean(word: object, known: Iterable[str], otherwise: str = "known") -> str:
    """``did you mean "us1"?`` if a known word is similar, else the list of known words."""
    choices = list(filter(None, dict.fromkeys(known)))
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(str(word).casefold(), folded, n=1, cutoff=0.5)
    return f"did you mean {folded[near[0]]}?" if near else f"{otherwise}: {', '.join(choices) or 'none'}"


def sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The tables in ``model``, by key."""
    return {
        name: kind
        for name, field in model.model_fields.items()
        for kind in (field.annotation, *get_args(field.annotation))
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    }


def _unknown_key(place: KeyPath, model: type[BaseModel]) -> str:
    *path, key = (part for part in place if isinstance(part, str))
    if remedy := REMOVED.get(".".join([*path, key])):
        return remedy
    at = model
    for part in path:
        at = sections(at)[part]
    for name, section in sections(at).items():
        if key in section.model_fields:
            return f"unknown key: it belongs into {'.'.join([*path, name])}"
    return f"unknown key: {did_you_mean(key, at.model_fields, 'the keys here are')}"


def _remedy(found: ErrorDetails) -> str:
    kind, given, context = found["type"], found.get("input"), found.get("ctx", {})
    table = isinstance(given, dict) and found["loc"] in (("peers",), ("rules",))
    match kind:
        case "value_error":
            remedy = found["msg"].removeprefix("Value error, ")
        case "literal_error" | "enum":
            choices = re.findall(r"'([^']*)'", context["expected"])
            named, hint = ", ".join(choice or '""' for choice in choices), did_you_mean(given, choices)
            remedy = f"must be one of {named}{f'; {hint}' if hint.startswith('did') else ''}"
        case "string_pattern_mismatch":
            remedy = _WRITTEN.get(
                context["pattern"], "has not the form that docs/reference/settings.md gives"
            )
        case "string_too_long":
            remedy = f"has more than {context['max_length']} characters"
        case "string_too_short":
            remedy = "must not be empty"
        case "tuple_type" if found["loc"][-2:-1] == ("when",):
            remedy = 'must be text in quotes, or a list, such as ["a", "b"]'
        case "tuple_type" if table:
            remedy = f"write [[{found['loc'][-1]}]], with two brackets: there may be several"
        case _ if kind in _BOUNDS:
            remedy = f"must be {_BOUNDS[kind]} {next(iter(context.values())):g}"
        case _:
            remedy = _REMEDIES.get(kind.partition("_")[0], "cannot be used here")
    return remedy


_BOUNDS: Mapping[str, str] = {
    "greater_than": "more than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}
AE_TITLE = r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]*)$"
NAME = r"^[A-Za-z0-9._-]+$"
HOST = r"^[A-Za-z0-9._:%-]*$"
_WRITTEN: Mapping[str, str] = {
    AE_TITLE: "an AE title has letters of ASCII, figures and signs, no backslash and no space in front",
    NAME: "a name has letters of ASCII, figures, dot, dash and underscore, no space",
    HOST: "is no name or address of a machine: letters, figures, dots and dashes, no space",
}
