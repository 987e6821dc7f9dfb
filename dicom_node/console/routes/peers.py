"""Peers: who is configured, who called, why somebody does not get through."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response

from dicom_node import services
from dicom_node.console.web.access import Asked, Visit, needs
from dicom_node.errors import NotFound
from dicom_node.model.roles import UserRole
from dicom_node.services import contacts
from dicom_node.services.console import peers

router = APIRouter(prefix="/peers")

Caller = Annotated[str, Query(max_length=64, pattern=r"^[ -~]*$")]
_places = threading.Semaphore(2)  # a peer that hangs holds its test for as long as it may


@router.get("")
@needs(UserRole.VIEWER)
def list_peers(asked: Asked) -> Response:
    """All peers, and who called that is none."""
    with asked.site.database.read() as session:
        rows = peers.peers(session, asked.site.settings)
        strangers = peers.strangers(session, asked.site.settings)
    return asked.page("peers.html", rows=rows, strangers=strangers, days=peers.DAYS)


@router.get("/why")
@needs(UserRole.VIEWER)
def why(asked: Asked, caller: Caller = "") -> Response:
    """What a machine tried, what it was refused, and which lines would let it in."""
    found, problem = None, ""
    if caller.strip():
        try:
            found = contacts.why(asked.site.settings, caller.strip(), _since())
        except NotFound as error:
            problem = str(error)
    return asked.page("why.html", caller=caller.strip(), found=found, problem=problem, days=peers.DAYS)


@router.get("/{name}")
@needs(UserRole.VIEWER)
def show(asked: Asked, name: str) -> Response:
    """One peer."""
    return _page(asked, name)


@router.post("/{name}/test")
@needs(UserRole.OPERATOR)
def test(asked: Asked, name: str) -> Response:
    """Try what delivery to it needs, or a C-ECHO where it gets nothing; nothing is stored."""
    asked.site.settings.peer(name)
    if not _places.acquire(blocking=False):
        raise HTTPException(503, "Other tests are under way: try again when they are done.")
    try:
        checks = services.test_peers(asked.site.settings, [name], asked.person)
    finally:
        _places.release()
    return _page(asked, name, checks)


def _page(asked: Visit, name: str, checks: list[dict[str, object]] | None = None) -> Response:
    row = peers.peer(asked.site.settings, name)
    found = contacts.why(asked.site.settings, name, _since())
    return asked.page("peer.html", peer=row, found=found, checks=checks, days=peers.DAYS)


def _since() -> datetime:
    return datetime.now(UTC) - timedelta(days=peers.DAYS)
