"""The pipelines by the name that rules and ``--pipeline`` use: entry points, those of other packages too.

Nothing heavy is imported before a pipeline is used. A pipeline of another package may be broken in any way:
that is an error of one sentence when it is used, and affects nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from pathlib import Path
from typing import Any, cast

from ai_pipeline.contract import Pipeline
from ai_pipeline.errors import PluginError, first_line

GROUP = "ai_pipeline.pipelines"
"""The entry-point group: ``name = "package.module:Class"``, a class like :class:`.contract.Pipeline`."""

_INSTALLED = entry_points(group=GROUP)
PIPELINES: dict[str, EntryPoint] = {found.name: found for found in _INSTALLED}
"""Every pipeline of every installed package, by name."""

_ATTRIBUTES: Mapping[str, type] = {"name": str, "version": str, "options": Mapping, "per_image": bool}
_METHODS = ("warm_up", "models", "accepts", "run")


def create(name: str, *, models_dir: Path | None = None, device_rules: Path | None = None) -> Pipeline:
    """The pipeline called ``name``; its models are loaded by ``warm_up`` or on first use.

    ``models_dir`` and ``device_rules`` go to those that take them. Raises KeyError, PluginError.
    """
    made = pipeline_class(name)
    offered = {"models_dir": models_dir, "device_rules": device_rules}
    try:
        taken = signature(made).parameters
        return cast(Pipeline, made(**{key: value for key, value in offered.items() if key in taken}))
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"pipeline {name} ({PIPELINES[name].value}) cannot be made: {first_line(error)}"
        ) from error


def pipeline_class(name: str) -> type:
    """The class called ``name``: its ``version`` and ``options`` can be read without loading a model.

    Raises KeyError when there is none, PluginError when it cannot be imported or is no pipeline.
    """
    if name not in PIPELINES:
        raise KeyError(f"no pipeline is called {name!r}: choose from {', '.join(sorted(PIPELINES))}")
    what = f"pipeline {name} ({PIPELINES[name].value})"
    packages = sorted({found.dist.name for found in _INSTALLED if found.name == name and found.dist})
    if len(packages) > 1:
        raise PluginError(f"{what} is brought by {' and '.join(packages)}: uninstall one of them")
    try:
        found = PIPELINES[name].load()
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} cannot be loaded: {first_line(error)}") from error
    if faults := list(_faults(name, found)):
        raise PluginError(f"{what} is no pipeline: {'; '.join(faults)} (docs/pipelines.md)")
    return cast(type, found)


def _faults(name: str, found: Any) -> Iterator[str]:
    """What the class lacks of the protocol."""
    if not isinstance(found, type):
        yield "it is no class"
        return
    for attribute, kind in _ATTRIBUTES.items():
        if not isinstance(getattr(found, attribute, None), kind):
            yield f"its {attribute} is no {kind.__name__}"
    for method in _METHODS:
        if not callable(getattr(found, method, None)):
            yield f"it has no {method}()"
    if getattr(found, "name", None) != name:
        yield f"its name must be {name!r}, which results bear"
