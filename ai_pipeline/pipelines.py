"""The pipelines by the name that rules and ``--pipeline`` use: entry points, those of other packages too.

Nothing heavy is imported before a pipeline is asked for.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from pathlib import Path
from typing import cast

from ai_pipeline.contract import Pipeline

GROUP = "ai_pipeline.pipelines"
"""The entry-point group: ``name = "package.module:Class"``, a class like :class:`.contract.Pipeline`."""


PIPELINES: dict[str, EntryPoint] = {found.name: found for found in entry_points(group=GROUP)}
"""Every pipeline of every installed package, by name."""


def create(name: str, *, models_dir: Path | None = None, device_rules: Path | None = None) -> Pipeline:
    """The pipeline called ``name``; its models are loaded by ``warm_up`` or on first use.

    ``models_dir`` and ``device_rules`` go to those that take them. Raises KeyError.
    """
    made = pipeline_class(name)
    offered = {"models_dir": models_dir, "device_rules": device_rules}
    taken = signature(made).parameters
    return cast(Pipeline, made(**{key: value for key, value in offered.items() if key in taken}))


def pipeline_class(name: str) -> type:
    """The class called ``name``: its ``version`` and ``options`` can be read without loading a model."""
    if name not in PIPELINES:
        raise KeyError(f"no pipeline is called {name!r}: choose from {', '.join(sorted(PIPELINES))}")
    return cast(type, PIPELINES[name].load())
