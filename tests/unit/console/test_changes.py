"""The mark by which pages learn that something happened."""

from __future__ import annotations

from sqlalchemy import delete

from dicom_console.views import changes
from dicom_node.events import NODE_READY
from dicom_node.store.tables import EventRow
from dicom_node.store.transitions import utc_now
from tests.inbox_lab import Inbox


def enter(inbox: Inbox, number: int) -> None:
    with inbox.database.write() as session:
        session.add(EventRow(id=number, at=utc_now(), number=NODE_READY.number, fields={}))


def test_an_event_that_is_committed_behind_others_is_seen(inbox: Inbox) -> None:
    enter(inbox, 9_002)
    before = changes.newest(inbox.database)
    assert changes.newest(inbox.database) == before
    enter(inbox, 9_001)
    assert changes.newest(inbox.database) != before


def test_a_number_that_is_given_again_is_another_event(inbox: Inbox) -> None:
    enter(inbox, 9_002)
    before = changes.newest(inbox.database)
    with inbox.database.write() as session:
        session.execute(delete(EventRow).where(EventRow.id == 9_002))
    enter(inbox, 9_002)
    assert changes.newest(inbox.database) != before
