"""Verbs for the whole node: it runs, is checked, saved and restored; its database gets this version;
and a configuration to start from.
"""

import dataclasses
import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dicom_node import __version__
from dicom_node.base import logs
from dicom_node.base.errors import ConfigurationError, ExitCode
from dicom_node.base.kinds import Role
from dicom_node.serve.cli.output import (
    Config,
    Json,
    RoleOption,
    group,
    load,
    print_document,
    print_json,
    say,
    say_checked,
)

app = typer.Typer()
database = group("The database.")
samples = group("Configuration files to start from.")
spool = group("The spool: received objects on disk.")

_LOGGER = logging.getLogger(__name__)


@app.command(epilog="Example: dicom-node serve --config node.toml")
def serve(config: Config, role: RoleOption = Role.ALL) -> int:
    """Run the node in the foreground until SIGTERM or Ctrl-C; logs "ready" when it can receive and run.

    SIGHUP (`dicom-node reload`) takes over a changed configuration, all of it or nothing.
    """
    logs.configure("info", "node")
    _LOGGER.info(
        "dicom-node %s starts (role %s), reads and checks %s", __version__, role, ", ".join(map(str, config))
    )
    from dicom_node.serve import node  # takes a second or two

    return node.serve(config, role)


@app.command(epilog="Example: dicom-node reload --config node.toml")
def reload(config: Config) -> None:
    """Let the node that runs on this machine take over its configuration files, all of them or nothing.

    Mistakes are reported as by `check`, and change nothing. Jobs and deliveries under way are finished first.
    """
    from dicom_node.people import entered

    for place in entered.reload_node(config):
        say(f"The node ({place}) has the new configuration; each worker takes it after its job.")


@app.command(epilog="Example: dicom-node check --config node.toml")
def check(config: Config, role: RoleOption = Role.ALL, as_json: Json = False) -> int:
    """Check configuration, folders, database, certificates, models and peers; exit 78 on a mistake.

    What may pass, such as a PACS that does not answer now, is a warning and changes no exit status.
    """
    from dicom_node.people import preflight

    checked = preflight.check_and_probe(config, role)
    if as_json:
        print_json(
            {
                "problems": [dataclasses.asdict(problem) for problem in checked.problems],
                "checks": [dataclasses.asdict(line) for line in checked.tried],
            }
        )
        return ExitCode.CONFIG if checked.problems else ExitCode.OK
    for line in checked.tried:
        say_checked(line.subject, line.text, ok=line.ok)
    if checked.problems:
        raise ConfigurationError(checked.problems)
    warnings = sum(not line.ok for line in checked.tried)
    hint = f", but see the warning{'s' if warnings > 1 else ''} above" if warnings else ""
    say(f"The configuration is right{hint}.")
    return ExitCode.OK


@app.command("support-bundle", epilog="Example: dicom-node support-bundle bundle.zip --config node.toml")
def support_bundle(
    destination: Annotated[Path, typer.Argument(metavar="FILE", help="A new ZIP file.")], config: Config
) -> None:
    """Write versions, counts, events, what check says, the configuration; no patients, no secrets."""
    from dicom_node.people import backup

    names = backup.write_bundle(load(config), config, destination)
    say(f"{destination} holds {', '.join(names)}: read it before you send it.")


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
    from dicom_node.people import backup as copies

    for note in copies.backup(load(config), config, destination, objects=objects, key=not without_key):
        say(note)
    copies.verify(destination)
    say(f"Saved to {destination} and verified.")


@app.command(epilog="Example: dicom-node restore /backup/2026-03-01 --verify --config node.toml")
def restore(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The folder of a backup.")],
    config: Config,
    verify: Annotated[bool, typer.Option("--verify", help="Only look whether the backup is whole.")] = False,
) -> None:
    """Put a backup in place of the present data, which is kept beside it. The node must be stopped."""
    from dicom_node.people import backup, decisions

    loaded = load(config)
    if verify:
        manifest = backup.verify(source)
        say(f"{len(manifest['files'])} files of {manifest['made']}, program {manifest['program']}: whole.")
        return
    saved, notes = backup.restore(loaded, source)
    for note in (*notes, *decisions.describe_lost(loaded)):
        say(note)
    say(f"Restored. Its configuration, for comparison: {', '.join(str(file) for file in saved)}")
    say("Start the node, then run dicom-node spool compare: reindex adds objects received after the backup.")


@database.command(epilog="Example: dicom-node db upgrade --config node.toml")
def upgrade(config: Config) -> None:
    """Create the database or bring its schema to this version. Stop the node first."""
    from dicom_node import people

    version = people.upgrade_database(load(config))
    say(f"The database has version {version}.")


class Which(StrEnum):
    """The sample files."""

    NODE = "node"
    PEERS = "peers"
    RULES = "rules"
    NOTIFICATIONS = "notifications"


@samples.command(
    epilog="Example: dicom-node config sample > node.toml; dicom-node config sample peers >> node.toml"
)
def sample(
    which: Annotated[
        Which | None,
        typer.Argument(
            metavar="[node|peers|rules|notifications]",
            help="Every key of the node, a peer, a rule or a notification.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every key of all of them, with its default and a sentence.")
    ] = False,
) -> None:
    """Print a configuration to start from: the lines that are needed, or every key with its default."""
    from dicom_node.base.config.sample import FILES, START

    if everything:
        print_document("\n".join(make() for make in FILES.values()))
    else:
        print_document(FILES[which]() if which else START)


@spool.command(epilog="Example: dicom-node spool compare --config node.toml")
def compare(config: Config) -> int:
    """Compare spool and database, as the node does at its start and daily; exit status 1: they differ.

    What persons had decided and the database has lost is done again, or named where it cannot be.
    """
    from dicom_node.people import decisions, studies

    loaded = load(config)
    lost = decisions.describe_lost(loaded)
    difference = studies.compare_spool(loaded)
    for line in (*lost, difference or "Spool and database agree."):
        say(line)
    return ExitCode.FAILED if difference or lost else ExitCode.OK


@spool.command(epilog="Example: dicom-node spool reindex --config node.toml")
def reindex(config: Config) -> None:
    """Put objects that the database does not know back to be taken in, as after a lost database.

    The node may run; one that is stopped takes them in when it starts. Results that were sent are asked for
    at their destinations and not sent twice.
    """
    from dicom_node.people import studies

    done = studies.reindex_spool(load(config), lambda _done, _of: None)
    say(f"{done} objects are put back: the node takes them in." if done else "Nothing to put back.")
