"""Deliveries: the list with states and reasons, and the actions of an operator."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Body, Query, Response

from dicom_console.views import listing
from dicom_console.web.access import Asked, Number, Since, Visit, back_to_form, needs, see_other
from dicom_console.web.faces import Faces, page_and_next
from dicom_node.model.lifecycle import OPEN_DELIVERIES, DeliveryState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, deliveries
from dicom_node.services.deliveries import Deliveries, DeliveryRow
from dicom_node.services.typed import PRINTABLE, Because
from dicom_node.store import views

faces = Faces()

_PAGE = 100


@faces.handler("GET", "/outbox", UserRole.VIEWER)
def outbox(
    asked: Asked,
    state: Annotated[list[DeliveryState | Literal["open"]] | None, Query()] = None,
    to: Annotated[str, Query(max_length=64, pattern=PRINTABLE)] = "",
    before: Since = None,
) -> Deliveries:
    """Deliveries, the newest first. The state "open": all that are on their way."""
    states = {known for one in state or () for known in (OPEN_DELIVERIES if one == "open" else (one,))}
    with asked.site.database.read() as session:
        rows = views.list_deliveries(session, states=states, destination=to, limit=_PAGE + 1, before=before)
    shown, after = page_and_next(rows, _PAGE, "delivery")
    return Deliveries(deliveries=[DeliveryRow(**row) for row in shown], next=after)


@faces.page_of(outbox)
def _outbox_page(asked: Visit, found: Deliveries) -> Response:
    audit.note_list(asked.site.database, asked.person, "outbox")
    with asked.site.database.read() as session:
        named = listing.named(session, found.deliveries)
        dead = listing.dead_by_destination(session)
    return asked.page(
        "outbox.html",
        rows=found.deliveries,
        more=found.next,
        first=not asked.query("before"),
        state=asked.query("state"),
        to=asked.query("to"),
        named=named,
        states=["open", *DeliveryState],
        dead=dead,
        longest=audit.LONGEST_REASON,
        shortest=audit.SHORTEST_REASON,
    )


def _back(asked: Visit, _done: None) -> Response:
    return back_to_form(asked, "/outbox")


@faces.people.post("/outbox/retry-dead")
@needs(UserRole.OPERATOR)
def retry_dead(asked: Asked) -> Response:
    """Send again all that was given up, to one destination or to all."""
    deliveries.retry(asked.site.settings, destination=_destination(asked), by=asked.person)
    return see_other("/outbox", state="open")


@faces.people.post("/outbox/discard-dead")
@needs(UserRole.OPERATOR)
def discard_dead(asked: Asked) -> Response:
    """Discard all that was given up, to one destination or to all."""
    because, destination = asked.text("because"), _destination(asked)
    deliveries.discard(asked.site.settings, because=because, destination=destination, by=asked.person)
    return see_other("/outbox", state="discarded")


@faces.handler("POST", "/outbox/{number}/retry", UserRole.OPERATOR, _back)
def retry(asked: Asked, number: Number) -> None:
    """Send a failed delivery again, or send a waiting one now."""
    deliveries.retry(asked.site.settings, [number], by=asked.person)


@faces.handler("POST", "/outbox/{number}/discard", UserRole.OPERATOR, _back)
def discard(asked: Asked, number: Number, why: Annotated[Because, Body()]) -> None:
    """Discard a delivery: it is not sent any more."""
    deliveries.discard(asked.site.settings, [number], because=why.because, by=asked.person)


def _destination(asked: Visit) -> str:
    return asked.text("destination")[:64]
