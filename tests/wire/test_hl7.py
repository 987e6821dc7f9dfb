"""Reports to a RIS over MLLP: the server is python-hl7's, and what it parsed is what is compared."""

from __future__ import annotations

import logging
import multiprocessing
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

pytest.importorskip("hl7apy", reason="needs the extra hl7")
pytest.importorskip("hl7", reason="needs the extra test")

from dicom_node.config.settings import ConsoleSettings, ListenerSettings, PeerSettings, Settings, TlsSettings
from dicom_node.hl7 import control_id
from dicom_node.model.kinds import RejectionReason, ResultKind
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.scu import Outgoing, SendStatus, open_destination
from dicom_node.services import peers, results
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, Study
from tests.certificates_lab import Authority
from tests.golden_lab import objects
from tests.mllp_lab import LOSE, SILENT, WRONG_MESSAGE, Receiver, run_receiver
from tests.outbox_lab import Outbox
from tests.ports import free_port

LEASE_SECONDS = 1.0
REPORT = [ResultKind.SR]


@pytest.fixture
def ris() -> Iterator[Receiver]:
    with run_receiver(Receiver()) as receiver:
        yield receiver


def test_a_report_is_one_message_and_confirmed_by_its_acknowledgement(tmp_path: Path, ris: Receiver) -> None:
    outbox = Outbox(tmp_path, [ris.peer(hl7_fields={"MSH-6": "HOSPITAL"})])
    outbox.settings = outbox.settings.model_copy(
        update={"console": ConsoleSettings(url="https://ai.example.org/")}
    )
    [uid] = outbox.add_study(["ris"], REPORT)
    outbox.run_until("confirmed")
    assert outbox.study_states() == ["delivered"]
    [row] = outbox.rows()
    assert (row["status"], row["attempts"], row["queries"]) == ("AA", 1, 0)
    [message] = ris.received
    assert ris.numbers() == [control_id(uid)]
    assert str(message["PID"][0][5]) == "Probe^Ä^^^^^L^A"
    assert str(message["MSH"][0][6]) == "HOSPITAL"
    assert "https://ai.example.org/studies/1^^TEXT^HTML" in [str(obx[5]) for obx in message["OBX"]]


def test_a_whole_report_is_read_there_as_it_was_written(tmp_path: Path, ris: Receiver) -> None:
    [built] = [one for name, one in objects(tmp_path) if name == "chest_xray-sr"]
    path = tmp_path / "sr.dcm"
    path.write_bytes(built.data or b"")
    report = dcmread(path)
    item = Outgoing(report.SOPClassUID, built.sop_instance_uid, report.StudyInstanceUID, "", path, "")
    [sent] = open_destination(ris.peer(), Settings()).send([item])
    assert (sent.status, sent.code) == (SendStatus.STORED, "AA")
    [message] = ris.received
    kinds = [str(row[2]) for row in message["OBX"]]
    assert kinds == ["TX", "TX", "TX", "CWE", "CWE", "NM"]
    assert [str(row[5]) for row in message["OBX"]][-2:] == ["272519000^Absent^SCT", "0.75"]
    assert str(message["OBR"][0][18]) == "ACCCR"


@pytest.mark.parametrize("code", ["AE", "AR", "CE", "CR"])
def test_a_refusal_is_a_dead_letter_with_its_code_and_without_its_words(
    tmp_path: Path, ris: Receiver, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = (
        f"MSH|^~\\&|RIS||AINODE||2025||ACK|1|P|2.5.1\rMSA|{code}|{{number}}|Mr Canary is unknown\r"
        "ERR|||204^Canary|E||||Canary\r"
    )

    def refuse(message: object, times: int) -> bytes:
        return b"\x0b" + answer.format(number=ris.numbers()[-1]).encode() + b"\x1c\x0d"

    ris.answer = refuse
    outbox = Outbox(tmp_path, [ris.peer(debug=True)])
    outbox.add_study(["ris"], REPORT)
    outbox.run_until("dead")
    [row] = outbox.rows()
    assert (row["status"], row["attempts"]) == (f"{code} 204", 3)
    assert "unknown key identifier" in row["reason"]
    assert "Canary" not in f"{row}{caplog.text}"


@pytest.mark.parametrize("fault", [LOSE, WRONG_MESSAGE, b"\x0bMSH|^~\\&|RIS"])
def test_a_lost_or_wrong_acknowledgement_is_sent_again_under_the_same_number(
    tmp_path: Path, ris: Receiver, fault: str | bytes
) -> None:
    ris.answer = lambda message, times: fault if times < 3 else "AA"
    outbox = Outbox(tmp_path, [ris.peer()])
    [uid] = outbox.add_study(["ris"], REPORT)
    outbox.run_until("confirmed")
    assert ris.numbers() == [control_id(uid)] * 3
    assert len({str(message) for message in ris.received}) == 1
    assert outbox.rows()[0]["attempts"] == 3


def test_a_receiver_that_is_silent_is_cut_off_and_tried_again(tmp_path: Path, ris: Receiver) -> None:
    ris.answer = lambda message, times: SILENT if times == 1 else "AA"
    outbox = Outbox(tmp_path, [ris.peer()], answer_seconds=0.5)
    outbox.add_study(["ris"], REPORT)
    began = time.monotonic()
    outbox.run_until("confirmed")
    assert time.monotonic() - began < 20
    assert len(set(ris.numbers())) == 1 and len(ris.numbers()) == 2


def test_a_receiver_that_is_away_gets_it_when_it_is_back(tmp_path: Path) -> None:
    receiver = Receiver()
    outbox = Outbox(tmp_path, [receiver.peer()])
    [uid] = outbox.add_study(["ris"], REPORT)
    worker = outbox.worker()
    assert worker.run_once() == 1
    [row] = outbox.rows()
    assert row["state"] == "pending" and "cannot connect" in row["reason"]
    with run_receiver(receiver):
        outbox.run_until("confirmed", worker=worker)
    assert receiver.numbers() == [control_id(uid)]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not as an HL7 receiver does"),
        (b"\x0bMSH|^~\\&|x\rMSA\x1c\x0d", "not as an HL7 receiver does"),
        (b"\x0b\x1c\x0d", "not as an HL7 receiver does"),
        (b"\x0b" + b"A" * 70_000, "longer than 64 KiB"),
    ],
)
def test_no_nonsense_is_an_acknowledgement(
    tmp_path: Path, ris: Receiver, answer: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    ris.answer = lambda message, times: answer
    outbox = Outbox(tmp_path, [ris.peer()], retry_seconds=0.01, retry_limit_seconds=0.01)
    outbox.add_study(["ris"], REPORT)
    outbox.run_until("dead")
    assert reason in outbox.rows()[0]["reason"] and len(ris.received) == 3
    assert not any(record.exc_info for record in caplog.records)


def test_an_answer_that_trickles_is_cut_off(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection:
                try:
                    connection.sendall(b"\x0b")
                    while True:
                        connection.sendall(b"M")
                        time.sleep(0.1)
                except OSError:
                    return

        threading.Thread(target=trickle, daemon=True).start()
        peer = Receiver(port=listening.getsockname()[1]).peer()
        outbox = Outbox(tmp_path, [peer], answer_seconds=1.0)
        outbox.add_study(["ris"], REPORT)
        began = time.monotonic()
        outbox.worker().run_once()
        assert time.monotonic() - began < 10
        assert "cut off" in outbox.rows()[0]["reason"]


def test_other_results_of_a_former_transport_are_not_messages(tmp_path: Path, ris: Receiver) -> None:
    outbox = Outbox(tmp_path, [ris.peer()])
    outbox.add_study(["ris"], [ResultKind.SR, ResultKind.SC])
    outbox.run_until("confirmed", "cancelled")
    assert outbox.states() == {"confirmed": 1, "cancelled": 1} and len(ris.received) == 1


def test_a_withdrawal_is_a_message_that_takes_the_result_back(tmp_path: Path, ris: Receiver) -> None:
    outbox = Outbox(tmp_path, [ris.peer(iocm=True)])
    outbox.add_study(["ris"], REPORT)
    outbox.run_until("confirmed")
    assert withdraw(outbox) == {}
    outbox.run_until("confirmed")
    result, note = ris.received
    assert str(note["OBR"][0][25]) == "X" and str(note["OBX"][0][11]) == "W"
    assert "of the wrong side" in str(note["OBX"][0][5])
    for name, number in (("PID", 3), ("OBR", 3)):
        assert str(note[name][0][number]) == str(result[name][0][number])
    assert len(set(ris.numbers())) == 2


def test_without_iocm_the_receiver_is_named_for_a_person(tmp_path: Path, ris: Receiver) -> None:
    outbox = Outbox(tmp_path, [ris.peer()])
    [uid] = outbox.add_study(["ris"], REPORT)
    outbox.run_until("confirmed")
    assert withdraw(outbox) == {"ris": [uid]}
    assert len(ris.received) == 1


def withdraw(outbox: Outbox) -> dict[str, list[str]]:
    with outbox.database.read() as session:
        study = str(session.scalars(select(Study.study_instance_uid)).one())
    return results.withdraw_by_uid(
        outbox.settings, study, None, reason=RejectionReason.QUALITY, because="of the wrong side"
    )


def test_the_test_of_a_peer_opens_a_connection_and_sends_nothing(tmp_path: Path, ris: Receiver) -> None:
    settings = Settings(peers=(ris.peer(), Receiver().peer(name="away")))
    found = {row.peer: row for row in peers.try_peers(settings, [])}
    assert found["ris"].ok and "nothing was sent" in found["ris"].text
    assert not found["away"].ok and "cannot connect" in found["away"].text
    assert ris.connections == 1 and ris.received == []


def test_the_test_says_that_the_receiver_hangs_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            listening.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        peer = Receiver(port=listening.getsockname()[1]).peer()
        [check] = open_destination(peer, Settings()).test()
    assert not check.ok and "at once" in check.text


def test_an_entered_peer_is_not_called_on_this_machine(ris: Receiver, tmp_path: Path) -> None:
    [check] = open_destination(ris.peer(entered=True), Settings()).test()
    assert not check.ok and "leads to this machine" in check.text and ris.connections == 0


def with_trust(outbox: Outbox, own: tuple[Path, Path] | None, authority: Path) -> None:
    certificate, key = own or (Path(), Path())
    tls = TlsSettings(certificate=certificate, private_key=key, trusted=authority)
    outbox.settings = outbox.settings.model_copy(update={"listener": ListenerSettings(tls=tls)})


def test_tls_needs_the_right_authority_on_both_sides(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ca"), Authority(tmp_path, "foreign")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours.certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*ours.certify("ris"))
    node, stranger = ours.certify("node"), foreign.certify("stranger")
    with run_receiver(Receiver(), tls=context) as receiver:
        outbox = Outbox(tmp_path, [receiver.peer(tls=True)])
        outbox.add_study(["ris"], REPORT)
        for own, authority, state in (
            (node, foreign, "pending"),
            (stranger, ours, "pending"),
            (node, ours, "confirmed"),
        ):
            with_trust(outbox, own, authority.certificate)
            [check] = open_destination(outbox.settings.peers[0], outbox.settings).test()
            assert check.ok is (state == "confirmed"), check.text
            time.sleep(0.6)
            outbox.worker().run_once()
            assert outbox.states() == {state: 1}, outbox.rows()
        assert "TLSv1" in check.text and len(receiver.received) == 1


def deliver_forever(settings: Settings) -> None:
    """A process with nothing but a worker."""
    DeliveryWorker(Database(settings.database_url), settings, lease_seconds=LEASE_SECONDS).run_forever(
        threading.Event()
    )


@contextmanager
def worker_process(outbox: Outbox) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=deliver_forever, args=(outbox.settings,))
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def test_a_worker_that_is_killed_before_the_acknowledgement_loses_nothing(
    tmp_path: Path, ris: Receiver
) -> None:
    came = threading.Event()

    def late(message: object, times: int) -> str:
        came.set()
        time.sleep(1.0)
        return "AA"

    ris.answer = late
    outbox = Outbox(tmp_path, [ris.peer()])
    [uid] = outbox.add_study(["ris"], REPORT)
    with worker_process(outbox):
        assert came.wait(60)
        assert outbox.states() == {"sending": 1}
    ris.answer = lambda message, times: "AA"
    time.sleep(1.5)
    outbox.run_until("confirmed", worker=outbox.worker(lease_seconds=LEASE_SECONDS))
    assert ris.numbers() == [control_id(uid)] * 2, "the receiver recognises the repeat"
    with outbox.database.read() as session:
        [delivery] = session.scalars(select(Delivery))
        assert delivery.sent_at is not None


def test_a_peer_that_becomes_hl7_while_a_delivery_is_unconfirmed(tmp_path: Path, ris: Receiver) -> None:
    """Its former transport acknowledged and was to be asked: HL7 cannot be asked, and gets it anew."""
    before = PeerSettings(name="ris", ae_title="RIS", host="127.0.0.1", port=free_port(), may=("receive",))
    outbox = Outbox(tmp_path, [before])
    outbox.add_study(["ris"], REPORT)
    outbox.worker().run_once()
    outbox.settings = outbox.settings.model_copy(update={"peers": (ris.peer(),)})
    outbox.run_until("confirmed")
    assert len(ris.received) == 1
