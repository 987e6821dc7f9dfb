"""Associations with a listener made by hand, and a good sender beside them who must not notice."""

import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.sender import (
    Association,
    associate,
    command_set,
    p_data,
)
from tests.wire.receiver import EXPLICIT, US, VERIFICATION, Receiver
from tests.wire.receiver import ultrasound as small_object


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, left out, doubled; lengths made extreme; the end cut off."""
    result = bytearray(data)
    for _ in range(chance.randrange(1, 8)):
        if not result:
            break
        place = chance.randrange(len(result))
        kind = chance.randrange(5)
        if kind == 0:
            result[place] = chance.randrange(256)
        elif kind == 1:
            result[place : place + 4] = chance.choice([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"])
        elif kind == 2:
            del result[place : place + chance.randrange(1, 40)]
        elif kind == 3:
            result[place:place] = result[place : place + chance.randrange(1, 200)]
        else:
            del result[max(place, 8) :]
    return bytes(result) or b"\0"


STORAGE = [(US, [EXPLICIT])]
STRANGER = "127.0.0.66"  # where the good sender is not


def send_study(receiver: Receiver) -> float:
    """A known modality sends five images on one association; returns the seconds that it took."""
    began = time.monotonic()
    association = associate(receiver.address, STORAGE)
    for number in range(5):
        assert association.store(1, small_object(number)) == 0x0000
    association.release()
    return time.monotonic() - began


@contextlib.contextmanager
def nobody_notices(receiver: Receiver, mebibytes: int = 48) -> Iterator[Callable[[], None]]:
    """A good study takes at most twice its usual time, and the listener no more memory than it may.

    Yields what sends the study; it is sent once more at the end. The floor of three seconds is for
    machines with other things to do.
    """
    usual = sorted(send_study(receiver) for _ in range(3))[1]
    before = resident(receiver)

    def send() -> None:
        assert send_study(receiver) <= max(2 * usual, usual + 3)

    yield send
    send()
    assert receiver.process.poll() is None, "the listener died"
    assert resident(receiver) - before <= mebibytes * 2**20


def resident(receiver: Receiver) -> int:
    """Bytes of memory that the listener has had at most."""
    status = Path(f"/proc/{receiver.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def connect(receiver: Receiver, address: str = STRANGER) -> socket.socket:
    """A connection from an address of this machine that no peer has."""
    return socket.create_connection(receiver.address, timeout=60, source_address=(address, 0))


def send_until_cut(connection: socket.socket, data: bytes, times: int = 1) -> int:
    """Send it again and again; returns the bytes that went out before the listener had enough."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            connection.sendall(data)
            sent += len(data)
    return sent


def is_cut(connection: socket.socket, seconds: float = 15) -> bool:
    """Whether the listener aborts or closes within the time."""
    connection.settimeout(seconds)
    try:
        while data := connection.recv(4096):
            if data[0] == 7:  # A-ABORT
                return True
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    finally:
        connection.close()
    return True


def request(items: bytes, length: int | None = None, calling: bytes = b"SENDER") -> bytes:
    """An A-ASSOCIATE-RQ with these items; ``length`` is what its header says."""
    body = struct.pack(">HH", 1, 0) + b"AINODE".ljust(16) + calling.ljust(16) + bytes(32) + items
    return struct.pack(">BBI", 1, 0, len(body) if length is None else length) + body


def item(kind: int, value: bytes) -> bytes:
    """An item or sub-item of an association request."""
    return struct.pack(">BBH", kind, 0, len(value)) + value


def command(association: Association, field: int, data_set: bool = True) -> None:
    """Send a whole command set with this command field."""
    elements = {
        0x0002: b"1.2.840.10008.1.1",
        0x0100: struct.pack("<H", field),
        0x0110: struct.pack("<H", 1),
        0x0800: struct.pack("<H", 1 if data_set else 0x0101),
    }
    association.sock.sendall(b"".join(p_data(1, command_set(elements), True, 16384)))


CONTEXT = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, US.encode()) + item(0x40, EXPLICIT.encode()))
APPLICATION = item(0x10, b"1.2.840.10008.3.1.1.1")
"""The context of DICOM, and a presentation context for ultrasound images."""


ECHO = [(VERIFICATION, [EXPLICIT])]
MIB = 2**20
