"""The listener reads and answers messages itself: its answers beside those of pynetdicom's storage SCP."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator

import pytest
from pynetdicom import AE, evt
from pynetdicom.events import Event

from benchmarks.sender import Association, associate, command_set, load, store_command
from tests.wire.receiver import EXPLICIT, US, VERIFICATION, Receiver, receiving, ultrasound

CONTEXTS = [(US, [EXPLICIT]), (VERIFICATION, [EXPLICIT])]
_COMMAND, _LAST = 1, 2


@pytest.fixture(scope="module")
def listener(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Receiver]:
    with receiving(tmp_path_factory.mktemp("ours"), maximum_pdu_bytes=16384) as running:
        yield running


@pytest.fixture(scope="module")
def stock() -> Iterator[tuple[tuple[str, int], dict[str, bytes]]]:
    """Address and what was stored, by SOP Instance UID."""
    stored: dict[str, bytes] = {}

    def handle_store(event: Event) -> int:
        stored[str(event.request.AffectedSOPInstanceUID)] = event.request.DataSet.getvalue()
        return 0x0000

    ae = AE(ae_title="AINODE")
    ae.maximum_pdu_size = 16384
    for abstract, syntaxes in CONTEXTS:
        ae.add_supported_context(abstract, syntaxes)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle_store)])
    yield server.server_address[:2], stored
    server.shutdown()


@pytest.mark.parametrize("seed", range(25))
def test_the_same_fragments_get_the_same_answers(
    listener: Receiver, stock: tuple[tuple[str, int], dict[str, bytes]], seed: int
) -> None:
    """However messages are cut into PDVs, PDUs and segments (PS3.8 E.1), and sent ahead of the answers."""
    chance = random.Random(seed)
    objects = {
        item.sop_instance_uid: item.data_set
        for item in (ultrasound(1000 * (seed + 1) + n, chance.randrange(40000)) for n in range(4))
    }
    messages = []
    for number, (uid, data_set) in enumerate(objects.items(), start=1):
        messages.append(_message(chance, 1, store_command(US, uid, number), data_set))
        messages.append(_message(chance, 3, _echo(100 + number), b""))
    segments = _cut(chance, b"".join(messages), 6)
    address, theirs = stock
    assert _answers(listener.address, segments, len(messages)) == _answers(address, segments, len(messages))
    ours = {one.sop_instance_uid: one.data_set for one in map(load, listener.spool.pending())}
    assert {uid: ours[uid] for uid in objects} == {uid: theirs[uid] for uid in objects} == objects


def _answers(address: tuple[str, int], segments: list[bytes], count: int) -> list[bytes]:
    association: Association = associate(address, CONTEXTS)
    for segment in segments:
        association.sock.sendall(segment)
        time.sleep(0.002)  # so that it comes by itself
    answers = [association.read_response() for _ in range(count)]
    association.release()
    return answers


def _echo(number: int) -> bytes:
    values = {0x0100: struct.pack("<H", 0x30), 0x0110: struct.pack("<H", number), 0x0800: b"\1\1"}
    return command_set({0x0002: VERIFICATION.encode(), **values})


def _message(chance: random.Random, context_id: int, command: bytes, data_set: bytes) -> bytes:
    """P-DATA-TF PDUs of random fragments: one or several in a PDU, some empty."""
    items = []
    for flag, data in ((_COMMAND, command), (0, data_set)):
        pieces = [piece for part in _cut(chance, data, 5) for piece in _below(part, 16000)] if data else []
        for number, piece in enumerate(pieces, start=1):
            header = flag | (_LAST if number == len(pieces) else 0)
            items.append(struct.pack(">IBB", len(piece) + 2, context_id, header) + piece)
    pdus, body = [], b""
    for item in items:
        if body and (len(body) + len(item) > 16384 or chance.random() < 0.5):
            pdus.append(body)
            body = b""
        body += item
    return b"".join(struct.pack(">BxI", 4, len(body)) + body for body in [*pdus, body])


def _below(data: bytes, limit: int) -> list[bytes]:
    return [data[start : start + limit] for start in range(0, len(data), limit)] or [b""]


def _cut(chance: random.Random, data: bytes, most: int) -> list[bytes]:
    """Up to ``most`` pieces, of which some may be empty."""
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(most)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
