"""``dicom-node support-bundle``: what a supporter needs, without patient data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common.options import Config, load
from dicom_node.cli.common.output import say

app = typer.Typer()


@app.command("support-bundle", epilog="Example: dicom-node support-bundle bundle.zip --config node.toml")
def support_bundle(
    destination: Annotated[Path, typer.Argument(metavar="FILE", help="A new ZIP file.")], config: Config
) -> None:
    """Write versions, counts, events, what check says, the configuration; no patients, no secrets."""
    from dicom_node.services import support

    names = support.write_bundle(load(config), config, destination)
    say(f"{destination} holds {', '.join(names)}: read it before you send it.")
