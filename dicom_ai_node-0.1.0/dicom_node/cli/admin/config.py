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
        Which,
        typer.Argument(
            metavar="[node|peers|rules|notifications]",
            help="Settings of the node, peers, rules, or notifications.",
        ),
    ] = Which.NODE,
) -> None:
    """Print every key with its default and a sentence."""
    from dicom_node.config import sample as samples

    print_document(samples.FILES[which]())
