"""``dicom-node rules``: which rule would apply to these files, and why; what a changed rule has missed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import entries
from dicom_node.cli.common.options import Config, Json, Since, group, load, moment
from dicom_node.cli.common.output import Column, print_rows
from dicom_node.cli.records.studies import DECISIONS
from dicom_node.errors import ExitCode

app = group("Rules: which pipeline for which study.")

_COLUMNS: list[Column] = [
    ("file", lambda row: Path(row["file"]).name),
    ("modality", lambda row: row["modality"]),
    ("rule", lambda row: row["rule"] or "–"),
    ("applies", lambda row: "yes" if row["applies"] else "no"),
    ("pipeline", lambda row: row["pipeline"] if row["applies"] else "–"),
    ("why", lambda row: row["reason"]),
]


@app.command("try", epilog="Example: dicom-node rules try image.dcm --from us1 --config node.toml")
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
    from dicom_node.services import rehearsal

    loaded = load(config)
    peer = loaded.sender(sender) if sender else None
    rows = rehearsal.try_rules(loaded, dicom_files(files), peer)
    print_rows(rows, _COLUMNS, as_json=as_json, none="No files, or no rules are configured.")
    return ExitCode.OK if all(row["rule"] for row in rows) else ExitCode.DATA  # no rule reads a faulty file


@app.command(epilog="Example: dicom-node rules replay --since 7d --dry-run --config node.toml")
def replay(
    *,
    config: Config,
    since: Since = "7d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be queued; change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """After a changed rule: find studies that it takes and that did not get this job, and queue them.

    By the rules in these files: let the node take them over first (`dicom-node reload`).
    """
    from dicom_node import services

    loaded, received = load(config), moment(since) or datetime.min.replace(tzinfo=UTC)
    rows = services.replay_rules(loaded, received, dry_run=dry_run)
    print_rows(
        rows, DECISIONS, as_json=as_json, none="All studies of this time had the jobs that the rules want."
    )


@app.command(epilog="Example: dicom-node rules put chest.toml --config node.toml")
def put(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, help="TOML with the keys of one rule.")
    ],
    config: Config,
) -> None:
    """Add a rule, or change one that was entered, after a check; running nodes take it over."""
    entries.put(config, "rules", file)


@app.command(epilog="Example: dicom-node rules remove chest --config node.toml")
def remove(
    name: Annotated[str, typer.Argument(metavar="RULE", help="One that was entered, not of a file.")],
    config: Config,
) -> None:
    """Take a rule out that was entered by page or command; running nodes take it over."""
    entries.remove(config, "rules", name)
