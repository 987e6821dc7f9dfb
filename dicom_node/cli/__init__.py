"""``dicom-node``: a file per noun, or for some small ones.

Verbs hold no logic, and import what is heavy only when they run.
"""

import os
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_group

from dicom_node import __version__, logs
from dicom_node.cli.common.output import never_fail_on_characters, say
from dicom_node.errors import ConfigurationError, ExitCode, NodeError

INTERRUPTED = 130  # 128 + SIGINT, as shells count it

_VERBS = ("admin.node", "admin.init", "network.messages", "admin.demo")
_NOUNS = {
    "peers": ("network.peers", "app"),
    "rules": ("network.peers", "rules_app"),
    "fetches": ("network.messages", "fetches_app"),
    "studies": ("records.studies", "app"),
    "spool": ("records.watched", "spool_app"),
    "decisions": ("records.watched", "decisions_app"),
    "jobs": ("records.jobs", "app"),
    "outbox": ("records.watched", "outbox_app"),
    "notifications": ("records.watched", "notifications_app"),
    "events": ("records.watched", "events_app"),
    "associations": ("records.watched", "associations_app"),
    "processes": ("records.watched", "processes_app"),
    "models": ("records.models", "app"),
    "config": ("admin.node", "samples"),
    "db": ("admin.node", "database"),
    "users": ("admin.users", "app"),
    "tokens": ("admin.users", "tokens"),
}
"""The module of each noun and the name of its group there."""


class VerbGroup(TyperGroup):
    """All verbs. The module of a noun is imported when the noun is asked for: none needs the others."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _NOUNS:
            self._load_noun(cmd_name)
        else:
            self._load_verbs()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        self._load_verbs()
        for noun in _NOUNS:
            self._load_noun(noun)
        return super().list_commands(ctx)

    def _load_noun(self, noun: str) -> None:
        if noun not in self.commands:
            module, name = _NOUNS[noun]
            found = get_group(getattr(import_module(f"{__name__}.{module}"), name))
            found.name = noun
            self.commands[noun] = found

    def _load_verbs(self) -> None:
        for module in _VERBS:
            self.commands.update(get_group(import_module(f"{__name__}.{module}").app).commands)


app = typer.Typer(
    name="dicom-node",
    cls=VerbGroup,
    help="A DICOM node that runs AI on studies and returns the results to the PACS. Not for diagnostic use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
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
