"""A storage SCU that costs next to nothing: every PDU is encoded before the clock starts.

So a benchmark measures the receiver. The wire tests use it too, to send what no toolkit would send.
"""

import multiprocessing as mp
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from pynetdicom.dsutils import split_dataset

_QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)


class Rejected(ConnectionError):
    """A-ASSOCIATE-RJ: result, source and reason of PS3.8 Table 9-21."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        """``result``, ``source``, ``reason``: as in A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
        super().__init__(f"rejected: result {result}, source {source}, reason {reason}")
        self.answer = (result, source, reason)


class Aborted(ConnectionError):
    """A-ABORT: source and reason of PS3.8 Table 9-26."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The data set of a file, as encoded there."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes


@dataclass(slots=True)
class Association:
    """An association over one blocking socket. ``accepted``: transfer syntax by presentation context
    identifier; ``results``: result by identifier (0: accepted); ``peer_pdu``: the longest PDU that the peer
    takes, 0 for any.
    """

    sock: socket.socket
    peer_pdu: int
    accepted: dict[int, str]
    results: dict[int, int]
    quick_ack: bool = False
    _message_id: int = field(default=0, init=False)

    def encode_store(self, context_id: int, item: Stored, priority: int = 0) -> bytes:
        """Encode one C-STORE request: all its PDUs. ``context_id``: presentation context; ``priority``: 0
        medium, 1 high, 2 low.
        """
        self._message_id = self._message_id % 65535 + 1
        command = store_command(item.sop_class_uid, item.sop_instance_uid, self._message_id, priority)
        limit = min(self.peer_pdu or 2**20, 2**20)
        return b"".join(
            (*p_data(context_id, command, True, limit), *p_data(context_id, item.data_set, False, limit))
        )

    def exchange(self, encoded: bytes) -> int:
        """Send an encoded request, and return the status of the response. Raises Aborted and OSError."""
        self.sock.sendall(encoded)
        return self.read_status()

    def store(self, context_id: int, item: Stored, priority: int = 0) -> int:
        """C-STORE; returns its status."""
        return self.exchange(self.encode_store(context_id, item, priority))

    def read_status(self) -> int:
        """Status (0000,0900) of the next response."""
        return int.from_bytes(elements_of(self.read_response())[0x0900], "little")

    def read_response(self) -> bytes:
        """Command set of the next response."""
        command = b""
        while True:
            kind, body = self.read_pdu()
            if kind == 7:
                raise Aborted(f"aborted: source {body[2]}, reason {body[3]}")
            if kind != 4:
                raise ConnectionError(f"PDU type {kind} instead of a response")
            command += body[6:]
            if body[5] & 2:
                return command

    def read_pdu(self) -> tuple[int, bytes]:
        """Type and body of the next PDU. Raises ConnectionError when the peer closed."""
        head = _receive(self.sock, 6)
        if self.quick_ack and _QUICK_ACK is not None:
            # After the first piece: flushes the ACK for which a peer with Nagle on waits.
            self.sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
        return head[0], _receive(self.sock, int.from_bytes(head[2:6], "big"))

    def release(self) -> None:
        """A-RELEASE; returns when the peer agreed."""
        self.sock.sendall(bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
        kind, _ = self.read_pdu()
        self.sock.close()
        if kind != 6:
            raise ConnectionError(f"PDU type {kind} instead of A-RELEASE-RP")

    def abort(self) -> None:
        """A-ABORT and close."""
        self.sock.sendall(bytes((7, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
        self.sock.close()


def associate(
    address: tuple[str, int],
    contexts: Sequence[tuple[str, Sequence[str]]],
    *,
    calling: str = "SENDER",
    called: str = "AINODE",
    maximum_pdu: int = 131072,
    quick_ack: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Association:
    """Establish an association with ``address`` (host, port) as the AE ``calling``. ``contexts``: (abstract
    syntax, transfer syntaxes) to propose, under the identifiers 1, 3, 5 … Raises Rejected, Aborted, OSError.

    ``quick_ack``: acknowledge every piece of a response at once, see ``read_pdu``.
    """
    sock = socket.create_connection(address, timeout=120)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=address[0])
        sock.sendall(associate_request(contexts, calling, called, maximum_pdu))
        association = Association(sock, 16384, {}, {}, quick_ack)
        _read_answer(association)
    except OSError:
        sock.close()
        raise
    return association


def _read_answer(association: Association) -> None:
    """Read the answer to A-ASSOCIATE-RQ into ``association``. Raises Rejected, Aborted, ConnectionError."""
    kind, body = association.read_pdu()
    if kind == 3:
        raise Rejected(body[1], body[2], body[3])
    if kind == 7:
        raise Aborted(f"aborted: source {body[2]}, reason {body[3]}")
    if kind != 2:
        raise ConnectionError(f"PDU type {kind} instead of A-ASSOCIATE-AC")
    for item, value in _items(body[68:]):
        if item == 0x21:
            association.results[value[0]] = value[2]
            if value[2] == 0:
                ((_, syntax),) = _items(value[4:])
                association.accepted[value[0]] = syntax.decode("ascii").rstrip("\0")
        elif item == 0x50:
            association.peer_pdu = int.from_bytes(dict(_items(value))[0x51], "big")


def associate_request(
    contexts: Sequence[tuple[str, Sequence[str]]], calling: str, called: str, maximum_pdu: int
) -> bytes:
    """Encode an A-ASSOCIATE-RQ (PS3.8 9.3.2); parameters as of :func:`associate`."""
    proposed = b"".join(
        _item(
            0x20,
            bytes((2 * number + 1, 0, 0, 0))
            + _item(0x30, abstract.encode())
            + b"".join(_item(0x40, syntax.encode()) for syntax in syntaxes),
        )
        for number, (abstract, syntaxes) in enumerate(contexts)
    )
    user = _item(0x51, struct.pack(">I", maximum_pdu)) + _item(0x52, b"1.2.826.0.1.3680043.8.498.1")
    body = (
        struct.pack(">HH", 1, 0)
        + called.encode().ljust(16)
        + calling.encode().ljust(16)
        + bytes(32)
        + _item(0x10, b"1.2.840.10008.3.1.1.1")
        + proposed
        + _item(0x50, user)
    )
    return struct.pack(">BBI", 1, 0, len(body)) + body


def p_data(context_id: int, data: bytes, is_command: bool, limit: int) -> list[bytes]:
    """P-DATA-TF PDUs with one PDV each (PS3.8 9.3.5), none longer than ``limit`` bytes."""
    step, pieces, view = limit - 6, [], memoryview(data)
    for start in range(0, len(data), step):
        part = view[start : start + step]
        flags = int(is_command) | (2 if start + step >= len(data) else 0)
        pieces.append(struct.pack(">BBIIBB", 4, 0, len(part) + 6, len(part) + 2, context_id, flags) + part)
    return pieces


def store_command(sop_class: str, sop_instance: str, message_id: int, priority: int = 0) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    return command_set(
        {
            0x0002: sop_class.encode(),
            0x0100: struct.pack("<H", 1),
            0x0110: struct.pack("<H", message_id),
            0x0700: struct.pack("<H", priority),
            0x0800: struct.pack("<H", 1),
            0x1000: sop_instance.encode(),
        }
    )


def command_set(elements: dict[int, bytes]) -> bytes:
    """Elements of group 0000 with their group length, Implicit VR Little Endian."""
    body = b"".join(
        struct.pack("<HHI", 0, element, len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2)
        for element, value in elements.items()
    )
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def elements_of(command: bytes) -> dict[int, bytes]:
    """Element number to value of a command set."""
    elements, offset = {}, 0
    while offset < len(command):
        _, element, length = struct.unpack_from("<HHI", command, offset)
        elements[element] = command[offset + 8 : offset + 8 + length]
        offset += 8 + length
    return elements


def load(path: Path) -> Stored:
    """The data set of a Part 10 file as bytes."""
    meta, offset = split_dataset(path)
    return Stored(
        str(meta.MediaStorageSOPClassUID),
        str(meta.MediaStorageSOPInstanceUID),
        str(meta.TransferSyntaxUID),
        path.read_bytes()[offset:],
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run of senders saw. Latency: first byte sent to status read, milliseconds."""

    objects: int
    errors: tuple[str, ...]
    seconds: float
    files_per_second: float
    megabytes_per_second: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Run:
    """Which files go where, over how many associations. ``quick_ack`` as in ``associate``."""

    address: tuple[str, int]
    files: tuple[Path, ...]
    associations: int
    called: str = "AINODE"
    quick_ack: bool = True


def send_all(run: Run) -> Measured:
    """Deal the files to as many processes as associations, start them together and measure."""
    context = mp.get_context("fork")
    barrier, results = context.Barrier(run.associations), context.SimpleQueue()
    senders = [
        context.Process(target=_send, args=(run, number, barrier, results))
        for number in range(run.associations)
    ]
    for sender in senders:
        sender.start()
    found: list[_Sent] = [results.get() for _ in senders]
    for sender in senders:
        sender.join()
    latencies = sorted(value for one in found for value in one.latencies)
    seconds = max(one.ended for one in found) - min(one.began for one in found)
    sent = len(latencies)
    return Measured(
        objects=sent,
        errors=tuple(error for one in found for error in one.errors),
        seconds=seconds,
        files_per_second=sent / seconds,
        megabytes_per_second=sum(one.size for one in found) / 1e6 / seconds,
        p50_ms=1000 * latencies[sent // 2] if sent else 0.0,
        p95_ms=1000 * latencies[int(0.95 * sent)] if sent else 0.0,
    )


@dataclass(slots=True)
class _Sent:
    """What one sender did: when it ``began`` and ``ended`` (s), ``size`` of its data sets in bytes,
    ``latencies`` from request to response (s), and errors.
    """

    began: float = 0.0
    ended: float = 0.0
    size: int = 0
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def _send(run: Run, number: int, barrier: Barrier, results: SimpleQueue[_Sent]) -> None:
    """Sender number ``number``: prepare an association and its share of the files, wait at ``barrier`` for
    the others, send, and put what it did into ``results``.
    """
    sent = _Sent()
    association, encoded = None, list[bytes]()
    try:
        association, encoded, sent.size = _prepare(run, run.files[number :: run.associations])
    except OSError as error:
        sent.errors.append(f"{type(error).__name__}: {error}")
    barrier.wait()
    sent.began = sent.ended = time.perf_counter()
    try:
        for one in encoded:
            assert association is not None
            start = time.perf_counter()
            status = association.exchange(one)
            sent.ended = time.perf_counter()
            sent.latencies.append(sent.ended - start)
            if status:
                sent.errors.append(f"status {status:04X}")
        if association is not None:
            association.release()
    except OSError as error:
        sent.errors.append(f"{type(error).__name__}: {error}")
    results.put(sent)


def _prepare(run: Run, files: Sequence[Path]) -> tuple[Association, list[bytes], int]:
    """Establish an association for these files, and encode all their requests; returns both, and the bytes of
    the data sets.
    """
    items = [load(file) for file in files]
    pairs = sorted({(item.sop_class_uid, item.transfer_syntax_uid) for item in items})
    association = associate(
        run.address,
        [(abstract, [syntax]) for abstract, syntax in pairs],
        called=run.called,
        quick_ack=run.quick_ack,
    )
    ids = {pair: 2 * number + 1 for number, pair in enumerate(pairs)}
    encoded = [
        association.encode_store(ids[item.sop_class_uid, item.transfer_syntax_uid], item) for item in items
    ]
    return association, encoded, sum(len(item.data_set) for item in items)


def _receive(sock: socket.socket, count: int) -> bytes:
    """Read exactly ``count`` bytes. Raises ConnectionError if the peer closes."""
    data = bytearray(count)
    view, got = memoryview(data), 0
    while got < count:
        received = sock.recv_into(view[got:])
        if not received:
            raise ConnectionError("peer closed the connection")
        got += received
    return bytes(data)


def _item(kind: int, data: bytes) -> bytes:
    """Encode an item of A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    return struct.pack(">BBH", kind, 0, len(data)) + data


def _items(data: bytes) -> list[tuple[int, bytes]]:
    """The items of an association PDU, as (type, content)."""
    items, offset = [], 0
    while offset < len(data):
        kind, _, length = struct.unpack_from(">BBH", data, offset)
        items.append((kind, data[offset + 4 : offset + 4 + length]))
        offset += 4 + length
    return items
