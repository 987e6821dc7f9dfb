"""``dicom-node backup`` and ``dicom-node restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common.options import Config, load
from dicom_node.cli.common.output import say

app = typer.Typer()


@app.command(epilog="Example: dicom-node backup /backup/2026-03-01 --config node.toml")
def backup(
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new folder.")],
    config: Config,
    objects: Annotated[
        bool, typer.Option("--objects", help="With received objects and built results.")
    ] = False,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Without the site key, where its copy is kept elsewhere.")
    ] = False,
) -> None:
    """Save database, site key and configuration while the node runs. It holds patient data and secrets."""
    from dicom_node.services import backup as backups

    for note in backups.backup(load(config), config, destination, objects=objects, key=not without_key):
        say(note)
    backups.verify(destination)
    say(f"Saved to {destination} and verified.")


@app.command(epilog="Example: dicom-node restore /backup/2026-03-01 --verify --config node.toml")
def restore(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The folder of a backup.")],
    config: Config,
    verify: Annotated[bool, typer.Option("--verify", help="Only look whether the backup is whole.")] = False,
) -> None:
    """Put a backup in place of the present data, which is kept beside it. The node must be stopped."""
    from dicom_node.services import backup as backups
    from dicom_node.services import decisions

    loaded = load(config)
    if verify:
        manifest = backups.verify(source)
        say(f"{len(manifest['files'])} files of {manifest['made']}, program {manifest['program']}: whole.")
        return
    saved, notes = backups.restore(loaded, source)
    for note in (*notes, *decisions.describe_lost(loaded)):
        say(note)
    say(f"Restored. Its configuration, for comparison: {', '.join(str(file) for file in saved)}")
    say("Start the node, then run dicom-node spool compare: reindex adds objects received after the backup.")
