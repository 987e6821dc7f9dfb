"""Verbs that speak to peers: ``send``, ``echo``, ``fetch``, and ``fetches``, the list of what is fetched."""

import time
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.cli.common import rooms
from dicom_node.cli.common.lists import COLUMNS, Rows, list_verb
from dicom_node.cli.common.options import Config, Json, Limit, group, load, states_option
from dicom_node.cli.common.output import print_json, print_rows, progress, say
from dicom_node.errors import ExitCode
from dicom_node.model.lifecycle import OPEN_FETCHES, FetchState

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
    from dicom_node.scu.modality import Modality, dicom_files

    loaded = load(config)
    modality, chosen = Modality(loaded.peer(peer), loaded), dicom_files(files)
    with progress(f"to {peer}", len(chosen)) as advance:
        reports = modality.send(chosen, lambda sent: advance("" if as_json else f"{sent.path}: {sent.text}"))
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


fetches_app = group("Studies that are fetched from peers.")


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
    from dicom_node.processes import running

    settings = load(config)
    request = rooms.fetches.FetchRequest(
        peer=peer,
        first=first,
        last=last,
        modalities=tuple(modality or ()),
        rule=rule,
        per_minute=per_minute,
    )
    with progress(f"asking {peer}", request.questions) as advance:
        asked = rooms.fetches.ask(settings, request, advance=lambda: advance(""))
    say(f"{asked.found} studies found, {asked.wanted} of them to be fetched.", err=True)
    say(f"Not fetched: {asked.here} are here, {asked.before} were fetched or given up before.", err=True)
    if asked.strays:
        say(f"{asked.strays} answers of the peer do not fit the question: left out.", err=True)
    if asked.wanted and not running(settings.node.data_dir):
        say("No node works on this data folder: they are fetched once one does.", err=True)
    return _wait(settings, peer, asked) if wait and asked.wanted else ExitCode.OK


def _wait(settings: Any, peer: str, asked: Any) -> int:
    """Show how far the node is; what others ask this peer for meanwhile is waited for too."""
    shown = 0
    with progress(f"from {peer}", asked.wanted) as advance:
        while True:
            states = rooms.fetches.progress(settings, peer, asked.first)
            ended = sum(number for state, number in states.items() if state not in OPEN_FETCHES)
            while shown < ended:
                advance("")
                shown += 1
            if ended == sum(states.values()):
                break
            time.sleep(1.0)
    fetched = states.get(FetchState.FETCHED, 0)
    say(f"{fetched} fetched, {ended - fetched} not (dicom-node fetches list).", err=True)
    return ExitCode.OK if fetched == ended else ExitCode.FAILED


@list_verb(fetches_app, "fetches", "--state failed --config node.toml", none="No study was asked for.")
def list_fetches(
    settings: Any,
    *,
    state: Annotated[list[FetchState] | None, states_option(FetchState)] = None,
    peer: Annotated[str, typer.Option("--peer", metavar="PEER", help="Only of this peer.")] = "",
    limit: Limit = 50,
) -> Rows:
    """List studies that were asked for, the newest first."""
    rows = rooms.fetches.listed(settings, peer, state or (), limit or None)
    return [row.model_dump(mode="json") for row in rows]


Peer = Annotated[str, typer.Argument(metavar="PEER", help='A peer with may = ["query"].')]


@fetches_app.command(epilog="Example: dicom-node fetches again pacs --config node.toml")
def again(peer: Peer, config: Config) -> None:
    """Fetch once more what was given up or cancelled of a peer."""
    say(f"{rooms.fetches.again(load(config), peer)} studies are fetched again.")


@fetches_app.command(epilog="Example: dicom-node fetches cancel pacs --config node.toml")
def cancel(peer: Peer, config: Config) -> None:
    """Do not fetch what waits for a peer; the study that is under way still comes."""
    say(f"{rooms.fetches.cancel(load(config), peer)} studies are not fetched.")


@fetches_app.command(epilog="Example: dicom-node fetches missing pacs --days 3 --config node.toml")
def missing(
    peer: Peer,
    config: Config,
    days: Annotated[int, typer.Option("--days", min=0, max=90, help="Today and so many days before.")] = 3,
    fetch_them: Annotated[
        bool, typer.Option("--fetch", help="Fetch the studies that never came, or not whole.")
    ] = False,
    as_json: Json = False,
) -> int:
    """List studies of a peer that should have a result by the rules, and have none.

    Conditions of rules on single images cannot be tried on a peer's answer. Exit status 1: there are some.
    """
    rows = rooms.fetches.missing(load(config), peer, days, fetch_them=fetch_them)
    print_rows(rows, COLUMNS["fetches missing"], as_json=as_json, none="Every study has its result.")
    return ExitCode.FAILED if rows else ExitCode.OK
