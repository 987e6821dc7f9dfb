"""Notifications: recipients, sent notifications, and a test message."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import HTTPException, Query, Response

from dicom_console.web.access import Asked, Number, Since, Visit, needs
from dicom_console.web.faces import Faces, back_to, page_and_next
from dicom_node.errors import FaultyInput
from dicom_node.model.kinds import NotificationState
from dicom_node.model.roles import UserRole
from dicom_node.services import notifications
from dicom_node.services.notifications import NotificationRow, Notifications
from dicom_node.store.views import View

faces = Faces()

_PAGE = 100
_places = threading.Semaphore(2)  # a server that hangs holds its test for as long as it may


@faces.handler("GET", "/notifications", UserRole.OPERATOR)
def list_notifications(
    asked: Asked,
    state: Annotated[list[NotificationState] | None, Query()] = None,
    before: Since = None,
) -> Notifications:
    """Notifications, the newest first."""
    with asked.site.database.read() as session:
        rows = notifications.list_notifications(session, states=state or (), limit=_PAGE + 1, before=before)
    shown, after = page_and_next(rows, _PAGE, "notification")
    return Notifications(notifications=[NotificationRow(**row) for row in shown], next=after)


@faces.page_of(list_notifications)
def _page(asked: Visit, found: Notifications) -> Response:
    return _shown(asked, found, None)


def _shown(asked: Visit, found: Notifications, tested: View | None) -> Response:
    return asked.page(
        "notifications.html",
        configured=notifications.configured(asked.site.settings),
        rows=found.notifications,
        more=found.next,
        first=not asked.query("before"),
        tested=tested,
    )


@faces.people.post("/notifications/{name}/test")
@needs(UserRole.OPERATOR)
def test(asked: Asked, name: str) -> Response:
    """Send a test message of this notification now, and show the outcome."""
    if not _places.acquire(blocking=False):
        raise HTTPException(503, "Other tests are under way: try again when they are done.")
    try:
        tested = notifications.send_test(asked.site.settings, name, asked.person)
    except FaultyInput as error:
        tested = {"name": name, "ok": False, "text": str(error)}
    finally:
        _places.release()
    return _shown(asked, list_notifications(asked), tested)


@faces.handler("POST", "/notifications/{number}/retry", UserRole.OPERATOR, back_to("/notifications"))
def tell_again(asked: Asked, number: Number) -> None:
    """Send again a notification that was given up."""
    notifications.send_again(asked.site.settings, [number], by=asked.person)
