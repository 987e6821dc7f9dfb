"""Withdrawing results: what stops, who is told, what is left to do by hand."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from pydicom import dcmread
from sqlalchemy import select

from dicom_node.config.settings import PeerSettings
from dicom_node.dicom.own_objects import is_own_result
from dicom_node.errors import NotAllowedNow
from dicom_node.model.kinds import RejectionReason, ResultKind
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.scu import Confirmation, Outgoing, Presence, SendReport, SendStatus
from dicom_node.scu.destination import Check
from dicom_node.services import audit, deliveries
from dicom_node.services import results as withdrawal
from dicom_node.services.studies import rerun_rules
from dicom_node.store.accounts import AuditRow
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


def test_what_has_no_file_any_more_is_named_for_removal_by_hand(console: ConsoleLab) -> None:
    with console.database.write() as session:
        for row in session.scalars(select(Result)):
            (console.settings.node.data_dir / row.path).unlink()
            row.purged = True
    before = [row.sop_instance_uid for row in results(console)]
    by_hand = withdraw(console)
    assert set(by_hand["pacs"]) == set(before)
    assert ResultKind.REJECTION not in {row.kind for row in results(console)}


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
        deliveries.retry(console.settings, [dead.id])
    with pytest.raises(NotAllowedNow):
        deliveries.send_study(console.settings, results_study(console), "archive")
    rerun_rules(console.settings, [results_study(console)])
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


class Forgetful:
    """A destination that shows only what it was sent since the test began."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        self.sent += [one.sop_instance_uid for one in objects]
        return [SendReport(SendStatus.STORED, "0000") for _ in objects]

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        known = [one.sop_instance_uid in self.sent for one in objects]
        return [Confirmation(Presence.FOUND if found else Presence.NOT_FOUND) for found in known]

    def test(self) -> list[Check]:
        return []

    def close(self) -> None:
        pass


def delivered(console: ConsoleLab) -> list[str]:
    """What leaves from now on, until nothing is due."""
    destination = Forgetful()
    worker = DeliveryWorker(
        console.database, console.settings, open_destination=lambda _peer, _settings: destination
    )
    for _ in range(6):
        worker.run_once()
    return destination.sent


def first_is(console: ConsoleLab, state: DeliveryState, **values: object) -> Result:
    """Put the first delivery into a state; returns its result."""
    with console.database.write() as session:
        delivery = session.scalars(select(Delivery).order_by(Delivery.id)).first()
        assert delivery is not None
        delivery.state, delivery.confirmed_at = state, None
        for name, value in values.items():
            setattr(delivery, name, value)
        session.flush()
        result = delivery.result
        session.expunge(result)
        return result


def test_a_withdrawn_result_that_the_peer_does_not_show_is_not_sent_again(console: ConsoleLab) -> None:
    doubtful = first_is(console, S.UNCONFIRMED, sent_at=None, next_at=utc_now())
    withdraw(console)
    assert delivered(console) == [dcmread(note(console)).SOPInstanceUID]
    with console.database.read() as session:
        states = session.scalars(select(Delivery.state).where(Delivery.result_id == doubtful.id)).all()
    assert S.DISCARDED in states
    assert not {S.PENDING, S.DEAD, S.UNCONFIRMED} & set(states)


@pytest.mark.parametrize("state", [S.PENDING, S.DEAD])
def test_a_peer_that_may_have_the_result_is_told(console: ConsoleLab, state: DeliveryState) -> None:
    doubtful = first_is(console, state, attempts=1, sent_at=utc_now())
    withdraw(console, doubtful.id)
    named = dcmread(note(console)).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert [one.ReferencedSOPInstanceUID for one in named.ReferencedSOPSequence] == [
        doubtful.sop_instance_uid
    ]


def test_a_peer_that_was_never_reached_is_not_told(console: ConsoleLab) -> None:
    waiting = first_is(console, S.PENDING, attempts=7)
    assert list(withdraw(console, waiting.id)) == ["archive"]
    assert [row for row in results(console) if row.kind is ResultKind.REJECTION] == []


def test_the_note_goes_though_the_rules_are_run_again_or_the_study_is_in_quarantine(
    console: ConsoleLab,
) -> None:
    withdraw(console)
    rerun_rules(console.settings, [results_study(console)])
    with console.database.write() as session:
        session.get_one(Study, 1).state = StudyState.QUARANTINED
    assert delivered(console) == [dcmread(note(console)).SOPInstanceUID]


@pytest.mark.parametrize("state", [S.CANCELLED, S.DEAD, S.DISCARDED])
def test_who_did_not_take_the_note_is_listed_by_hand(console: ConsoleLab, state: DeliveryState) -> None:
    withdraw(console)
    with console.database.write() as session:
        [row] = session.scalars(select(Delivery).join(Result).where(Result.kind == ResultKind.REJECTION))
        row.state = state
    with console.database.read() as session:
        shown = withdrawal.show(session, console.settings, 1)["by_hand"]
    assert len(shown["pacs"]) == len(shown["archive"]) + len(results(console)) - 1 - 2


def test_a_peer_that_learned_iocm_later_is_still_listed_by_hand(console: ConsoleLab) -> None:
    by_hand = withdraw(console)
    peers = [one.model_copy(update={"iocm": True}) for one in console.settings.peers]
    console.settings = console.settings.model_copy(update={"peers": tuple(peers)})
    with console.database.read() as session:
        assert withdrawal.show(session, console.settings, 1)["by_hand"] == by_hand


def test_a_peer_that_takes_no_notes_gives_it_up_and_discarding_all_leaves_it(console: ConsoleLab) -> None:
    withdraw(console)
    report = SendReport(SendStatus.NARROWED, "", "Key Object Selection Document Storage is not accepted")
    destination = Forgetful()
    destination.send = lambda objects: [report] * len(objects)  # type: ignore[method-assign]
    DeliveryWorker(
        console.database, console.settings, open_destination=lambda _peer, _settings: destination
    ).run_once()
    deliveries.discard(console.settings, because="given up")
    with console.database.read() as session:
        chosen = select(Delivery.state).join(Result).where(Result.kind == ResultKind.REJECTION)
        assert session.scalars(chosen).all() == [S.DEAD]


def test_a_withdrawal_that_was_killed_half_way_is_made_again(
    console: ConsoleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("dicom_node.services.results._by_hand", die)
        with pytest.raises(KeyboardInterrupt):
            withdraw(console)
    files = list((console.settings.node.data_dir / "results").rglob("*.dcm"))
    withdraw(console)
    assert note(console) in files


def die(*_: object) -> NoReturn:
    raise KeyboardInterrupt  # as kill -9 does, after the file has its name and before the commit


def test_a_replaced_report_does_not_come_back_when_the_newest_is_withdrawn(console: ConsoleLab) -> None:
    with console.database.write() as session:
        old = session.scalars(select(Result).where(Result.kind == ResultKind.SR)).first()
        assert old is not None
        columns = [one.name for one in Result.__table__.columns if one.name not in ("id", "sop_instance_uid")]
        new = Result(**{name: getattr(old, name) for name in columns}, sop_instance_uid="2.25.99")
        new.supersedes = old.sop_instance_uid
        session.add(new)
        session.flush()
        newest = new.id
    withdraw(console, newest)
    browser = console.browser(UserRole.VIEWER)
    browser.get("/studies/1")
    assert "No report yet" in browser.text


def test_an_operator_withdraws_by_page_and_the_audit_says_who(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.OPERATOR)
    browser.get("/studies/1")
    assert "75" in browser.text
    browser.get("/studies/1/withdraw")
    assert (
        "A rejection note (IHE IOCM), after which the results are hidden or deleted, goes to pacs"
        in browser.text
    )
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
        kept = session.scalars(select(AuditRow.fields).where(AuditRow.action == "result_withdrawn")).all()
    # The words may name a patient: an admin reads them here, but no other system gets them with the audit.
    assert kept == [{"reason": "quality", "results": [int(numbers[0])]}]
    assert [(row["actor"], row["fields"]) for row in noted] == [("operator", {**kept[0], "because": WHY})]


def test_notes_are_asked_for_by_their_own_key() -> None:
    with pytest.raises(ValueError, match="iocm = true"):
        PeerSettings(name="x", ae_title="X", results=("rejection",))


def test_list_and_page_of_the_study_say_that_it_was_withdrawn_by_whom_and_why(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.OPERATOR)
    first, *_ = results(console)
    withdraw(console, first.id)
    browser.get("/studies")
    assert "partly withdrawn" in browser.text
    withdraw(console)
    browser.get("/studies")
    assert ">withdrawn</span>" in browser.text
    assert "partly" not in browser.text
    browser.get("/studies/1")
    assert f"command line, {WHY}" in re.sub(r", [^,<]*?: ", ", ", browser.text)
    assert "No report yet" not in browser.text
    assert ">Withdraw results<" not in browser.text
    assert ">delivered</span>" not in browser.text
    assert "Send the newest results" not in browser.text, "there are none"
    built = [row for row in results(console) if row.kind is not ResultKind.REJECTION]
    assert f"<small>{len(built)} results built</small>" in browser.text


def test_what_a_withdrawn_study_still_needs_is_not_hidden(console: ConsoleLab) -> None:
    withdraw(console)
    with console.database.write() as session:  # the PACS refused the note that takes the results back
        session.get_one(Study, 1).state = StudyState.FAILED
    browser = console.browser(UserRole.VIEWER)
    for page in ("/studies", "/studies/1"):
        browser.get(page)
        assert ">failed</span>" in browser.text, page
        assert ">withdrawn</span>" in browser.text, page
    assert 'href="/studies/1/withdraw"' not in browser.text, "a viewer may not look there"
