"""Mutated PDUs against the listener: whatever comes, only its own association ends."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from benchmarks.sender import associate, associate_request
from tests.hostile.attacker import STORAGE, connect, nobody_notices
from tests.wire.receiver import receiving, ultrasound, wait_until

_SEED = 20261120
_LOOKS = 200  # at the listener and its memory, at most


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


@pytest.mark.timeout(0)
def test_mutated_requests_and_messages_end_only_themselves(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(_SEED)
    with receiving(tmp_path, acse_timeout_seconds=2, network_timeout_seconds=2) as receiver:
        whole = associate(receiver.address, STORAGE)
        message = whole.encode_store(1, ultrasound(3, pixels=300))
        whole.release()
        asked = associate_request(STORAGE, "SENDER", "AINODE", 16384)
        at_once = max(25, rounds // _LOOKS)
        for first in range(0, rounds, at_once):
            with nobody_notices(receiver, 64):
                for number in range(first, min(first + at_once, rounds)):
                    with contextlib.suppress(OSError):
                        if number % 2:
                            connection = connect(receiver)
                            connection.sendall(mutated(asked, chance))
                        else:
                            connection = associate(receiver.address, STORAGE).sock
                            connection.sendall(mutated(message, chance))
                        connection.close()
        wait_until(lambda: not [name for name in receiver.files() if name.startswith(".")])
