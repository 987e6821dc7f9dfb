"""Confirmation by storage commitment (PS3.4 Annex J): requests; reports here, there, late, twice, never."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from dicom_node import events
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.dicom.commitment import CommitmentReport
from dicom_node.model.kinds import ResultKind
from dicom_node.outbox import commitments
from dicom_node.outbox.moves import BY_QUERY
from dicom_node.scu import open_destination
from dicom_node.scu.commitment import CommitmentRequestor
from dicom_node.scu.destination import RequestAnswer
from dicom_node.store import intake
from dicom_node.store.tables import Commitment, Delivery
from dicom_node.store.transitions import utc_now
from dicom_node.studies.associations import JournalIngest
from tests.commitment_lab import SOP_CLASS as SECONDARY_CAPTURE
from tests.commitment_lab import CommittingPacs, report, send_report
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.postgres_lab import Postgres
from tests.wire.orthanc_lab import start_orthanc
from tests.wire.receiver import receiving

ONE = (ResultKind.SC,)


@pytest.fixture
def pacs() -> Iterator[CommittingPacs]:
    with run_pacs(CommittingPacs(free_port())) as pacs:
        assert isinstance(pacs, CommittingPacs)
        yield pacs


def committing(pacs: Pacs, **settings: object) -> PeerSettings:
    known: dict[str, object] = {"confirm": "commitment", "commitment_wait_seconds": 0}
    return pacs.peer(**known | settings)


def sent(folder: Path, pacs: CommittingPacs, **settings: object) -> Outbox:
    """An outbox with one object that was sent and asked for."""
    outbox = Outbox(folder, [committing(pacs, **settings)])
    outbox.add_study(["pacs"], ONE)
    outbox.worker().run_once()
    return outbox


def reported(
    outbox: Outbox,
    transaction: str,
    committed: list[str],
    failed: list[str],
    ae: str = "PACS",
    sop_class: str = SECONDARY_CAPTURE,
) -> None:
    """A report that a listener took, entered."""
    with outbox.database.write() as session:
        taken = [f"{uid} {sop_class}" for uid in committed]
        not_taken = [f"{uid} 0112" for uid in failed]
        intake.keep_report(session, transaction, ae, taken, not_taken, utc_now())
    assert commitments.enter_reports(outbox.database, outbox.settings) == 1


def hours_pass(outbox: Outbox, hours: float) -> None:
    with outbox.database.write() as session:
        back = timedelta(hours=hours)
        for row in session.scalars(select(Delivery)):
            row.next_at = utc_now() - timedelta(seconds=1)
            row.sent_at = row.sent_at and row.sent_at - back


def test_a_report_on_the_same_association_confirms(tmp_path: Path, pacs: CommittingPacs) -> None:
    pacs.at_once = report
    outbox = Outbox(tmp_path, [committing(pacs, commitment_wait_seconds=10)])
    uids = outbox.add_study(["pacs"])
    outbox.run_until("confirmed")
    assert [sorted(asked) for _, asked in pacs.requests] == [sorted(uids)]
    assert (pacs.report_statuses, pacs.questions) == ([0x0000], [])
    assert outbox.study_states() == ["delivered"]
    assert outbox.numbers()[events.COMMITMENT_REQUESTED.number] == 1


def test_an_object_that_is_not_taken_over_is_sent_again(tmp_path: Path, pacs: CommittingPacs) -> None:
    pacs.at_once = lambda transaction, uids: (
        report(transaction, failed=uids) if len(pacs.requests) == 1 else report(transaction, uids)
    )
    outbox = Outbox(tmp_path, [committing(pacs, commitment_wait_seconds=10)])
    (uid,) = outbox.add_study(["pacs"], ONE)
    outbox.run_until("confirmed")
    assert pacs.received == [uid, uid]
    assert outbox.rows()[0]["refusals"] == 1


def test_what_is_never_taken_over_is_a_dead_letter_with_the_reason(
    tmp_path: Path, pacs: CommittingPacs
) -> None:
    pacs.at_once = lambda transaction, uids: report(transaction, failed=uids)
    outbox = Outbox(tmp_path, [committing(pacs, commitment_wait_seconds=10)], retry_seconds=0.02)
    outbox.add_study(["pacs"], ONE)
    outbox.run_until("dead")
    (row,) = outbox.rows()
    assert (row["status"], row["reason"]) == ("0112", "not taken over: no such object instance (0112)")
    assert outbox.study_states() == ["failed"]


def test_a_report_that_comes_hours_late_and_twice_confirms_once(tmp_path: Path, pacs: CommittingPacs) -> None:
    outbox = sent(tmp_path, pacs)
    hours_pass(outbox, 5)
    outbox.worker().run_once()  # looks at it, and asks nobody
    assert (len(pacs.requests), pacs.questions, outbox.states()["unconfirmed"]) == (1, [], 1)
    (transaction, uids) = pacs.requests[0]
    for _ in range(2):
        reported(outbox, transaction, uids, [])
    assert outbox.states() == {"confirmed": 1}
    assert outbox.numbers()[events.DELIVERY_CONFIRMED.number] == 1


@pytest.mark.parametrize("fit", ["transaction", "title", "object"])
def test_a_report_that_fits_no_request_changes_nothing(
    tmp_path: Path, pacs: CommittingPacs, fit: str
) -> None:
    outbox = sent(tmp_path, pacs)
    (transaction, uids) = pacs.requests[0]
    reported(
        outbox,
        "2.25.1" if fit == "transaction" else transaction,
        ["1.2.3"] if fit == "object" else uids,
        [],
        "STRANGER" if fit == "title" else "PACS",
    )
    assert outbox.states() == {"unconfirmed": 1}
    assert outbox.numbers()[events.COMMITMENT_UNKNOWN.number] == (fit != "object")


def test_without_a_report_in_its_time_the_destination_is_queried(
    tmp_path: Path, pacs: CommittingPacs
) -> None:
    outbox = sent(tmp_path, pacs)
    hours_pass(outbox, 25)
    outbox.run_until("confirmed")
    assert outbox.rows()[0]["reason"] == BY_QUERY
    assert outbox.numbers()[events.COMMITMENT_MISSING.number] == 1


def test_without_a_report_a_person_is_told_and_a_late_one_still_confirms(
    tmp_path: Path, pacs: CommittingPacs
) -> None:
    outbox = sent(tmp_path, pacs, commitment_else="give_up", commitment_hours=2)
    hours_pass(outbox, 3)
    outbox.run_until("dead")
    assert outbox.rows()[0]["reason"] == "acknowledged, but unconfirmed: no storage commitment report came"
    assert (pacs.questions, outbox.study_states()) == ([], ["failed"])
    (transaction, uids) = pacs.requests[0]
    reported(outbox, transaction, [], uids)  # too late to be sent again for
    assert outbox.states() == {"dead": 1}
    reported(outbox, transaction, uids, [])
    assert (outbox.states(), outbox.study_states()) == ({"confirmed": 1}, ["delivered"])


@pytest.mark.parametrize(("otherwise", "state"), [("query", "confirmed"), ("give_up", "dead")])
def test_a_pacs_without_storage_commitment_is_noticed_at_once(
    tmp_path: Path, otherwise: str, state: str
) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        outbox = Outbox(tmp_path, [committing(pacs, commitment_else=otherwise)])
        outbox.add_study(["pacs"], ONE)
        outbox.run_until(state)
        checks = open_destination(outbox.settings.peers[0], outbox.settings).test()
        assert [check.ok for check in checks if check.name == "commitment"] == [False]


def test_a_request_that_fails_for_the_moment_is_made_again(tmp_path: Path, pacs: CommittingPacs) -> None:
    pacs.action = lambda times: 0x0213 if times == 1 else 0x0000
    outbox = sent(tmp_path, pacs)
    hours_pass(outbox, 0)
    outbox.worker().run_once()
    first, second = (transaction for transaction, _ in pacs.requests)
    assert first != second
    reported(outbox, first, pacs.requests[0][1], [])  # of either, if it should come
    assert outbox.states() == {"confirmed": 1}


def test_a_kill_between_request_and_answer_loses_nothing(
    tmp_path: Path, pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    ask = CommitmentRequestor.ask

    def killed(self: CommitmentRequestor, *words: object) -> RequestAnswer:
        ask(self, *words)  # type: ignore[arg-type]
        raise Killed

    outbox = Outbox(tmp_path, [committing(pacs)])
    outbox.add_study(["pacs"], ONE)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CommitmentRequestor, "ask", killed)
        outbox.worker(lease_seconds=0.1).run_once()
    (transaction, uids) = pacs.requests[0]
    with outbox.database.write() as session:  # the lease ends
        session.execute(update(Delivery).values(lease_until=utc_now() - timedelta(seconds=1)))
    outbox.worker().run_once()
    assert len(pacs.requests) == 2  # nobody knows whether the first one arrived
    reported(outbox, transaction, uids, [])
    assert outbox.states() == {"confirmed": 1}
    with outbox.database.read() as session:
        assert len(session.scalars(select(Commitment)).all()) == 2


def test_a_report_is_answered_only_when_it_is_kept(tmp_path: Path, pacs: CommittingPacs) -> None:
    pacs.at_once = report
    peer = committing(pacs, commitment_wait_seconds=10)
    requestor = CommitmentRequestor(peer, Settings(peers=(peer,)))

    def keep(_: CommitmentReport) -> None:
        raise OSError("the database is away")

    requestor.ask("2.25.7", [], keep)
    assert pacs.report_statuses == [0x0213]


def test_a_report_to_the_listener_reaches_the_outbox(tmp_path: Path, pacs: CommittingPacs) -> None:
    outbox = sent(tmp_path / "node", pacs)
    (transaction, uids) = pacs.requests[0]
    peers = [committing(pacs).model_dump(mode="json")]
    with receiving(tmp_path / "listener", peers=peers) as listener:
        assert send_report(listener.port, report(transaction, uids)) == 0x0000
        listener.kill()  # at once: what was answered is kept
        ingest = JournalIngest(outbox.database, listener.data_dir / "journal")
        ingest.run_once()
        JournalIngest(outbox.database, listener.data_dir / "journal").run_once()  # and after a restart here
    assert commitments.enter_reports(outbox.database, outbox.settings) == 1
    assert outbox.states() == {"confirmed": 1}
    assert outbox.numbers()[events.COMMITMENT_REPORTED.number] == 1


@pytest.mark.debian("orthanc")
def test_a_real_orthanc_takes_over_and_reports_on_an_association_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    peers = [{"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": port, "may": ["receive"]}]
    peers[0] |= {"confirm": "commitment", "commitment_wait_seconds": 0}
    with receiving(tmp_path / "listener", peers=peers) as listener:
        us = {"AET": "AINODE", "Host": "127.0.0.1", "Port": listener.port}
        config = {"DicomPort": port, "DicomModalities": {"us": us}}
        with start_orthanc(tmp_path / "orthanc", config=config) as orthanc:
            outbox = Outbox(tmp_path / "node", [PeerSettings.model_validate(peers[0])])
            uids = outbox.add_study(["pacs"])
            worker, ingest = outbox.worker(), JournalIngest(outbox.database, listener.data_dir / "journal")
            stop = threading.Event()

            def follow() -> None:
                while not stop.wait(0.1):
                    ingest.run_once()

            following = threading.Thread(target=follow)
            following.start()
            try:
                outbox.run_until("confirmed", worker=worker)
            finally:
                stop.set()
                following.join()
            assert orthanc.instances() == sorted(uids)
    rows = outbox.rows()
    assert [(row["queries"], row["reason"]) for row in rows] == [(0, "")] * 3  # not by a query
    assert outbox.numbers()[events.COMMITMENT_REPORTED.number] == 1


@pytest.mark.debian("postgresql")
def test_a_report_that_cannot_be_entered_keeps_no_other_from_its_turn(
    tmp_path: Path, postgres: Postgres
) -> None:
    outbox = Outbox(tmp_path, [committing(Pacs(1))], database_url=postgres.new_database())
    (first,), (second,) = (outbox.add_study(["pacs"], ONE) for _ in range(2))
    with outbox.database.write() as session:
        for number, row in enumerate(session.scalars(select(Delivery).order_by(Delivery.id)).all()):
            row.state, row.transaction_uid, row.sent_at = "unconfirmed", f"2.25.{number}", utc_now()
            session.add(
                Commitment(
                    transaction_uid=f"2.25.{number}",
                    destination="pacs",
                    deliveries=[row.id],
                    asked_at=utc_now(),
                )
            )
        session.flush()
        faulty = [f"{first} {int(1e99):X}"]  # as a node of before may have kept it
        intake.keep_report(session, "2.25.0", "PACS", [], faulty, utc_now())
        intake.keep_report(session, "2.25.1", "PACS", [f"{second} {SECONDARY_CAPTURE}"], [], utc_now())
    assert commitments.enter_reports(outbox.database, outbox.settings) == 2
    assert outbox.states() == {"unconfirmed": 1, "confirmed": 1}
    assert outbox.numbers()[events.COMMITMENT_SET_ASIDE.number] == 1
    outbox.database.dispose()


def test_a_report_of_another_class_confirms_nothing(tmp_path: Path, pacs: CommittingPacs) -> None:
    outbox = sent(tmp_path, pacs)
    (transaction, (uid,)) = pacs.requests[0]
    reported(outbox, transaction, [uid], [], sop_class="1.2.840.10008.5.1.4.1.1.2")
    assert outbox.states() == {"unconfirmed": 1}
    reported(outbox, transaction, [uid], [])
    assert outbox.states() == {"confirmed": 1}
