"""``dicom-node db``: the schema of the database."""

from __future__ import annotations

import typer

from dicom_node.cli.options import Config
from dicom_node.cli.output import say

app = typer.Typer(no_args_is_help=True, help="The database.")


@app.callback()
def _group() -> None:
    """Keeps ``upgrade`` a verb of its own (typer would fold a single one into the group)."""


@app.command(epilog="Example: dicom-node db upgrade --config node.toml")
def upgrade(config: Config) -> None:
    """Create the database or bring its schema to this version. Stop the node first."""
    from dicom_node import services
    from dicom_node.config import loading

    version = services.upgrade_database(loading.load(config))
    say(f"The database has version {version}.")
