"""``dicom-node reload``: a running node takes over a changed configuration."""

from __future__ import annotations

import typer

from dicom_node.cli.common.options import Config
from dicom_node.cli.common.output import say

app = typer.Typer()


@app.command(epilog="Example: dicom-node reload --config node.toml")
def reload(config: Config) -> None:
    """Let the node that runs on this machine take over its configuration files, all of them or nothing.

    Mistakes are reported as by `check`, and change nothing. Jobs and deliveries under way are finished first.
    """
    from dicom_node.services.reload import reload_node

    for place in reload_node(config):
        say(f"The node ({place}) has the new configuration; each worker takes it after its job.")
