"""``dicom-node outbox``: results on their way to a peer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dicom_node.cli.common import rooms
from dicom_node.cli.common.lists import Rows, list_verb
from dicom_node.cli.common.options import (
    Config,
    Limit,
    StudyUid,
    group,
    load,
    number_argument,
    states_option,
)
from dicom_node.cli.common.output import say
from dicom_node.model.lifecycle import DeliveryState

app = group("Outbox: one row per result object and destination.")


Numbers = Annotated[
    list[int] | None,
    number_argument("delivery", "outbox list", "[DELIVERY]...", "Numbers, as `outbox list` shows them."),
]
Dead = Annotated[bool, typer.Option("--dead", help="All that were given up.")]
To = Annotated[str, typer.Option("--to", metavar="PEER", help="With --dead: only to this peer.")]


@list_verb(
    app, "outbox", "--state dead --config node.toml", none="No deliveries, or none that all filters let pass."
)
def list_deliveries(
    session: Any,
    *,
    state: Annotated[list[DeliveryState] | None, states_option(DeliveryState)] = None,
    to: Annotated[str, typer.Option("--to", metavar="PEER", help="Only to this peer.")] = "",
    study: StudyUid = "",
    limit: Limit = 100,
) -> Rows:
    """List deliveries, the newest first."""
    return rooms.views.list_deliveries(
        session,
        states=state or (),
        destination=to,
        study_instance_uid=study,
        limit=limit or None,
    )


@app.command(epilog="Example: dicom-node outbox retry --dead --config node.toml")
def retry(
    config: Config,
    numbers: Numbers = None,
    dead: Dead = False,
    to: To = "",
) -> None:
    """Send results again that were given up, once the cause is gone."""
    _either(numbers, dead)
    number = rooms.deliveries.retry(load(config), numbers or None, destination=to)
    say(f"{number} will be sent again." if number != 1 else "1 delivery will be sent again.")


@app.command(
    epilog='Example: dicom-node outbox discard 17 --because "the PACS was replaced" --config node.toml'
)
def discard(
    config: Config,
    because: Annotated[str, typer.Option(metavar="TEXT", help="Why, without names; it is shown with them.")],
    numbers: Numbers = None,
    dead: Dead = False,
    to: To = "",
) -> None:
    """Stop sending results that wait or were given up. `outbox retry` sends them all the same."""
    _either(numbers, dead)
    number = rooms.deliveries.discard(load(config), numbers or None, because=because, destination=to)
    say(f"{number} discarded.")


def _either(deliveries: list[int] | None, dead: bool) -> None:
    if bool(deliveries) == dead:
        raise typer.BadParameter("give the numbers of deliveries, or --dead for all that were given up")
