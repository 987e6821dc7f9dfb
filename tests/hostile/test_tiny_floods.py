"""One peer's flood of tiny faulty objects holds up nobody else, fills no list, and has an end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.sender import Association, Stored, associate
from dicom_node.events import ASSOCIATION_RELEASED, STORE_REFUSED
from dicom_node.scp import statuses
from tests.hostile.attacker import send_study
from tests.modality import ultrasound
from tests.node_lab import Node, running, site_config, store
from tests.ports import free_port
from tests.wire.receiver import EXPLICIT, US, receiving

FLOODER = """[[peers]]
name = "flooder"
ae_title = "FLOODER"
maximum_associations = 20
"""
ASSOCIATIONS = 20
FAULTY = b"\x08\x00\x05\x00CS\x02\x00??"  # ten bytes, and no study


class Flood:
    """Sends faulty objects on twenty associations, each when the one before it was answered."""

    def __init__(self, port: int, name: str) -> None:
        self._port, self._name = port, name
        self._numbers = iter(range(1, 10**9))
        self.answers: dict[int, int] = {}

    def send(self, objects: int) -> None:
        """So many objects; returns when all were answered."""
        lines = [self._open() for _ in range(ASSOCIATIONS)]
        for _ in range(objects // ASSOCIATIONS):
            for line in lines:
                uid = f"2.25.{self._name}.{next(self._numbers)}"
                line.sock.sendall(line.encode_store(1, Stored(US, uid, EXPLICIT, FAULTY)))
            for line in lines:
                status = line.read_status()
                self.answers[status] = self.answers.get(status, 0) + 1
        for line in lines:
            line.release()

    def _open(self) -> Association:
        return associate(("127.0.0.1", self._port), [(US, [EXPLICIT])], calling="FLOODER")


def seconds_to_its_job(node: Node, name: str) -> float:
    """A good peer sends a study of two images; how long until its job waits for a worker."""
    began = time.monotonic()
    images = [ultrasound(name, number=number) for number in (1, 2)]
    assert store(node.port, images, "US1") == [0x0000, 0x0000]
    uid = images[0].StudyInstanceUID
    while node.studies().get(uid, {}).get("state") != "queued":
        assert time.monotonic() - began < 240, "no job"
        time.sleep(0.05)
    return time.monotonic() - began


@contextmanager
def flooded_node(folder: Path) -> Iterator[Node]:
    config = site_config(free_port(), processes=0) + FLOODER
    with running(Node(folder, config)) as node:
        yield node


@pytest.mark.timeout(0)
def test_a_good_study_beside_a_flood_is_ready_within_twice_its_time(tmp_path: Path, rounds: int) -> None:
    with flooded_node(tmp_path) as node:
        usual = sorted(seconds_to_its_job(node, f"before{k}") for k in range(3))[1]
        flood = Flood(node.port, "1")
        flood.send(min(max(5 * rounds, 1000), 16_000))
        assert set(flood.answers) == {statuses.SUCCESS.code}
        took = seconds_to_its_job(node, "beside")
        print(f"usual {usual:.1f} s, beside the flood {took:.1f} s")
        assert took <= 2 * usual + 15


def test_who_has_too_much_waiting_is_refused_and_others_are_not(tmp_path: Path) -> None:
    """Nobody indexes here: what comes stays."""
    peers = [{"name": name, "ae_title": name, "maximum_associations": 20} for name in ("FLOODER", "SENDER")]
    with receiving(tmp_path, peers=peers, waiting_objects=100) as receiver:
        flood = Flood(receiver.port, "2")
        flood.send(4000)
        assert flood.answers.keys() == {statuses.SUCCESS.code, statuses.OUT_OF_RESOURCES.code}
        acknowledged = flood.answers[statuses.SUCCESS.code]
        assert 100 <= acknowledged < 100 + ASSOCIATIONS
        assert len(receiver.spool.pending()) == acknowledged, "what was acknowledged is there, and no more"
        send_study(receiver)
        ends = receiver.wait_for_event(ASSOCIATION_RELEASED)
        assert sum(int(end.fields.get("objects_refused", 0)) for end in ends) == 4000 - acknowledged
        assert len(receiver.events(STORE_REFUSED)) == 100 * ASSOCIATIONS
        for path in receiver.spool.pending()[:50]:  # indexed
            path.unlink()
        time.sleep(1.1)
        again = Flood(receiver.port, "3")
        again.send(ASSOCIATIONS)
        assert again.answers == {statuses.SUCCESS.code: ASSOCIATIONS}
