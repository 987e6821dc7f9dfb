"""``dicom-node peers`` and ``rules``: of configuration files, and entered by page or command."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dicom_node.cli.common import rooms
from dicom_node.cli.common.lists import COLUMNS, PARTS_OF_CALLER, Rows, list_verb
from dicom_node.cli.common.options import Config, Json, JsonObject, Since, group, load, moment
from dicom_node.cli.common.output import PrintedRow, print_json, print_part, print_rows, say
from dicom_node.errors import ExitCode, FaultyInput

Kind = Literal["peers", "rules"]
DespiteHold = Annotated[
    bool,
    typer.Option("--despite-hold", help="Save it although it sends results at once that another rule holds."),
]


def add_verbs(app: typer.Typer, kind: Kind, *, file: str) -> None:
    """Add ``put`` and ``remove`` to the verbs of peers or rules. ``file``: an example file of a peer or
    rule.
    """
    one, name = kind.removesuffix("s"), Path(file).stem

    def put(
        *,
        file: Annotated[
            Path, typer.Argument(metavar="FILE", exists=True, help=f"TOML with the keys of one {one}.")
        ],
        config: Config,
        despite_hold: DespiteHold = False,
    ) -> None:
        settings = load(config)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FaultyInput(f"{file} cannot be read: {type(error).__name__}") from None
        content = rooms.entered.parsed(kind, text)
        _say_saved(settings, rooms.entered.save(settings, kind, content, despite_hold=despite_hold))

    def remove(
        name: Annotated[
            str, typer.Argument(metavar=one.upper(), help="One that was entered, not of a file.")
        ],
        config: Config,
    ) -> None:
        settings = load(config)
        rooms.entered.remove(settings, kind, name)
        say(f"{name} is removed. {_taken_over(rooms.entered.apply(settings))}")

    app.command(
        help=f"Add a {one}, or change one that was entered, after a check; running nodes take it over.",
        epilog=f"Example: dicom-node {kind} put {file} --config node.toml",
    )(put)
    app.command(
        help=f"Take a {one} out that was entered by page or command; running nodes take it over.",
        epilog=f"Example: dicom-node {kind} remove {name} --config node.toml",
    )(remove)


def _say_saved(settings: Any, saved: Any) -> None:
    for warning in saved.warnings:
        say(f"warning: {warning}")
    say(f"{saved.name} is saved. {_taken_over(rooms.entered.apply(settings))}")


def _taken_over(nodes: int) -> str:
    return "The node takes it over (event 6010; 6011 if not)." if nodes else "No node runs here."


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
    rows = rooms.peers.try_peers(load(config), names or ())
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
    found = rooms.peers.why(load(config), asked, moment(since))
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
    print_part("Without an AE title", found["failures"], PARTS_OF_CALLER["failures"])


def _print_caller(found: PrintedRow) -> None:
    peer = f"is the peer {found['peer']}" if found["peer"] else "is no peer"
    say(f"{found['asked']} {peer}; seen from {', '.join(found['addresses']) or 'no address'}", bold=True)
    for heading, columns in PARTS_OF_CALLER.items():
        print_part(heading.replace("_", " ").capitalize(), found[heading], columns)
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


add_verbs(app, "peers", file="us2.toml")


@list_verb(app, "peers versions", none="No peers or rules were entered by page or command.")
def versions(settings: Any) -> Rows:
    """List the versions of the entered peers and rules: when, by whom, and what was changed."""
    return [version.model_dump() for version in rooms.entered.history(settings)]


@app.command(epilog="Example: dicom-node peers undo 7 --config node.toml")
def undo(
    version: Annotated[int, typer.Argument(metavar="VERSION", help="One of `peers versions`; 0: none.")],
    config: Config,
    despite_hold: DespiteHold = False,
) -> None:
    """Have all entered peers and rules as in an earlier version; running nodes take it over."""
    settings = load(config)
    _say_saved(settings, rooms.entered.undo(settings, version, despite_hold=despite_hold))


rules_app = group("Rules: which pipeline for which study.")


@rules_app.command("try", epilog="Example: dicom-node rules try image.dcm --from us1 --config node.toml")
def try_(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", exists=True, help="DICOM files, and folders of them.")
    ],
    config: Config,
    sender: Annotated[
        str, typer.Option("--from", metavar="PEER", help="As if this peer (name or AE title) had sent them.")
    ] = "",
    as_json: Json = False,
) -> int:
    """Say which rules would take these files, which not, and why. Nothing is sent or stored."""
    from dicom_node.scu.modality import dicom_files

    loaded = load(config)
    rows = rooms.rules.try_files(loaded, dicom_files(files), loaded.sender(sender) if sender else None)
    print_rows(rows, COLUMNS["rules try"], as_json=as_json, none="No files, or no rules are configured.")
    return ExitCode.OK if all(row["rule"] for row in rows) else ExitCode.DATA  # no rule reads a faulty file


@list_verb(
    rules_app,
    "rules replay",
    "--since 7d --dry-run --config node.toml",
    none="All studies of this time had the jobs that the rules want.",
)
def replay(
    settings: Any,
    *,
    since: Since = "7d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the jobs that would be queued; change nothing.")
    ] = False,
) -> Rows:
    """Queue the jobs that the rules now start for studies received earlier, and that these did not get.

    Uses the rules in these files: run `dicom-node reload` first, so that the node uses them too.
    """
    return rooms.rules.replay(settings, moment(since) or datetime.min.replace(tzinfo=UTC), dry_run=dry_run)


add_verbs(rules_app, "rules", file="chest.toml")
