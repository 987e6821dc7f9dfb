"""The pipelines by the name that rules and ``--pipeline`` use. Nothing heavy is imported before."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import cast

from ai_pipeline.contract import Pipeline

PIPELINES = {
    "chest_xray": "ai_pipeline.pipelines.chest_xray:ChestXray",
    "ultrasound": "ai_pipeline.pipelines.ultrasound:Ultrasound",
}


def create(name: str, *, models_dir: Path | None = None, device_rules: Path | None = None) -> Pipeline:
    """The pipeline called ``name``; its models are loaded by ``warm_up`` or on first use.

    ``device_rules`` goes to those that take it. Raises KeyError naming the pipelines that there are.
    """
    made = pipeline_class(name)
    further = {"device_rules": device_rules} if "device_rules" in signature(made).parameters else {}
    return cast(Pipeline, made(models_dir=models_dir, **further))


def pipeline_class(name: str) -> type:
    """The class called ``name``: its ``version`` and ``options`` can be read without loading a model."""
    if name not in PIPELINES:
        raise KeyError(f"no pipeline is called {name!r}: choose from {', '.join(sorted(PIPELINES))}")
    module, _, attribute = PIPELINES[name].partition(":")
    return cast(type, getattr(import_module(module), attribute))
