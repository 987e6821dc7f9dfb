"""``dicom-node associations``: who connected, when, and how many objects came."""

from __future__ import annotations

import typer

from dicom_node.cli.options import Config, Json, Limit, Since, limit_or_none, moment
from dicom_node.cli.output import Column, Row, local, print_rows

app = typer.Typer(no_args_is_help=True, help="Associations: who connected, and how many objects came.")


def _details(row: Row) -> str:
    refused = f"refused: {', '.join(row['refused'])}" if row["refused"] else ""
    return "; ".join(filter(None, [row["reason"], refused]))


COLUMNS: list[Column] = [
    ("opened", lambda row: local(row["opened_at"])),
    ("closed", lambda row: local(row["closed_at"])),
    ("calling", lambda row: row["calling_ae"]),
    ("called", lambda row: row["called_ae"]),
    ("address", lambda row: row["address"]),
    ("outcome", lambda row: row["outcome"]),
    ("objects", lambda row: row["objects"]),
    ("details", _details),
]


@app.callback()
def _group() -> None:
    """Associations: who connected, and how many objects came."""


@app.command(
    "list", epilog="Example (did the ultrasound get through?): dicom-node associations list --since 1h"
)
def list_associations(
    *, config: Config, since: Since = "", limit: Limit = 100, as_json: Json = False
) -> None:
    """List associations, the newest first; an open one has no closing time."""
    from dicom_node import services, settings
    from dicom_node.store import views

    with services.reading(settings.load(config)) as session:
        rows = views.list_associations(session, since=moment(since), limit=limit_or_none(limit))
    print_rows(rows, COLUMNS, as_json=as_json, none="No associations.")
