"""``dicom-node serve``: run the node."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from dicom_node.cli.options import Config


class Role(StrEnum):
    """Which part of a node this machine is; the words of ``node.Role``, which is heavy to import."""

    ALL = "all"
    LISTENER = "listener"
    WORKER = "worker"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog="Example: dicom-node serve --config node.toml")(serve)


def serve(
    config: Config,
    role: Annotated[
        Role, typer.Option(help="listener: receive and assemble. worker: run models, deliver. all: both.")
    ] = Role.ALL,
) -> int:
    """Run the node in the foreground until SIGTERM or Ctrl-C; logs "ready" when it can receive and run."""
    from dicom_node import node, settings

    return node.serve(settings.load(config), config, node.Role(role))
