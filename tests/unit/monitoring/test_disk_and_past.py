"""How long the disk will do; what happened long ago is forgotten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import pytest
from sqlalchemy import func, select

from dicom_console.views.metrics import gauges
from dicom_node.events import DELIVERY_DEAD, Event
from dicom_node.monitoring.disk import forecast, note_free_space
from dicom_node.monitoring.past import forget_past
from dicom_node.store.tables import Association, DiskSample, EventRow, NotifiedEvent
from dicom_node.store.transitions import append, utc_now
from tests.inbox_lab import Inbox
from tests.rows import an_association

GIB = 2**30
DAY = timedelta(days=1)
NOW = utc_now()


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Says how much is free, GiB."""

    def set_free(gib: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(gib * GIB)))

    return set_free


def test_a_disk_that_fills_says_for_how_many_days_it_will_do(
    inbox: Inbox, free: Callable[[float], None]
) -> None:
    minimum = inbox.settings.spool.minimum_free_mib / 1024
    for days, gib in ((40, 900.0), (6, 100 + minimum), (1, 60 + minimum)):
        free(gib)
        note_free_space(inbox.database, inbox.settings, NOW - days * DAY)
    free(40 + minimum)
    with inbox.database.read() as session:
        found = forecast(session, inbox.settings, NOW)
        assert found is not None
        assert (found.bytes_a_day, found.days) == (10 * GIB, pytest.approx(4))
        assert str(found) == "it fills by 10240 MiB a day: enough for 4 days"
        shown = {gauge.name: gauge.value for gauge in gauges(session, inbox.settings)}
        assert shown["disk_days_left"] == pytest.approx(4, rel=0.01)
        assert session.scalar(select(func.count()).select_from(DiskSample)) == 2  # of 40 days ago none


def test_nothing_is_said_before_there_is_a_day_nor_of_a_disk_that_does_not_fill(
    inbox: Inbox, free: Callable[[float], None]
) -> None:
    free(50)
    note_free_space(inbox.database, inbox.settings, NOW - DAY / 2)
    with inbox.database.read() as session:
        assert forecast(session, inbox.settings, NOW) is None
        free(70)
        assert str(forecast(session, inbox.settings, NOW + DAY)) == "it does not fill"


def test_old_events_and_ended_associations_go_and_the_rest_stays(inbox: Inbox) -> None:
    old, new = NOW - 401 * DAY, NOW - 399 * DAY
    with inbox.database.write() as session:
        for at in (old, old, new):
            append(session, Event(DELIVERY_DEAD, at))
        for name, closed in (("a", old), ("b", new), ("c", None)):
            session.add(an_association(name, old, closed))
        session.flush()
        told = session.scalars(select(EventRow.id)).first()
        session.add(NotifiedEvent(rule="somebody", event_id=told))
    assert forget_past(inbox.database, inbox.settings, NOW) == 2
    with inbox.database.read() as session:
        assert [row.at for row in session.scalars(select(EventRow).order_by(EventRow.id))] == [old, new]
        assert session.scalars(select(Association.id).order_by(Association.id)).all() == ["b", "c"]


def test_the_newest_event_stays_so_that_no_number_is_given_twice(inbox: Inbox) -> None:
    with inbox.database.write() as session:
        for _ in range(3):
            append(session, Event(DELIVERY_DEAD, NOW - 500 * DAY))
    forget_past(inbox.database, inbox.settings, NOW)
    with inbox.database.write() as session:
        append(session, Event(DELIVERY_DEAD, NOW))
    with inbox.database.read() as session:
        assert session.scalars(select(EventRow.id).order_by(EventRow.id)).all() == [3, 4]
