"""``dicom-node processes``: which processes of the site live."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common.options import Config, Json, group, load, reading
from dicom_node.cli.common.output import Column, fields, local, print_rows, say

app = group("Processes of the site: on which machine, since when, and whether they live.")

_COLUMNS: list[Column] = [
    *fields("machine", "place", "process", "state"),
    ("silent", lambda row: f"{row['silent_seconds']:.0f} s"),
    ("since", lambda row: local(row["since"])),
    *fields("pid", "version"),
]


@app.command("list", epilog="Example (who is silent?): dicom-node processes list --config node.toml")
def list_processes(*, config: Config, as_json: Json = False) -> None:
    """List all processes of all machines; a node that ended in good order is not among them."""
    from dicom_node.monitoring import processes

    with reading(config) as (session, _):
        rows = processes.processes(session)
    print_rows(rows, _COLUMNS, as_json=as_json, none="No process has told of itself: does a node run?")


@app.command(epilog="Example: dicom-node processes forget oldserver --config node.toml")
def forget(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="As `processes list` shows it.")],
    config: Config,
) -> None:
    """Forget the lost processes of a machine that was taken away for good; else they go after a week."""
    from dicom_node.services.console import machines

    say(f"Forgotten: {machines.forget(load(config), machine)}")
