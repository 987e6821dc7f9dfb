"""Forms: conversion of typed fields to configuration content, and the mistakes in the fields."""

from collections.abc import Mapping, Sequence
from typing import Any

from dicom_node.base.errors import ConfigProblem
from dicom_node.people import entered
from dicom_node.people.entered import Kind

Form = Mapping[str, Sequence[str]]
"""What a browser sent: each field with its values."""


def text_of(form: Form, key: str) -> str:
    """Return the value of the form field ``key`` as text; "" if the form has no such field."""
    return " ".join(form.get(key, ())).strip()


def further_of(form: Form, kind: Kind) -> dict[str, Any]:
    """Return the settings that the user typed as TOML into the field ``rest`` of a form.

    ``kind``: "peers" or "rules". Raises FaultyInput.
    """
    # With a name of its own, so that they can be read as a peer or rule is.
    further = entered.parse_entry(kind, f'name = "x"\n{text_of(form, "rest")}')
    return {key: value for key, value in further.items() if key != "name"}


def problem(kind: Kind, name: str, key: str, remedy: str) -> ConfigProblem:
    """Return a mistake in the form of a peer or rule, in the form in which ``check`` reports mistakes.

    ``kind``: "peers" or "rules"; ``name``: of the peer or rule; ``key``: the wrong setting; ``remedy``: what
    to do.
    """
    return ConfigProblem("", f"{kind}.{name}.{key}", "", remedy)
