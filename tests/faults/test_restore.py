"""Backups put back, clocks put back, power that fails: nothing decided or acknowledged is undone."""

import json
import os
import random
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.base.errors import SpoolError
from dicom_node.base.events import CLOCK_PUT_BACK, EventType
from dicom_node.base.kinds import RejectionReason, Role
from dicom_node.base.lifecycle import DeliveryState, HeldState, StudyState
from dicom_node.base.store import decision_copies, deliveries
from dicom_node.base.store.tables import DecisionRow, Delivery, HeldResult, Job, Result, Study, Withdrawal
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.people import audit, reviews
from dicom_node.people.backup import backup
from dicom_node.people.studies import release, versions, withdraw_results
from dicom_node.receive.spool import Arrival, Spool
from dicom_node.serve import node
from dicom_node.studies.indexing import compare, reindex
from tests.drill_lab import node_on, results_of, work_and_deliver
from tests.faults.kills.__main__ import with_postgres
from tests.forked import Forked
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.postgres_lab import Postgres
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import configuration, register, work

READER = audit.Person("reader", "192.0.2.7")
WHY = "that of Nowak"


opened = partial(node_on, "")


def analyse(node: Inbox, *names: str) -> None:
    node.settle(*(ultrasound(name, size=(48, 40)) for name in names))
    work(node)


def deliver(node: Inbox) -> None:
    """As long as something is due."""
    outbox = DeliveryWorker(node.database, node.settings)
    while outbox.run_once():
        pass


def uid(name: str) -> str:
    return str(ultrasound(name).StudyInstanceUID)


def restored(node: Inbox, saved: Path, pacs: Pacs, *, assess_first: bool = False) -> Inbox:
    node.close()
    backup.restore(node.settings, saved)
    return opened(node.folder, pacs, assess_first=assess_first)


def reindexed(node: Inbox) -> None:
    reindex(node.database, node.spool, node.files, lambda *_: None)
    node.settle()
    work(node)


def acts(node: Inbox) -> list[tuple[str, str]]:
    rows = reversed(node.read(audit.rows))
    return [(row["actor"], row["action"]) for row in rows if row["actor"] == "reader"]


def withdrawn(node: Inbox) -> set[str]:
    return set(
        node.scalars(select(Result.sop_instance_uid).join(Withdrawal, Withdrawal.result_id == Result.id))
    )


def reject_all(node: Inbox, name: str) -> None:
    withdraw_results(node.settings, uid(name), None, reason=RejectionReason.SAFETY, because=WHY, by=READER)


def test_what_was_withdrawn_stays_so_and_what_came_after_the_backup_is_not_sent(
    tmp_path: Path, pacs: Pacs
) -> None:
    node = opened(tmp_path / "var", pacs)
    analyse(node, "before")
    deliver(node)
    backup.backup(node.settings, [], tmp_path / "saved")
    in_pacs = dict(pacs.stored)
    analyse(node, "after")  # received, analysed, withdrawn before it was sent: the backup knows nothing of it
    for name in ("before", "after"):
        reject_all(node, name)
    gone, audited = withdrawn(node), acts(node)
    assert len(gone) == 2 and audited == [("reader", "result_withdrawn")] * 2

    node = restored(node, tmp_path / "saved", pacs)
    assert not withdrawn(node) and not acts(node), "the backup knows nothing of it"
    [first, second] = backup.reconcile_decisions(node.settings)
    assert (first["state"], second["state"]) == ("applied", "waits")
    reindexed(node)
    deliver(node)
    assert pacs.stored == in_pacs, "nothing of a study leaves while a decision on it waits"
    assert backup.apply_waiting_decisions(node.settings) == 1
    deliver(node)
    assert (withdrawn(node), acts(node)) == (gone, audited)
    assert pacs.stored == in_pacs
    assert {row.because for row in node.rows(Withdrawal)} == {WHY}
    assert backup.reconcile_decisions(node.settings) == [], "none twice"
    node.close()
    assert "Nowak" not in "".join(file.read_text() for file in decision_copies.copied(node.folder))


def test_what_was_rejected_and_accepted_stays_so(tmp_path: Path, pacs: Pacs) -> None:
    node = opened(tmp_path / "var", pacs, assess_first=True)
    analyse(node, "refused", "taken")
    backup.backup(node.settings, [], tmp_path / "saved")
    reviews.reject_results(node.settings, uid("refused"), READER, because=WHY)
    reviews.accept_results(node.settings, uid("taken"), READER)
    audited = acts(node)

    node = restored(node, tmp_path / "saved", pacs, assess_first=True)
    assert {row["state"] for row in backup.reconcile_decisions(node.settings)} == {"applied"}
    deliver(node)
    with node.database.read() as session:
        told = (
            select(Study.study_instance_uid, HeldResult.state, Delivery.state)
            .join(HeldResult, HeldResult.study_id == Study.id)
            .join(Delivery, Delivery.result_id == HeldResult.result_id)
            .distinct()
        )
        assert {tuple(row) for row in session.execute(told)} == {
            (uid("refused"), HeldState.REJECTED, DeliveryState.DISCARDED),
            (uid("taken"), HeldState.ACCEPTED, DeliveryState.CONFIRMED),
        }
    assert acts(node) == audited
    node.close()


@pytest.mark.parametrize("known", [True, False], ids=["in the backup", "after the backup"])
def test_what_was_released_with_a_choice_is_released_with_it_again(
    tmp_path: Path, pacs: Pacs, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Forked)  # each look at the versions starts an inspector
    node = opened(tmp_path / "var", pacs)
    image = ultrasound("two", size=(48, 40))
    other = changed(image, PixelData=bytes(255 - value for value in image.PixelData))

    def arrive() -> None:
        node.receive(image)
        node.receive(other)
        node.settle()

    if known:
        arrive()
    backup.backup(node.settings, [], tmp_path / "saved")
    if not known:
        arrive()
    assert node.study(image.StudyInstanceUID).state is StudyState.QUARANTINED
    taken = versions(node.settings, image.StudyInstanceUID)[-1]["number"]
    release(node.settings, image.StudyInstanceUID, [taken], READER)
    chosen = node.file_of(image.SOPInstanceUID).PixelData
    assert chosen == other.PixelData

    node = restored(node, tmp_path / "saved", pacs)
    backup.reconcile_decisions(node.settings)
    reindexed(node)
    backup.apply_waiting_decisions(node.settings)
    assert node.study(image.StudyInstanceUID).state is not StudyState.QUARANTINED
    assert node.file_of(image.SOPInstanceUID).PixelData == chosen
    assert acts(node) == [("reader", "study_released")]
    node.close()


def test_a_kill_between_commit_and_copy_loses_and_doubles_nothing(
    tmp_path: Path, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the copy, and after it but before the database knows: what the next to copy does."""
    node = opened(tmp_path / "var", pacs)
    analyse(node, "one", "two")
    for place, name in (("write_new", "one"), ("mark_copied", "two")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(decision_copies, place, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            reject_all(node, name)
    decision_copies.copy(node.database, node.settings)
    lines = [decision_copies.read(file) for file in decision_copies.copied(node.folder)]
    assert [line and line["study"] for line in lines] == [uid("one"), uid("two")]
    assert decision_copies.copy(node.database, node.settings) == 0
    assert backup.reconcile_decisions(node.settings) == []
    node.close()


def test_nothing_is_sent_after_a_copy_was_changed_until_a_person_settles_it(
    tmp_path: Path, pacs: Pacs
) -> None:
    node = opened(tmp_path / "var", pacs)
    analyse(node, "one", "two")
    reject_all(node, "one")
    [file] = decision_copies.copied(node.folder)
    file.write_text(file.read_text().replace(uid("one"), uid("two")))
    node.write(Session.execute, delete(DecisionRow))  # as of a database that was restored
    assert decision_copies.is_behind(node.database, node.settings)
    [row] = backup.reconcile_decisions(node.settings)
    assert file.name in row["waits_for"] and row["holds"]
    deliver(node)
    assert not pacs.stored
    backup.settle_decision(node.settings, row["decision"], because="the disk was damaged")
    assert backup.reconcile_decisions(node.settings) == []
    deliver(node)
    assert pacs.stored and json.dumps(acts(node)).count("result_withdrawn") == 1
    node.close()


@pytest.mark.debian("postgresql")
def test_yesterdays_database_and_todays_spool_give_the_same_pacs_content(
    tmp_path: Path, postgres: Postgres
) -> None:
    first, dump = postgres.new_database(), tmp_path / "yesterday.dump"
    with run_pacs(Pacs(free_port())) as pacs:
        node = node_on(first, tmp_path / "var", pacs)
        node.receive(*(ultrasound(name, number=n, size=(48, 40)) for name in ("one", "two") for n in (1, 2)))
        node.receive(ultrasound("waits", size=(48, 40)))
        work_and_deliver(node)
        of_yesterday = dict(pacs.stored)
        node.receive(ultrasound("queued", size=(48, 40)))
        node.settle()  # its job waits while the backup is made
        with_postgres(first, "pg_dump", "--format=custom", "--file", str(dump))

        node.receive(ultrasound("one", number=3, size=(48, 40)))  # a late object: a new revision
        node.receive(*(ultrasound("today", number=n, size=(48, 40)) for n in (1, 2)))
        work_and_deliver(node)
        content, times = dict(pacs.stored), Counter(pacs.received)
        assert len(content) > len(of_yesterday) and set(times.values()) == {1}
        node.close()

        second = postgres.new_database()
        with_postgres(second, "pg_restore", "--exit-on-error", str(dump))
        node = node_on(second, tmp_path / "var", pacs)
        assert results_of(node) == set(of_yesterday)
        assert reindex(node.database, node.spool, node.files, lambda *_: None) == 3
        work_and_deliver(node)
        assert pacs.stored == content
        assert Counter(pacs.received) == times, "what the PACS has is not sent again"
        assert results_of(node) == set(content)
        assert not str(compare(node.database, node.spool, node.files))
        assert {study.state for study in node.rows(Study)} == {StudyState.DELIVERED}
        node.close()


HOUR = timedelta(hours=1)


def test_a_node_notices_that_its_clock_was_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    inbox = Inbox(tmp_path / "var", configuration())
    inbox.settle(ultrasound("one", size=(48, 40)))
    inbox.put(Job, run_at=utc_now() + HOUR)
    said: list[tuple[EventType, dict[str, Any]]] = []
    say = lambda kind, **fields: said.append((kind, fields))
    made = node.Background(inbox.database, inbox.settings, Role.ALL, "all", say, 0)
    made._watch_clock()
    assert (said, work(inbox)) == ([], 0)
    ahead = node._ahead()
    monkeypatch.setattr(node, "_ahead", lambda: ahead - HOUR.total_seconds())
    made._watch_clock()
    made._watch_clock()
    assert [(kind, fields["seconds"]) for kind, fields in said] == [(CLOCK_PUT_BACK, 3600)]
    assert work(inbox) == 1
    inbox.put(Delivery, next_at=utc_now() + HOUR)
    assert inbox.read(deliveries.due_destinations, utc_now()) == []
    inbox.write(deliveries.clock_put_back, utc_now())
    assert inbox.read(deliveries.due_destinations, utc_now()) == ["pacs"]
    inbox.close()


@dataclass
class Recorder:
    """What was done to the disk, in order: (kind, file or name, further)."""

    done: list[tuple[str, Any, Any]] = field(default_factory=list)
    files: dict[int, int] = field(default_factory=dict)
    folders: set[int] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)
    numbers: int = 0

    def note(self, kind: str, what: Any, further: Any = None) -> None:
        with self.lock:
            self.done.append((kind, what, further))

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Put a recorder before each call that changes the disk."""
        real = {name: getattr(os, name) for name in CALLS}
        for name, call in CALLS.items():
            patch.setattr(os, name, lambda *a, _call=call, _real=real[name], **k: _call(self, _real, *a, **k))


def _open(on: Recorder, real: Callable[..., int], path: Any, flags: int, *mode: Any, **further: Any) -> int:
    with on.lock:
        file = real(path, flags, *mode, **further)
        if flags & os.O_CREAT:
            on.numbers += 1
            on.files[file] = on.numbers
            on.note("create", on.numbers, Path(path).name)
        elif flags & os.O_DIRECTORY:
            on.folders.add(file)
    return file


def _close(on: Recorder, real: Callable[..., None], file: int) -> None:
    with on.lock:
        on.files.pop(file, None)
        on.folders.discard(file)
        real(file)


def _write(on: Recorder, real: Callable[..., int], file: int, data: Any, *at: int) -> int:
    """``write``, and ``pwrite`` at a place."""
    if file not in on.files:
        return real(file, data, *at)
    with on.lock:
        place = at[0] if at else os.lseek(file, 0, os.SEEK_CUR)
        count = real(file, data, *at)
        on.note("write", on.files[file], (place, bytes(data)[:count]))
    return count


def _sync(on: Recorder, real: Callable[..., None], file: int) -> None:
    if file not in on.files and file not in on.folders:
        return real(file)
    with on.lock:
        covers = len(on.done)  # what was done before the sync began
        number = on.files.get(file)
    real(file)
    on.note("sync" if number else "sync folder", number, covers)
    return None


def _named(kind: str) -> Callable[..., None]:
    """A call that is noted with the names of its files."""

    def call(on: Recorder, real: Callable[..., None], *paths: Any, **further: Any) -> None:
        with on.lock:
            real(*paths, **further)
            on.note(kind, *(Path(path).name for path in paths))

    return call


CALLS: dict[str, Callable[..., Any]] = {
    "open": _open,
    "close": _close,
    "write": _write,
    "pwrite": _write,
    "fdatasync": _sync,
    "fsync": _sync,
    "rename": _named("rename"),
    "unlink": _named("unlink"),
}


def arrive(spool: Spool, number: int) -> tuple[str, bytes]:
    """One object in three fragments; its spool name and data set."""
    data = random.Random(number).randbytes(3000)
    incoming = spool.open(
        Arrival(f"a-{number}", "SENDER", "AINODE", "127.0.0.1", 0, datetime.now(UTC)),
        "1.2.840.10008.5.1.4.1.1.6.1",
        "1.2.3",
        "1.2.840.10008.1.2.1",
    )
    for start in range(0, 3000, 1000):
        incoming.write(data[start : start + 1000])
    return incoming.commit(), data


def disks(done: list[tuple[str, Any, Any]], moment: int, chance: random.Random) -> Iterator[dict[str, bytes]]:
    """What may be on the disk after the first ``moment`` changes: content by name."""
    past = done[:moment]
    synced = {number: covers for kind, number, covers in past if kind == "sync"}
    named = max([covers for kind, _, covers in past if kind == "sync folder"], default=0)
    of_entries = ("create", "rename", "unlink")
    loose = [at for at, (kind, *_) in enumerate(past) if at >= named and kind in of_entries]
    for kept in ([], loose, loose[: chance.randrange(len(loose) + 1)]):
        until = kept[-1] + 1 if kept else named
        for survives in (lambda: False, lambda: True, lambda: chance.random() < 0.5):
            content: dict[int, bytearray] = {}
            for at, (kind, number, further) in enumerate(past):
                if kind == "write" and (at < synced.get(number, 0) or survives()):
                    start, data = further
                    file = content.setdefault(number, bytearray())
                    file.extend(bytes(max(0, start + len(data) - len(file))))
                    file[start : start + len(data)] = data
            yield {name: bytes(content.get(number, b"")) for name, number in entries(past[:until]).items()}


def entries(done: list[tuple[str, Any, Any]]) -> dict[str, int]:
    """Number of the file by its name."""
    names: dict[str, int] = {}
    for kind, what, further in done:
        if kind == "create":
            names[further] = what
        elif kind == "rename":
            names[further] = names.pop(what)
        elif kind == "unlink":
            names.pop(what)
    return names


@pytest.mark.parametrize("senders", [1, 4])
def test_after_a_power_loss_acknowledged_objects_are_whole_and_no_part_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, senders: int
) -> None:
    spool, recorder = Spool(tmp_path, 0), Recorder()
    sent: dict[str, bytes] = {}

    def send(first: int) -> None:
        for number in range(first, first + 3):
            name, data = arrive(spool, number)
            sent[f"{name}.dcm"] = data
            recorder.note("acknowledged", f"{name}.dcm")

    with monkeypatch.context() as patch:
        recorder.watch(patch)
        threads = [threading.Thread(target=send, args=(10 * sender,)) for sender in range(senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    done, chance = recorder.done, random.Random(senders)
    assert sum(kind == "acknowledged" for kind, *_ in done) == 3 * senders
    for moment in range(len(done) + 1):
        acknowledged = {what for kind, what, _ in done[:moment] if kind == "acknowledged"}
        for disk in disks(done, moment, chance):
            visible = {name for name in disk if not name.startswith(".")}
            assert acknowledged <= visible
            for name in visible:
                assert disk[name].endswith(sent[name]), "there in part"
                assert disk[name][128:132] == b"DICM"


def test_a_file_whose_sync_failed_is_given_up_and_never_synced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux forgets the error of a failed fsync: a second one would say Success for bytes that are lost."""
    asked: list[int] = []

    def fails(file: int) -> None:
        asked.append(file)
        raise OSError(5, "Input/output error")

    spool = Spool(tmp_path, 0)
    with monkeypatch.context() as patch, pytest.raises(SpoolError):
        patch.setattr(os, "fdatasync", fails)
        arrive(spool, 1)
    assert len(asked) == 1
    assert spool.pending() == []
    spool.remove_leftovers()
    assert not list((tmp_path / "incoming").iterdir())
