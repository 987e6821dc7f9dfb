"""What the main process watches, its children, log, folder and key; what the runner tries again, and when."""

import errno
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
from apscheduler.triggers.cron import CronTrigger
from sqlalchemy.exc import OperationalError

from dicom_node.base.config.settings import NodeSettings, Settings, SpoolSettings
from dicom_node.base.events import (
    DATABASE_REPLACED,
    INDEXING_FAILED,
    RECOVERY_SCANNED,
    SCHEDULER_TAKEN,
    SPOOL_DIFFERS,
    EventType,
)
from dicom_node.base.lifecycle import Role, StudyState
from dicom_node.base.store.tables import EventRow, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.people.disk import disk_fault
from dicom_node.serve.background import Background, inode
from dicom_node.serve.node import _prepare_folder
from dicom_node.studies.indexing import Indexer
from tests.inbox_lab import Inbox, enter_peer
from tests.modality import ultrasound
from tests.waiting import wait_until


def test_a_database_that_was_deleted_or_replaced_under_the_node_is_told(inbox: Inbox) -> None:
    say = Mock()
    background = _background(inbox, Role.ALL, "here", say)
    background._watch_data_folder()
    say.assert_not_called()
    path = inbox.folder / "node.db"
    kept = path.rename(path.with_suffix(".old"))
    background._watch_data_folder()
    path.write_bytes(kept.read_bytes())
    background._watch_data_folder()
    assert _said(say) == [DATABASE_REPLACED] * 2


def _background(inbox: Inbox, role: Role, place: str, say: Mock) -> Background:
    made = Background(inbox.database, inbox.settings, role, place, say, inode(inbox.database))
    made._indexer = Indexer(inbox.database, inbox.spool, inbox.settings, inbox.inspector)
    return made


def _said(say: Mock) -> list[EventType]:
    return [call.args[0] for call in say.call_args_list]


def test_what_a_listener_does_once_for_a_site_is_done_where_a_worker_started_first(inbox: Inbox) -> None:
    say = Mock()
    stray = inbox.folder / "spool" / "objects" / "ab" / "1.2" / "20260101T000000000000Z-1.dcm"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"no row tells of it")
    with _running(
        _background(inbox, Role.WORKER, "worker-1", say), _background(inbox, Role.LISTENER, "listener-1", say)
    ):
        wait_until(lambda: SPOOL_DIFFERS.number in inbox.column(EventRow.number), 60, "comparison")
    taken = [call.kwargs["lease"] for call in say.call_args_list if call.args[0] is SCHEDULER_TAKEN]
    assert taken == ["job scheduler", "scheduler"]


@pytest.mark.parametrize("role", Role)
def test_what_is_in_the_spool_is_indexed_by_listeners_and_where_images_are_uploaded(
    inbox: Inbox, role: Role
) -> None:
    inbox.receive(ultrasound("one"))
    with _running(_background(inbox, role, f"{role}-1", Mock())):
        if role in (Role.ALL, Role.LISTENER, Role.CONSOLE):
            wait_until(inbox.outcomes, 60, "the object")
        else:
            time.sleep(0.3)
            assert not inbox.outcomes()


def test_what_is_entered_on_another_machine_has_the_node_read_its_configuration_anew(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *asked: sent.append(asked))
    node = Background(inbox.database, inbox.settings, Role.ALL, "all", print, 0)
    enter_peer(inbox.folder, "us2")
    node._watch_entered()
    assert sent == [], "a node of the machine where it was entered takes it over meanwhile"
    for _ in range(3):
        node._watch_entered()
    assert sent == [(os.getpid(), signal.SIGHUP)], "and where that is refused, again after a while only"


def test_studies_that_never_came_are_looked_for_at_night_by_the_clock_of_the_node(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        node = _background(inbox, Role.ALL, "all", Mock())
        monkeypatch.setattr(node._scheduler, "start", Mock())
        node._start_timers()
        [nightly] = [
            job.trigger for job in node._scheduler.get_jobs() if isinstance(job.trigger, CronTrigger)
        ]
        next_time = nightly.get_next_fire_time(None, datetime(2026, 3, 1, tzinfo=UTC))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert next_time.astimezone(UTC) == datetime(2026, 3, 1, 13, tzinfo=UTC)


def test_a_timer_that_a_slow_machine_missed_is_not_left_out(inbox: Inbox) -> None:
    scheduler, done = _background(inbox, Role.ALL, "all", Mock())._scheduler, threading.Event()
    scheduler.add_job(done.set, "interval", days=1, next_run_time=utc_now() - timedelta(minutes=1))
    scheduler.start()
    assert done.wait(60)
    scheduler.shutdown()


@contextmanager
def _running(*backgrounds: Background) -> Iterator[None]:
    with ExitStack() as stack:
        for background in backgrounds:
            background.start()
            stack.callback(background.stop)
        yield


def test_who_cannot_index_lets_another_do_it(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    say, run_once = Mock(), Mock(return_value=0)
    lost, standby = (_background(inbox, Role.LISTENER, f"listener-{n}", say) for n in (1, 2))
    monkeypatch.setattr(lost._indexer, "run_once", run_once)
    lost.start(first=True)
    try:
        wait_until(lambda: RECOVERY_SCANNED in _said(say), 60, "the first holds the lock")
        with _running(standby):
            inbox.receive(ultrasound("one"))
            run_once.side_effect = OperationalError("SELECT", {}, Exception("server closed the connection"))
            wait_until(inbox.outcomes, 60, "the object")
    finally:
        lost.stop()
    assert _said(say).count(INDEXING_FAILED) == 1


def test_a_full_disk_ends_no_reload(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    background = _background(inbox, Role.ALL, "all", Mock())
    monkeypatch.setattr(
        "dicom_node.studies.crashes.os.pwrite", Mock(side_effect=OSError(errno.ENOSPC, "full"))
    )
    background._scheduler.start()
    background.stop()


def test_a_lease_that_cannot_be_renewed_does_not_count_as_acquired(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = Mock(side_effect=[True, OperationalError("", {}, Exception("locked"))])
    monkeypatch.setattr("dicom_node.serve.background.acquire_lease", acquire)
    background = _background(inbox, Role.ALL, "all", Mock())
    background._renew_lease("scheduler")
    assert background._acquired == {"scheduler"}
    with pytest.raises(OperationalError):
        background._renew_lease("scheduler")
    assert background._acquired == set()


@pytest.mark.parametrize(
    ("before", "after"), [(0o777, 0o750), (0o770, 0o750), (0o750, 0o750), (0o700, 0o700)]
)
def test_nobody_but_the_nodes_user_may_put_files_into_the_data_folder(
    tmp_path: Path, before: int, after: int
) -> None:
    """Who may write in it may put a key, a database or a policy of his own in the place of the node's."""
    folder = tmp_path / "var"
    folder.mkdir()
    folder.chmod(before)
    _prepare_folder(Settings(node=NodeSettings(data_dir=folder)))
    assert folder.stat().st_mode & 0o777 == after


def test_a_start_after_a_restore_indexes_what_the_database_does_not_know_before_a_study_is_complete(
    inbox: Inbox,
) -> None:
    first, second = ultrasound("one"), ultrasound("one", number=2)
    inbox.index(first)
    inbox.database.dispose()  # all is in the file then
    kept = (inbox.folder / "node.db").read_bytes()
    inbox.index(second)
    inbox.database.dispose()
    for file in inbox.folder.glob("node.db*"):
        file.unlink()
    (inbox.folder / "node.db").write_bytes(kept)
    assert len(inbox.outcomes()) == 1
    inbox.put(Study, due_at=utc_now() - timedelta(hours=1))
    background = _background(inbox, Role.LISTENER, "here", Mock())
    background.start(first=True)
    wait_until(lambda: len(inbox.outcomes()) == 2, 60, "indexed")
    inbox.put(Study, due_at=utc_now() - timedelta(hours=1))  # not after 30 seconds
    wait_until(lambda: inbox.study(first.StudyInstanceUID).state is not StudyState.RECEIVING, 60, "complete")
    background.stop()
    assert len(inbox.outcomes()) == 2
    assert [len(job.source_uids) for job in inbox.jobs()] == [2]
    assert not background._indexer.is_database_older()


def test_a_disk_that_does_not_say_its_space_is_told(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = Mock(side_effect=OSError(errno.ESTALE, "Stale file handle"))
    monkeypatch.setattr(shutil, "disk_usage", stale)
    say = Mock()
    _background(inbox, Role.ALL, "here", say)._watch_data_folder()
    assert say.call_args.kwargs["reason"] == "disk: stale file handle"


@pytest.fixture
def small_disk(inbox: Inbox) -> Iterator[Callable[[str], None]]:
    """Mounts a disk of a MiB at the folder of received objects; to be mounted again with other options."""
    folder = inbox.folder / "spool" / "incoming"
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, "size=1m", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield lambda options: subprocess.run([*mount, f"remount,{options}", "tmpfs", folder], check=True)
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize(("is_full", "why"), [(True, "no space left"), (False, "read-only file system")])
def test_a_disk_that_is_full_or_read_only_is_told_and_forgotten_when_it_is_back(
    inbox: Inbox, small_disk: Callable[[str], None], *, is_full: bool, why: str
) -> None:
    say, rest = Mock(), inbox.folder / "spool" / "incoming" / "rest"
    settings = inbox.settings.model_copy(update={"spool": SpoolSettings(minimum_free_mib=0)})
    background = Background(inbox.database, settings, Role.ALL, "here", say, inode(inbox.database))
    background._watch_data_folder()
    assert _said(say) == []
    if is_full:
        with suppress(OSError):
            rest.write_bytes(bytes(2**21))
    else:
        small_disk("ro")
    background._watch_data_folder()
    assert why in say.call_args.kwargs["reason"]
    if is_full:
        rest.unlink()
    else:
        small_disk("rw")
    assert disk_fault(settings) == ""
