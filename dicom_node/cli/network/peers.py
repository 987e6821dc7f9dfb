"""``dicom-node peers``: who is configured, and whether they answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.cli.common import entries
from dicom_node.cli.common.options import Config, Json, JsonObject, Since, group, load, moment
from dicom_node.cli.common.output import (
    Column,
    Row,
    fields,
    local,
    print_document,
    print_json,
    print_rows,
    say,
)
from dicom_node.cli.records import associations
from dicom_node.errors import ExitCode

app = group("Peers: modalities and PACS.")


def _address(row: Row) -> str:
    return row["url"] or (f"{row['host']}:{row['port'] or '–'}" if row["host"] else "–")


_COLUMNS: list[Column] = [
    *fields("name", "ae_title", "may"),
    ("address", _address),
    ("transport", lambda row: row["transport"]),
    ("results", lambda row: row["results"] if "receive" in row["may"] else "–"),
    ("confirm", lambda row: row["confirm"] if "receive" in row["may"] else "–"),
]

_COUNTED: list[Column] = [
    ("count", lambda row: row["count"]),
    ("last", lambda row: local(row["last_at"])),
]

_SINCE: Column = ("since then", lambda row: "got through" if row["outdated"] else "")

_WHY: dict[str, list[Column]] = {
    "associations": [*associations.COLUMNS],
    "refused_contexts": [
        *fields("classes", "context"),
        *_COUNTED,
    ],
    "rejections": [
        ("calling", lambda row: row["calling_ae"]),
        ("called", lambda row: row["called_ae"]),
        *fields("address", "meaning"),
        *_COUNTED,
        _SINCE,
    ],
    "refused_objects": [
        *fields("status", "reason"),
        *_COUNTED,
        _SINCE,
    ],
    "failures": [("address", lambda row: row["address"]), ("text", lambda row: row["text"]), *_COUNTED],
}

_CHECKS: list[Column] = [
    *fields("peer", "check"),
    ("", lambda row: "ok" if row["ok"] else "FAILED"),
    ("says", lambda row: row["text"]),
]


@app.command("list", epilog="Example: dicom-node peers list --config node.toml")
def list_peers(config: Config, as_json: Json = False) -> None:
    """List the configured peers; passwords are not shown."""

    secret = {"username", "password"}
    rows = [peer.model_dump(mode="json", exclude=secret) for peer in load(config).peers]
    print_rows(rows, _COLUMNS, as_json=as_json, none="No peers are configured.")


@app.command(epilog="Example: dicom-node peers test pacs --config node.toml")
def test(
    config: Config,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PEER]...", help="Names; default: all that may receive.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Try everything that delivery to a peer needs, without storing anything."""
    from dicom_node import services

    rows: list[dict[str, Any]] = services.test_peers(load(config), names or ())
    print_rows(rows, _CHECKS, as_json=as_json, none="No peer may receive.")
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
    """Tell what a machine tried, what it was refused, and which lines would let it in."""
    from dicom_node.services import contacts

    found = contacts.why(load(config), asked, moment(since))
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
        print_rows(found["failures"], _WHY["failures"], as_json=False, none="")


def _print_caller(found: Row) -> None:
    peer = f"is the peer {found['peer']}" if found["peer"] else "is no peer"
    say(f"{found['asked']} {peer}; seen from {', '.join(found['addresses']) or 'no address'}", bold=True)
    for heading, columns in _WHY.items():
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


@app.command(epilog="Example: dicom-node peers put us2.toml --config node.toml")
def put(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, help="TOML with the keys of one peer.")
    ],
    config: Config,
) -> None:
    """Add a peer, or change one that was entered, after a check; running nodes take it over."""
    entries.put(config, "peers", file)


@app.command(epilog="Example: dicom-node peers remove us2 --config node.toml")
def remove(
    name: Annotated[str, typer.Argument(metavar="PEER", help="One that was entered, not of a file.")],
    config: Config,
) -> None:
    """Take a peer out that was entered by page or command; running nodes take it over."""
    entries.remove(config, "peers", name)


_TRIAL: list[Column] = [
    *fields("kind"),
    ("taken", lambda row: "yes" if row["ok"] else "NO"),
    ("found", lambda row: "–" if row["found"] is None else "yes" if row["found"] else "not yet"),
    ("to be seen", lambda row: row["shows"]),
    ("says", lambda row: row["text"]),
]


@app.command("test-study", epilog="Example: dicom-node peers test-study pacs --config node.toml")
def test_study(
    name: Annotated[str, typer.Argument(metavar="PEER", help="One that gets results.")],
    config: Config,
    as_json: Json = False,
) -> None:
    """Send a study of nobody with a known finding in each kind of result, to see what a viewer shows."""
    from dicom_node.services.console.peers import trial_study

    rows = trial_study.send(load(config), name)
    print_rows(rows, _TRIAL, as_json=as_json, none="Nothing was sent.")
    if not all(row["ok"] for row in rows):
        raise typer.Exit(ExitCode.FAILED)


@app.command(epilog="Example: dicom-node peers conformance pacs pacs-2026-11.md --config node.toml")
def conformance(
    name: Annotated[str, typer.Argument(metavar="PEER", help="A configured peer.")],
    config: Config,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A new file, in Markdown; else it is printed."),
    ] = None,
    as_json: JsonObject = False,
) -> None:
    """Report how the last hundred objects to and from a peer kept to the standard."""
    from dicom_node.services.console.peers import conformance as report

    settings = load(config)
    found = report.write(settings, name, file) if file else report.report(settings, name)
    if as_json:
        print_json(found)
    elif file:
        say(f"{file}: {len(found['sent'])} objects sent, {len(found['received'])} received")
    else:
        print_document(report.as_text(found))
