"""The disk: for how many days it will do, and what goes from the database after its days."""

import shutil
from datetime import timedelta

import pytest

from dicom_console.views.metrics import gauges
from dicom_node.base.events import DELIVERY_DEAD, Event
from dicom_node.base.store.tables import (
    Association,
    DiskSample,
    NotifiedEvent,
)
from dicom_node.base.store.transitions import append, utc_now
from dicom_node.people.disk import days_left, forget_past, note_free_space
from tests.inbox_lab import Inbox
from tests.rows import an_association

DAY = timedelta(days=1)
NOW = utc_now()


def test_a_disk_that_fills_says_for_how_many_days_it_will_do(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    minimum = inbox.settings.spool.minimum_free_mib / 1024
    for days, gib in ((40, 900.0), (6, 100 + minimum), (1, 60 + minimum), (0, 40 + minimum)):
        usage = shutil._ntuple_diskusage(0, 0, int(gib * 2**30))
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        if days:
            note_free_space(inbox.database, inbox.settings, NOW - days * DAY)
    assert inbox.read(days_left, inbox.settings, NOW) == pytest.approx(4)
    shown = {gauge.name: gauge.value for gauge in inbox.read(gauges, inbox.settings)}
    assert shown["disk_days_left"] == pytest.approx(4, rel=0.01)
    assert len(inbox.rows(DiskSample)) == 2, "that of 40 days ago is none"


def test_old_events_and_ended_associations_go_and_the_rest_stays(inbox: Inbox) -> None:
    old, new = NOW - 401 * DAY, NOW - 399 * DAY
    for at in (old, old, new):
        inbox.write(append, Event(DELIVERY_DEAD, at))
    inbox.add(*(an_association(name, old, end) for name, end in (("a", old), ("b", new), ("c", None))))
    inbox.add(NotifiedEvent(rule="somebody", event_id=inbox.events()[0].id))
    assert forget_past(inbox.database, inbox.settings, NOW) == 2
    assert [row.at for row in inbox.events()] == [old, new]
    assert inbox.column(Association.id) == ["b", "c"]
