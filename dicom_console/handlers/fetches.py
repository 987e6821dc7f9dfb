"""Studies that are fetched from peers: how far they are, and what an operator has fetched."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import Body, HTTPException, Query, Response

from dicom_console.views import listing
from dicom_console.web.access import Asked, Since, Visit, needs
from dicom_console.web.faces import Faces, back_to
from dicom_node.errors import FaultyInput
from dicom_node.model.lifecycle import FetchState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, fetches
from dicom_node.services.fetches import Fetches, FetchRequest

faces = Faces()

_PAGE = 100
_MOST_QUESTIONS = 62
"""Questions of one request, whose answers a browser waits for; for more there is the command."""
_MISSING_DAYS = 3
"""Today and so many days before, of which studies without a result are looked for."""
_place = threading.Semaphore(1)  # a peer that hangs holds it until the deadline of its answer


def _of_form(asked: Visit) -> FetchRequest:
    """Raises ValidationError."""
    fields = {name: asked.text(name) for name in ("peer", "first", "last", "rule")}
    modalities = asked.text("modalities").upper().replace(",", " ").split()
    return FetchRequest.model_validate(
        {**fields, "modalities": modalities, "per_minute": asked.text("per_minute") or 0}
    )


@faces.handler("GET", "/fetches", UserRole.VIEWER)
def list_fetches(
    asked: Asked, state: Annotated[list[FetchState] | None, Query()] = None, before: Since = None
) -> Fetches:
    """Studies that were asked for, the newest first."""
    rows = fetches.listed(asked.site.settings, states=state or (), limit=_PAGE + 1, before=before)
    return Fetches(fetches=rows[:_PAGE], next=rows[_PAGE - 1].fetch if len(rows) > _PAGE else None)


@faces.page_of(list_fetches)
def _page(asked: Visit, found: Fetches) -> Response:
    audit.note_list(asked.site.database, asked.person, "fetches")
    with asked.site.database.read() as session:
        named = listing.named(session, found.fetches)
    settings = asked.site.settings
    return asked.page(
        "fetches.html",
        rows=found.fetches,
        more=found.next,
        first=not asked.query("before"),
        state=asked.query("state"),
        states=list(FetchState),
        named=named,
        progress=fetches.by_peer(settings),
        peers=[peer.name for peer in settings.peers if "query" in peer.may],
        rules=[rule.name for rule in settings.rules],
    )


@faces.handler("POST", "/fetches", UserRole.OPERATOR, back_to("/fetches"), reads=_of_form)
def ask(asked: Asked, given: Annotated[FetchRequest, Body()]) -> fetches.FetchAsked:
    """Have studies of a peer fetched that the node has not."""
    if given.questions > _MOST_QUESTIONS:
        raise FaultyInput("too many days for one request: ask for a month, or use dicom-node fetch")
    if not _place.acquire(blocking=False):
        raise HTTPException(503, "A peer is being asked already: try again when it has answered.")
    try:
        return fetches.ask(asked.site.settings, given, asked.person)
    finally:
        _place.release()


@faces.people.post("/fetches/{name}/missing")
@needs(UserRole.OPERATOR)
def missing(asked: Asked, name: str) -> Response:
    """Studies of the last days that should have a result, and have none; fetched where the form says so."""
    if not _place.acquire(blocking=False):
        raise HTTPException(503, "A peer is being asked already: try again when it has answered.")
    try:
        fetch_them = asked.text("fetch") == "true"
        rows = fetches.missing(asked.site.settings, name, _MISSING_DAYS, asked.person, fetch_them=fetch_them)
    finally:
        _place.release()
    if fetch_them:
        return back_to("/fetches")(asked, None)
    audit.note_list(asked.site.database, asked.person, "fetches")
    return asked.page("missing_studies.html", rows=rows, peer=name, days=_MISSING_DAYS)


@faces.people.post("/fetches/{name}/again")
@needs(UserRole.OPERATOR)
def again(asked: Asked, name: str) -> Response:
    """Fetch once more what was given up or cancelled of a peer."""
    fetches.again(asked.site.settings, name, asked.person)
    return back_to("/fetches")(asked, None)


@faces.people.post("/fetches/{name}/cancel")
@needs(UserRole.OPERATOR)
def cancel(asked: Asked, name: str) -> Response:
    """Do not fetch what waits for a peer."""
    fetches.cancel(asked.site.settings, name, asked.person)
    return back_to("/fetches")(asked, None)
