"""``dicom-node db``: the schema of the database."""

from __future__ import annotations

from dicom_node.cli.common.options import Config, group, load
from dicom_node.cli.common.output import say

app = group("The database.")


@app.command(epilog="Example: dicom-node db upgrade --config node.toml")
def upgrade(config: Config) -> None:
    """Create the database or bring its schema to this version. Stop the node first."""
    from dicom_node import services

    version = services.upgrade_database(load(config))
    say(f"The database has version {version}.")
