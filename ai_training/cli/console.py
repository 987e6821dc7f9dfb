"""What the training and measuring commands share: errors as one line and an exit code, progress."""

from __future__ import annotations

import inspect
import json
import sys
import time
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
EXTRAS = {"ultralytics": "yolo", "tensorboard": "tensorboard", "mlflow": "mlflow", "optuna": "tune"}
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


RUN = {
    name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, (annotation, default) in options.RUN.items()
}
MINUTE = 60.0


def verb(app: typer.Typer, name: str, *, trains: bool = False, **how: Any) -> Callable[[Command], Command]:
    """A decorator: the function is the verb ``name`` of ``app``, and what it returns is printed.

    It may take a ``report`` of its progress; its other parameters are the verb's options. One that returns
    figures has the option ``--json``, one that reads image sets ``--layout``, one that leaves a run in
    ``--out`` the options of the training engine, one that ``trains`` and leaves none two of them.
    ``how``: options of ``typer``.
    """

    def added(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters = dict(signature.parameters)
        reports = parameters.pop("report", None) is not None
        data = parameters.get("data")
        if data is not None and data.annotation in options.READ_BY_LAYOUT:
            parameters[LAYOUT.name] = LAYOUT
        out = parameters.get("out")
        if out is not None and out.annotation is options.Out:
            parameters.update(RUN)
        elif trains:
            parameters.update((name, RUN[name]) for name in ("device", "precision"))
        if signature.return_annotation == Figures:
            parameters[AS_JSON.name] = AS_JSON

        def run(**given: Any) -> None:
            as_json, layout = given.pop(AS_JSON.name, False), given.pop(LAYOUT.name, "")
            run_as = {name: given.pop(name) for name in RUN if name in given}
            with errors(), _read_as(layout), _carried_out(run_as), progress() as report:
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


@contextmanager
def _carried_out(run_as: Mapping[str, Any]) -> Iterator[None]:
    """Runs of the training engine are carried out so; a device or a package that is not here ends it now."""
    if not run_as:
        yield
        return
    from ai_training.engine.setup import RunOptions, carried_out

    if run_as.get("log", "none") != "none":
        needed(run_as["log"])
    chosen = RunOptions(**run_as)
    chosen.fabric()
    with carried_out(chosen):
        yield


def needed(package: str) -> None:
    """Raise ModuleNotFoundError now, not after minutes of reading, where ``package`` is not installed."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)


@contextmanager
def progress() -> Iterator[Callable[[float, str], None]]:
    """A progress bar on a terminal; elsewhere milestones, and one line a minute."""
    if not sys.stderr.isatty():
        yield _lines()
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


def _lines() -> Callable[[float, str], None]:
    last = time.monotonic()

    def report(share: float, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if what.endswith("\n") or now - last >= MINUTE:
            last = now
            typer.echo(f"{share:.0%} {what.strip()}", err=True)

    return report


def _print_milestones(_share: float, what: str) -> None:
    if what.endswith("\n"):
        typer.echo(what.strip(), err=True)
