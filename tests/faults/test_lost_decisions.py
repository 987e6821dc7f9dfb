"""A restored database lacks what persons decided since: it is done again before anything is sent."""

import json
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.base.events import NODE_KILLED
from dicom_node.base.lifecycle import DeliveryState, HeldState, RejectionReason, StudyState
from dicom_node.base.store.tables import DecisionRow, Delivery, HeldResult, Result, Study, Withdrawal
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.people import audit, backup, held_results, lost_decisions, withdrawal
from dicom_node.people.processes import Sign, SignsOfLife
from dicom_node.people.studies import release, versions
from dicom_node.people.withdrawal import withdraw_results
from dicom_node.studies.reconciliation import compare
from tests.faults.fault_lab import analyse, node_on, results_of, uid, work_and_deliver
from tests.faults.kills import with_postgres
from tests.forked import Forked
from tests.inbox_lab import Inbox
from tests.modality import ultrasound, ultrasounds
from tests.pacs_lab import Pacs, run_pacs
from tests.postgres_lab import POSTGRESQL, Postgres
from tests.unit.jobs.worker_lab import work
from tests.unit.receive.objects import changed

READER = audit.Person("reader", "192.0.2.7")
WHY = "that of Nowak"


opened = partial(node_on, "")


def deliver(node: Inbox) -> None:
    """As long as something is due."""
    outbox = DeliveryWorker(node.database, node.settings)
    while outbox.run_once():
        pass


def restored(node: Inbox, saved: Path, pacs: Pacs, *, assess_first: bool = False) -> Inbox:
    node.close()
    backup.restore(node.settings, saved)
    return opened(node.folder, pacs, assess_first=assess_first)


def reindexed(node: Inbox) -> None:
    node.reindex()
    node.settle()
    work(node)


def test_a_node_that_was_stopped_before_a_restore_is_not_called_killed(tmp_path: Path, pacs: Pacs) -> None:
    node = opened(tmp_path / "node", pacs)
    working = SignsOfLife(node.database, "all", "vm/all")
    working.report([Sign("main", 7)], ["all"])
    backup.backup(node.settings, [], tmp_path / "saved")
    working.leave()
    again = restored(node, tmp_path / "saved", pacs)
    SignsOfLife(again.database, "all", "vm/all").note_killed()
    assert again.events(NODE_KILLED.number) == []


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
    assert len(gone) == 2
    assert audited == [("reader", "result_withdrawn")] * 2

    node = restored(node, tmp_path / "saved", pacs)
    assert not withdrawn(node), "the backup knows nothing of it"
    assert not acts(node), "the backup knows nothing of it"
    [first, second] = lost_decisions.reconcile_decisions(node.settings)
    assert (first["state"], second["state"]) == ("applied", "waits")
    reindexed(node)
    deliver(node)
    assert pacs.stored == in_pacs, "nothing of a study leaves while a decision on it waits"
    assert lost_decisions.apply_waiting_decisions(node.settings) == 1
    deliver(node)
    assert (withdrawn(node), acts(node)) == (gone, audited)
    assert pacs.stored == in_pacs
    assert set(node.column(Withdrawal.because)) == {WHY}
    assert lost_decisions.reconcile_decisions(node.settings) == [], "none twice"
    node.close()
    assert "Nowak" not in "".join(file.read_text() for file in audit.copied_decisions(node.folder))


def test_what_was_sent_after_the_backup_and_then_withdrawn_is_taken_back_again(
    tmp_path: Path, pacs: Pacs
) -> None:
    node = opened(tmp_path / "var", pacs)
    analyse(node, "one")
    backup.backup(node.settings, [], tmp_path / "saved")
    deliver(node)
    [sent] = pacs.stored
    reject_all(node, "one")

    node = restored(node, tmp_path / "saved", pacs)
    lost_decisions.reconcile_decisions(node.settings)
    left = node.read(withdrawal.results_to_withdraw, node.settings, 1)["by_hand"]
    assert left == {"pacs": [sent]}
    node.close()


def test_what_was_rejected_and_accepted_stays_so_but_where_a_person_has_decided_again(
    tmp_path: Path, pacs: Pacs
) -> None:
    node = opened(tmp_path / "var", pacs, assess_first=True)
    analyse(node, "refused", "taken", "again")
    backup.backup(node.settings, [], tmp_path / "saved")
    for name in ("refused", "again"):
        held_results.reject_results(node.settings, uid(name), READER, because=WHY)
    held_results.accept_results(node.settings, uid("taken"), READER)

    node = restored(node, tmp_path / "saved", pacs, assess_first=True)
    held_results.accept_results(
        node.settings, uid("again"), READER
    )  # sooner than the node applies the lost one
    assert {row["state"] for row in lost_decisions.reconcile_decisions(node.settings)} == {"applied"}
    deliver(node)
    with node.database.read() as session:
        assert {
            tuple(row)
            for row in session.execute(
                select(Study.study_instance_uid, HeldResult.state, Delivery.state)
                .join(HeldResult, HeldResult.study_id == Study.id)
                .join(Delivery, Delivery.result_id == HeldResult.result_id)
            )
        } == {
            (uid("refused"), HeldState.REJECTED, DeliveryState.DISCARDED),
            (uid("taken"), HeldState.ACCEPTED, DeliveryState.CONFIRMED),
            (uid("again"), HeldState.ACCEPTED, DeliveryState.CONFIRMED),
        }
    assert acts(node) == [("reader", "results_assessed")] * 4
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
    assert node.study_of(image).state is StudyState.QUARANTINED
    taken = versions(node.settings, image.StudyInstanceUID)[-1]["number"]
    release(node.settings, image.StudyInstanceUID, [taken], READER)
    chosen = node.file_of(image).PixelData
    assert chosen == other.PixelData

    node = restored(node, tmp_path / "saved", pacs)
    lost_decisions.reconcile_decisions(node.settings)
    reindexed(node)
    lost_decisions.apply_waiting_decisions(node.settings)
    assert node.study_of(image).state is not StudyState.QUARANTINED
    assert node.file_of(image).PixelData == chosen
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
            patch.setattr(audit, place, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            reject_all(node, name)
    audit.copy_decisions(node.database, node.settings)
    lines = [audit.read_decision(file) for file in audit.copied_decisions(node.folder)]
    assert [line and line["study"] for line in lines] == [uid("one"), uid("two")]
    assert audit.copy_decisions(node.database, node.settings) == 0
    assert lost_decisions.reconcile_decisions(node.settings) == []
    node.close()


def test_nothing_is_sent_after_a_copy_was_changed_until_a_person_settles_it(
    tmp_path: Path, pacs: Pacs
) -> None:
    node = opened(tmp_path / "var", pacs)
    analyse(node, "one", "two")
    reject_all(node, "one")
    [file] = audit.copied_decisions(node.folder)
    file.write_text(file.read_text().replace(uid("one"), uid("two")))
    node.write(Session.execute, delete(DecisionRow))  # as of a database that was restored
    assert audit.is_behind(node.database, node.settings)
    [row] = lost_decisions.reconcile_decisions(node.settings)
    assert file.name in row["waits_for"]
    assert row["holds"]
    deliver(node)
    assert not pacs.stored
    lost_decisions.settle_decision(node.settings, row["decision"], because="the disk was damaged")
    assert lost_decisions.reconcile_decisions(node.settings) == []
    deliver(node)
    assert pacs.stored
    assert json.dumps(acts(node)).count("result_withdrawn") == 1
    node.close()


@POSTGRESQL
def test_yesterdays_database_and_todays_spool_give_the_same_pacs_content(
    tmp_path: Path, postgres: Postgres
) -> None:
    first, dump = postgres.new_database(), tmp_path / "yesterday.dump"
    with run_pacs(Pacs()) as pacs:
        node = node_on(first, tmp_path / "var", pacs)
        node.receive(*(ultrasound(name, number=n, size=(48, 40)) for name in ("one", "two") for n in (1, 2)))
        node.receive(ultrasound("waits", size=(48, 40)))
        work_and_deliver(node)
        of_yesterday = dict(pacs.stored)
        node.receive(ultrasound("queued", size=(48, 40)))
        node.settle()  # its job waits while the backup is made
        with_postgres(first, "pg_dump", "--format=custom", "--file", str(dump))

        node.receive(ultrasound("one", number=3, size=(48, 40)))  # a late object: a new revision
        node.receive(*ultrasounds("today", 2, size=(48, 40)))
        work_and_deliver(node)
        content, times = dict(pacs.stored), Counter(pacs.received)
        assert len(content) > len(of_yesterday)
        assert set(times.values()) == {1}
        node.close()

        second = postgres.new_database()
        with_postgres(second, "pg_restore", "--exit-on-error", str(dump))
        node = node_on(second, tmp_path / "var", pacs)
        assert results_of(node) == set(of_yesterday)
        assert node.reindex() == 3
        work_and_deliver(node)
        assert pacs.stored == content
        assert Counter(pacs.received) == times, "what the PACS has is not sent again"
        assert results_of(node) == set(content)
        assert not str(compare(*node.stores))
        assert set(node.column(Study.state)) == {StudyState.DELIVERED}
        node.close()
