"""A peer that hangs is told apart from one that is not there."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator

import pytest

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.scu.dimse import DimseDestination


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr("dicom_node.scu.association._NEGOTIATE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def told(server: socket.socket) -> str:
    port = server.getsockname()[1]
    peer = PeerSettings(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, may=["receive"])
    check = DimseDestination(peer, Settings(peers=[peer])).echo()
    assert not check.ok
    return check.text.replace(f"PACS at 127.0.0.1:{port}", "it")


def test_a_peer_that_hangs_is_told_with_the_time_waited(listening: socket.socket) -> None:
    assert re.fullmatch(r"connected to it, no answer for [1-9] s", told(listening))


def test_a_peer_that_hangs_up_is_told_so(listening: socket.socket) -> None:
    def hang_up() -> None:
        listening.accept()[0].close()

    hangs_up = threading.Thread(target=hang_up, daemon=True)
    hangs_up.start()
    assert told(listening).startswith("connected to it, ")
    hangs_up.join()


def test_a_peer_that_is_away_cannot_be_connected_to(listening: socket.socket) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        assert told(unheard) == "cannot connect to it"
