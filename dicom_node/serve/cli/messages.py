"""Verbs that speak to peers: ``send``, ``echo``, ``fetch``."""

import sys
import time
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.base.errors import ExitCode
from dicom_node.base.lifecycle import OPEN_FETCHES, FetchState
from dicom_node.serve.cli.output import Config, Json, load, print_json, say

app = typer.Typer()


@app.command(epilog="Example: dicom-node send pacs study/ --config node.toml")
def send(
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Name of a configured peer.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", exists=True, help="DICOM files, and folders of them.")
    ],
    config: Config,
    as_json: Json = False,
) -> int:
    """C-STORE files to a peer, each in its own transfer syntax, and print the status of each."""
    from dicom_node.deliver.scu import SendStatus
    from dicom_node.deliver.scu.dimse import dicom_files, send_files

    loaded, rows = load(config), []
    for item, report in send_files(loaded.peer(peer), loaded, dicom_files(files)):
        row = {
            "file": str(item.path),
            "sop_instance_uid": item.sop_instance_uid,
            "stored": report.status in (SendStatus.STORED, SendStatus.WARNED),
            "status": report.code or None,
            "text": f"{report.code} {report.text}".strip(),
        }
        rows.append(row)
        if not as_json:
            say(f"{row['file']}: {row['text']}", err=True)
    if as_json:
        print_json(rows)
    failed = sum(not row["stored"] for row in rows)
    say(f"{len(rows) - failed} stored, {failed} not.", err=True)
    return ExitCode.FAILED if failed else ExitCode.OK


@app.command(epilog="Example: dicom-node echo pacs --config node.toml")
def echo(
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Name of a configured peer.")], config: Config
) -> int:
    """Send a C-ECHO to a peer."""
    from dicom_node.deliver.scu.dimse import DimseDestination

    loaded = load(config)
    check = DimseDestination(loaded.peer(peer), loaded).echo()
    say(f"{peer}: {check.text}", err=not check.ok)
    return ExitCode.OK if check.ok else ExitCode.UNAVAILABLE


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date: write 2026-03-01") from None


@app.command(
    epilog="Example: dicom-node fetch --peer pacs --modality DX --from 2026-03-01 --to 2026-03-31 "
    "--config node.toml"
)
def fetch(
    config: Config,
    peer: Annotated[str, typer.Option("--peer", metavar="PEER", help='A peer with may = ["query"].')],
    first: Annotated[date, typer.Option("--from", metavar="DATE", parser=_day, help="First Study Date.")],
    last: Annotated[date, typer.Option("--to", metavar="DATE", parser=_day, help="Last Study Date.")],
    modality: Annotated[
        list[str] | None,
        typer.Option("--modality", metavar="CODE", help="Such as DX; repeatable."),
    ] = None,
    rule: Annotated[
        str, typer.Option("--rule", metavar="RULE", help="Only this rule may take them; default: all rules.")
    ] = "",
    per_minute: Annotated[
        float,
        typer.Option(
            "--per-minute",
            metavar="N",
            min=0,
            max=600,
            help="Less than the peer's fetch_per_minute.",
        ),
    ] = 0,
    wait: Annotated[bool, typer.Option(help="Wait until all are fetched; the node goes on without.")] = True,
) -> int:
    """Have the node fetch studies from a peer and analyse them, also old ones; what it has is left out.

    Given again, it goes on where it was ended. Exit status 1: some studies were given up.
    """
    from dicom_node.base.processes import running
    from dicom_node.people import queues

    settings = load(config)
    request = queues.FetchRequest(
        peer=peer,
        first=first,
        last=last,
        modalities=tuple(modality or ()),
        rule=rule,
        per_minute=per_minute,
    )
    asked = queues.request_fetches(settings, request)
    say(f"{asked['found']} studies found, {asked['wanted']} of them to be fetched.", err=True)
    say(
        f"Not fetched: {asked['here']} are here, {asked['before']} were fetched or given up before.", err=True
    )
    if asked["strays"]:
        say(f"{asked['strays']} answers of the peer do not fit the question: left out.", err=True)
    if asked["wanted"] and not running(settings.node.data_dir):
        say("No node works on this data folder: they are fetched once one does.", err=True)
    if not (wait and asked["wanted"]):
        return ExitCode.OK
    with typer.progressbar(length=asked["wanted"], label=f"from {peer}", file=sys.stderr) as bar:
        while True:  # what others ask this peer for meanwhile is waited for too
            states = queues.fetch_progress(settings, peer, asked["first"])
            bar.update(sum(states.values()) - sum(states.get(state, 0) for state in OPEN_FETCHES) - bar.pos)
            if not any(states.get(state) for state in OPEN_FETCHES):
                break
            time.sleep(1.0)
    fetched = states.get(FetchState.FETCHED, 0)
    not_fetched = sum(states.values()) - fetched
    say(f"{fetched} fetched, {not_fetched} not (dicom-node fetches list).", err=True)
    return ExitCode.FAILED if not_fetched else ExitCode.OK
