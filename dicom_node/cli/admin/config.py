"""``dicom-node config``: a configuration to start from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from dicom_node.cli.common.options import group
from dicom_node.cli.common.output import print_document

app = group("Configuration files to start from.")


class Which(StrEnum):
    """The sample files."""

    NODE = "node"
    PEERS = "peers"
    RULES = "rules"
    NOTIFICATIONS = "notifications"


@app.command(
    epilog="Example: dicom-node config sample > node.toml; dicom-node config sample peers >> node.toml"
)
def sample(
    which: Annotated[
        Which | None,
        typer.Argument(
            metavar="[node|peers|rules|notifications]",
            help="Every key of the node, a peer, a rule or a notification.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every key of all of them, with its default and a sentence.")
    ] = False,
) -> None:
    """Print a configuration to start from: the lines that are needed, or every key with its default."""
    from dicom_node.config import sample as samples

    if everything:
        print_document("\n".join(make() for make in samples.FILES.values()))
    else:
        print_document(samples.FILES[which]() if which else samples.START)
