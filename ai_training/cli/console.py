"""What the training and measuring commands share: errors as one line and an exit code, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ai_pipeline.errors import CardError
from ai_training.errors import ExperimentError

EXTRAS = {"ultralytics": "yolo"}
"""The extra that brings a package, where it is not ``torch``."""
EXIT_DATA = 66  # EX_NOINPUT of sysexits.h
EXIT_CONFIG = 78  # EX_CONFIG


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


def needed(package: str) -> None:
    """Raise ModuleNotFoundError now, not after minutes of reading, where ``package`` is not installed."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)


def print_figures(
    figures: Mapping[str, Any], as_text: Callable[[Mapping[str, Any]], str], as_json: bool
) -> None:
    """Print ``figures`` as one JSON object, or as text for a person."""
    typer.echo(json.dumps(figures) if as_json else as_text(figures))


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


def _print_milestones(_share: float, what: str) -> None:
    if what.endswith("\n"):
        typer.echo(what.strip(), err=True)
