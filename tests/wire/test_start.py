"""Starting: the port opens whatever waits in the spool; what stands against it is said in one sentence."""

from __future__ import annotations

import shutil
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.sender import associate
from dicom_node.inbox.header import Arrival
from dicom_node.inbox.spool import Spool
from tests.inbox_lab import spooled
from tests.node_lab import Node, running, wait_until
from tests.wire.receiver import EXPLICIT, US, receiving, ultrasound

CONFIG = """
[spool]
minimum_free_mib = 1
[workers]
processes = 0
[[peers]]
name = "sender"
ae_title = "SENDER"
"""


def test_the_port_opens_before_the_backlog_is_read(tmp_path: Path) -> None:
    node = Node(tmp_path, CONFIG)
    spool = Spool(tmp_path / "var" / "spool", 0)
    for number in range(100):
        item = ultrasound(number, pixels=10)
        arrival = Arrival("former", "SENDER", "AINODE", "127.0.0.1", 0, datetime.now(UTC))
        spooled(spool, arrival, US, item.sop_instance_uid, EXPLICIT, [item.data_set])
    with running(node):
        assert len(spool.pending()) > 30  # the port is open, and most of them still wait
        association = associate(("127.0.0.1", node.port), [(US, [EXPLICIT])])
        assert association.store(1, ultrasound(1000)) == 0x0000
        association.release()
        wait_until(lambda: not spool.pending(), 120, "the backlog indexed")
        assert len(node.studies()) == 101
        (scanned,) = node.cli("events", "list", "--number", "2020")
        assert scanned["fields"]["objects"] >= 100


def test_a_port_in_use_ends_the_node_with_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = Node(tmp_path, CONFIG, port=port).run_apart("serve")
    assert done.returncode == 69
    assert f"port {port} of 127.0.0.1: in use by another program" in done.stderr
    assert done.stderr.count("in use") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("place", "status", "named"), [("var", 78, "node.data_dir"), ("var/spool", 70, "spool")]
)
def test_a_folder_that_cannot_be_made_ends_the_node_with_a_sentence(
    tmp_path: Path, place: str, status: int, named: str
) -> None:
    node = Node(tmp_path, CONFIG)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("a file")
    done = node.run_apart("serve")
    assert done.returncode == status
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("gone", ["spool/incoming", "spool", "."])
def test_a_folder_that_is_deleted_under_the_listener_refuses_for_the_moment(
    tmp_path: Path, gone: str
) -> None:
    with receiving(tmp_path / "var") as receiver:
        association = associate(receiver.address, [(US, [EXPLICIT])])
        assert association.store(1, ultrasound(1)) == 0x0000
        shutil.rmtree(tmp_path / "var" / gone)
        time.sleep(1.1)  # the free space is asked for again
        assert association.store(1, ultrasound(2, pixels=200_000)) == 0xA700
        (tmp_path / "var" / "spool" / "incoming").mkdir(parents=True)
        assert association.store(1, ultrasound(3)) == 0x0000
        association.release()
        assert len(receiver.spool.pending()) == 1


def test_a_folder_that_is_deleted_within_an_object_refuses_it(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        association = associate(receiver.address, [(US, [EXPLICIT])])
        encoded = association.encode_store(1, ultrasound(1, pixels=400_000))
        association.sock.sendall(encoded[:300_000])
        wait_until(lambda: bool(receiver.files()), 60, "the first bytes")
        shutil.rmtree(tmp_path / "spool")
        assert association.exchange(encoded[300_000:]) == 0xA700
        association.release()
