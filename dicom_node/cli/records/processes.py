"""``dicom-node processes``: which processes of the site live."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dicom_node.cli.common.lists import Rows, list_verb
from dicom_node.cli.common.options import Config, group, load
from dicom_node.cli.common.output import say
from dicom_node.errors import ExitCode

app = group("Processes of the site: on which machine, since when, and whether they live.")


@list_verb(app, "processes", none="No process has reported yet: does a node run?", why="who is silent?")
def list_processes(session: Any) -> Rows:
    """List all processes of all machines; a node that ended in good order is not among them."""
    from dicom_node.monitoring import processes

    return processes.processes(session)


@app.command(epilog="Example: dicom-node processes health --config node.toml")
def health(config: Config) -> int:
    """Exit 0 where every process of this machine (or container) shows life, else 1: for health checks."""
    from dicom_node import services
    from dicom_node.monitoring import processes

    with services.reading(load(config)) as session:
        here = [row for row in processes.processes(session) if row["machine"] == processes.machine_name()]
    lost = [f"{row['place']}/{row['process']}" for row in here if row["state"] != "alive"]
    say(f"silent: {', '.join(lost)}" if lost else f"alive: {len(here)}")
    return ExitCode.OK if here and not lost else ExitCode.FAILED


@app.command(epilog="Example: dicom-node processes forget oldserver --config node.toml")
def forget(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="As `processes list` shows it.")],
    config: Config,
) -> None:
    """Forget the lost processes of a machine that is gone for good; otherwise they are forgotten after a
    week.
    """
    from dicom_node.services import processes

    say(f"Forgotten: {processes.forget(load(config), machine)}")
