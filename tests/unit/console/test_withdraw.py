"""Withdrawing results: what stops, who is told, what is left to do by hand."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

from dicom_node.config.settings import PeerSettings
from dicom_node.dicom.own_objects import is_own_result
from dicom_node.errors import NotAllowedNow
from dicom_node.model.kinds import RejectionReason, ResultKind
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.model.roles import UserRole
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.services import audit, rerun_studies, withdrawal, work
from dicom_node.store.tables import Delivery, Result, Study
from dicom_node.store.transitions import utc_now
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.unit.jobs.worker_lab import work as run_jobs
from tests.validators import dciodvfy_errors

S = DeliveryState
WHY = "that of Nowak"


@pytest.fixture
def console(node: Inbox) -> ConsoleLab:
    """A study whose results are in the PACS, which knows IOCM; two are in an archive, which does not."""
    pacs = node.settings.peers[-1].model_copy(update={"iocm": True})
    archive = pacs.model_copy(update={"name": "archive", "iocm": False})
    peers = (*node.settings.peers[:-1], pacs, archive)
    node.settings = node.settings.model_copy(update={"peers": peers})
    with node.database.write() as session:
        for delivery in session.scalars(select(Delivery)):
            delivery.state, delivery.confirmed_at = S.CONFIRMED, utc_now()
        for result in session.scalars(select(Result).order_by(Result.id).limit(2)):
            sent = {"destination": "archive", "state": S.CONFIRMED, "next_at": utc_now()}
            session.add(Delivery(result_id=result.id, **sent))
    return ConsoleLab(node.settings, node.database)


def results(console: ConsoleLab) -> list[Result]:
    with console.database.read() as session:
        rows = list(session.scalars(select(Result).order_by(Result.id)))
        session.expunge_all()
        return rows


def note(console: ConsoleLab) -> Path:
    [row] = [row for row in results(console) if row.kind is ResultKind.REJECTION]
    return console.settings.node.data_dir / row.path


def withdraw(console: ConsoleLab, *numbers: int) -> dict[str, list[str]]:
    uid = results_study(console)
    reason = RejectionReason.SAFETY
    return withdrawal.withdraw(console.settings, uid, numbers or None, reason=reason, because=WHY)


def results_study(console: ConsoleLab) -> str:
    with console.database.read() as session:
        return str(session.get_one(Study, 1).study_instance_uid)


def test_the_note_names_what_is_withdrawn_and_why(
    console: ConsoleLab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    before = results(console)
    by_hand = withdraw(console)
    assert by_hand == {"archive": [row.sop_instance_uid for row in before[:2]]}
    document = dcmread(note(console))
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
    first = dcmread(console.settings.node.data_dir / before[0].path)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert document[keyword].value == first[keyword].value, keyword
    assert is_own_result(document)
    assert "Nowak" not in caplog.text
    with console.database.read() as session:
        sent = session.scalars(select(Delivery).join(Result).where(Result.kind == ResultKind.REJECTION)).all()
        assert [(row.destination, row.state) for row in sent] == [("pacs", S.PENDING)]


@pytest.mark.debian("dicom3tools")
def test_the_note_is_valid(console: ConsoleLab) -> None:
    withdraw(console)
    assert dciodvfy_errors(note(console)) == []


def test_nothing_that_was_withdrawn_leaves_again(console: ConsoleLab) -> None:
    with console.database.write() as session:
        waiting, dead, *_ = session.scalars(select(Delivery).order_by(Delivery.id)).all()
        waiting.state, dead.state = S.PENDING, S.DEAD
    withdraw(console)
    with console.database.read() as session:
        states = [session.get_one(Delivery, number).state for number in (waiting.id, dead.id)]
    assert states == [S.DISCARDED] * 2
    with pytest.raises(NotAllowedNow, match="withdrawn"):
        work.retry_deliveries(console.settings, [dead.id])
    with pytest.raises(NotAllowedNow):
        work.send_study(console.settings, results_study(console), "archive")
    rerun_studies(console.settings, [results_study(console)])
    node = type("Node", (), {"settings": console.settings, "database": console.database})
    run_jobs(node)  # type: ignore[arg-type]
    with console.database.read() as session:
        chosen = select(Delivery.state).join(Result).where(Result.kind != ResultKind.REJECTION)
        assert set(session.scalars(chosen)) == {S.CONFIRMED, S.DISCARDED}
    with pytest.raises(NotAllowedNow, match="before"):
        withdraw(console)


def test_the_note_is_delivered_and_confirmed_like_a_result(console: ConsoleLab) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        peers = [one.model_copy(update={"port": pacs.port}) for one in console.settings.peers]
        console.settings = console.settings.model_copy(update={"peers": tuple(peers)})
        withdraw(console)
        DeliveryWorker(console.database, console.settings).run_once()
    assert pacs.received == [dcmread(note(console)).SOPInstanceUID]
    with console.database.read() as session:
        chosen = select(Delivery.state).join(Result).where(Result.kind == ResultKind.REJECTION)
        assert session.scalars(chosen).all() == [S.CONFIRMED]


def test_what_is_being_sent_is_waited_for(console: ConsoleLab) -> None:
    with console.database.write() as session:
        session.get_one(Delivery, 1).state = S.SENDING
    with pytest.raises(NotAllowedNow, match="being sent"):
        withdraw(console)
    assert not [row for row in results(console) if row.kind is ResultKind.REJECTION]


def test_an_operator_withdraws_by_page_and_the_audit_says_who(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.OPERATOR)
    browser.get("/studies/1")
    assert "75" in browser.text
    browser.get("/studies/1/withdraw")
    assert "pacs gets a rejection note" in browser.text
    numbers = re.findall(r'name="result" value="(\d+)"', browser.text)
    assert len(numbers) == len(results(console))
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
    with console.database.read() as session:
        noted = [row for row in audit.rows(session) if row["action"] == "result_withdrawn"]
    assert [(row["actor"], row["fields"]) for row in noted] == [
        ("operator", {"reason": "quality", "results": [int(numbers[0])]})
    ]


def test_notes_are_asked_for_by_their_own_key() -> None:
    with pytest.raises(ValueError, match="iocm = true"):
        PeerSettings(name="x", ae_title="X", results=("rejection",))
