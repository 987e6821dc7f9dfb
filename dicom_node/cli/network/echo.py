"""``dicom-node echo``: is a peer there?"""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common.options import Config, load
from dicom_node.cli.common.output import say
from dicom_node.errors import ExitCode

app = typer.Typer()


@app.command(epilog="Example: dicom-node echo pacs --config node.toml")
def echo(
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Name of a configured peer.")], config: Config
) -> int:
    """Send a C-ECHO to a peer."""
    from dicom_node.scu.dimse import DimseDestination

    loaded = load(config)
    check = DimseDestination(loaded.peer(peer), loaded).echo()
    say(f"{peer}: {check.text}", err=not check.ok)
    return ExitCode.OK if check.ok else ExitCode.UNAVAILABLE
