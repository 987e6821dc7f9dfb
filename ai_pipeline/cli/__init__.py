"""``ai-pipeline``: run the pipelines on files, without the node. One file per verb.

Exit codes: 0 every input was handled (refusals included), 2 wrong usage, 65 an input could not be read, a
part of a script not be taken, or a model's weights are missing or altered, 78 something that is needed is not
installed.
"""

import os
from importlib.metadata import entry_points
from typing import Annotated

import typer

from ai_pipeline.cli.models import models_app, pipelines
from ai_pipeline.cli.rules import rules_app
from ai_pipeline.cli.run import run
from ai_pipeline.cli.screens import learn_screen
from ai_pipeline.cli.serve import serve
from ai_pipeline.cli.terminal import EXIT_CONFIG
from ai_pipeline.errors import first_line

app = typer.Typer(
    name="ai-pipeline",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Diagnostic AI on images: chest X-ray findings, ultrasound cleaning. Not for diagnostic use.",
)
app.command(epilog="Example:  ai-pipeline run study/*.dcm --pipeline auto --out results --json")(run)
app.command(epilog="Example:  ai-pipeline pipelines ultrasound")(pipelines)
app.command(epilog="Example:  ai-pipeline learn-screen images --out device-rules/room3.toml")(learn_screen)
app.command(epilog="Example:  ai-pipeline serve --config serve.toml")(serve)
app.add_typer(models_app, name="models")
app.add_typer(rules_app, name="rules")


def _version(wanted: bool) -> None:
    """Print the version and exit, if ``--version`` is given."""
    if wanted:
        from ai_pipeline.distribution import version

        typer.echo(f"ai-pipeline {version()}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Diagnostic AI on images: chest X-ray findings, ultrasound cleaning. Not for diagnostic use."""


def main() -> None:
    """Entry point of the command ``ai-pipeline``."""
    os.umask(0o077)  # pictures and findings are patient data
    mount_commands()
    app()


def mount_commands() -> None:
    """Add the verbs of other packages; where training is not installed, its verbs say what to install."""
    # Functions that take the app and add verbs to it.
    for entry_point in entry_points(group="ai_pipeline.commands"):
        try:
            entry_point.load()(app)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (another package may raise anything)
            typer.echo(f"the verbs of {entry_point.value} cannot be loaded: {first_line(error)}", err=True)
    there = {command.name for command in app.registered_commands} | {
        group.name for group in app.registered_groups
    }
    # The verbs of the package dicom-ai-node-training.
    missing = [(app, verb) for verb in ("train", "evaluate", "split") if verb not in there]
    below = {command.name for command in models_app.registered_commands}
    missing += [(models_app, verb) for verb in ("accept", "convert", "bundle") if verb not in below]
    for group, verb in missing:
        anything = {"allow_extra_args": True, "ignore_unknown_options": True}
        group.command(verb, hidden=True, context_settings=anything)(_say_what_to_install)


def _say_what_to_install() -> None:
    """Needs the package dicom-ai-node-training."""
    typer.echo(
        "training, evaluation and conversion are a package of their own: "
        "pip install -c constraints.txt ./ai_training",
        err=True,
    )
    raise typer.Exit(EXIT_CONFIG)
