"""Delivery to a PACS that misbehaves in every way that PS3.4 allows; its workers are killed."""

import gc
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    Comprehensive3DSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification
from sqlalchemy import select

from dicom_node.base import events
from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.dicom.commitment import CommitmentReport
from dicom_node.base.events import (
    DELIVERY_CONFIRMED,
    DELIVERY_DEAD,
    DELIVERY_IN_DOUBT,
    DELIVERY_NARROWED,
    DELIVERY_SENT,
    DELIVERY_WARNED,
)
from dicom_node.base.kinds import ResultKind
from dicom_node.base.lifecycle import DeliveryState
from dicom_node.base.store import intake
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Commitment, Delivery
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver import delivery_worker
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.deliver.scu import dimse, open_destination
from dicom_node.deliver.scu.dimse import CallingAE, StorageCommitment
from dicom_node.studies.indexing import JournalIngest
from tests.commitment_lab import SOP_CLASS as SECONDARY_CAPTURE
from tests.commitment_lab import CommittingPacs, report, send_report
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.outbox_lab import THREE_FACES, Outbox
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.unit.inbox.objects import in_syntax
from tests.waiting import wait_until
from tests.wire.orthanc_lab import DICOMWEB, start_orthanc
from tests.wire.receiver import receiving

ONE = (ResultKind.SC,)


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with run_pacs(Pacs(free_port())) as pacs:
        yield pacs


@pytest.fixture
def committing_pacs() -> Iterator[CommittingPacs]:
    with run_pacs(CommittingPacs(free_port())) as pacs:
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


def test_a_pacs_of_implicit_vr_only_gets_the_same_data_set_converted(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), syntaxes=[ImplicitVRLittleEndian]) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        (uid,) = outbox.add_study(["pacs"], ONE)
        outbox.run_until("confirmed")
        assert pacs.syntaxes[uid] == ImplicitVRLittleEndian
        (tmp_path / "got.dcm").write_bytes(pacs.stored[uid])
        got, built = dcmread(tmp_path / "got.dcm", force=True), dcmread(outbox.file_of(uid))
        assert [element.value for element in got] == [element.value for element in built]


ANSWERS: dict[str, tuple[dict[str, Any], int, dict[str, object], int]] = {
    **{
        f"{status:04X} is a warning of what is stored": (
            {"answer": lambda *_, status=status: status},
            1,
            {"state": "confirmed", "status": f"{status:04X}"},
            DELIVERY_WARNED.number,
        )
        for status in (0xB000, 0xB007)
    },
    **{
        f"{status:04X} three times makes a dead letter": (
            {"answer": lambda *_, status=status: status},
            3,
            {"state": "dead", "status": f"{status:04X}", "refusals": 3},
            DELIVERY_DEAD.number,
        )
        for status in (0x0124, 0xC123)
    },
    "a duplicate is no proof until the PACS shows the object": (
        {"answer": lambda *_: 0x0111, "shows": lambda uid, questions: questions > 1},
        1,
        {"state": "confirmed"},
        DELIVERY_IN_DOUBT.number,
    ),
    "an index that lags is asked again and nothing sent twice": (
        {"shows": lambda uid, questions: questions >= 3},
        1,
        {"state": "confirmed", "queries": 3},
        DELIVERY_CONFIRMED.number,
    ),
    "what is never shown is sent again and given up": (
        {"shows": lambda *_: False},
        3,
        {"state": "dead"},
        DELIVERY_DEAD.number,
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_object_becomes_what_the_pacs_answers_and_shows(tmp_path: Path, pacs: Pacs, case: str) -> None:
    behaviour, sent, becomes, event = ANSWERS[case]
    vars(pacs).update(behaviour)
    confirm_seconds = 0.1 if "never shown" in case else 1800
    outbox = Outbox(tmp_path, [pacs.peer()], confirm_seconds=confirm_seconds, retry_seconds=0.02)
    outbox.add_study(["pacs"], ONE)
    outbox.run_until(str(becomes["state"]))
    [row] = outbox.rows()
    assert (len(pacs.received), row) == (sent, row | becomes)
    assert ("not shown" in row["reason"]) == ("never shown" in case)
    assert outbox.numbers()[event] == 1
    assert outbox.study_states() == ["failed" if row["state"] == "dead" else "delivered"]


def test_a_pacs_that_cannot_be_asked_keeps_the_delivery_open(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), finds=False) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        outbox.add_study(["pacs"], ONE)
        outbox.worker().run_once()
        row = outbox.rows()[0]
        assert row["state"] == "unconfirmed"
        assert "Query/Retrieve" in row["reason"]
        assert outbox.study_states() == ["delivering"]


def test_classes_that_the_pacs_does_not_accept_are_left_out_with_a_warning(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), classes=[SecondaryCaptureImageStorage]) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        outbox.add_study(["pacs"], THREE_FACES)
        outbox.run_until("confirmed", "cancelled")
        assert outbox.states() == {"confirmed": 1, "cancelled": 2}
        assert outbox.numbers()[DELIVERY_NARROWED.number] == 2
        assert outbox.study_states() == ["delivered"]


def test_a_damaged_result_file_never_leaves(tmp_path: Path, pacs: Pacs) -> None:
    outbox = Outbox(tmp_path, [pacs.peer()])
    damaged, missing, _ = outbox.add_study(["pacs"])
    outbox.file_of(damaged).write_bytes(outbox.file_of(damaged).read_bytes()[:-2])
    outbox.file_of(missing).unlink()
    outbox.run_until("dead", "confirmed")
    assert outbox.states() == {"dead": 2, "confirmed": 1}
    assert len(pacs.received) == 1


def test_peers_test_says_what_the_pacs_takes(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port()), classes=[Comprehensive3DSRStorage], finds=False) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        checks = open_destination(outbox.settings.peer("pacs"), outbox.settings).test()
    assert {check.name for check in checks if check.ok} == {"echo", "sr"}
    assert {check.name for check in checks if not check.ok} == {"gsps", "sc", "query"}


@pytest.mark.debian("postgresql")
def test_three_workers_deliver_the_same_studies_to_two_pacs_without_deadlock(
    tmp_path: Path, postgres_url: str
) -> None:
    with (
        run_pacs(Pacs(free_port(), ae_title="A")) as first,
        run_pacs(Pacs(free_port(), ae_title="B")) as second,
    ):
        outbox = Outbox(tmp_path, [first.peer("first"), second.peer("second")], database_url=postgres_url)
        sent = [uid for _ in range(5) for uid in outbox.add_study(["first", "second"])]
        stop = threading.Event()
        threads = [threading.Thread(target=outbox.worker().run_forever, args=(stop,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            outbox.wait_until("confirmed")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert Counter(first.received) == Counter(second.received) == Counter(sent)
        assert set(outbox.study_states()) == {"delivered"}
        assert outbox.numbers()[DELIVERY_IN_DOUBT.number] == 0  # a deadlock would have left one
        outbox.database.dispose()


LEASE_SECONDS = 1.0
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload([__name__])  # each worker would import for seconds


def deliver_forever(settings: Settings) -> None:
    """A process with nothing but a worker."""
    DeliveryWorker(Database(settings.database_url), settings, lease_seconds=LEASE_SECONDS).run_forever(
        threading.Event()
    )


@contextmanager
def worker_process(outbox: Outbox | Inbox) -> Iterator[multiprocessing.process.BaseProcess]:
    process = _FORKING.Process(target=deliver_forever, args=(outbox.settings,))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


ECHO = [build_context(Verification)]


@pytest.mark.parametrize(("application", "kept"), [(CallingAE, True), (AE, False)])
def test_the_reactor_does_not_take_answers_that_somebody_waits_for(
    pacs: Pacs, application: type[AE], kept: bool
) -> None:
    """When the stock class keeps them too, pynetdicom is cured and _AnswersOnly can go."""
    association = application().associate("127.0.0.1", pacs.port, ECHO, ae_title="PACS")
    association._serve_request = lambda message, context: None
    association.dimse.msg_queue.put((1, "an answer"))
    time.sleep(0.2)
    assert association.dimse.msg_queue.empty() is not kept
    association.abort()


def test_a_refused_connection_leaves_no_open_socket(recwarn: pytest.WarningsRecorder) -> None:
    association = CallingAE().associate("127.0.0.1", free_port(), ECHO)
    assert not association.is_established
    del association
    gc.collect()
    assert [warning for warning in recwarn if warning.category is ResourceWarning] == []


SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
    RLELossless,
)  # fmt: skip


@contextmanager
def forwarding(folder: Path, port: int, database_url: str = "", **of_archive: Any) -> Iterator[Inbox]:
    """A node whose rule forwards to the archive at this port, without jobs' workers."""
    archive = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port}
    archive |= {"may": ["receive"], **of_archive}
    rule = CONFIG["rules"][0] | {"forward": ["archive"]}
    pace = {"retry_seconds": 0.2, "retry_limit_seconds": 0.5}
    peers = [*CONFIG["peers"], archive]
    inbox = Inbox(folder, {**CONFIG, "peers": peers, "rules": [rule], "outbox": pace}, database_url)
    try:
        yield inbox
    finally:
        inbox.close()


def states(inbox: Inbox) -> list[str]:
    return [row.state.value for row in inbox.rows(Delivery)]


def deliver_until(inbox: Inbox, state: str) -> None:
    worker = DeliveryWorker(inbox.database, inbox.settings)

    def done() -> bool:
        worker.run_once()
        return set(states(inbox)) == {state}

    wait_until(done, 60, state, shown=lambda: states(inbox))


def data_set(path: Path) -> bytes:
    """The bytes behind the File Meta Information (PS3.10 7.1)."""
    data, meta = path.read_bytes(), read_file_meta_info(path)
    return data[144 + meta.FileMetaInformationGroupLength :]


def images(number: int) -> Sequence[Dataset]:
    return [ultrasound("many", number=one) for one in range(1, number + 1)]


@pytest.mark.debian("dcmtk")
def test_storescp_gets_each_data_set_with_the_bytes_that_came(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "archive"
    folder.mkdir()
    options = ["--bit-preserving", "--accept-all", "--output-directory", str(folder), "--aetitle", "ARCHIVE"]
    with subprocess.Popen(["storescp", *options, str(port)], stderr=subprocess.DEVNULL) as storescp:
        try:
            with forwarding(tmp_path / "node", port, confirm="none") as inbox:
                sent = [in_syntax(image, syntax) for image, syntax in zip(images(5), SYNTAXES, strict=True)]
                sent[0].add_new(0x00091001, "UN", b"\x00\xffopaque")
                inbox.settle(*sent)
                deliver_until(inbox, "confirmed")
                there = {str(dcmread(file, force=True).SOPInstanceUID): file for file in folder.iterdir()}
                for image in sent:
                    spooled = inbox.folder / inbox.instance(image.SOPInstanceUID).path
                    assert data_set(there[image.SOPInstanceUID]) == data_set(spooled)
        finally:
            storescp.kill()


def sending(inbox: Inbox) -> set[int]:
    return set(inbox.scalars(select(Delivery.id).where(Delivery.state == DeliveryState.SENDING)))


@pytest.mark.debian("orthanc", "orthanc-dicomweb")
@pytest.mark.parametrize("transport", ["dimse", "dicomweb"])
def test_a_real_orthanc_has_each_image_once_though_the_senders_are_killed(
    tmp_path: Path, transport: str
) -> None:
    """Each time between sending and noting it: a worker is stopped, looked at, and killed if it sends."""
    with start_orthanc(tmp_path / "orthanc", plugins=[DICOMWEB]) as orthanc:
        url = orthanc.url + ("/dicom-web" if transport == "dicomweb" else "")
        archive = {"ae_title": "ORTHANC", "transport": transport, "url": url}
        with forwarding(tmp_path / "node", orthanc.dicom_port, **archive) as inbox:
            sent = images(40)  # more than go on one association: two kills hit different ones
            inbox.settle(*sent)
            hit: set[int] = set()
            for _ in range(2):
                with worker_process(inbox) as worker:
                    number = worker.pid or 0

                    def sends(number: int = number) -> bool:
                        os.kill(number, signal.SIGSTOP)
                        if new := sending(inbox) - hit:
                            hit.update(new)
                            return True
                        os.kill(number, signal.SIGCONT)
                        return False

                    wait_until(sends, 120, "a worker sends", step=0.02)
            with worker_process(inbox):
                wait_until(
                    lambda: set(states(inbox)) == {"confirmed"}, progress=lambda: sorted(states(inbox))
                )
            assert DELIVERY_IN_DOUBT.number in {event.number for event in inbox.events()}
            assert orthanc.instances() == sorted(image.SOPInstanceUID for image in sent)
            assert dcmread(BytesIO(orthanc.fetch(sent[0].SOPInstanceUID))) == sent[0]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimse, "REPORT_SECONDS", 0)


def committing(committing_pacs: Pacs, **settings: object) -> PeerSettings:
    known: dict[str, object] = {"confirm": "commitment"}
    return committing_pacs.peer(**known | settings)


def sent(folder: Path, committing_pacs: CommittingPacs, **settings: object) -> Outbox:
    """An outbox with one object that was sent and asked for."""
    outbox = Outbox(folder, [committing(committing_pacs, **settings)])
    outbox.add_study(["pacs"], ONE)
    outbox.worker().run_once()
    return outbox


def reported(
    outbox: Outbox, transaction: str, committed: list[str], failed: list[str], ae: str = "PACS"
) -> None:
    """A report that a listener took, entered."""
    taken, not_taken = [f"{uid} {SECONDARY_CAPTURE}" for uid in committed], [f"{uid} 0112" for uid in failed]
    outbox.write(intake.keep_report, transaction, ae, taken, not_taken, utc_now())
    assert delivery_worker.enter_reports(outbox.database, outbox.settings) == 1


def hours_pass(outbox: Outbox, hours: float) -> None:
    sent_at = outbox.scalars(select(Delivery.sent_at))[0] or utc_now()
    outbox.put(Delivery, next_at=utc_now() - timedelta(seconds=1), sent_at=sent_at - timedelta(hours=hours))


def test_an_object_that_is_not_taken_over_is_sent_again(
    tmp_path: Path, committing_pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dimse, "REPORT_SECONDS", 10)
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
    outbox.worker().run_once()  # looks at it, and asks nobody
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
    with run_pacs(Pacs(free_port())) as committing_pacs:
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
    outbox.worker().run_once()
    assert len(committing_pacs.requests) == 2  # nobody knows whether the first one arrived
    reported(outbox, transaction, uids, [])
    assert outbox.states() == {"confirmed": 1}
    assert len(outbox.scalars(select(Commitment))) == 2


def test_a_report_is_answered_only_when_it_is_kept(
    committing_pacs: CommittingPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dimse, "REPORT_SECONDS", 10)
    committing_pacs.at_once = report
    peer = committing(committing_pacs)
    requestor = StorageCommitment(peer, Settings(peers=(peer,)))

    def keep(_: CommitmentReport) -> None:
        raise OSError("the database is away")

    requestor.ask("2.25.7", [], keep)
    assert committing_pacs.report_statuses == [0x0213]


def test_a_report_to_the_listener_reaches_the_outbox(tmp_path: Path, committing_pacs: CommittingPacs) -> None:
    outbox = sent(tmp_path / "node", committing_pacs)
    (transaction, uids) = committing_pacs.requests[0]
    peers = [committing(committing_pacs).model_dump(mode="json")]
    with receiving(tmp_path / "listener", peers=peers) as listener:
        assert send_report(listener.port, report(transaction, uids)) == 0x0000
        listener.kill()  # at once: what was answered is kept
        JournalIngest(outbox.database, listener.data_dir / "journal").run_once()
        JournalIngest(outbox.database, listener.data_dir / "journal").run_once()  # and after a restart here
    assert delivery_worker.enter_reports(outbox.database, outbox.settings) == 1
    assert outbox.states() == {"confirmed": 1}
    assert outbox.numbers()[events.COMMITMENT_REPORTED.number] == 1


@pytest.mark.debian("orthanc")
def test_a_real_orthanc_takes_over_and_reports_on_an_association_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    peers = [{"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": port, "may": ["receive"]}]
    peers[0] |= {"confirm": "commitment"}
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
