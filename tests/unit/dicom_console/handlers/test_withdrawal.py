"""Results are withdrawn: the note that says so, and that nothing of them leaves again."""

import logging
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom import dcmread
from sqlalchemy import delete, select

from dicom_node.base.dicom.uids import is_own_result
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import (
    DeliveryState,
    ReaderVerdict,
    RejectionReason,
    ResultKind,
    StudyState,
    UserRole,
)
from dicom_node.base.store.tables import AuditRow, Delivery, Result, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.deliver.scu import Confirmation, Outgoing, Presence, SendReport, SendStatus
from dicom_node.people import audit, held_results, outbox, studies, verdicts, withdrawal
from tests.console_lab import ConsoleLab, console_of
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.postgres_lab import POSTGRESQL
from tests.unit.dicom_console.decisions_lab import (
    EVA,
    READER,
    UID,
    another,
    assess_first,
    instead_of_pacs,
    results,
    say,
)
from tests.unit.dicom_console.illustrated import illustrated
from tests.unit.jobs.worker_lab import work

S = DeliveryState


WHY = "that of Nowak"


@pytest.fixture
def retracted(node: Inbox) -> ConsoleLab:
    """A study whose results are in the PACS, which knows IOCM; two are in an archive, which does not."""
    instead_of_pacs(node, {"iocm": True}, {"name": "archive"})
    node.put(Delivery, state=S.CONFIRMED, confirmed_at=utc_now())
    for result in node.rows(Result)[:2]:
        node.add(Delivery(result_id=result.id, destination="archive", state=S.CONFIRMED, next_at=utc_now()))
    return console_of(node)


def note(retracted: ConsoleLab) -> Path:
    [row] = results(retracted, ResultKind.REJECTION)
    return retracted.settings.node.data_dir / row.path


def withdraw(retracted: ConsoleLab, *numbers: int) -> dict[str, list[str]]:
    return withdrawal.withdraw_results(
        retracted.settings, UID, numbers or None, reason=RejectionReason.SAFETY, because=WHY
    )


def test_the_note_names_what_is_withdrawn_and_why(
    retracted: ConsoleLab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    before = retracted.rows(Result)
    assert withdraw(retracted) == {"archive": [row.sop_instance_uid for row in before[:2]]}
    document = dcmread(note(retracted))
    title = document.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113037", "DCM")
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in document.ContentSequence
        if "ReferencedSOPSequence" in item
    }
    evidence = {
        item.ReferencedSOPInstanceUID
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == evidence == {row.sop_instance_uid for row in before}
    assert [item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT"][-1] == WHY
    first = dcmread(retracted.settings.node.data_dir / before[0].path)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert document[keyword].value == first[keyword].value, keyword
    assert is_own_result(document)
    assert "Nowak" not in caplog.text
    sent = retracted.scalars(select(Delivery).join(Result).where(Result.kind == ResultKind.REJECTION))
    assert [(row.destination, row.state) for row in sent] == [("pacs", S.PENDING)]


def test_what_has_no_file_any_more_is_named_for_removal_by_hand(retracted: ConsoleLab) -> None:
    before = retracted.rows(Result)
    for row in before:
        (retracted.settings.node.data_dir / row.path).unlink()
    retracted.put(Result, purged=True)
    assert set(withdraw(retracted)["pacs"]) == {row.sop_instance_uid for row in before}
    assert ResultKind.REJECTION not in set(retracted.column(Result.kind))


def test_nothing_that_was_withdrawn_leaves_again(retracted: ConsoleLab, node: Inbox) -> None:
    for number, state in ((1, S.PENDING), (2, S.DEAD)):
        retracted.put(Delivery, number, state=state)
    withdraw(retracted)
    assert [retracted.get(Delivery, number).state for number in (1, 2)] == [S.DISCARDED] * 2
    for way, says in (
        (lambda: outbox.send_again(retracted.settings, [2]), "withdrawn"),
        (lambda: outbox.send_study(retracted.settings, UID, "archive"), "."),
    ):
        with pytest.raises(NotAllowedNow, match=says):
            way()
    studies.rerun_rules(retracted.settings, [UID])
    work(node)
    chosen = select(Delivery.state).join(Result).where(Result.kind != ResultKind.REJECTION)
    assert set(retracted.scalars(chosen)) == {S.CONFIRMED, S.DISCARDED}
    with pytest.raises(NotAllowedNow, match="before"):
        withdraw(retracted)


def test_what_is_being_sent_is_waited_for(retracted: ConsoleLab) -> None:
    retracted.put(Delivery, 1, state=S.SENDING)
    with pytest.raises(NotAllowedNow, match="being sent"):
        withdraw(retracted)
    assert not results(retracted, ResultKind.REJECTION)


def delivered(retracted: ConsoleLab) -> list[str]:
    """What leaves from now on, until nothing is due, to a destination that shows only what it got by that."""
    sent: list[str] = []

    def send(objects: Sequence[Outgoing]) -> list[SendReport]:
        sent.extend(one.sop_instance_uid for one in objects)
        return [SendReport(SendStatus.STORED, "0000")] * len(objects)

    def confirm(objects: Sequence[Outgoing]) -> list[Confirmation]:
        return [
            Confirmation(Presence.FOUND if one.sop_instance_uid in sent else Presence.NOT_FOUND)
            for one in objects
        ]

    opened = Mock(return_value=Mock(send=send, confirm=confirm))
    worker = DeliveryWorker(retracted.database, retracted.settings, open_destination=opened)
    for _ in range(6):
        worker.run_once()
    return sent


def test_a_withdrawn_result_that_the_peer_does_not_show_is_not_sent_again(retracted: ConsoleLab) -> None:
    [doubtful, *_] = retracted.rows(Delivery)
    retracted.put(
        Delivery, doubtful.id, state=S.UNCONFIRMED, sent_at=None, confirmed_at=None, next_at=utc_now()
    )
    withdraw(retracted)
    assert delivered(retracted) == [dcmread(note(retracted)).SOPInstanceUID]
    states = {row.state for row in retracted.rows(Delivery) if row.result_id == doubtful.result_id}
    assert S.DISCARDED in states
    assert not {S.PENDING, S.DEAD, S.UNCONFIRMED} & states


def test_the_note_goes_though_the_rules_are_run_again_or_the_study_is_in_quarantine(
    retracted: ConsoleLab,
) -> None:
    withdraw(retracted)
    studies.rerun_rules(retracted.settings, [UID])
    retracted.put(Study, 1, state=StudyState.QUARANTINED)
    assert delivered(retracted) == [dcmread(note(retracted)).SOPInstanceUID]


@pytest.mark.parametrize("state", [S.CANCELLED, S.DEAD, S.DISCARDED])
def test_who_did_not_take_the_note_is_listed_by_hand(retracted: ConsoleLab, state: DeliveryState) -> None:
    withdraw(retracted)
    retracted.put(Delivery, retracted.rows(Delivery)[-1].id, state=state)
    shown = retracted.read(withdrawal.results_to_withdraw, retracted.settings, 1)["by_hand"]
    assert len(shown["pacs"]) == len(shown["archive"]) + len(retracted.rows(Result)) - 1 - 2


def test_a_withdrawal_that_was_killed_half_way_is_made_again(
    retracted: ConsoleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As kill -9 does, after the file has its name and before the commit.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(withdrawal, "_by_hand", Mock(side_effect=KeyboardInterrupt))
        withdraw(retracted)
    files = list((retracted.settings.node.data_dir / "results").rglob("*.dcm"))
    withdraw(retracted)
    assert note(retracted) in files


def test_a_replaced_report_does_not_come_back_when_the_newest_is_withdrawn(retracted: ConsoleLab) -> None:
    [old, *_] = results(retracted, ResultKind.SR)
    retracted.add(newest := another(old, sop_instance_uid="2.25.99", supersedes=old.sop_instance_uid))
    withdraw(retracted, newest.id)
    assert "No report yet" in retracted.at("/studies/1", UserRole.VIEWER).text


def test_an_operator_withdraws_by_page_and_the_audit_says_who(retracted: ConsoleLab) -> None:
    browser = retracted.at("/studies/1", UserRole.OPERATOR)
    assert "75" in browser.text
    assert (
        "A rejection note (IHE IOCM), after which the results are hidden or deleted, goes to pacs"
        in browser.page("/studies/1/withdraw")
    )
    numbers = re.findall(r'name="result" value="(\d+)"', browser.text)
    assert len(numbers) == len(retracted.rows(Result))
    for fields, status in (
        ({"reason": "quality", "because": "x", "result": numbers[0]}, 409),
        ({"reason": "boredom", "because": WHY, "result": numbers[0]}, 400),
        ({"reason": "quality", "because": WHY}, 409),
        ({"reason": "quality", "because": WHY, "result": "9999"}, 404),
        ({"reason": "quality", "because": WHY, "result": numbers[0]}, 303),
    ):
        assert browser.post("/studies/1/withdraw", **fields) == status, fields
    browser.follow()
    assert "To be removed by hand" in browser.text
    assert WHY in browser.text
    browser.get("/studies/1")
    assert browser.text.count(">withdrawn</span>") == 2  # in a line for each of its two destinations
    assert "No report yet" in browser.text
    noted = [row for row in retracted.read(audit.rows) if row["action"] == "result_withdrawn"]
    kept = retracted.scalars(select(AuditRow.fields).where(AuditRow.action == "result_withdrawn"))
    # The words may name a patient: an admin reads them here, but no other system gets them with the audit.
    assert kept == [{"reason": "quality", "results": [int(numbers[0])]}]
    assert [(row["actor"], row["fields"]) for row in noted] == [("operator", kept[0])]


def test_who_runs_a_withdrawn_study_again_is_told_that_the_same_results_stay_away(
    retracted: ConsoleLab, node: Inbox
) -> None:
    withdraw(retracted)
    said = "The same results are never sent again: change an option of the rule, or the model"
    assert said in retracted.at("/studies/1", UserRole.OPERATOR).text
    [row] = studies.rerun_rules(node.settings, [UID])
    assert row["queued"]
    assert "the same ones are never sent again" in row["reason"]


def test_a_result_that_goes_to_nobody_is_not_called_one_that_waits(node: Inbox) -> None:
    first, second, *_ = node.rows(Result)
    node.write(lambda session: session.execute(delete(Delivery).where(Delivery.result_id == first.id)))
    page = console_of(node).at("/studies/1/withdraw", UserRole.OPERATOR).text
    shown = re.findall(r'name="result" value="(\d+)"[^>]*> <span>(.*?)</span>', page)
    lines = {int(number): words for number, words in shown}
    assert ", goes to nobody" in lines[first.id]
    assert ", not sent yet" in lines[second.id]


@POSTGRESQL
def test_a_sender_that_comes_in_between_gets_nothing(
    open_inbox: Callable[..., Inbox], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = open_inbox(illustrated(), url=postgres_url)
    node.settle(ultrasound("one"))
    work(node)
    worker = DeliveryWorker(
        node.database,
        node.settings,
        open_destination=lambda _peer, _settings: Mock(spec=["close"]),
    )
    original = withdrawal._chosen

    def chosen(*arguments: Any) -> Any:
        found = original(*arguments)
        worker.run_once()
        return found

    monkeypatch.setattr(withdrawal, "_chosen", chosen)
    assert set(node.column(Delivery.state)) == {S.PENDING}
    withdrawal.withdraw_results(node.settings, UID, None, reason=RejectionReason.SAFETY, because="of another")
    assert set(node.column(Delivery.state)) == {S.DISCARDED}


@POSTGRESQL
def test_a_finding_is_not_rejected_while_its_results_are_accepted(
    open_inbox: Callable[..., Inbox], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = open_inbox(assess_first(), url=postgres_url)
    node.settle(ultrasound("one"))
    work(node)
    other = threading.Thread(target=say, args=(node, ReaderVerdict.REJECTED, EVA, 0, "a rib"))
    original, waited = verdicts.with_verdicts, []

    def contested(*arguments: Any) -> Any:
        found = original(*arguments)
        if threading.current_thread() is not other:
            other.start()
            other.join(0.5)
            waited.append(other.is_alive())
        return found

    monkeypatch.setattr(held_results, "with_verdicts", contested)
    held_results.accept_results(node.settings, UID, READER)
    other.join(20)
    assert waited == [True]
    assert not other.is_alive()
