"""``dicom-node peers``: who is configured, and whether they answer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dicom_node.cli.common import entries
from dicom_node.cli.common.lists import COLUMNS, PARTS_OF_CALLER, Rows, list_verb
from dicom_node.cli.common.options import Config, Json, JsonObject, Since, group, load, moment
from dicom_node.cli.common.output import PrintedRow, print_json, print_rows, say
from dicom_node.errors import ExitCode

app = group("Peers: modalities and PACS.")


@list_verb(app, "peers", none="No peers are configured.")
def list_peers(settings: Any) -> Rows:
    """List the configured peers; passwords are not shown."""
    secret = {"username", "password", "token"}
    return [peer.model_dump(mode="json", exclude=secret) for peer in settings.peers]


@app.command(epilog="Example: dicom-node peers test pacs --config node.toml")
def test(
    config: Config,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PEER]...", help="Names; default: all that may receive or be queried."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Try all that delivery to a peer, and questions to it, need; nothing is stored or retrieved."""
    from dicom_node.services import peers

    rows = peers.try_peers(load(config), names or ())
    print_rows(rows, COLUMNS["peers test"], as_json=as_json, none="No peer may receive or be queried.")
    return ExitCode.OK if all(row["ok"] for row in rows) else ExitCode.UNAVAILABLE


@app.command(epilog="Example (did the ultrasound get through?): dicom-node peers why US1 --config node.toml")
def why(
    config: Config,
    asked: Annotated[
        str, typer.Argument(metavar="NAME|AE|ADDRESS", help="A peer, an AE title or an address.")
    ],
    since: Since = "30d",
    as_json: JsonObject = False,
) -> None:
    """List what a machine tried, what was refused, and the configuration lines that would allow it."""
    from dicom_node.services import peers

    found = peers.why(load(config), asked, moment(since))
    if as_json:
        print_json(found)
        return
    if not found["callers"]:
        _print_caller(found)
        return
    say(f"{asked}: each AE title that called from there", bold=True)
    for caller in found["callers"]:
        say("")
        _print_caller(caller)
    if found["failures"]:
        say("")
        say("Without an AE title", bold=True)
        print_rows(found["failures"], PARTS_OF_CALLER["failures"], as_json=False, none="")


def _print_caller(found: PrintedRow) -> None:
    peer = f"is the peer {found['peer']}" if found["peer"] else "is no peer"
    say(f"{found['asked']} {peer}; seen from {', '.join(found['addresses']) or 'no address'}", bold=True)
    for heading, columns in PARTS_OF_CALLER.items():
        if rows := found[heading]:
            say("")
            say(heading.replace("_", " ").capitalize(), bold=True)
            print_rows(rows, columns, as_json=False, none="")
    if found["others"]:
        say("")
        say(f"From there also called (each has its own `dicom-node peers why`): {', '.join(found['others'])}")
    for advice in found["advice"]:
        say("")
        say(advice["says"], bold=True)
        for line in advice["lines"]:
            say(f"    {line}")
    if not found["advice"]:
        say("")
        say("There is nothing to do.")


entries.add_verbs(app, "peers", file="us2.toml")
