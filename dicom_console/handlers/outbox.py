"""Deliveries: the list with states and reasons, and the actions of an operator."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Body, Query, Response

from dicom_console.views import listing
from dicom_console.web.access import Asked, Number, Since, Visit, needs, see_other
from dicom_console.web.faces import ROWS, Faces, back_to_form, page_and_next
from dicom_node.model.lifecycle import OPEN_DELIVERIES, DeliveryState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, deliveries
from dicom_node.services.deliveries import Deliveries, DeliveryRow
from dicom_node.services.typed import PRINTABLE, Because
from dicom_node.store import views

faces = Faces()
_BACK = back_to_form("/outbox")


@faces.handler("GET", "/outbox", UserRole.VIEWER)
def outbox(
    asked: Asked,
    state: Annotated[list[DeliveryState | Literal["open"]] | None, Query()] = None,
    to: Annotated[str, Query(max_length=64, pattern=PRINTABLE)] = "",
    before: Since = None,
) -> Deliveries:
    """Deliveries, the newest first. The state "open": all that are on their way."""
    states = {known for one in state or () for known in (OPEN_DELIVERIES if one == "open" else (one,))}
    rows = asked.read(views.list_deliveries, states=states, destination=to, limit=ROWS + 1, before=before)
    shown, after = page_and_next(rows, "delivery")
    return Deliveries(deliveries=[DeliveryRow(**row) for row in shown], next=after)


@faces.page_of(outbox)
def _outbox_page(asked: Visit, found: Deliveries) -> Response:
    audit.note_list(asked.site.database, asked.person, "outbox")
    return asked.page(
        "outbox.html",
        rows=found.deliveries,
        more=found.next,
        first=not asked.query("before"),
        state=asked.query("state"),
        to=asked.query("to"),
        named=asked.read(listing.named, found.deliveries),
        states=["open", *DeliveryState],
        dead=asked.read(listing.dead_by_destination),
        longest=audit.LONGEST_REASON,
        shortest=audit.SHORTEST_REASON,
    )


@faces.people.post("/outbox/retry-dead")
@needs(UserRole.OPERATOR)
def retry_dead(asked: Asked) -> Response:
    """Send again all that was given up, to one destination or to all."""
    deliveries.retry(asked.settings, destination=_destination(asked), by=asked.person)
    return see_other("/outbox", state="open")


@faces.people.post("/outbox/discard-dead")
@needs(UserRole.OPERATOR)
def discard_dead(asked: Asked) -> Response:
    """Discard all that was given up, to one destination or to all."""
    because, destination = asked.text("because"), _destination(asked)
    deliveries.discard(asked.settings, because=because, destination=destination, by=asked.person)
    return see_other("/outbox", state="discarded")


@faces.handler("POST", "/outbox/{number}/retry", UserRole.OPERATOR, _BACK)
def retry(asked: Asked, number: Number) -> None:
    """Send a failed delivery again, or send a waiting one now."""
    deliveries.retry(asked.settings, [number], by=asked.person)


@faces.handler("POST", "/outbox/{number}/discard", UserRole.OPERATOR, _BACK)
def discard(asked: Asked, number: Number, why: Annotated[Because, Body()]) -> None:
    """Discard a delivery: it is not sent any more."""
    deliveries.discard(asked.settings, [number], because=why.because, by=asked.person)


def _destination(asked: Visit) -> str:
    return asked.text("destination")[:64]
