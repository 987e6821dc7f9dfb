"""``dicom-node serve``: run the node."""

from __future__ import annotations

import logging

import typer

from dicom_node import __version__, logs
from dicom_node.cli.common.options import Config, RoleOption
from dicom_node.model.roles import Role

app = typer.Typer()

_LOGGER = logging.getLogger(__name__)


@app.command(epilog="Example: dicom-node serve --config node.toml")
def serve(config: Config, role: RoleOption = Role.ALL) -> int:
    """Run the node in the foreground until SIGTERM or Ctrl-C; logs "ready" when it can receive and run.

    SIGHUP (`dicom-node reload`) takes over a changed configuration, all of it or nothing.
    """
    logs.configure("info", "node")
    files = ", ".join(str(file) for file in config)
    _LOGGER.info("dicom-node %s starts (role %s), reads and checks %s", __version__, role, files)
    from dicom_node import node  # takes a second or two

    return node.serve(config, role)
