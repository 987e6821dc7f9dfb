"""A modality reports on its performed procedure steps to a node, which is killed in between.

pynetdicom is the modality (``tests/mpps_lab.py`` says why).
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node import events
from dicom_node.inbox.journal import JournalReader
from dicom_node.inbox.steps import StepFolder
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.mpps_lab import WITH_STEPS, begun, change, create, ended
from tests.node_lab import Node, in_background, running, site_config, store
from tests.ports import free_port
from tests.waiting import wait_until
from tests.wire.receiver import Receiver, receiving

MODALITY = '[[peers]]\nname = "us1"\nae_title = "US1"\nmpps = true\n'
PEERS = [{"name": "modality", "ae_title": "US1", "mpps": True}]
GONE_ON = ["queued", "processing", "analysed", "delivering", "delivered", "failed", "not_applicable"]
DONE = {0x0000}
CREATED = {0x0000, 0x0111}  # the answer to the first try was lost
ENDED = {0x0000, 0x0110}


def site(quiet: float) -> str:
    """A node whose studies would be complete after their quiet time; results go nowhere."""
    return site_config(free_port(), quiet=quiet, senders=(), workers="attempts = 100", lease=5) + MODALITY


def status(answer: Dataset | None) -> int | None:
    return None if answer is None else answer.get("Status")


def images_of(name: str, number: int = 2) -> list[Dataset]:
    return [ultrasound(name, number=one, size=(60, 60)) for one in range(1, number + 1)]


def completions(node: Node) -> Counter[tuple[str, int]]:
    """How often each study was complete, and by its steps, or without all of them."""
    numbers = (events.STUDY_COMPLETE, events.STEPS_FULFILLED, events.STEPS_NOT_AWAITED)
    words = [word for one in numbers for word in ("--number", str(one.number))]
    rows = node.cli("events", "list", *words, "--since", "1d")
    return Counter((row["study_instance_uid"], row["number"]) for row in rows)


def test_a_study_is_analysed_when_its_step_ends(tmp_path: Path) -> None:
    sent = images_of("end")
    with running(Node(tmp_path, site(quiet=600))) as node:
        assert status(create(node.port, "1.2.1", begun(sent[0].StudyInstanceUID))) == 0x0000
        assert store(node.port, sent, "US1") == [0x0000, 0x0000]
        wait_until(lambda: len(node.studies()) == 1, what="the study is indexed")
        assert [study["state"] for study in node.studies().values()] == ["receiving"]
        assert status(change(node.port, "1.2.1", ended(sent))) == 0x0000
        node.wait_for(GONE_ON)
        shown = node.cli("studies", "show", sent[0].StudyInstanceUID)
        (step,) = shown["steps"]
        assert (step["status"], step["objects"], step["missing"]) == ("COMPLETED", 2, 0)
        assert "Mustermann" not in (tmp_path / "node.log").read_text(encoding="utf-8")


class Sender:
    """A modality that repeats what was not answered, until the end."""

    def __init__(self, node: Node, stop: threading.Event, chance: random.Random) -> None:
        self._node, self._stop, self._chance = node, stop, chance

    def examine(self, number: int) -> None:
        """Report and send one study in an order of chance; the end never comes before the begin."""
        sent = images_of(f"kill{number}")
        uid, first = f"1.2.9.{number}", begun(sent[0].StudyInstanceUID)
        begin = (lambda: status(create(self._node.port, uid, first)), CREATED)
        end = (lambda: status(change(self._node.port, uid, ended(sent))), ENDED)
        pictures = [(lambda image=image: store(self._node.port, [image], "US1")[0], DONE) for image in sent]
        todo = [begin, *pictures]
        self._chance.shuffle(todo)
        todo.insert(self._chance.randint(todo.index(begin) + 1, len(todo)), end)
        for send, done in todo:
            while not self._stop.is_set() and send() not in done:
                time.sleep(0.1)


@pytest.mark.timeout(1800)
def test_kills_of_a_node_lose_no_report_and_each_study_is_analysed_once(tmp_path: Path, rounds: int) -> None:
    """Of studies whose images come before, after and between their reports; their quiet time never passes."""
    kills = min(20, max(4, rounds // 1000))
    chance, stop = random.Random(20261130), threading.Event()
    with running(Node(tmp_path, site(quiet=600))) as node:
        senders = [
            in_background(lambda part=part: [Sender(node, stop, random.Random(n)).examine(n) for n in part])
            for part in (range(0, 6 * kills, 3), range(1, 6 * kills, 3), range(2, 6 * kills, 3))
        ]
        try:
            for _ in range(kills):
                time.sleep(chance.uniform(0.1, 2.0))
                node.kill()
                node.start()
            wait_until(
                lambda: not any(sender.is_alive() for sender in senders),
                what="every report taken",
                progress=lambda: len(node.studies()),
            )
        finally:
            stop.set()
        studies = node.wait_for(GONE_ON, count=6 * kills)
        assert len(studies) == 6 * kills
        found = completions(node)
        numbers = (events.STUDY_COMPLETE.number, events.STEPS_FULFILLED.number)
        assert found == {(uid, number): 1 for uid in studies for number in numbers}


def _lines(listener: Receiver) -> list[tuple[str, int, str]]:
    reader = JournalReader(listener.data_dir / "journal")
    fields = [line.event.fields for line in reader.read({}) if "number" in line.event.fields]
    return [(str(one["step"]), int(one["number"]), str(one["status"])) for one in fields]


def test_what_a_killed_listener_acknowledged_is_known_to_all(tmp_path: Path) -> None:
    sent = images_of("killed", 3)
    study = sent[0].StudyInstanceUID
    with receiving(tmp_path, peers=PEERS) as listener:
        for order in (
            lambda: status(create(listener.port, "1.2.3", begun(study))),
            lambda: store(listener.port, sent[:2], "US1")[0],
            lambda: status(change(listener.port, "1.2.3", ended(sent))),
            lambda: store(listener.port, sent[2:], "US1")[0],
        ):
            assert order() == 0x0000
            listener.kill()
            listener.start()
        assert status(create(listener.port, "1.2.3", begun(study))) == 0x0111
        assert status(change(listener.port, "1.2.3", ended(sent))) == 0x0110
        assert _lines(listener) == [("1.2.3", 0, "IN PROGRESS"), ("1.2.3", 1, "COMPLETED")]
    inbox = Inbox(tmp_path, WITH_STEPS)
    inbox.index()
    inbox.assemble()
    assert [len(job.source_uids) for job in inbox.jobs()] == [3]
    inbox.close()


def test_a_report_that_was_journalled_and_not_answered_is_taken_again(tmp_path: Path) -> None:
    """A kill after the line in the journal, before the step's file: the modality comes again."""
    sent = images_of("again")
    study = sent[0].StudyInstanceUID
    with receiving(tmp_path, peers=PEERS) as listener:
        assert status(create(listener.port, "1.2.3", begun(study))) == 0x0000
        (first,) = (tmp_path / "steps").glob("*.json")
        before = first.read_bytes()
        assert status(change(listener.port, "1.2.3", ended(sent))) == 0x0000
        first.write_bytes(before)  # as it was before the N-SET
        assert status(change(listener.port, "1.2.3", ended(sent, "DISCONTINUED"))) == 0x0000
        first.unlink()  # as it was before the N-CREATE
        assert status(create(listener.port, "1.2.3", begun(study))) == 0x0000
        assert status(change(listener.port, "1.2.3", ended(sent))) == 0x0000
        store(listener.port, sent, "US1")
        known = StepFolder(tmp_path / "steps").read("1.2.3")
        assert known is not None
        assert known.number == 1
    inbox = Inbox(tmp_path, WITH_STEPS)
    inbox.index()
    inbox.assemble()
    assert [len(job.source_uids) for job in inbox.jobs()] == [2]
    inbox.close()


def test_two_listeners_of_one_folder_know_the_same_steps(tmp_path: Path) -> None:
    sent = images_of("places")
    with receiving(tmp_path, peers=PEERS) as one, receiving(tmp_path, place="listener-2", peers=PEERS) as two:
        assert status(create(one.port, "1.2.3", begun(sent[0].StudyInstanceUID))) == 0x0000
        assert status(create(two.port, "1.2.3", begun(sent[0].StudyInstanceUID))) == 0x0111
        assert status(change(two.port, "1.2.3", ended(sent))) == 0x0000
        assert status(change(one.port, "1.2.3", ended(sent))) == 0x0110
