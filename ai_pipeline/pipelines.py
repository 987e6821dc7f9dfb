"""The pipelines by the name that rules and ``--pipeline`` use: entry points of this and of other packages.

Nothing heavy is imported before a pipeline is used. A pipeline of another package may be broken in any way:
then its use gives an error of one sentence, and nothing else is affected.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from pathlib import Path
from typing import Any, cast

from ai_pipeline.contract import ChecksOptions, ExchangesModels, ModelSlot, Pipeline, PipelineCard
from ai_pipeline.errors import PluginError, first_line

GROUP = "ai_pipeline.pipelines"
"""The entry-point group: ``name = "package.module:Class"``, a class like :class:`.contract.Pipeline`."""

_INSTALLED = entry_points(group=GROUP)
PIPELINES: dict[str, EntryPoint] = {found.name: found for found in _INSTALLED}
"""Every pipeline of every installed package, by name."""


def create(
    name: str, *, models_dir: Path | None = None, device_rules: Path | None = None, card: object = None
) -> Pipeline:
    """Create the pipeline called ``name``; its models are loaded by ``warm_up`` or on first use.
    ``models_dir``, ``device_rules`` and ``card`` (a model card, of another model than the active one) are
    passed to the constructor if it has parameters of these names. Raises KeyError, PluginError.
    """
    made = pipeline_class(name)
    offered = {"models_dir": models_dir, "device_rules": device_rules, "card": card}
    try:
        taken = signature(made).parameters
        return made(**{key: value for key, value in offered.items() if key in taken})
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"pipeline {name} ({PIPELINES[name].value}) cannot be made: {first_line(error)}"
        ) from error


def is_ours(name: str) -> bool:
    """Whether the pipeline called ``name`` belongs to this package."""
    return name in PIPELINES and PIPELINES[name].module.startswith("ai_pipeline.")


def card_of(name: str) -> PipelineCard:
    """The card of the pipeline called ``name``; no model is loaded. Raises the errors of
    :func:`pipeline_class`.
    """
    return pipeline_class(name).card


def cards() -> Iterator[PipelineCard]:
    """The cards of all pipelines that can be loaded, by name."""
    for name in sorted(PIPELINES):
        with suppress(PluginError):
            yield card_of(name)


def slots() -> dict[str, tuple[PipelineCard, ModelSlot]]:
    """Every replaceable model (ModelSlot) of all pipelines by the slot's name, with the card of its
    pipeline.
    """
    return {slot.name: (card, slot) for card in cards() for slot in card.slots}


def try_out(name: str, card_file: Path, seconds: int) -> None:
    """Run the model of the card ``card_file`` on test pictures, as the pipeline called ``name`` would, for at
    most ``seconds``. Raises CardError.
    """
    if issubclass(made := pipeline_class(name), ExchangesModels):
        made.try_out(card_file, seconds)


def read_options(pairs: Sequence[str]) -> dict[str, object]:
    """Read options of the form NAME=VALUE, as persons type them: a value is one of TOML, as in a rule of the
    node, NAME alone means true, and "settings.sigma=3" is a key of a table. Raises ValueError.
    """
    lines = [pair if "=" in pair else f"{pair} = true" for pair in pairs]
    for line, pair in zip(lines, pairs, strict=True):
        try:
            tomllib.loads(line)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{pair}: not NAME=VALUE") from error
    return tomllib.loads("\n".join(lines))


def option_faults(pipeline: Pipeline, options: Mapping[str, object]) -> dict[str, str]:
    """What must be changed in ``options`` for this pipeline, its models and this machine: a remedy in words,
    by option. A pipeline of another package may raise any error.
    """
    known = pipeline.card.options
    faults = known.faults(options)
    right = {key: value for key, value in options.items() if key not in faults}
    if isinstance(pipeline, ChecksOptions) and not known.faults(right):
        faults |= pipeline.option_faults(right)
    return faults


def pipeline_class(name: str) -> type[Pipeline]:
    """The class of the pipeline called ``name``.

    Raises KeyError if there is none, PluginError if it cannot be imported or is no pipeline.
    """
    if name not in PIPELINES:
        raise KeyError(f"no pipeline is called {name!r}: choose from {', '.join(sorted(PIPELINES))}")
    what = f"pipeline {name} ({PIPELINES[name].value})"
    bringing = [found.dist for found in _INSTALLED if found.name == name and found.dist]
    packages = sorted({dist.name for dist in bringing}) if len(bringing) > 1 else []  # names are read slowly
    if len(packages) > 1:
        raise PluginError(f"{what} is brought by {' and '.join(packages)}: uninstall one of them")
    try:
        found = PIPELINES[name].load()
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} cannot be loaded: {first_line(error)}") from error
    if faults := list(_faults(name, found)):
        raise PluginError(f"{what} is no pipeline: {'; '.join(faults)} (docs/pipelines.md)")
    return cast(type[Pipeline], found)


def _faults(name: str, found: Any) -> Iterator[str]:
    """What the class ``found``, registered as pipeline ``name``, lacks of the protocol Pipeline, each as a
    sentence.
    """
    if not isinstance(found, type):
        yield "it is no class"
        return
    for method in ("warm_up", "models", "accepts", "run"):
        if not callable(getattr(found, method, None)):
            yield f"it has no {method}()"
    card = getattr(found, "card", None)
    if not isinstance(card, PipelineCard):
        yield "its card is no PipelineCard"
    elif card.name != name:
        yield f"the name on its card must be {name!r}, which results bear"
