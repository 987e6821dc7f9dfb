"""Messages in crumbs, one byte a PDU, take no time from a good peer: a few of them, and the line is cut."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.sender import associate, p_data, store_command
from dicom_node.events import ASSOCIATION_ABORTED
from tests.hostile.attacker import STORAGE, is_cut, send_study
from tests.wire.receiver import EXPLICIT, US, Receiver, receiving

_COMMAND, _LAST = 1, 2
COMMAND = store_command(US, "1.2.3", 1)
LINES = 4  # of each attacking process


def crumbs(data: bytes, kind: int) -> bytes:
    """One byte a P-DATA-TF."""
    last = len(data) - 1
    return b"".join(
        struct.pack(">BxIIBBB", 4, 7, 3, 1, kind | (_LAST if at == last else 0), byte)
        for at, byte in enumerate(data)
    )


@pytest.mark.parametrize(
    "message",
    [
        crumbs(COMMAND, _COMMAND),
        b"".join(p_data(1, COMMAND, True, 16384)) + crumbs(bytes(100), 0),
    ],
    ids=["command", "data set"],
)
def test_a_message_in_crumbs_is_cut_off(tmp_path: Path, message: bytes) -> None:
    with receiving(tmp_path) as receiver:
        association = associate(receiver.address, STORAGE)
        association.sock.sendall(message)
        assert is_cut(association.sock)
        reasons = [event.fields["reason"] for event in receiver.wait_for_event(ASSOCIATION_ABORTED)]
        assert reasons == ["too many tiny fragments"]
        assert receiver.files() == []


def test_crumbs_slow_a_good_peer_by_less_than_two(tmp_path: Path, rounds: int) -> None:
    """The floor of two seconds is for machines with other things to do."""
    with receiving(tmp_path) as receiver:
        studies = max(5, rounds // 50)
        usual = _median(receiver, studies)
        with _attacked(receiver):
            took = _median(receiver, studies)
        print(f"usual {1000 * usual:.0f} ms, beside crumbs {1000 * took:.0f} ms")
        assert took <= 2 * usual + 2


def _median(receiver: Receiver, studies: int) -> float:
    return sorted(send_study(receiver) for _ in range(studies))[studies // 2]


@contextlib.contextmanager
def _attacked(receiver: Receiver) -> Iterator[None]:
    attacker = mp.get_context("fork").Process(target=_attack, args=(receiver.address,), daemon=True)
    attacker.start()
    time.sleep(1)
    try:
        yield
        assert attacker.is_alive()
    finally:
        attacker.kill()
        attacker.join()
        attacker.close()


def _attack(address: tuple[str, int]) -> None:
    """Half a command in crumbs on each line, again and again; lines that are cut are opened anew."""
    piece = crumbs(COMMAND, _COMMAND)
    lines = [associate(address, [(US, [EXPLICIT])]) for _ in range(LINES)]
    while True:
        for at, line in enumerate(lines):
            try:
                line.sock.sendall(piece)
                line.sock.sendall(crumbs(bytes(10), 0))
                line.read_status()
            except OSError:
                line.sock.close()
                with contextlib.suppress(OSError):
                    lines[at] = associate(address, [(US, [EXPLICIT])])
