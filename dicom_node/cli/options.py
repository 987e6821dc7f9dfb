"""Options that verbs share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli.output import say
from dicom_node.model.roles import Role

if TYPE_CHECKING:
    from dicom_node.config.settings import Settings

Config = Annotated[
    list[Path],
    typer.Option(
        "--config",
        "-c",
        envvar="DICOM_NODE_CONFIG",
        metavar="FILE",
        help="Configuration file; may be given more than once (peers and rules in files of their own).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table or words.")]
RoleOption = Annotated[
    Role,
    typer.Option(
        "--role",
        help="listener: receive, assemble, timers, console if enabled. worker: run models, deliver. "
        "delivery, scheduler (timers), console: that alone. all: everything.",
    ),
]


def load(files: Sequence[Path]) -> Settings:
    """The configuration. Raises ConfigurationError with every mistake."""
    from dicom_node.config import loading  # takes a moment: `--help` does without

    return loading.load(files)


@contextmanager
def reading(files: Sequence[Path]) -> Iterator[tuple[Any, Settings]]:
    """A session on the database, for a list. Mistakes that do not concern the database are only warnings."""
    from dicom_node import services
    from dicom_node.config import loading

    settings, mistakes = loading.load_to_read(files)
    if mistakes:
        say(f"The configuration has mistakes ({mistakes}): dicom-node check shows them.", err=True)
    with services.reading(settings) as session:
        yield session, settings


def group(about: str) -> typer.Typer:
    """A group of verbs, also if it has only one (typer would turn that verb into the group itself)."""
    app = typer.Typer(no_args_is_help=True, help=about)
    app.callback()(lambda: None)
    return app
