"""``dicom-node send`` and ``echo``: call a peer as a modality would."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common.options import Config, load
from dicom_node.cli.common.output import print_json, progress, say
from dicom_node.errors import ExitCode

app = typer.Typer()


@app.command(epilog="Example: dicom-node send pacs study/ --config node.toml")
def send(
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Name of a configured peer.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", exists=True, help="DICOM files, and folders of them.")
    ],
    config: Config,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status of each file as JSON.")] = False,
) -> int:
    """C-STORE files to a peer, each in its own transfer syntax, and print the status of each."""
    from dicom_node.scu import modality

    loaded = load(config)
    callee = modality.Callee.from_settings(loaded.peer(peer), loaded)
    chosen = modality.dicom_files(files)
    with progress(f"to {peer}", len(chosen)) as advance:
        reports = modality.send(
            callee, chosen, lambda sent: advance("" if as_json else f"{sent.path}: {sent.text}")
        )
    if as_json:
        print_json(
            [
                {
                    "file": str(sent.path),
                    "sop_instance_uid": sent.sop_instance_uid,
                    "stored": sent.stored,
                    "status": None if sent.status is None else f"{sent.status:04X}",
                    "text": sent.text,
                }
                for sent in reports
            ]
        )
    failed = sum(not sent.stored for sent in reports)
    say(f"{len(reports) - failed} stored, {failed} not.", err=True)
    return ExitCode.FAILED if failed else ExitCode.OK


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
