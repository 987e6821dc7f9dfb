"""A backup, then persons withdraw, assess and release, then the restore: nothing of it is undone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.decisions import copies
from dicom_node.decisions.chain import DecisionChain
from dicom_node.model.kinds import RejectionReason
from dicom_node.model.lifecycle import DeliveryState, HeldState, StudyState
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.services import assessments, audit, backup, decisions, deliveries, jobs
from dicom_node.services.audit import Person
from dicom_node.services.results import withdraw
from dicom_node.services.studies import release, versions
from dicom_node.store.accounts import Withdrawal
from dicom_node.store.tables import DecisionRow, Delivery, HeldResult, Result, Study
from dicom_node.studies.comparison import reindex
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import Worker, configuration, register

READER = Person("reader", "192.0.2.7")
WHY = "that of Nowak"


def opened(folder: Path, pacs: Pacs, *, assess_first: bool = False) -> Inbox:
    register()
    config = configuration()
    config["outbox"] = {"retry_seconds": 0.05, "retry_limit_seconds": 0.2}
    config["peers"][1] |= {"port": pacs.port, "results": ["sr", "sc"]}
    config["rules"][0]["assess_first"] = assess_first
    return Inbox(folder, config)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with run_pacs(Pacs(free_port())) as running:
        yield running


def analyse(node: Inbox, *names: str) -> None:
    node.receive(*(ultrasound(name, size=(48, 40)) for name in names))
    node.settle()
    run_jobs(node)


def run_jobs(node: Inbox) -> None:
    worker = Worker(node.settings, node.database)
    while worker.run_once():
        pass


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
    run_jobs(node)


def acts(node: Inbox) -> list[tuple[str, str]]:
    with node.database.read() as session:
        rows = reversed(audit.rows(session))
        return [(row["actor"], row["action"]) for row in rows if row["actor"] == "reader"]


def withdrawn(node: Inbox) -> set[str]:
    with node.database.read() as session:
        rows = select(Result.sop_instance_uid).join(Withdrawal, Withdrawal.result_id == Result.id)
        return set(session.scalars(rows))


def reject_all(node: Inbox, name: str) -> None:
    withdraw(node.settings, uid(name), None, reason=RejectionReason.SAFETY, because=WHY, by=READER)


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
    assert len(gone) == 4 and audited == [("reader", "result_withdrawn")] * 2

    node = restored(node, tmp_path / "saved", pacs)
    assert not withdrawn(node) and not acts(node), "the backup knows nothing of it"
    [first, second] = decisions.reconcile(node.settings)
    assert (first["state"], second["state"]) == ("applied", "waits")
    reindexed(node)
    deliver(node)
    assert pacs.stored == in_pacs, "nothing of a study leaves while a decision on it waits"
    assert decisions.apply_waiting(node.settings) == 1
    deliver(node)
    assert (withdrawn(node), acts(node)) == (gone, audited)
    assert pacs.stored == in_pacs
    with node.database.read() as session:
        assert {row.because for row in session.scalars(select(Withdrawal))} == {WHY}
    assert decisions.reconcile(node.settings) == [], "none twice"
    node.close()
    assert "Nowak" not in lines(node.folder)


def test_what_was_rejected_and_accepted_stays_so(tmp_path: Path, pacs: Pacs) -> None:
    node = opened(tmp_path / "var", pacs, assess_first=True)
    analyse(node, "refused", "taken")
    backup.backup(node.settings, [], tmp_path / "saved")
    assessments.reject_results(node.settings, uid("refused"), READER, because=WHY)
    assessments.accept_results(node.settings, uid("taken"), READER)
    audited = acts(node)

    node = restored(node, tmp_path / "saved", pacs, assess_first=True)
    assert {row["state"] for row in decisions.reconcile(node.settings)} == {"applied"}
    deliver(node)
    with node.database.read() as session:
        told = select(Study.study_instance_uid, HeldResult.state, Delivery.state).distinct()
        told = told.join(HeldResult, HeldResult.study_id == Study.id)
        told = told.join(Delivery, Delivery.result_id == HeldResult.result_id)
        assert {tuple(row) for row in session.execute(told)} == {
            (uid("refused"), HeldState.REJECTED, DeliveryState.DISCARDED),
            (uid("taken"), HeldState.ACCEPTED, DeliveryState.CONFIRMED),
        }
    assert acts(node) == audited
    node.close()


@pytest.mark.parametrize("known", [True, False], ids=["in the backup", "after the backup"])
def test_what_was_released_with_a_choice_is_released_with_it_again(
    tmp_path: Path, pacs: Pacs, known: bool
) -> None:
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
    decisions.reconcile(node.settings)
    reindexed(node)
    decisions.apply_waiting(node.settings)
    assert node.study(image.StudyInstanceUID).state is not StudyState.QUARANTINED
    assert node.file_of(image.SOPInstanceUID).PixelData == chosen
    assert acts(node) == [("reader", "study_released")]
    node.close()


def test_what_was_discarded_and_cancelled_is_not_sent(tmp_path: Path, pacs: Pacs) -> None:
    node = opened(tmp_path / "var", pacs)
    analyse(node, "sent never")
    node.receive(ultrasound("no job", size=(48, 40)))
    node.settle()
    backup.backup(node.settings, [], tmp_path / "saved")
    with node.database.read() as session:
        waiting = list(session.scalars(select(Delivery.id)))
    deliveries.discard(node.settings, waiting, because=WHY, by=READER)
    jobs.change_jobs(node.settings, [node.jobs()[-1].id], "cancel", READER)

    node = restored(node, tmp_path / "saved", pacs)
    run_jobs(node)  # the worker was quicker than the decision
    decisions.reconcile(node.settings)
    deliver(node)
    assert not pacs.stored
    assert acts(node) == [("reader", "discarded"), ("reader", "job_changed")]
    node.close()


def lines(folder: Path) -> str:
    return "".join(file.read_text() for file in (folder / copies.FOLDER).glob("*.jsonl"))


def test_a_kill_between_commit_and_copy_loses_and_doubles_nothing(
    tmp_path: Path, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the copy, and after it but before the database knows: what the next to copy does."""
    node = opened(tmp_path / "var", pacs)
    analyse(node, "one", "two")
    for place in ("locked", "mark_copied"):
        owner = DecisionChain if place == "locked" else copies.decisions
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, place, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            reject_all(node, "one" if place == "locked" else "two")
    copies.copy(node.database, node.settings)
    content = DecisionChain(node.folder / copies.FOLDER / f"{copies.machine()}.jsonl").read()
    assert [line["study"] for line in content.lines] == [uid("one"), uid("two")]
    assert not content.faults
    assert copies.copy(node.database, node.settings) == 0
    assert decisions.reconcile(node.settings) == []
    node.close()


def test_nothing_is_sent_after_a_line_was_changed_until_a_person_settles_it(
    tmp_path: Path, pacs: Pacs
) -> None:
    node = opened(tmp_path / "var", pacs)
    analyse(node, "one", "two")
    reject_all(node, "one")
    file = node.folder / copies.FOLDER / f"{copies.machine()}.jsonl"
    file.write_text(file.read_text().replace(uid("one"), uid("two")))
    [row] = decisions.reconcile(node.settings)
    assert "line 1 was changed" in row["waits_for"] and row["holds"]
    deliver(node)
    assert not pacs.stored
    decisions.settle(node.settings, row["decision"], because="the disk was damaged")
    assert decisions.reconcile(node.settings) == []
    deliver(node)
    assert pacs.stored and json.dumps(acts(node)).count("result_withdrawn") == 1
    node.close()


def test_lines_that_were_cut_off_are_written_again(tmp_path: Path, pacs: Pacs) -> None:
    node = opened(tmp_path / "var", pacs)
    analyse(node, "one", "two")
    for name in ("one", "two"):
        reject_all(node, name)
    file = node.folder / copies.FOLDER / f"{copies.machine()}.jsonl"
    whole = file.read_text()
    file.write_text(whole.splitlines(keepends=True)[0])
    decisions.reconcile(node.settings)
    copies.copy(node.database, node.settings)
    assert [json.loads(line)["study"] for line in lines(node.folder).splitlines()] == [uid("one"), uid("two")]
    with node.database.read() as session:
        assert all(row.copied for row in session.scalars(select(DecisionRow)))
    node.close()
