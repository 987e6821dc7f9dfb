"""``dicom-node``: the verbs of nouns as ``people/nouns`` declares them, and those of the whole node.

Verbs hold no logic, and import what is heavy only when they run.
"""

import os
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_group

from dicom_node import __version__
from dicom_node.base import logs
from dicom_node.base.errors import ConfigurationError, ExitCode, NodeError
from dicom_node.people.nouns import NOUNS
from dicom_node.serve.cli.output import never_fail_on_characters, say
from dicom_node.serve.cli.verbs import group_of

INTERRUPTED = 130  # 128 + SIGINT, as shells count it

_VERBS = ("node", "init", "messages", "demo")
_GROUPS = {"spool": "spool", "config": "samples", "db": "database"}
"""Groups of verbs that are no lists, and what they are called in ``serve/cli/node.py``."""


class VerbGroup(TyperGroup):
    """All verbs. A noun is read when it is asked for: none needs the others."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in NOUNS and cmd_name not in self.commands:
            self.commands[cmd_name] = get_group(group_of(cmd_name))
            self.commands[cmd_name].name = cmd_name
        elif cmd_name not in NOUNS:
            self._load_verbs()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        self._load_verbs()
        for noun in NOUNS:
            self.get_command(ctx, noun)
        return super().list_commands(ctx)

    def _load_verbs(self) -> None:
        for module in _VERBS:
            loaded = import_module(f"{__name__}.{module}")
            self.commands.update(get_group(loaded.app).commands)
            for name, group in _GROUPS.items() if module == "node" else ():
                self.commands[name] = get_group(getattr(loaded, group))
                self.commands[name].name = name


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
