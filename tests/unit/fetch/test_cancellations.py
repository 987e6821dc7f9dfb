"""A worklist manager asks for the cancellation of a work item, by its event channel."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import update

from dicom_node.events import WORKITEM_STOPPED
from dicom_node.fetch import Cancellations
from dicom_node.model.lifecycle import FetchState, JobState, WorkitemState
from dicom_node.store.tables import ClaimedWorkitem, Fetch, Job
from dicom_node.store.transitions import utc_now
from tests.unit.fetch.test_worklist import CANCELED, IN_PROGRESS, Site, by
from tests.waiting import wait_until


@contextmanager
def listening(site: Site) -> Iterator[Cancellations]:
    stop = threading.Event()
    mine = Cancellations(site.inbox.database, site.inbox.settings, site.inbox.settings.peer("ris"))
    thread = threading.Thread(target=mine.run_once, args=(stop,))
    thread.start()
    try:
        yield mine
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("fetched", [True, False])
def test_an_item_is_cancelled_when_the_manager_asks(tmp_path: Path, fetched: bool) -> None:
    with by("UPS-RS", tmp_path) as site:
        uid, other = site.study("one"), site.study("two")
        site.turn(2)
        with site.inbox.database.write() as session:
            session.execute(update(ClaimedWorkitem).values(fetch_asked=fetched))
        with listening(site):
            wait_until(lambda: set(site.manager.subscribed) == {uid, other}, seconds=30)
            site.manager.frames.put(b"\x89\x02hi")  # a ping
            for event in (["nothing"], {"00001000": 1}, {"00001002": {"Value": [2]}}, {"a": "b" * 300}):
                site.manager.tell(event)
            site.manager.request_cancel("1.2.3")
            site.manager.request_cancel(uid)
            site.manager.request_cancel(uid)
            wait_until(lambda: WORKITEM_STOPPED.number in site.events(), seconds=30)
        site.turn(3)
        assert (site.manager.state(uid), site.manager.state(other)) == (CANCELED, IN_PROGRESS)
        assert site.events().count(WORKITEM_STOPPED.number) == 1
        states = sorted(job.state for job in site.inbox.jobs())
        # What came for the item alone is not analysed; a study that somebody sent is.
        assert states == ([JobState.CANCELLED, JobState.QUEUED] if fetched else [JobState.QUEUED] * 2)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x81\xff" + b"\xff" * 8,  # of 2**64 bytes
        b"\x01\x02{}",  # the first of several
        b"\x81\x82abcd{}",  # masked
        b"\xc1\x02{}",  # of an extension
        b"\x88\x00",  # the end
        b"",  # the line is cut
    ],
)
def test_a_channel_that_is_none_ends_and_is_not_called_at_once_again(tmp_path: Path, frame: bytes) -> None:
    with by("UPS-RS", tmp_path) as site:
        site.study()
        site.turn(2)
        site.manager.frames.put(frame)
        began = time.monotonic()
        mine = Cancellations(site.inbox.database, site.inbox.settings, site.inbox.settings.peer("ris"))
        mine.run_once(threading.Event())
        mine.run_once(threading.Event())
        assert len(site.manager.subscribed) == 1  # the second round did nothing
        assert time.monotonic() - began < 30
        assert site.row().state is WorkitemState.CLAIMED


def test_without_an_item_nobody_is_called(tmp_path: Path) -> None:
    with by("UPS-RS", tmp_path) as site:
        mine = Cancellations(site.inbox.database, site.inbox.settings, site.inbox.settings.peer("ris"))
        mine.run_once(threading.Event())
        assert site.manager.subscribed == []


def test_a_fetch_that_waits_is_cancelled_with_its_item(tmp_path: Path) -> None:
    with by("UPS-RS", tmp_path) as site:
        site.study()
        site.turn(2)
        row = site.row()
        with site.inbox.database.write() as session:
            session.execute(update(ClaimedWorkitem).values(fetch_asked=True, cancel_asked=True))
            now = utc_now()
            session.add(
                Fetch(peer="archive", study_instance_uid=row.study_instance_uid, asked_at=now, next_at=now)
            )
        site.turn(2)
        with site.inbox.database.read() as session:
            assert [one.state for one in session.query(Fetch)] == [FetchState.CANCELLED]
            assert [one.state for one in session.query(Job)] == [JobState.CANCELLED]
