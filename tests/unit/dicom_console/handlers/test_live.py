"""What programs that watch the node may ask, and the mark of a change."""

import errno
import fcntl
import os
from datetime import timedelta
from unittest.mock import Mock

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_console.views import changes
from dicom_node.base import events
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.tables import EventRow, SiteProcess
from dicom_node.base.store.transitions import utc_now
from dicom_node.people import disk
from dicom_node.people.audit import machine_name
from tests.console_lab import ConsoleLab, numbers
from tests.inbox_lab import Inbox


def test_health_is_answered_without_a_database(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.database.dispose()
    (inbox.folder / "node.db").rename(inbox.folder / "away.db")
    (inbox.folder / "node.db").mkdir()
    browser = console.browser()
    assert (browser.get("/healthz"), browser.text) == (200, "ok\n")
    assert browser.get("/readyz") == 503
    assert browser.headers["content-type"].startswith("text/plain")
    status, text = numbers(console)
    assert status == 503
    assert text.startswith("The database of the node does not answer.")


def test_ready_is_a_node_that_receives_and_has_room(console: ConsoleLab, inbox: Inbox) -> None:
    browser = console.browser()
    assert browser.get("/readyz") == 503
    assert "no node" in browser.text
    file = console.settings.node.data_dir / "all.lock"
    file.write_text(str(os.getpid()), encoding="ascii")
    assert browser.get("/readyz") == 503, "a file that its process does not hold is of no node"
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        console.change("spool", minimum_free_mib=2**40)
        assert browser.get("/readyz") == 503
        assert "minimum_free_mib" in browser.text
        console.change("spool", minimum_free_mib=0)
        assert (browser.get("/readyz"), browser.text) == (200, "ready\n")
        silent = utc_now() - timedelta(minutes=1)
        row = SiteProcess(machine=machine_name(), place="all", name="listener", pid=1, lost=False)
        row.since, row.seen_at, row.version = silent, silent, "0"
        inbox.add(row)
        assert (browser.get("/readyz"), browser.text) == (503, "the listener shows no life\n")


def test_the_first_page_names_a_disk_that_takes_no_files(
    console: ConsoleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    console.change("spool", minimum_free_mib=0)
    broken = Mock(side_effect=OSError(errno.EIO, "Input/output error"))
    monkeypatch.setattr(disk.tempfile, "TemporaryFile", broken)
    browser = console.at("/", UserRole.ADMIN)
    assert "disk: input/output error" in browser.text


def test_an_event_that_is_committed_behind_others_or_under_a_number_of_before_is_seen(inbox: Inbox) -> None:
    def seen(number: int) -> str:
        inbox.add(EventRow(id=number, at=utc_now(), number=events.NODE_READY.number, fields={}))
        return str(changes.change_mark(inbox.database))

    last, behind = seen(9_002), seen(9_001)
    assert last != behind == str(changes.change_mark(inbox.database))
    inbox.write(Session.execute, delete(EventRow).where(EventRow.id == 9_002))
    assert seen(9_002) != behind
