"""``dicom-node events`` and ``associations``: what happened, who connected, and when."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dicom_node.cli.common.lists import Rows, list_verb
from dicom_node.cli.common.options import (
    Limit,
    Since,
    StudyUid,
    event_number,
    group,
    limit_or_none,
    moment,
    refuse_unknown,
)

app = group("Events: what happened, and when.")
associations = group("Associations: who connected, and how many objects came.")


@list_verb(app, "events", "--since 03:10 --until 03:15", none="No events.", why='"what happened at 03:12?"')
def list_events(
    session: Any,
    *,
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
            help="Only with this number (docs/reference/events.md); repeatable.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Also events of the level debug.")] = False,
    limit: Limit = 200,
) -> Rows:
    """List events, the oldest first; of more than --limit the newest."""
    from dicom_node.store import views

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
    return rows


@list_verb(
    associations, "associations", "--since 1h", none="No associations.", why="did the ultrasound get through?"
)
def list_associations(session: Any, *, since: Since = "", limit: Limit = 100) -> Rows:
    """List associations, the newest first; an open one has no closing time."""
    from dicom_node.store import views

    return views.list_associations(session, since=moment(since), limit=limit_or_none(limit))
