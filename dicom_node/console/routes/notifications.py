"""Notifications: who is told of what, what was sent, a test."""

from __future__ import annotations

import threading

from fastapi import APIRouter, HTTPException, Response

from dicom_node.console.web.access import Asked, Number, Since, Visit, needs, see_other
from dicom_node.errors import FaultyInput
from dicom_node.model.roles import UserRole
from dicom_node.services import notifications
from dicom_node.store.views import View

router = APIRouter(prefix="/notifications")

_PAGE = 50
_places = threading.Semaphore(2)  # a server that hangs holds its test for as long as it may


@router.get("")
@needs(UserRole.OPERATOR)
def list_notifications(asked: Asked, before: Since = None) -> Response:
    """Those of the configuration, and the newest that were sent."""
    return _page(asked, before)


@router.post("/{name}/test")
@needs(UserRole.OPERATOR)
def test(asked: Asked, name: str) -> Response:
    """Send a test at once."""
    if not _places.acquire(blocking=False):
        raise HTTPException(503, "Other tests are under way: try again when they are done.")
    try:
        tested = notifications.send_test(asked.site.settings, name, asked.person)
    except FaultyInput as error:
        tested = {"name": name, "ok": False, "text": str(error)}
    finally:
        _places.release()
    return _page(asked, None, tested)


@router.post("/{number}/retry")
@needs(UserRole.OPERATOR)
def retry(asked: Asked, number: Number) -> Response:
    """Send again what was given up."""
    notifications.send_again(asked.site.settings, [number], asked.person)
    return see_other("/notifications")


def _page(asked: Visit, before: int | None, tested: View | None = None) -> Response:
    with asked.site.database.read() as session:
        rows = notifications.list_notifications(session, limit=_PAGE + 1, before=before)
    more = rows[_PAGE - 1]["notification"] if len(rows) > _PAGE else None
    return asked.page(
        "notifications.html",
        configured=notifications.configured(asked.site.settings),
        rows=rows[:_PAGE],
        more=more,
        first=before is None,
        tested=tested,
    )
