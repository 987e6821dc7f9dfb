"""A suspected finding on the wire: a further PACS gets the results, a webhook and a mailbox one message."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from dicom_node.config.settings import Settings
from dicom_node.notifications.sender import Notifier
from dicom_node.outbox.delivery_worker import DeliveryWorker
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.smtp_lab import MailServer, WebServer
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import configuration, register, work
from tests.waiting import wait_until
from tests.wire.test_delivery_kill import LEASE_SECONDS, worker_process


def test_a_finding_reaches_er_and_on_call_once_though_the_sender_is_killed(tmp_path: Path) -> None:
    register()
    storing = threading.Event()

    def store_but_answer_late(_uid: str, times: int) -> int:
        storing.set()
        time.sleep(1.0 if times == 1 else 0.0)
        return 0x0000

    er = Pacs(free_port(), ae_title="ER", answer=store_but_answer_late)
    with (
        run_pacs(Pacs(free_port())) as pacs,
        run_pacs(er),
        WebServer().running() as web,
        MailServer().running() as mail,
    ):
        node = Inbox(tmp_path / "var", configuration())
        node.settings = _settings(node, pacs, er, web, mail)
        node.reopen()
        notifier = Notifier(node.database, node.settings, "a test")
        notifier.run_once()
        image = changed(ultrasound("one"), PatientID="SECRET-1")
        uid = str(image.StudyInstanceUID)
        node.receive(image)
        node.settle()
        work(node)

        with worker_process(_outbox(node)):
            assert storing.wait(60)
        worker = DeliveryWorker(node.database, node.settings, lease_seconds=LEASE_SECONDS)

        def all_there() -> bool:
            worker.run_once()
            return node.study(uid).state == "delivered"

        wait_until(all_there, 60, "delivered")
        assert set(er.stored) == set(pacs.stored) and len(er.stored) == 2
        for again in (notifier, Notifier(node.database, node.settings, "a test")):
            again.run_once()
        node.close()
    [(_, body)] = web.calls
    [email] = mail.mails
    assert email["Subject"] == "AINODE: Suspected: Mark"
    for text in (body["text"], str(email.get_content())):
        assert "AI: " in text and "https://ai-node.example.org/studies/1" in text
        assert "job=" not in text and "SECRET" not in text


def _settings(node: Inbox, pacs: Pacs, er: Pacs, web: WebServer, mail: MailServer) -> Settings:
    made = configuration()
    address = {"host": "127.0.0.1", "may": ["receive"], "results": ["sr", "sc"]}
    made["peers"][1] |= {"port": pacs.port}
    made["peers"].append({"name": "er", "ae_title": "ER", "port": er.port, **address})
    then = {"when": "Mark suspected", "send_to": ["er"], "notify": ["hook", "on-call"], "priority": "STAT"}
    made["rules"][0]["then"] = [then]
    made["console"] = {"url": "https://ai-node.example.org"}
    made["mail"] = {"host": "127.0.0.1", "port": mail.port, "security": "none", "sender": "n@example.org"}
    made["outbox"] = {"retry_seconds": 0.2, "retry_limit_seconds": 0.5}
    made["notifications"] = [
        {"name": "hook", "url": web.url},
        {"name": "on-call", "to": ["er@example.org"]},
    ]
    return Settings.model_validate({**made, "node": {"data_dir": node.folder}})


def _outbox(node: Inbox) -> Outbox:
    outbox = Outbox(node.folder, node.settings.peers)
    outbox.settings = node.settings
    return outbox
