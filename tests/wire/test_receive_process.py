"""The listener as a process: what it imports, how it ends, what survives kill -9."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.sender import Association, associate, load, p_data, store_command
from dicom_node.events import (
    ASSOCIATION_ABORTED,
    ASSOCIATION_ACCEPTED,
    ASSOCIATION_RELEASED,
    LISTENER_STARTED,
    LISTENER_STOPPED,
)
from dicom_node.inbox.header import read_arrival
from tests.ports import free_port
from tests.wire.receiver import EXPLICIT, US, VERIFICATION, Receiver, receiving, ultrasound, wait_until

STORAGE = [(US, [EXPLICIT])]
HEAVY = ("torch", "onnxruntime", "cv2", "sqlalchemy", "highdicom", "pydantic", "numpy", "ultralytics")

BLOCKED = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError("the listener must not import " + name)
sys.meta_path.insert(0, Refuse())
from dicom_node.scp.__main__ import main
main(sys.argv[1:])
"""


def test_the_listener_runs_where_models_and_database_cannot_be_imported(tmp_path: Path) -> None:
    Receiver(tmp_path)  # writes the policy
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, "--data-dir", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "listening" in process.stdout.readline()
    process.communicate(timeout=60)  # closes its standard input
    assert process.returncode == 0


def test_it_starts_in_a_second_and_a_half_of_processor_time(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        assert receiver.cpu_seconds() < 1.5


def test_it_ends_when_the_node_dies(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        assert receiver.process.stdin is not None
        receiver.process.stdin.close()
        assert receiver.process.wait(60) == 0


def test_a_second_listener_does_not_touch_the_spool_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(tmp_path) as first:
        association = associate(first.address, STORAGE)
        encoded = association.encode_store(1, ultrasound(1))
        association.sock.sendall(encoded[:-500])
        wait_until(lambda: len(first.files()) == 1)
        code = "import dicom_node.scp.__main__ as m; m._LOCK_SECONDS = 0.2; raise SystemExit(m.main())"
        second = subprocess.run(
            [sys.executable, "-c", code, "--data-dir", str(tmp_path)],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.PIPE,
        )
        assert second.returncode == 69
        assert "another listener" in second.stdout
        association.sock.sendall(encoded[-500:])
        assert association.read_status() == 0x0000
        association.release()


def test_a_policy_that_cannot_be_read_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text("{}")
    command = [sys.executable, "-m", "dicom_node.scp", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 69
    assert "cannot_start" in done.stdout


def test_sigterm_lets_associations_finish_and_aborts_the_rest(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        busy, idle = associate(receiver.address, STORAGE), associate(receiver.address, STORAGE)
        encoded = busy.encode_store(1, ultrasound(1, pixels=200_000))
        busy.sock.sendall(encoded[:1000])
        receiver.signal(signal.SIGTERM)
        time.sleep(0.7)
        with pytest.raises(ConnectionError):
            associate(receiver.address, STORAGE)
        assert busy.exchange(encoded[1000:]) == 0x0000
        busy.release()
        assert receiver.process.wait(60) == 0
        idle.sock.close()
        assert len(receiver.spool.pending()) == len(receiver.files()) == 1
        kinds = [event.type for event in receiver.events()]
        assert kinds.count(ASSOCIATION_RELEASED) == kinds.count(ASSOCIATION_ABORTED) == 1
        assert kinds[-1] == LISTENER_STOPPED


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acknowledged: dict[str, bytes] = {}

    def send(receiver: Receiver, first: int) -> None:
        association = associate(receiver.address, STORAGE)
        try:
            for number in range(first, first + 1000):
                item = ultrasound(number, pixels=20_000)
                if association.store(1, item) == 0x0000:
                    acknowledged[item.sop_instance_uid] = item.data_set
        except OSError:
            association.sock.close()

    for kill in range(3):
        with receiving(tmp_path) as receiver:
            first = 100_000 * kill
            threads = [threading.Thread(target=send, args=(receiver, first + 1000 * k)) for k in range(4)]
            for thread in threads:
                thread.start()
            enough = len(acknowledged) + 20
            wait_until(lambda enough=enough: len(acknowledged) > enough)
            receiver.kill()
            for thread in threads:
                thread.join(60)
    with receiving(tmp_path) as receiver:
        kept = [load(path) for path in receiver.spool.pending()]
        assert not [name for name in receiver.files() if name.startswith(".")]
        assert len(receiver.events(LISTENER_STARTED)) == 4
        journalled = {event.fields["association"] for event in receiver.events(ASSOCIATION_ACCEPTED)}
        arrivals = {read_arrival(path).association for path in receiver.spool.pending()}
    found = {item.sop_instance_uid: item.data_set for item in kept}
    assert acknowledged.items() <= found.items()
    assert arrivals <= journalled
    for item in kept:  # not acknowledged, but whole
        number = int(item.sop_instance_uid.rsplit(".", 1)[1])
        assert item.data_set == ultrasound(number, pixels=20_000).data_set


def idle_associations(receiver: Receiver, count: int) -> list[Association]:
    return [associate(receiver.address, STORAGE) for _ in range(count)]


def test_31_idle_associations_cost_no_more_than_3_percent_of_a_core(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        associations = idle_associations(receiver, 31)
        time.sleep(0.5)
        before, began = receiver.cpu_seconds(), time.monotonic()
        time.sleep(3)
        used = (receiver.cpu_seconds() - before) / (time.monotonic() - began)
        for association in associations:
            association.release()
    assert used <= 0.03


def test_each_end_of_an_association_is_journalled(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        contexts = [*STORAGE, (VERIFICATION, [EXPLICIT])]
        association = associate(receiver.address, contexts)
        assert association.store(1, ultrasound(1)) == 0x0000
        association.release()
        receiver.wait_for_event(ASSOCIATION_RELEASED)
        association = associate(receiver.address, contexts)
        association.abort()
        receiver.wait_for_event(ASSOCIATION_ABORTED)
        socket.create_connection(receiver.address).close()
        association = associate(receiver.address, contexts)
        assert association.store(1, ultrasound(2)) == 0x0000
        association.sock.close()
        receiver.wait_for_event(ASSOCIATION_ABORTED, 2)
        kinds = [(event.type.number, event.fields.get("objects")) for event in receiver.events()]
    assert kinds == [
        (1000, None),
        *[(1001, None), (1002, 1)],
        *[(1001, None), (1003, 0)],
        *[(1001, None), (1003, 1)],
    ]


def test_128_senders_at_once_lose_nothing(tmp_path: Path) -> None:
    peers = [{"name": "sender", "ae_title": "SENDER", "maximum_associations": 128}]
    with receiving(tmp_path, maximum_associations=128, peers=peers) as receiver:
        statuses: list[int] = []
        together = threading.Barrier(128)

        def send(first: int) -> None:
            association = associate(receiver.address, STORAGE)
            together.wait(60)
            statuses.extend(association.store(1, ultrasound(first + k)) for k in range(2))
            association.release()

        threads = [threading.Thread(target=send, args=(10 * k,)) for k in range(128)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [0x0000] * 256
        assert len({load(path).sop_instance_uid for path in receiver.spool.pending()}) == 256


def test_an_object_of_any_size_takes_the_memory_of_one_pdu(tmp_path: Path) -> None:
    fragment = bytes(100_000)
    with receiving(tmp_path) as receiver:
        association = associate(receiver.address, STORAGE)
        assert association.store(1, ultrasound(1, pixels=200_000)) == 0x0000
        before = most_memory(receiver)
        association.sock.sendall(b"".join(p_data(1, store_command(US, "1.2.3", 2), True, 16384)))
        for header in (*[0] * 1500, 2):
            association.sock.sendall(struct.pack(">BxIIBB", 4, 100_006, 100_002, 1, header) + fragment)
        assert association.read_status() == 0x0000
        association.release()
        assert most_memory(receiver) - before <= 2 * 2**20


def most_memory(receiver: Receiver) -> int:
    """Bytes of resident memory at its highest."""
    status = Path(f"/proc/{receiver.process.pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def test_two_listeners_share_a_port_and_one_goes_on_alone(tmp_path: Path) -> None:
    shared = {"port": free_port(), "share_port": True}
    with receiving(tmp_path, **shared) as first, receiving(tmp_path, place="listener-2", **shared) as second:
        store_each(first, range(40))
        listeners = {read_arrival(path).association.rpartition("-")[0] for path in first.spool.pending()}
        assert len(listeners) == 2, "the system deals connections among them"
        second.kill()
        store_each(first, range(40, 60))
        assert len({load(path).sop_instance_uid for path in first.spool.pending()}) == 60


def store_each(receiver: Receiver, numbers: Iterable[int]) -> None:
    """Each on an association of its own."""
    for number in numbers:
        association = associate(receiver.address, STORAGE)
        assert association.store(1, ultrasound(number, pixels=50)) == 0x0000
        association.release()
