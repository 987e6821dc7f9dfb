"""What the training and measuring commands share: errors as one line and an exit code, progress."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ai_pipeline.errors import CardError
from ai_training.cli import options
from ai_training.errors import ExperimentError
from ai_training.text import figures_text

Figures = Mapping[str, Any]
Command = TypeVar("Command", bound=Callable[..., Figures | Path | str])
EXTRAS = {"ultralytics": "yolo"}
"""The extra that brings a package, where it is not ``torch``."""
AS_JSON = inspect.Parameter(
    "as_json",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--json", help="Print one JSON object.")],
)
LAYOUT = inspect.Parameter("layout", inspect.Parameter.KEYWORD_ONLY, default="", annotation=options.Layout)
EXIT_DATA = 66  # EX_NOINPUT of sysexits.h
EXIT_CONFIG = 78  # EX_CONFIG


def verb(app: typer.Typer, name: str, **how: Any) -> Callable[[Command], Command]:
    """A decorator: the function is the verb ``name`` of ``app``, and what it returns is printed.

    It may take a ``report`` of its progress; its other parameters are the verb's options. One that returns
    figures has the option ``--json``, one that reads image sets ``--layout``. ``how``: options of ``typer``.
    """

    def added(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters = dict(signature.parameters)
        reports = parameters.pop("report", None) is not None
        data = parameters.get("data")
        if data is not None and data.annotation in options.READ_BY_LAYOUT:
            parameters[LAYOUT.name] = LAYOUT
        if signature.return_annotation == Figures:
            parameters[AS_JSON.name] = AS_JSON

        def run(**given: Any) -> None:
            as_json, layout = given.pop(AS_JSON.name, False), given.pop(LAYOUT.name, "")
            with errors(), _read_as(layout), progress() as report:
                found = command(**given, **({"report": report} if reports else {}))
            if isinstance(found, Mapping):
                found = json.dumps(found) if as_json else figures_text(_without_pairs(found))
            typer.echo(str(found))

        run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {key: parameter.annotation for key, parameter in parameters.items()}
        run.__doc__ = command.__doc__
        app.command(name, **how)(run)
        return command

    return added


@contextmanager
def errors() -> Iterator[None]:
    """Missing data, unusable cards, wrong experiments: one line and an exit code. The rest as it is."""
    try:
        yield
    except ImportError as error:
        extra = EXTRAS.get(error.name or "", "torch")
        typer.echo(f"{error}: training and evaluation need the extra '{extra}'", err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    except (CardError, ExperimentError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    except OSError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_DATA) from error


def _read_as(layout: str) -> AbstractContextManager[None]:
    """``--data`` is read as ``layout``, which is chosen by its files where that is empty."""
    if not layout:
        return nullcontext()
    from ai_training.sets.published import named

    return named(layout)


def needed(package: str) -> None:
    """Raise ModuleNotFoundError now, not after minutes of reading, where ``package`` is not installed."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)


@contextmanager
def progress() -> Iterator[Callable[[float, str], None]]:
    """A progress bar on a terminal; elsewhere only the lines that are worth keeping."""
    if not sys.stderr.isatty():
        yield _print_milestones
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        def report(share: float, what: str) -> None:
            bar.update(task, completed=share, description=what.strip())
            _print_milestones(share, what)

        yield report


def _without_pairs(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What a person reads: the single pairs of a plot are left out."""
    return {name: value for name, value in figures.items() if name != "pairs"}


def _print_milestones(_share: float, what: str) -> None:
    if what.endswith("\n"):
        typer.echo(what.strip(), err=True)
