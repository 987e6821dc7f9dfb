"""Floods of objects, and a disk that is full."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from benchmarks.sender import (
    Stored,
    associate,
)
from dicom_node.base.events import (
    ASSOCIATION_RELEASED,
    STORE_REFUSED,
)
from dicom_node.receive import statuses
from tests.forked import Forked
from tests.hostile.association_lab import send_study
from tests.modality import (
    ultrasound,
    ultrasounds,
)
from tests.node_lab import Node, running, site_config, store
from tests.pacs_lab import (
    free_port,
)
from tests.waiting import wait_until
from tests.wire.receiver import EXPLICIT, US, receiving

FLOODER = """[[peers]]
name = "flooder"
ae_title = "FLOODER"
maximum_associations = 20
"""
FAULTY = b"\x08\x00\x05\x00CS\x02\x00??"  # ten bytes, and no study


def flood(port: int, name: str, objects: int, associations: int = 20) -> Counter[int]:
    """Send so many faulty objects, each when the one before it was answered; how often came which status."""
    lines = [
        associate(("127.0.0.1", port), [(US, [EXPLICIT])], calling="FLOODER") for _ in range(associations)
    ]
    numbers, answers = count(1), Counter[int]()
    for _ in range(objects // associations):
        for line in lines:
            line.sock.sendall(
                line.encode_store(1, Stored(US, f"2.25.{name}.{next(numbers)}", EXPLICIT, FAULTY))
            )
        answers.update([line.read_status() for line in lines])
    for line in lines:
        line.release()
    return answers


def seconds_to_its_job(node: Node, name: str) -> float:
    """A good peer sends a study of two images; how long until its job waits for a worker."""
    began = time.monotonic()
    images = ultrasounds(name, 2)
    assert store(node.port, images, "US1") == [0x0000, 0x0000]
    uid = images[0].StudyInstanceUID
    wait_until(lambda: node.studies().get(uid, {}).get("state") == "queued", 240, "its job")
    return time.monotonic() - began


@pytest.mark.timeout(0)
def test_a_good_study_beside_a_flood_is_ready_within_twice_its_time(tmp_path: Path, rounds: int) -> None:
    with running(Node(tmp_path, site_config(free_port(), processes=0) + FLOODER)) as node:
        usual = sorted(seconds_to_its_job(node, f"before{k}") for k in range(3))[1]
        assert set(flood(node.port, "1", min(max(5 * rounds, 400), 16_000))) == {statuses.SUCCESS.code}
        took = seconds_to_its_job(node, "beside")
        print(f"usual {usual:.1f} s, beside the flood {took:.1f} s")
        assert took <= 2 * usual + 15


def test_who_has_too_much_waiting_is_refused_and_others_are_not(tmp_path: Path) -> None:
    """Nobody indexes here: what comes stays."""
    peers = [{"name": name, "ae_title": name, "maximum_associations": 20} for name in ("FLOODER", "SENDER")]
    with receiving(tmp_path, peers=peers, waiting_objects=100) as receiver:
        answers = flood(receiver.port, "2", 900, lines := 6)
        assert answers.keys() == {statuses.SUCCESS.code, statuses.OUT_OF_RESOURCES.code}
        acknowledged = answers[statuses.SUCCESS.code]
        assert 100 <= acknowledged < 100 + lines
        assert len(receiver.spool.pending()) == acknowledged, "what was acknowledged is there, and no more"
        send_study(receiver)
        ends = receiver.wait_for_event(ASSOCIATION_RELEASED)
        assert sum(int(end.fields.get("objects_refused", 0)) for end in ends) == 900 - acknowledged
        assert len(receiver.events(STORE_REFUSED)) == 100 * lines
        for path in receiver.spool.pending()[:50]:  # indexed
            path.unlink()
        time.sleep(1.1)
        assert flood(receiver.port, "3", lines, lines) == {statuses.SUCCESS.code: lines}


A700 = statuses.OUT_OF_RESOURCES.code


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all space there is, to the last page."""
    path = folder / "fill"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def test_a_full_disk_refuses_objects_and_a_reload_until_there_is_space(
    small_disk: Path, tmp_path: Path
) -> None:
    """A disk that fills while the node runs, and one that is full when it starts, to the last page."""
    node = Node(small_disk / "node", site_config(1, processes=0))
    node.log = tmp_path / "node.log"
    with running(node):
        filled = fill(small_disk)
        assert [store(node.port, [ultrasound("full")], "US1") for _ in range(3)] == [[A700]] * 3
        further = '\n[[peers]]\nname = "us2"\nae_title = "US2"\n'
        node.config.write_text(node.config.read_text(encoding="utf-8") + further, encoding="utf-8")
        os.kill(node.pid, signal.SIGHUP)
        wait_until(lambda: "[6011]" in node.log.read_text(encoding="utf-8"), 120, "refusal")
        filled.unlink()
        wait_until(lambda: store(node.port, [ultrasound("before")], "US1") == [0], 120, "space again")
        os.kill(node.pid, signal.SIGHUP)
        wait_until(lambda: store(node.port, [ultrasound("more")], "US2") == [0], 120, "the new peer")
        node.wait_for(["queued"])
        node.stop()
    filled = fill(small_disk)
    with (tmp_path / "second.log").open("wb") as log:
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(node.config)]
        process = Forked(command, stderr=log)
    try:
        wait_until(lambda: store(node.port, [ultrasound("full")], "US1") == [A700], 120, "A700")
        time.sleep(3)
        assert store(node.port, [ultrasound("full")], "US1") == [A700]
        second = (tmp_path / "second.log").read_text()
        assert second.count("[6006]") == 1, "at most once a minute"
        filled.unlink()
        wait_until(lambda: store(node.port, [ultrasound("after")], "US1") == [0], 120, "space again")
        node.wait_for(["queued"], 2)
    finally:
        process.terminate()
        assert process.wait(120) == 0
    first = node.log.read_text(encoding="utf-8")
    assert "is full: make room" in first
    assert "Traceback" not in first + second
