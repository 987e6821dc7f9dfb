"""``dicom-node``: one file per noun. Verbs hold no logic and import what is heavy only when they run."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from dicom_node import logs
from dicom_node.cli.admin import config, demo, init, node, users
from dicom_node.cli.common.output import never_fail_on_characters, say
from dicom_node.cli.network import fetches, messages, peers, rules
from dicom_node.cli.records import (
    decisions,
    events,
    jobs,
    models,
    notifications,
    outbox,
    processes,
    spool,
    studies,
)
from dicom_node.errors import ConfigurationError, ExitCode, NodeError

INTERRUPTED = 130  # 128 + SIGINT, as shells count it

app = typer.Typer(
    name="dicom-node",
    help="A DICOM node that runs AI on studies and returns the results to the PACS. Not for diagnostic use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (node, init, messages, fetches, demo):
    app.add_typer(verb.app)
for name, group in (
    ("peers", peers.app),
    ("rules", rules.app),
    ("fetches", fetches.fetches_app),
    ("studies", studies.app),
    ("spool", spool.app),
    ("decisions", decisions.app),
    ("jobs", jobs.app),
    ("outbox", outbox.app),
    ("notifications", notifications.app),
    ("events", events.app),
    ("associations", events.associations),
    ("processes", processes.app),
    ("models", models.app),
    ("config", config.app),
    ("db", node.database),
    ("users", users.app),
    ("tokens", users.tokens),
):
    app.add_typer(group, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        from dicom_node import __version__

        say(f"dicom-node {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A DICOM node that runs AI on studies and returns the results to the PACS. Not for diagnostic use."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a verb; every error of the node becomes one clear message and its exit status."""
    logs.configure("error", "dicom-node")  # a verb says what it has to say itself; `serve` sets its own level
    never_fail_on_characters()
    os.umask(0o077)  # whatever a verb writes holds patient data, or leads to it
    status = _run(arguments)
    if status == INTERRUPTED:
        # All is cleaned up; threads of an association that was cut would wait for their peer.
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def _run(arguments: list[str] | None) -> int:
    try:
        return int(app(args=arguments, standalone_mode=False) or ExitCode.OK)
    except ConfigurationError as error:
        say(f"Mistakes in the configuration: {len(error.problems)}", err=True)
        for problem in error.problems:
            say(f"  {problem}", err=True)
        return error.exit_code
    except NodeError as error:
        for line in f"dicom-node: {error}".splitlines():
            say(line, err=True)
        return error.exit_code
    except PermissionError as error:
        say(
            f"dicom-node: {error.filename}: {error.strerror}: run this as the user that the node runs as",
            err=True,
        )
        return ExitCode.CONFIG
    except typer.TyperException as error:
        error.show() if hasattr(error, "show") else say(str(error), err=True)
        return ExitCode.USAGE
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
