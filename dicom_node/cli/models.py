"""``dicom-node models``: which models there are, and whether their weights are what their cards say."""

from __future__ import annotations

import typer

from dicom_node.cli.options import Config, Json
from dicom_node.cli.output import Column, print_rows
from dicom_node.errors import ExitCode

app = typer.Typer(no_args_is_help=True, help="Models: cards and weights.")

_COLUMNS: list[Column] = [
    ("model", lambda row: row["id"]),
    ("version", lambda row: row["version"]),
    ("task", lambda row: row["task"]),
    ("architecture", lambda row: row["architecture"]),
    ("licence", lambda row: row["licence"]),
]

_CHECKS: list[Column] = [
    ("model", lambda row: row["id"]),
    ("", lambda row: "ok" if row["ok"] else "REFUSED"),
    ("why", lambda row: row["text"]),
]


@app.command("list", epilog="Example: dicom-node models list --config node.toml")
def list_models(config: Config, as_json: Json = False) -> None:
    """List the model cards: shipped, and those of workers.models_dir."""
    from dicom_node import services, settings

    rows = services.models(settings.load(config))
    print_rows(rows, _COLUMNS, as_json=as_json, none="No model cards.")


@app.command(epilog="Example: dicom-node models verify --config node.toml")
def verify(config: Config, as_json: Json = False) -> int:
    """Compare the weights of every model with the SHA-256 of its card."""
    from dicom_node import services, settings

    rows = services.verify_models(settings.load(config))
    print_rows(rows, _CHECKS, as_json=as_json, none="No model cards.")
    return ExitCode.OK if all(row["ok"] for row in rows) else ExitCode.DATA
