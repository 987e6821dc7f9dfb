"""Peers that are silent, slow, or too many: they lose their places, and nobody else does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from benchmarks.sender import Rejected, associate, associate_request
from dicom_node.events import (
    ASSOCIATION_ABORTED,
    ASSOCIATION_REJECTED,
    CONNECTIONS_FAILED,
    ECHOED,
    STORE_REFUSED,
)
from tests.hostile.attacker import STORAGE, command, connect, is_cut, nobody_notices
from tests.wire.receiver import EXPLICIT, VERIFICATION, receiving, ultrasound

ECHO = [(VERIFICATION, [EXPLICIT])]


def drip(connections: list[socket.socket], stop: threading.Event) -> None:
    """An association request, a byte at a time, on all of them."""
    for byte in associate_request(STORAGE, "SENDER", "AINODE", 16384) * 100:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(bytes([byte]))
        if stop.wait(0.1):
            return


@pytest.mark.parametrize("talks", [False, True], ids=["silent", "byte by byte"])
def test_connections_without_a_request_lose_their_places(tmp_path: Path, talks: bool) -> None:
    with (
        receiving(tmp_path, acse_timeout_seconds=3) as receiver,
        nobody_notices(receiver, 96) as study_is_sent,
    ):
        began, stop = time.monotonic(), threading.Event()
        connections = [connect(receiver, f"127.0.1.{number % 5 + 1}") for number in range(500)]
        thread = threading.Thread(target=drip, args=(connections, stop))
        if talks:
            thread.start()
        study_is_sent()
        try:
            assert all(is_cut(connection) for connection in connections)
            assert time.monotonic() - began < 60
        finally:
            stop.set()
            if talks:
                thread.join()
        events = receiver.wait_for_event(CONNECTIONS_FAILED, 5)
        assert len(events) < 15  # of 500 connections
        assert {event.fields["address"] for event in events} == {f"127.0.1.{k}" for k in range(1, 6)}


def test_a_peer_that_drips_a_message_is_cut_off(tmp_path: Path) -> None:
    with (
        receiving(tmp_path, network_timeout_seconds=1.5) as receiver,
        nobody_notices(receiver),
    ):
        association = associate(receiver.address, STORAGE)
        encoded = association.encode_store(1, ultrasound(1))
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in encoded[:300]:
                association.sock.sendall(bytes([byte]))
                time.sleep(0.2)  # five bytes a second; a message may be as slow as a hundred
        assert time.monotonic() - began < 30
        association.sock.close()
        assert "too slow" in str(receiver.wait_for_event(ASSOCIATION_ABORTED)[-1].fields["reason"])


def test_a_slow_line_is_no_attack(tmp_path: Path) -> None:
    with receiving(tmp_path, network_timeout_seconds=1) as receiver:
        association = associate(receiver.address, STORAGE)
        encoded = association.encode_store(1, ultrasound(1, pixels=200))
        for start in range(0, len(encoded), 100):
            association.sock.sendall(encoded[start : start + 100])
            time.sleep(0.5)
        assert association.read_status() == 0x0000
        association.release()


def test_a_stranger_cannot_take_all_places_by_echo_nor_fill_the_journal(tmp_path: Path) -> None:
    with receiving(tmp_path, maximum_associations=20) as receiver, nobody_notices(receiver) as study_is_sent:
        held = []
        for _ in range(150):
            with contextlib.suppress(Rejected):
                held.append(associate(receiver.address, ECHO, calling="STRANGER"))
        assert len(held) == 3
        study_is_sent()
        assert len(receiver.events(ASSOCIATION_REJECTED)) <= 60
        for association in held:
            association.release()
        counted = receiver.wait_for_event(CONNECTIONS_FAILED)
        assert sum(int(event.fields["rejected"] or 0) for event in counted) > 20


def test_a_peer_that_does_not_read_our_answers_is_left(tmp_path: Path) -> None:
    with (
        receiving(tmp_path, network_timeout_seconds=1) as receiver,
        nobody_notices(receiver),
    ):
        association = associate(receiver.address, ECHO, calling="STRANGER")
        association.sock.settimeout(1)
        with contextlib.suppress(OSError):
            while True:
                association.sock.sendall(bytes(100))
        assert is_cut(association.sock)


def test_echoes_and_refused_objects_without_number_do_not_fill_the_journal(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver, nobody_notices(receiver):
        association = associate(receiver.address, ECHO, calling="STRANGER")
        refused = [association.store(1, ultrasound(number, pixels=10)) for number in range(100)]
        for _ in range(100):
            command(association, 0x0030, data_set=False)
            assert association.read_status() == 0x0000
        association.release()
        assert set(refused) == {0x0124}
        assert len(receiver.events(STORE_REFUSED)) + len(receiver.events(ECHOED)) == 10


def test_an_unknown_sender_may_come_as_often_as_it_likes(tmp_path: Path) -> None:
    with receiving(tmp_path, unknown_callers="accept") as receiver:
        for number in range(80):  # an association for each image
            association = associate(receiver.address, STORAGE, calling="STRANGER")
            assert association.store(1, ultrasound(number, pixels=10)) == 0x0000
            association.release()
