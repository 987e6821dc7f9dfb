"""A peer that was entered is not called at an address of this machine, however that is written."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config.addresses import LocalAddress, is_local, remote_address
from dicom_node.config.settings import ConsoleSettings, PeerSettings, Settings
from dicom_node.scu import SendStatus, open_destination
from tests.modality import ultrasound
from tests.outbox_lab import outgoing

LOCAL = (
    "127.0.0.1", "127.255.0.9", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1",
    "255.255.255.255", "100.100.100.200", "168.63.129.16", "192.0.0.192", "::1", "::", "fe80::1",
    "fe80::1%eth0", "ff02::1", "fd00:ec2::254", "fd20:ce::254", "::ffff:127.0.0.1", "::127.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::",
)  # fmt: skip


def test_an_address_of_the_machine_its_link_or_a_metadata_service_is_known() -> None:
    assert [address for address in LOCAL if not is_local(address)] == []


def test_an_address_of_the_hospital_is_none() -> None:
    remote = ["10.0.0.1", "192.168.1.20", "8.8.8.8", "fd00::1", "2001:db8::1"]
    assert [address for address in remote if is_local(address)] == []
    assert [remote_address(address) for address in remote] == remote


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "0"])
def test_other_ways_to_write_it_are_found_out(host: str) -> None:
    with pytest.raises(LocalAddress):
        remote_address(host)


@contextmanager
def watched() -> Iterator[tuple[int, list[object]]]:
    """A port of this machine, and who connected to it."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take() -> None:
            try:
                while True:
                    connection, place = listening.accept()
                    came.append(place)
                    connection.close()
            except OSError:
                return

        threading.Thread(target=take, daemon=True).start()
        yield listening.getsockname()[1], came
        listening.shutdown(socket.SHUT_RDWR)


def keys(transport: str, host: str, port: int) -> dict[str, Any]:
    place = {"host": host, "port": port} if transport == "dimse" else {"url": f"http://{host}:{port}"}
    return {"name": "pacs", "ae_title": "PACS", "may": ["receive"], "transport": transport, **place}


@pytest.mark.parametrize("transport", ["dimse", "orthanc", "dicomweb"])
@pytest.mark.parametrize(("entered", "allowed"), [(True, False), (True, True), (False, False)])
def test_what_a_name_leads_to_is_looked_at_when_it_is_called(
    tmp_path: Path, transport: str, entered: bool, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that says another address at each question (DNS rebinding): the first is remote."""
    image = ultrasound("local")
    item = outgoing(image, tmp_path)
    real = socket.getaddrinfo

    def name_server(host: object, *rest: Any, **further: Any) -> Any:
        return real("127.0.0.1" if host == "pacs.example.org" else host, *rest, **further)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    with watched() as (port, came):
        peer = PeerSettings.model_validate({**keys(transport, "pacs.example.org", port), "entered": entered})
        destination = open_destination(peer, Settings(console=ConsoleSettings(local_peers=allowed)))
        [sent] = destination.send([item])
        [check, *_] = destination.test()
    assert sent.status is SendStatus.UNREACHABLE and not check.ok
    if entered and not allowed:
        assert came == []
        assert "console.local_peers" in sent.text and "console.local_peers" in check.text
    else:
        assert came and "console.local_peers" not in sent.text


def test_the_checked_address_is_the_one_that_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name server is asked once: a second answer, another address, is never used."""
    real, asked = socket.getaddrinfo, []

    def name_server(host: object, *rest: Any, **further: Any) -> Any:
        if host == "pacs.example.org":
            asked.append(host)
            host = "127.0.0.1" if len(asked) > 1 else "192.0.2.1"  # which no network has (RFC 5737)
        return real(host, *rest, **further)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    monkeypatch.setattr("dicom_node.scu.http.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("dicom_node.scu.orthanc.CONNECT_SECONDS", 0.2)
    with watched() as (port, came):
        peer = PeerSettings.model_validate({**keys("orthanc", "pacs.example.org", port), "entered": True})
        [check] = open_destination(peer, Settings()).test()
    assert not check.ok and came == [] and len(asked) == 1
