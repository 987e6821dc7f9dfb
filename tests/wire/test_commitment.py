"""Storage commitment that the node requests: reports late, twice, unknown or never."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.base import events
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.dimse_n import CommitmentReport
from dicom_node.base.events import (
    DELIVERY_CONFIRMED,
    DELIVERY_SENT,
)
from dicom_node.base.store import intake
from dicom_node.base.store.tables import Commitment, Delivery
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver import commitment_requests
from dicom_node.deliver.scu import (
    commitment,
    open_destination,
)
from dicom_node.deliver.scu.commitment import StorageCommitment
from dicom_node.receive.spool import Spool
from dicom_node.studies.journal import JournalIngest
from tests.outbox_lab import (
    ONE,
    Outbox,
)
from tests.pacs_lab import SOP_CLASS as SECONDARY_CAPTURE
from tests.pacs_lab import CommittingPacs, Pacs, report, run_pacs, send_report
from tests.peers import a_receiver
from tests.ports import free_port
from tests.wire.orthanc_lab import (
    start_orthanc,
)
from tests.wire.receiver import receiving


@pytest.fixture
def committing_pacs() -> Iterator[CommittingPacs]:
    with run_pacs(CommittingPacs()) as pacs:
        assert isinstance(pacs, CommittingPacs)
        yield pacs


def test_three_faces_of_a_finding_go_on_one_association_and_are_confirmed(tmp_path: Path, pacs: Pacs) -> None:
    """The bytes that leave are the bytes on disk."""
    outbox = Outbox(tmp_path, [pacs.peer()])
    sent = outbox.add_study(["pacs"])
    outbox.run_until("confirmed")
    assert pacs.received == sent
    assert all(outbox.file_of(uid).read_bytes().endswith(pacs.stored[uid]) for uid in sent)
    assert pacs.associations == 2  # one to store, one to ask
    assert outbox.study_states() == ["delivered"]
    numbers = outbox.numbers()
    assert (numbers[DELIVERY_SENT.number], numbers[DELIVERY_CONFIRMED.number]) == (3, 3)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitment, "REPORT_SECONDS", 0)


def committing(committing_pacs: Pacs, **settings: object) -> PeerSettings:
    known: dict[str, object] = {"confirm": "commitment"}
    return committing_pacs.peer(**known | settings)


def sent(folder: Path, committing_pacs: CommittingPacs, **settings: object) -> Outbox:
    """An outbox with one object that was sent and asked for."""
    outbox = Outbox(folder, [committing(committing_pacs, **settings)])
    outbox.add_study(["pacs"], ONE)
    outbox.run_once()
    return outbox


def reported(
    outbox: Outbox, transaction: str, committed: list[str], failed: list[str], ae: str = "PACS"
) -> None:
    """A report that a listener took, entered."""
    taken, not_taken = [f"{uid} {SECONDARY_CAPTURE}" for uid in committed], [f"{uid} 0112" for uid in failed]
    outbox.write(intake.keep_report, transaction, ae, taken, not_taken, utc_now())
    assert commitment_requests.enter_reports(outbox.database, outbox.settings) == 1


def hours_pass(outbox: Outbox, hours: float) -> None:
    sent_at = outbox.scalars(select(Delivery.sent_at))[0] or utc_now()
    outbox.put(Delivery, next_at=utc_now() - timedelta(seconds=1), sent_at=sent_at - timedelta(hours=hours))


def test_an_object_that_is_not_taken_over_is_sent_again(
    tmp_path: Path, committing_pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "REPORT_SECONDS", 10)
    committing_pacs.at_once = lambda transaction, uids: (
        report(transaction, failed=uids) if len(committing_pacs.requests) == 1 else report(transaction, uids)
    )
    outbox = Outbox(tmp_path, [committing(committing_pacs)])
    (uid,) = outbox.add_study(["pacs"], ONE)
    outbox.run_until("confirmed")
    assert committing_pacs.received == [uid, uid]
    assert outbox.rows()[0]["refusals"] == 1


def test_a_report_that_comes_hours_late_and_twice_confirms_once(
    tmp_path: Path, committing_pacs: CommittingPacs
) -> None:
    outbox = sent(tmp_path, committing_pacs)
    hours_pass(outbox, 5)
    outbox.run_once()  # looks at it, and asks nobody
    assert (len(committing_pacs.requests), committing_pacs.questions, outbox.states()["unconfirmed"]) == (
        1,
        [],
        1,
    )
    (transaction, uids) = committing_pacs.requests[0]
    for _ in range(2):
        reported(outbox, transaction, uids, [])
    assert outbox.states() == {"confirmed": 1}
    assert outbox.numbers()[events.DELIVERY_CONFIRMED.number] == 1


@pytest.mark.parametrize("fit", ["transaction", "title", "object"])
def test_a_report_that_fits_no_request_changes_nothing(
    tmp_path: Path, committing_pacs: CommittingPacs, fit: str
) -> None:
    outbox = sent(tmp_path, committing_pacs)
    (transaction, uids) = committing_pacs.requests[0]
    reported(
        outbox,
        "2.25.1" if fit == "transaction" else transaction,
        ["1.2.3"] if fit == "object" else uids,
        [],
        "STRANGER" if fit == "title" else "PACS",
    )
    assert outbox.states() == {"unconfirmed": 1}
    assert outbox.numbers()[events.COMMITMENT_UNKNOWN.number] == (fit != "object")


def test_without_a_report_a_person_is_told_and_a_late_one_still_confirms(
    tmp_path: Path, committing_pacs: CommittingPacs
) -> None:
    outbox = sent(tmp_path, committing_pacs, commitment_else="give_up", commitment_hours=2)
    hours_pass(outbox, 3)
    outbox.run_until("dead")
    assert outbox.rows()[0]["reason"] == "acknowledged, but unconfirmed: no storage commitment report came"
    assert (committing_pacs.questions, outbox.study_states()) == ([], ["failed"])
    (transaction, uids) = committing_pacs.requests[0]
    reported(outbox, transaction, [], uids)  # too late to be sent again for
    assert outbox.states() == {"dead": 1}
    reported(outbox, transaction, uids, [])
    assert (outbox.states(), outbox.study_states()) == ({"confirmed": 1}, ["delivered"])


@pytest.mark.parametrize(("otherwise", "state"), [("query", "confirmed"), ("give_up", "dead")])
def test_a_pacs_without_storage_commitment_is_noticed_at_once(
    tmp_path: Path, otherwise: str, state: str
) -> None:
    with run_pacs(Pacs()) as committing_pacs:
        outbox = Outbox(tmp_path, [committing(committing_pacs, commitment_else=otherwise)])
        outbox.add_study(["pacs"], ONE)
        outbox.run_until(state)
        checks = open_destination(outbox.settings.peers[0], outbox.settings).test()
        assert [check.ok for check in checks if check.name == "commitment"] == [False]


def test_a_kill_between_request_and_answer_loses_nothing(
    tmp_path: Path, committing_pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = StorageCommitment.ask

    def killed(self: StorageCommitment, *words: object) -> None:
        ask(self, *words)  # type: ignore[arg-type]
        raise KeyboardInterrupt  # as kill -9 does

    outbox = Outbox(tmp_path, [committing(committing_pacs)])
    outbox.add_study(["pacs"], ONE)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StorageCommitment, "ask", killed)
        outbox.worker(lease_seconds=0.1).run_once()
    (transaction, uids) = committing_pacs.requests[0]
    outbox.run_once()
    assert len(committing_pacs.requests) == 2  # nobody knows whether the first one arrived
    reported(outbox, transaction, uids, [])
    assert outbox.states() == {"confirmed": 1}
    assert len(outbox.scalars(select(Commitment))) == 2


def test_a_report_is_answered_only_when_it_is_kept(
    committing_pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "REPORT_SECONDS", 10)
    committing_pacs.at_once = report
    peer = committing(committing_pacs)
    requestor = StorageCommitment(peer, Settings(peers=(peer,)))

    def keep(_: CommitmentReport) -> None:
        raise OSError("the database is away")

    requestor.ask("2.25.7", [], keep)
    assert committing_pacs.report_statuses == [0x0213]


def ingest_of(outbox: Outbox, data_dir: Path) -> JournalIngest:
    """What reads the journal of the listener of this data folder into the outbox's database."""
    return JournalIngest(outbox.database, data_dir / "journal", Spool(data_dir / "spool", 0))


def test_a_report_to_the_listener_reaches_the_outbox(tmp_path: Path, committing_pacs: CommittingPacs) -> None:
    outbox = sent(tmp_path / "node", committing_pacs)
    (transaction, uids) = committing_pacs.requests[0]
    with receiving(
        tmp_path / "listener", peers=[committing(committing_pacs).model_dump(mode="json")]
    ) as listener:
        assert send_report(listener.port, report(transaction, uids)) == 0x0000
        listener.kill()  # at once: what was answered is kept
        ingest_of(outbox, listener.data_dir).run_once()
        ingest_of(outbox, listener.data_dir).run_once()  # and after a restart here
    assert commitment_requests.enter_reports(outbox.database, outbox.settings) == 1
    assert outbox.states() == {"confirmed": 1}
    assert outbox.numbers()[events.COMMITMENT_REPORTED.number] == 1


@pytest.mark.debian("orthanc")
def test_a_real_orthanc_takes_over_and_reports_on_an_association_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    peers = [a_receiver("pacs", port, ae_title="ORTHANC")]
    peers[0] |= {"confirm": "commitment"}
    with receiving(tmp_path / "listener", peers=peers) as listener:
        us = {"AET": "AINODE", "Host": "127.0.0.1", "Port": listener.port}
        with start_orthanc(
            tmp_path / "orthanc", config={"DicomPort": port, "DicomModalities": {"us": us}}
        ) as orthanc:
            outbox = Outbox(tmp_path / "node", [PeerSettings.model_validate(peers[0])])
            uids = outbox.add_study(["pacs"])
            worker, ingest = (
                outbox.worker(),
                ingest_of(outbox, listener.data_dir),
            )
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
    assert [(row["queries"], row["reason"]) for row in outbox.rows()] == [(0, "")] * 3  # not by a query
    assert outbox.numbers()[events.COMMITMENT_REPORTED.number] == 1
