"""What no peer should send: a clear answer or an abort, never a crash, never half an object."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.sender import (
    Aborted,
    Association,
    Stored,
    associate,
    associate_request,
    command_set,
    elements_of,
    load,
    p_data,
    store_command,
)
from dicom_node.events import ASSOCIATION_ABORTED, INSTANCE_UID_DIFFERS, STORE_REFUSED
from tests.wire.receiver import EXPLICIT, IMPLICIT, US, Receiver, receiving, ultrasound, wait_until

STORAGE = [(US, [EXPLICIT])]
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
LIMIT = 16384


@pytest.fixture(scope="module")
def receiver(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Receiver]:
    with receiving(tmp_path_factory.mktemp("listener"), acse_timeout_seconds=2) as running:
        yield running
        assert running.process.poll() is None, "the listener died"


@pytest.fixture(autouse=True)
def nothing_is_left_behind(receiver: Receiver) -> Iterator[None]:
    """After each test the listener still answers, and no temporary file is left."""
    yield
    association = associate(receiver.address, STORAGE)
    assert association.store(1, ultrasound(99)) == 0x0000
    association.release()
    wait_until(lambda: not [name for name in receiver.files() if name.startswith(".")])


def gone(association: Association) -> bool:
    """Whether the peer aborts or closes, within the time of the socket."""
    association.sock.settimeout(10)
    try:
        association.read_response()
    except (ConnectionError, TimeoutError) as error:
        return not isinstance(error, TimeoutError)
    finally:
        association.sock.close()
    return False


def command_pdus(command: bytes, context_id: int = 1) -> bytes:
    return b"".join(p_data(context_id, command, True, LIMIT))


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", bytes(64), b"\xff" * 6, b"\x01"]
)
def test_what_is_not_dicom_gets_no_association(receiver: Receiver, data: bytes) -> None:
    with socket.create_connection(receiver.address, timeout=60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(100), b""))
    assert received[:1] in (b"", b"\x07")


def test_a_connection_that_says_nothing_is_closed(receiver: Receiver) -> None:
    with socket.create_connection(receiver.address, timeout=60) as connection:
        assert connection.recv(1) == b""


def test_a_request_with_broken_items_is_aborted(receiver: Receiver) -> None:
    request = bytearray(associate_request(STORAGE, "SENDER", "AINODE", LIMIT))
    request[76:78] = b"\xff\xff"  # length of the application context item
    with socket.create_connection(receiver.address, timeout=60) as connection:
        connection.sendall(request)
        assert connection.recv(1) in (b"\x07", b"")


def test_a_store_abandoned_half_way_leaves_nothing(receiver: Receiver) -> None:
    before = set(receiver.files())
    aborted = len(receiver.events(ASSOCIATION_ABORTED))
    for ending in ("abort", "close"):
        association = associate(receiver.address, STORAGE)
        encoded = association.encode_store(1, ultrasound(1, pixels=300_000))
        association.sock.sendall(encoded[: len(encoded) // 2])
        wait_until(lambda: len(receiver.files()) > len(before))
        if ending == "abort":
            association.abort()
        else:
            association.sock.close()
        wait_until(lambda: set(receiver.files()) == before)
    events = receiver.wait_for_event(ASSOCIATION_ABORTED, aborted + 2)
    assert [event.fields["objects"] for event in events[-2:]] == [0, 0]


def test_the_same_object_twice_at_once_is_kept_twice(receiver: Receiver) -> None:
    item = ultrasound(7, pixels=100_000)
    before = set(receiver.spool.pending())
    statuses = []

    def send() -> None:
        association = associate(receiver.address, STORAGE)
        statuses.append(association.store(1, item))
        association.release()

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0, 0]
    kept = set(receiver.spool.pending()) - before
    assert [load(path).data_set for path in kept] == [item.data_set] * 2


@pytest.mark.parametrize("uid", ["", "abc", "1.2.3 4", "1" * 65, "1.2\\1.3", "é"])
def test_an_impossible_instance_uid_is_a_framing_error(receiver: Receiver, uid: str) -> None:
    before = receiver.files()
    association = associate(receiver.address, STORAGE)
    item = ultrasound(1)
    assert association.store(1, Stored(US, uid, EXPLICIT, item.data_set)) == 0xC000
    assert association.store(1, item) == 0x0000
    association.release()
    assert receiver.events(STORE_REFUSED)[-1].fields["status"] == "C000"
    assert len(receiver.files()) == len(before) + 1


def test_a_request_without_uids_is_a_framing_error_too(receiver: Receiver) -> None:
    association = associate(receiver.address, STORAGE)
    elements = elements_of(store_command(US, "1.2.3", 1))
    for missing, status in ((0x1000, 0xC000), (0x0002, 0x0122)):
        kept = {element: value for element, value in elements.items() if element not in (0, missing)}
        association.sock.sendall(command_pdus(command_set(kept)))
        association.sock.sendall(b"".join(p_data(1, ultrasound(1).data_set, False, LIMIT)))
        assert association.read_status() == status
    association.release()


def test_a_store_without_data_set_is_a_framing_error(receiver: Receiver) -> None:
    association = associate(receiver.address, STORAGE)
    elements = elements_of(store_command(US, "1.2.3", 1))
    del elements[0]
    association.sock.sendall(command_pdus(command_set(elements | {0x0800: b"\x01\x01"})))
    assert association.read_status() == 0xC000
    association.sock.sendall(command_pdus(command_set(elements)))
    association.sock.sendall(struct.pack(">BBIIBB", 4, 0, 6, 2, 1, 2))  # last fragment, empty
    assert association.read_status() == 0xC000
    association.release()


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.7", "1.2.3.4", "1.2.840.10008.1.1"])
def test_another_class_than_that_of_the_context_is_not_supported(receiver: Receiver, sop_class: str) -> None:
    association = associate(receiver.address, STORAGE)
    item = ultrasound(1)
    assert association.store(1, Stored(sop_class, item.sop_instance_uid, EXPLICIT, item.data_set)) == 0x0122
    assert association.store(1, item) == 0x0000
    association.release()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
@pytest.mark.parametrize("pdu", [16384, 64])
def test_a_data_set_of_another_class_than_its_request_is_refused(
    receiver: Receiver, syntax: str, pdu: int
) -> None:
    before = receiver.files()
    association = associate(receiver.address, [(SECONDARY_CAPTURE, [syntax])])
    association.peer_pdu = pdu
    item = ultrasound(1, pixels=500, syntax=syntax)
    other = Stored(SECONDARY_CAPTURE, item.sop_instance_uid, syntax, item.data_set)
    assert association.store(1, other) == 0xA900
    association.release()
    event = receiver.events(STORE_REFUSED)[-1]
    assert (event.fields["status"], event.fields["reason"]) == (
        "A900",
        "the data set has another SOP Class UID",
    )
    assert receiver.files() == before


def test_another_instance_uid_than_that_of_the_request_gets_an_event(receiver: Receiver) -> None:
    item = ultrasound(41)
    reported = len(receiver.events(INSTANCE_UID_DIFFERS))
    association = associate(receiver.address, STORAGE)
    assert association.store(1, Stored(US, "1.2.3.41", EXPLICIT, item.data_set)) == 0x0000
    assert association.store(1, item) == 0x0000
    association.release()
    events = receiver.events(INSTANCE_UID_DIFFERS)[reported:]
    shown = [(event.fields["requested"], event.fields["sop_instance_uid"]) for event in events]
    assert shown == [("1.2.3.41", item.sop_instance_uid)]


def test_a_strict_listener_refuses_another_instance_uid(receiver: Receiver) -> None:
    folder = receiver.data_dir.with_name(f"{receiver.data_dir.name}-strict")
    with receiving(folder, instance_uids="strict") as strict:
        item = ultrasound(41)
        association = associate(strict.address, STORAGE)
        association.sock.sendall(association.encode_store(1, Stored(US, "1.2.3.41", EXPLICIT, item.data_set)))
        response = elements_of(association.read_response())
        assert response[0x0900] == b"\x00\xa9"
        assert response[0x0902] == b"the data set has another SOP Instance UID "
        assert association.store(1, item) == 0x0000
        association.release()
        assert len(strict.spool.pending()) == 1


def test_a_truncated_data_set_is_acknowledged_because_content_is_not_judged_here(receiver: Receiver) -> None:
    association = associate(receiver.address, STORAGE)
    item = ultrasound(5)
    before = set(receiver.spool.pending())
    assert association.store(1, Stored(US, item.sop_instance_uid, EXPLICIT, item.data_set[:100])) == 0x0000
    association.release()
    (path,) = set(receiver.spool.pending()) - before
    assert load(path).data_set == item.data_set[:100]


def test_a_response_names_the_object_and_the_request(receiver: Receiver) -> None:
    association = associate(receiver.address, STORAGE)
    item = ultrasound(5)
    association.sock.sendall(association.encode_store(1, item))
    response = elements_of(association.read_response())
    association.release()
    assert response[0x0002].rstrip(b"\0").decode() == US
    assert response[0x1000].rstrip(b"\0").decode() == item.sop_instance_uid
    assert (response[0x0100], response[0x0120]) == (b"\x01\x80", b"\x01\x00")
    assert int.from_bytes(response[0], "little") == sum(
        8 + len(value) for element, value in response.items() if element
    )


@pytest.mark.parametrize(
    "pdus",
    [
        b"".join(p_data(1, b"data without command", False, LIMIT)),
        command_pdus(b"no command set"),
        command_pdus(store_command(US, "1.2.3", 1)[:30]),
        command_pdus(command_set({0x0100: b"\x01\x00"})),
        command_pdus(store_command(US, "1.2.3", 1)) * 2,
        command_pdus(store_command(US, "1.2.3", 1), context_id=3),
        command_pdus(store_command(US, "1.2.3", 1)) + b"".join(p_data(3, b"x", False, LIMIT)),
        command_pdus(command_set({0x0100: b"\x77\x77", 0x0110: b"\x01\x00", 0x0800: b"\x01\x01"})),
        struct.pack(">BBIIB", 4, 0, 5, 1, 1),  # a PDV without message control header
        struct.pack(">BBIIBB", 4, 0, 6, 900, 1, 2),  # a PDV longer than its PDU
        struct.pack(">BBIH", 4, 0, 2, 0),
        struct.pack(">BBI", 9, 0, 0),  # no such PDU
        struct.pack(">BBI", 6, 0, 4) + bytes(4),  # A-RELEASE-RP to nothing
        associate_request(STORAGE, "SENDER", "AINODE", LIMIT),  # a second time
    ],
    ids=lambda pdus: pdus[:12].hex(),
)
def test_what_breaks_the_protocol_ends_the_association(receiver: Receiver, pdus: bytes) -> None:
    association = associate(receiver.address, STORAGE)
    association.sock.sendall(pdus)
    assert gone(association)


def test_storage_commitment_is_refused(receiver: Receiver) -> None:
    association = associate(receiver.address, STORAGE)
    action = {
        0x0003: b"1.2.840.10008.1.20.1",
        0x0100: b"\x30\x01",
        0x0110: b"\x01\x00",
        0x0800: b"\x01\x01",
        0x1001: b"1.2.840.10008.1.20.1.1",
        0x1008: b"\x01\x00",
    }
    association.sock.sendall(command_pdus(command_set(action)))
    assert gone(association)


def test_random_bytes_in_an_association_do_no_harm(receiver: Receiver) -> None:
    chance = random.Random(20260102)
    whole = associate(receiver.address, STORAGE)
    good = whole.encode_store(1, ultrasound(3, pixels=2000))
    whole.release()
    for _ in range(40):
        association = associate(receiver.address, STORAGE)
        bad = bytearray(good)
        for _ in range(chance.randrange(1, 12)):
            bad[chance.randrange(300)] = chance.randrange(256)
        with contextlib.suppress(OSError):
            association.sock.sendall(bad[: chance.randrange(10, len(bad))])
        association.sock.close()


def test_a_disk_under_its_watermark_refuses_for_the_moment(receiver: Receiver) -> None:
    folder = receiver.data_dir.with_name(f"{receiver.data_dir.name}-full")
    free_mib = 2**40
    with receiving(folder, minimum_free_mib=free_mib) as full:
        association = associate(full.address, STORAGE)
        for number in range(2):
            assert association.store(1, ultrasound(number, pixels=100_000)) == 0xA700
        association.sock.sendall(association.encode_store(1, ultrasound(1)))
        assert elements_of(association.read_response())[0x0902] == b"out of disk space "
        association.release()
        assert full.files() == []


def test_an_idle_association_is_aborted(receiver: Receiver) -> None:
    folder = receiver.data_dir.with_name(f"{receiver.data_dir.name}-idle")
    with receiving(folder, network_timeout_seconds=0.5) as impatient:
        association = associate(impatient.address, STORAGE)
        stalled = associate(impatient.address, STORAGE)
        stalled.sock.sendall(stalled.encode_store(1, ultrasound(1))[:2000])  # stops within a PDU
        began = time.monotonic()
        with pytest.raises(Aborted):
            association.read_response()
        assert gone(stalled)
        assert time.monotonic() - began < 60
        association.sock.close()
        assert len(impatient.wait_for_event(ASSOCIATION_ABORTED, 2)) == 2
        wait_until(lambda: impatient.files() == [])


def test_an_object_that_the_disk_cannot_hold_leaves_nothing(receiver: Receiver) -> None:
    before = receiver.files()
    unlimited = resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE)
    association = associate(receiver.address, STORAGE)
    try:
        resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, (2**20, unlimited[1]))
        assert association.store(1, ultrasound(1, pixels=2**20)) == 0xA700
        assert receiver.files() == before
    finally:
        resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert association.store(1, ultrasound(1, pixels=2**20)) == 0x0000
    association.release()
