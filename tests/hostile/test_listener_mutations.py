"""Mutated PDUs against the listener: whatever comes, only its own association ends."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from benchmarks.sender import associate, associate_request
from tests.hostile.attacker import STORAGE, connect, nobody_notices
from tests.hostile.mutation import mutated
from tests.wire.receiver import receiving, ultrasound, wait_until

_SEED = 20261120
_LOOKS = 200  # at the listener and its memory, at most


@pytest.mark.timeout(0)
def test_mutated_requests_and_messages_end_only_themselves(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(_SEED)
    limits = {"acse_timeout_seconds": 2, "network_timeout_seconds": 2}
    with receiving(tmp_path, **limits) as receiver:
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
