"""``dicom-node events``: what happened, and when."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common.options import (
    Config,
    Json,
    Limit,
    Since,
    StudyUid,
    event_number,
    group,
    limit_or_none,
    moment,
    reading,
    refuse_unknown,
)
from dicom_node.cli.common.output import Column, details, local, print_rows, short

app = group("Events: what happened, and when.")


_COLUMNS: list[Column] = [
    ("at", lambda row: local(row["at"])),
    ("number", lambda row: row["number"]),
    ("event", lambda row: row["text"]),
    ("study", lambda row: short(row["study_instance_uid"])),
    ("details", details),
]


@app.command(
    "list", epilog='Example ("what happened at 03:12?"): dicom-node events list --since 03:10 --until 03:15'
)
def list_events(
    *,
    config: Config,
    study: StudyUid = "",
    since: Since = "",
    until: Annotated[
        str, typer.Option("--until", metavar="WHEN", help="Only before this time, written as in --since.")
    ] = "",
    number: Annotated[
        list[int] | None,
        typer.Option(
            "--number",
            parser=event_number,
            metavar="NUMBER",
            help="Only with this number (docs/admin.md); repeatable.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Also events of the level debug.")] = False,
    limit: Limit = 200,
    as_json: Json = False,
) -> None:
    """List events, the oldest first; of more than --limit the newest."""
    from dicom_node.store import views

    with reading(config) as (session, _):
        rows = views.list_events(
            session,
            study_instance_uid=study,
            since=moment(since),
            until=moment(until),
            numbers=number or (),
            debug=debug,
            limit=limit_or_none(limit),
        )
    if not rows:
        refuse_unknown(number or ())
    print_rows(rows, _COLUMNS, as_json=as_json, none="No events.")
