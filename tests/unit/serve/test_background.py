"""What the main process watches, its children, log, folder and key; what the runner tries again, and when."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from dicom_connectors.notifications.sender import Notifier
from dicom_node.base import processes
from dicom_node.base.config.settings import NodeSettings, OutboxSettings, Settings
from dicom_node.base.errors import ConfigurationError, ExitCode
from dicom_node.base.events import (
    DATABASE_REPLACED,
    INDEXING_FAILED,
    RECOVERY_SCANNED,
    SCHEDULER_TAKEN,
    SPOOL_DIFFERS,
    EventType,
)
from dicom_node.base.lifecycle import Role
from dicom_node.base.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.base.runner import wait_before_retry
from dicom_node.base.sitekey import SiteKey, load_or_create, path_of
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Notification
from dicom_node.base.store.transitions import utc_now
from dicom_node.receive.inspection import Inspector
from dicom_node.serve.background import Background, inode
from dicom_node.serve.node import _prepare_folder
from dicom_node.studies.indexing import Indexer
from tests.inbox_lab import Inbox, enter_peer
from tests.modality import ultrasound
from tests.rows import Stored
from tests.unit.receive.objects import small_xray
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
        wait_until(lambda: SPOOL_DIFFERS.number in [row.number for row in inbox.events()], 60, "comparison")
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
        "dicom_node.studies.indexing.os.pwrite", Mock(side_effect=OSError(errno.ENOSPC, "full"))
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


ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that hostile modules in the working directory write when somebody imports them."""
    folder, written = tmp_path / "here", tmp_path / "ran"
    folder.mkdir()
    for name in ("json", "pydicom", "numpy", "dicom_node", "ai_pipeline", "sitecustomize"):
        code = f"with open({str(written)!r}, 'a') as file: file.write({name!r})\nraise SystemExit(9)\n"
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(folder)
    return written


def test_the_process_that_reads_objects_imports_no_hostile_working_directory_and_has_no_password(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACS_PASSWORD", "hunter2")
    small_xray("one").save_as(tmp_path / "object.dcm", enforce_file_format=True)
    with closing(Inspector()) as inspector:
        inspector.start()
        assert inspector.inspect(tmp_path / "object.dcm").fault == ""
        variables = Path(f"/proc/{inspector._process.pid}/environ").read_bytes()
    assert not ran.exists()
    assert b"PATH=" in variables
    assert b"hunter2" not in variables


@contextmanager
def running_child(code: str, name: str = "worker-1") -> Iterator[tuple[processes.Child, list[object]]]:
    """A child that runs this code, and what is heard of it: a line when ready, a status at an end."""
    heard: list[object] = []
    child = processes.Child(name, ["-c", code], heard.append, lambda *ended: heard.append(ended))
    child.start()
    try:
        yield child, heard
    finally:
        child.stop(0.1)


@pytest.mark.parametrize(
    "code",
    [
        "import json, dicom_node.receive; print(json.dumps({'ready': True}), flush=True); input()",
        # A package of the site's own prints, in the worker that runs it.
        "import sys; print({'score': 0.9}); print('[1]\\n{\"busy_seconds\": \"x\"}'); sys.stdout.flush()\n"
        "sys.stdout.buffer.write(b'\\xff{\\n'); print('{\"ready\": true}', flush=True); input()",
    ],
)
def test_a_child_imports_no_hostile_working_directory_and_what_a_pipeline_prints_is_not_heard(
    ran: Path, code: str
) -> None:
    with running_child(code) as (_, heard):
        wait_until(lambda: heard, 60, "the child speaks or ends")
    assert heard == [{"ready": True}]
    assert not ran.exists()


def test_every_interpreter_that_is_started_is_kept_from_the_working_directory() -> None:
    sources = [path for package in ("dicom_node", "ai_pipeline") for path in (ROOT / package).rglob("*.py")]
    starts = [
        found for path in sources for found in re.findall(r"sys\.executable,?\s*(\S*)", path.read_text())
    ]

    assert {'"-P",', '"-I",'} <= set(starts)
    assert all(found.startswith(")") for found in set(starts) - {'"-P",', '"-I",'})  # of Path(sys.executable)


def test_a_child_that_hangs_is_silent_though_its_process_is_there() -> None:
    """It shows life every few hundredths of a second here; the node is told of nothing else by that."""
    code = (
        "import time; from dicom_node.base.processes import show_life\n"
        "print('{\"ready\": true}', flush=True)\nwhile True: show_life(); time.sleep(0.02)"
    )
    with running_child(code) as (child, heard):
        wait_until(lambda: heard, 60, "the child is ready")
        wait_until(lambda: child.silent_seconds < 0.1, 60, "it shows life")
        os.kill(child.pid, signal.SIGSTOP)
        wait_until(lambda: child.silent_seconds > 0.5, 60, "it is silent")
        os.kill(child.pid, signal.SIGCONT)
        wait_until(lambda: child.silent_seconds < 0.1, 60, "it shows life again")
    assert heard == [{"ready": True}]


def test_a_child_that_cannot_be_started_for_want_of_memory_is_started_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        subprocess,
        "Popen",
        Mock(side_effect=[OSError(errno.ENOMEM, "no memory"), DEFAULT], wraps=subprocess.Popen),
    )
    with running_child("print('{\"ready\": true}', flush=True); input()", "listener") as (_, heard):
        wait_until(lambda: {"ready": True} in heard, 60, "the child is ready")
    assert heard == [(os.EX_OSERR, 0.5), {"ready": True}]


def test_a_child_that_shows_life_and_loads_on_does_not_count_as_silent() -> None:
    code = (
        "import time; from dicom_node.base.processes import show_life; show_life(); time.sleep(1)\n"
        "print('{\"ready\": true}', flush=True); time.sleep(60)"
    )
    with running_child(code) as (child, heard):
        while not heard:
            assert child.silent_seconds < 5
            time.sleep(0.02)
        wait_until(lambda: child.silent_seconds > 0.1, 60, "what is ready has to show life")


@pytest.mark.parametrize("busy", [False, True])
def test_a_child_that_stands_still_is_started_again_unless_it_is_within_the_time_of_its_job(
    monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setattr(processes, "ALIVE_SECONDS", 0.1)
    code = (
        "import time; from dicom_node.base.processes import show_life\n"
        f"show_life(busy_seconds={60 * busy}); print('{{\"ready\": true}}', flush=True)\n"
        "while True: show_life(); time.sleep(0.02)"
    )
    with running_child(code) as (child, heard):
        wait_until(lambda: heard, 60, "the child is ready")
        os.kill(child.pid, signal.SIGSTOP)
        if busy:
            time.sleep(3)
            assert heard == [{"ready": True}]
        else:
            wait_until(lambda: len(heard) == 3, 60, "another process")
            assert heard == [{"ready": True}, (-signal.SIGKILL, 0.5), {"ready": True}]


def say(lines: str, level: str = "info", **tables: object) -> subprocess.CompletedProcess[str]:
    """Run lines in a process of its own, whose log is configured by these settings."""
    program = (
        "import json, logging, sys\n"
        "from dicom_node.base import logs\n"
        "from dicom_node.base.events import ASSOCIATION_ACCEPTED, NODE_READY, happened\n"
        "from dicom_node.base.config.settings import Settings\n"
        "settings = Settings.model_validate(json.loads(sys.argv[1]))\n"
        f"logs.configure({level!r}, 'node', as_json=settings.log.format == 'json')\n" + lines
    )
    return subprocess.run(
        [sys.executable, "-c", program, json.dumps(tables)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def test_json_has_an_events_number_and_fields_under_keys_of_their_own() -> None:
    done = say("happened(ASSOCIATION_ACCEPTED, calling_ae='US\\n1', objects=3)", log={"format": "json"})
    told = json.loads(done.stderr)  # one line
    assert (told["event"], told["fields"]["objects"], told["level"], told["process"]) == (
        1001,
        3,
        "info",
        "node",
    )
    assert told["time"].endswith("Z")


def test_no_library_speaks_of_patients_even_when_it_is_imported_late() -> None:
    program = """
import logging
from dicom_node.base import logs
logs.configure("debug", "test")
import pydicom, pynetdicom  # sets the level of its loggers while it is imported
logging.getLogger("pydicom").warning("Invalid value for VR PN: 'Doe^Jane'")
logging.getLogger("pynetdicom.events").error("(0010,0010) Doe^Jane")
logging.getLogger("dicom_node.base.events").info("[6002] ready")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Doe" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if "ready" in line]
    assert line.split()[0].endswith("Z"), "UTC"


def test_nobody_outside_writes_a_line_of_its_own() -> None:
    program = """
import logging
from dicom_node.base import logs
from dicom_node.base.events import ASSOCIATION_REJECTED, happened
logs.configure("info", "test")
forged = ("EVIL\\n2026-01-01T00:00:00.000Z INFO node: [6002] ready\\x9b31m\\u202e")
happened(ASSOCIATION_REJECTED, calling_ae=forged)
try:
    raise ValueError("Invalid value: Doe^Jane")
except ValueError as error:
    logging.getLogger("dicom_node").error("association failed", exc_info=error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second, *trace = done.stderr.splitlines()
    assert r"EVIL\n2026-01-01T00:00:00.000Z INFO node: [6002] ready\x9b31m\u202e" in first
    assert second.endswith("association failed")
    assert trace[-1] == "ValueError", "of what kind, and where; not what it says"
    assert "Doe" not in done.stderr


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


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    first = load_or_create(tmp_path)
    path = path_of(tmp_path)
    assert path == tmp_path / "keys" / "site.key"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert len(bytes.fromhex(path.read_text(encoding="ascii"))) == 32
    assert load_or_create(tmp_path) == first
    assert [item.name for item in path.parent.iterdir()] == ["site.key"]


def test_processes_that_start_together_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len({key.derive("same") for key in pool.map(load_or_create, [tmp_path] * 16)}) == 1


def test_the_derivation_is_that_of_rfc_5869_and_never_changes() -> None:
    expected = "d0cb051fbea050041e3150cdaeeac6c3cfdc42a83226c322756543e8da49373e"
    assert SiteKey(bytes(32)).derive("fixed").hex() == expected


@pytest.mark.parametrize(
    ("mode", "folder_mode", "remedy"),
    [(0o640, 0o700, "chmod 600"), (0o604, 0o700, "chmod 600"), (0o660, 0o700, "chmod 600"),
     (0o600, 0o770, "chmod 700")],
)  # fmt: skip
def test_a_key_that_others_may_read_or_exchange_is_refused_with_the_remedy(
    tmp_path: Path, mode: int, folder_mode: int, remedy: str
) -> None:
    load_or_create(tmp_path)
    path_of(tmp_path).chmod(mode)
    path_of(tmp_path).parent.chmod(folder_mode)
    with pytest.raises(ConfigurationError, match=remedy) as refused:
        load_or_create(tmp_path)
    assert refused.value.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize("content", ["", "ab" * 31, "no key at all", "zz" * 32])
def test_a_broken_key_is_refused_and_not_made_anew(tmp_path: Path, content: str) -> None:
    load_or_create(tmp_path)
    path_of(tmp_path).write_text(content, encoding="ascii")
    with pytest.raises(ConfigurationError, match="backup"):
        load_or_create(tmp_path)
    assert path_of(tmp_path).read_text(encoding="ascii") == content


OUTBOX = OutboxSettings(retry_seconds=2, retry_limit_seconds=300)


@pytest.fixture
def rows(database: Database) -> Stored:
    """Two that are due, the first one for longer."""
    stored, now = Stored(database), utc_now()
    known = {"rule": "hook", "subject": "", "text": "", "content": {}, "created_at": now}
    due = [now - timedelta(minutes=minutes) for minutes in (2, 1)]
    stored.add(*(Notification(key=str(at), next_at=at, **known) for at in due))
    return stored


def lane(rows: Stored, came: Any, owner: str = "us") -> Any:
    """``came``: what comes of its tries, in turn, or a function that does each."""
    made: Any = Notifier(rows.database, Settings(outbox=OUTBOX), owner)
    made.work = Mock(side_effect=came)
    return made


def tried(made: Any) -> list[int]:
    return [call.args[0].id for call in made.work.call_args_list]


def told(rows: Stored) -> list[tuple[str, int, str]]:
    return [(row.state.value, row.attempts, row.reason) for row in rows.rows(Notification)]


def test_what_came_of_a_try_is_in_its_row(rows: Stored) -> None:
    made = lane(rows, [Retry("away"), Done("late"), Failed("no")])
    assert made.run_once() == 1
    assert told(rows) == [("pending", 1, "away"), ("sent", 1, "late")]
    assert made.run_once() == 0
    assert timedelta() < rows.rows(Notification)[0].next_at - utc_now()
    rows.put(Notification, 1, next_at=utc_now())
    assert made.run_once() == 0
    assert (told(rows)[0], tried(made)) == (("failed", 2, "no"), [1, 2, 1])


def test_each_is_tried_once_a_turn_and_what_was_not_tried_is_not_counted(rows: Stored) -> None:
    made = lane(rows, [NotYet(), Retry("busy", timedelta()), Done()])
    assert (made.run_once(), tried(made)) == (1, [1, 1, 2])
    assert [attempts for _, attempts, _ in told(rows)] == [1, 1]


def test_a_defect_is_raised_and_holds_up_no_other_row(rows: Stored) -> None:
    made = lane(rows, [ValueError("SECRET"), Done()])
    with pytest.raises(ValueError, match="SECRET"):
        made.run_once()
    assert (made.run_once(), told(rows)[0]) == (1, ("pending", 1, "defect of the node: ValueError"))


def test_a_row_of_ten_defects_is_given_up(rows: Stored) -> None:
    rows.put(Notification, 1, attempts=9)
    rows.put(Notification, 2, state="sent")
    with pytest.raises(ValueError, match="SECRET"):
        lane(rows, [ValueError("SECRET")]).run_once()
    assert told(rows)[0] == ("failed", 10, "defect of the node: ValueError")


def test_a_kill_loses_no_row_and_who_was_frozen_writes_over_nothing(rows: Stored) -> None:
    def frozen(row: Notification, _: threading.Event) -> Outcome:
        rows.put(Notification, row.id, state="sent", attempts=7)  # by another process, whose lease it is now
        return Failed("too late")

    with pytest.raises(KeyboardInterrupt):
        lane(rows, [KeyboardInterrupt]).run_once()
    assert lane(rows, frozen).run_once() == 0
    assert told(rows) == [("sent", 7, "")] * 2


def test_one_process_at_a_time_tries_until_it_is_to_stop(rows: Stored) -> None:
    stop = threading.Event()
    ours, theirs = lane(rows, lambda *_: stop.set() or Done()), lane(rows, [], "they")
    assert [ours.run_once(stop), theirs.run_once(), ours.run_once()] == [1, 0, 1]


@pytest.mark.parametrize(("ahead", "done"), [(timedelta(minutes=30), 0), (timedelta(days=1), 2)])
def test_a_clock_that_was_put_back_holds_up_nothing(rows: Stored, ahead: timedelta, done: int) -> None:
    rows.put(Notification, next_at=utc_now() + ahead)
    assert lane(rows, [Done(), Done()]).run_once() == done


@given(st.integers(min_value=0, max_value=10_000))
def test_a_retry_waits_at_least_half_its_turn_and_never_over_the_limit(attempts: int) -> None:
    full = min(2 * 2 ** max(attempts - 1, 0), 300)
    assert full / 2 <= wait_before_retry(attempts, OUTBOX).total_seconds() <= full
