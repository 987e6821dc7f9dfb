"""Reports as HL7 messages to a RIS: acknowledged, refused, lost, withdrawn, over TLS."""

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hl7
import pytest
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server
from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_connectors.hl7.oru import control_id
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import ConsoleSettings, ListenerSettings, TlsSettings
from dicom_node.base.lifecycle import ResultKind
from dicom_node.base.store.tables import Delivery
from dicom_node.deliver.scu import (
    open_destination,
)
from tests.certificates_lab import Authority
from tests.outbox_lab import (
    Outbox,
)
from tests.ports import free_port

LOSE, WRONG_MESSAGE, SILENT = "lose", "wrong message", "silent"


@dataclass
class Receiver:
    """Stores what it parsed. ``answer``: an acknowledgement code, bytes, or LOSE, WRONG_MESSAGE, SILENT, by
    the message and how often its MSH-10 has come.
    """

    port: int = field(default_factory=free_port)
    answer: Callable[[hl7.Message, int], str | bytes] = lambda message, times: "AA"
    received: list[hl7.Message] = field(default_factory=list)
    connections: int = 0

    def peer(self, **settings: object) -> PeerSettings:
        """The receiver as a peer."""
        known = {"name": "ris", "ae_title": "RIS", "host": "127.0.0.1", "port": self.port}
        return PeerSettings.model_validate({**known, "may": ("receive",), "transport": "hl7", **settings})

    def numbers(self) -> list[str]:
        """MSH-10 of each message that came."""
        return [str(message["MSH"][0][10]) for message in self.received]

    async def serve(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        """Take the messages of one connection."""
        self.connections += 1
        try:
            while True:
                message = await reader.readmessage()
                self.received.append(message)
                times = self.numbers().count(str(message["MSH"][0][10]))
                answer = await asyncio.to_thread(self.answer, message, times)
                if answer == LOSE:
                    return
                if answer == SILENT:
                    await asyncio.sleep(3600)
                elif isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                    return
                else:
                    reply = message.create_ack("AA" if answer == WRONG_MESSAGE else answer)
                    if answer == WRONG_MESSAGE:
                        reply["MSA"][0][2] = "ANOTHER"
                    writer.writemessage(reply)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@contextmanager
def run_receiver(receiver: Receiver, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """The receiver, while the scope lasts."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        server = await start_hl7_server(
            receiver.serve, "127.0.0.1", receiver.port, limit=2**20, encoding="utf-8", ssl=tls
        )
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()
        await asyncio.sleep(0.2)  # a connection that has just come is served, and so closed with the others

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    loop, stop = started.result(10)
    try:
        yield receiver
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


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


@pytest.mark.parametrize("code", ["AE", "CR"])
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
    outbox = Outbox(tmp_path, [ris.peer()])
    outbox.add_study(["ris"], REPORT)
    outbox.run_until("dead")
    [row] = outbox.rows()
    assert (row["status"], row["attempts"]) == (f"{code} 204", 3)
    assert "unknown key identifier" in row["reason"]
    assert "Canary" not in f"{row}{caplog.text}"


@pytest.mark.parametrize("before", [b"\r\n", b"\xef\xbb\xbf", b"220 ready\r\n\x00 "])
@pytest.mark.parametrize("control_id", ["", "{number}^X"])
def test_bytes_outside_of_the_block_and_an_odd_control_id_are_no_refusal(
    tmp_path: Path, ris: Receiver, before: bytes, control_id: str
) -> None:
    def acknowledge(message: object, times: int) -> bytes:
        msa = f"MSA|AA |{control_id.format(number=ris.numbers()[-1])}\r"
        return before + b"\x0bMSH|^~\\&|RIS||AINODE||2025||ACK|1|P|2.5.1\r" + msa.encode() + b"\x1c\x0d\r\n"

    ris.answer = acknowledge
    outbox = Outbox(tmp_path, [ris.peer()])
    outbox.add_study(["ris"], REPORT)
    outbox.run_until("confirmed")
    assert len(ris.received) == 1


def test_acknowledgements_of_another_message_have_an_end(tmp_path: Path, ris: Receiver) -> None:
    ris.answer = lambda message, times: WRONG_MESSAGE
    outbox = Outbox(tmp_path, [ris.peer()])
    outbox.add_study(["ris"], REPORT)
    outbox.run_until("dead")
    assert len(ris.received) == 3


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
    assert reason in outbox.rows()[0]["reason"]
    assert len(ris.received) == 3
    assert not any(record.exc_info for record in caplog.records)


def test_a_report_that_never_went_there_is_not_withdrawn_there(tmp_path: Path, ris: Receiver) -> None:
    other = Receiver()
    with run_receiver(other):
        outbox = Outbox(tmp_path, [ris.peer(iocm=True), other.peer(name="other", iocm=True)])
        outbox.add_study(["ris", "other"], REPORT * 2)
        outbox.write(Session.execute, delete(Delivery).where(Delivery.id.in_((2, 3))))  # one report each
        outbox.run_until("confirmed")
        assert outbox.withdraw() == {}
        outbox.run_until("confirmed")
    for receiver in (ris, other):
        report, note = receiver.received
        assert len(note["OBR"]) == 1
        assert len(set(receiver.numbers())) == 2
        assert [str(row[5]) for row in note["OBX"]] == [str(row[5]) for row in report["OBX"]]


def test_tls_needs_the_right_authority_on_both_sides(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ca"), Authority(tmp_path, "foreign")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours.certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*ours.certify("ris"))
    node, stranger = ours.certify("node"), foreign.certify("stranger")
    with run_receiver(Receiver(), tls=context) as receiver:
        outbox = Outbox(tmp_path, [receiver.peer(tls=True)])
        outbox.add_study(["ris"], REPORT)
        for (certificate, key), authority, state in (
            (node, foreign, "pending"),
            (stranger, ours, "pending"),
            (node, ours, "confirmed"),
        ):
            tls = TlsSettings(certificate=certificate, private_key=key, trusted=authority.certificate)
            outbox.settings = outbox.settings.model_copy(update={"listener": ListenerSettings(tls=tls)})
            [check] = open_destination(outbox.settings.peers[0], outbox.settings).test()
            assert check.ok is (state == "confirmed"), check.text
            time.sleep(0.6)
            outbox.run_once()
            assert outbox.states() == {state: 1}, outbox.rows()
        assert "TLSv1" in check.text
        assert len(receiver.received) == 1
