"""``dicom-node associations``: who connected, when, and how many objects came."""

from __future__ import annotations

import shlex

from dicom_node.cli.common.options import Config, Json, Limit, Since, group, limit_or_none, moment, reading
from dicom_node.cli.common.output import Column, Row, fields, local, print_rows

app = group("Associations: who connected, and how many objects came.")


def _refused(row: Row) -> str:
    """One class by name; of several only the number: ``peers why`` names them."""
    if row["refused_count"] <= 1:
        return "".join(f"refused: {context}" for context in row["refused"])
    return f"{row['refused_count']} classes refused: dicom-node peers why {shlex.quote(row['calling_ae'])}"


def _details(row: Row) -> str:
    return "; ".join(filter(None, [row["reason"], _refused(row)]))


COLUMNS: list[Column] = [
    ("opened", lambda row: local(row["opened_at"])),
    ("closed", lambda row: local(row["closed_at"])),
    ("calling", lambda row: row["calling_ae"]),
    ("called", lambda row: row["called_ae"]),
    *fields("address", "outcome", "objects"),
    ("details", _details),
]


@app.command(
    "list", epilog="Example (did the ultrasound get through?): dicom-node associations list --since 1h"
)
def list_associations(
    *, config: Config, since: Since = "", limit: Limit = 100, as_json: Json = False
) -> None:
    """List associations, the newest first; an open one has no closing time."""
    from dicom_node.store import views

    with reading(config) as (session, _):
        rows = views.list_associations(session, since=moment(since), limit=limit_or_none(limit))
    print_rows(rows, COLUMNS, as_json=as_json, none="No associations.")
