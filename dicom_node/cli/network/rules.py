"""``dicom-node rules``: which rule would apply to these files, and why; what a changed rule has missed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.cli.common import entries
from dicom_node.cli.common.lists import COLUMNS, Rows, list_verb
from dicom_node.cli.common.options import Config, Json, Since, group, load, moment
from dicom_node.cli.common.output import print_rows
from dicom_node.errors import ExitCode

app = group("Rules: which pipeline for which study.")


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
    from dicom_node.services import rules

    loaded = load(config)
    peer = loaded.sender(sender) if sender else None
    rows = rules.try_files(loaded, dicom_files(files), peer)
    print_rows(rows, COLUMNS["rules try"], as_json=as_json, none="No files, or no rules are configured.")
    return ExitCode.OK if all(row["rule"] for row in rows) else ExitCode.DATA  # no rule reads a faulty file


@list_verb(
    app,
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
    from dicom_node.services import rules

    received = moment(since) or datetime.min.replace(tzinfo=UTC)
    return rules.replay(settings, received, dry_run=dry_run)


entries.add_verbs(app, "rules", file="chest.toml")
