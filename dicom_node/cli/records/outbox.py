"""``dicom-node outbox``: results on their way to a peer."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common.options import (
    Config,
    Json,
    Limit,
    StudyUid,
    group,
    limit_or_none,
    load,
    number_of,
    reading,
    states_option,
)
from dicom_node.cli.common.output import Column, fields, local, print_rows, say, short
from dicom_node.model.lifecycle import DeliveryState

app = group("Outbox: one row per result object and destination.")

_COLUMNS: list[Column] = [
    *fields("delivery", "state"),
    ("to", lambda row: row["destination"]),
    ("study", lambda row: short(row["study_instance_uid"])),
    ("kind", lambda row: row["kind"]),
    ("sop instance", lambda row: short(row["sop_instance_uid"], 14)),
    ("tries", lambda row: row["attempts"]),
    ("next try", lambda row: "" if row["confirmed_at"] else local(row["next_at"])),
    ("status", lambda row: row["status"]),
    ("reason", lambda row: row["discarded_because"] or row["reason"]),
]


Numbers = Annotated[
    list[int] | None,
    typer.Argument(
        parser=number_of("delivery", "outbox list"),
        metavar="[DELIVERY]...",
        help="Numbers, as `outbox list` shows them.",
    ),
]
Dead = Annotated[bool, typer.Option("--dead", help="All that were given up.")]
To = Annotated[str, typer.Option("--to", metavar="PEER", help="With --dead: only to this peer.")]


@app.command("list", epilog="Example: dicom-node outbox list --state dead --config node.toml")
def list_deliveries(
    *,
    config: Config,
    state: Annotated[list[DeliveryState] | None, states_option(DeliveryState)] = None,
    to: Annotated[str, typer.Option("--to", metavar="PEER", help="Only to this peer.")] = "",
    study: StudyUid = "",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List deliveries, the newest first."""
    from dicom_node.store import views

    with reading(config) as (session, _):
        rows = views.list_deliveries(
            session,
            states=state or (),
            destination=to,
            study_instance_uid=study,
            limit=limit_or_none(limit),
        )
    print_rows(rows, _COLUMNS, as_json=as_json, none="No deliveries, or none that all filters let pass.")


@app.command(epilog="Example: dicom-node outbox retry --dead --config node.toml")
def retry(
    config: Config,
    deliveries: Numbers = None,
    dead: Dead = False,
    to: To = "",
) -> None:
    """Send again what was given up, once the cause is gone."""
    from dicom_node.services import work

    _either(deliveries, dead)
    number = work.retry_deliveries(load(config), deliveries or None, destination=to)
    say(f"{number} will be sent again." if number != 1 else "1 delivery will be sent again.")


@app.command(
    epilog='Example: dicom-node outbox discard 17 --because "the PACS was replaced" --config node.toml'
)
def discard(
    config: Config,
    because: Annotated[str, typer.Option(metavar="TEXT", help="Why, without names; it is shown with them.")],
    deliveries: Numbers = None,
    dead: Dead = False,
    to: To = "",
) -> None:
    """Send no more what waits or was given up. `outbox retry` sends it all the same."""
    from dicom_node.services import work

    _either(deliveries, dead)
    number = work.discard_deliveries(load(config), deliveries or None, because=because, destination=to)
    say(f"{number} discarded.")


def _either(deliveries: list[int] | None, dead: bool) -> None:
    if bool(deliveries) == dead:
        raise typer.BadParameter("give the numbers of deliveries, or --dead for all that were given up")
