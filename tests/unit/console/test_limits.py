"""How much and how long a browser may send."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from dicom_console.web import limits
from dicom_console.web.limits import FORM_BYTES, TimedProtocol
from dicom_node.model.roles import UserRole
from tests.console_lab import ConsoleLab
from tests.waiting import wait_until


@pytest.fixture
def port(console: ConsoleLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The console at a real port, with little patience."""
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        console.app, http=TimedProtocol, ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    wait_until(lambda: server.started, 60, "started")
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(20)


def until_closed(port: int, *pieces: bytes) -> bytes:
    """Send the pieces, a moment between them, and return what is answered until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


POST = b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: a=x\r\nContent-Type: "


@pytest.mark.parametrize(
    "pieces",
    [(), (b"GET / HT",), (b"GET /sign-in HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /sl")],
    ids=["silent", "half a head", "a second one that ends half-way"],
)
def test_a_request_that_does_not_come_is_cut_off(port: int, pieces: tuple[bytes, ...]) -> None:
    began = time.monotonic()
    until_closed(port, *pieces)
    assert time.monotonic() - began < 20


def test_a_body_that_does_not_come_is_cut_off(port: int) -> None:
    head = POST + b"application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n"
    assert b" 408 " in until_closed(port, head, b"csrf")


def test_a_form_that_is_too_large_is_refused(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/studies/search", patient="x" * (FORM_BYTES - 200)) == 303
    assert browser.post("/studies/search", patient="x" * FORM_BYTES) == 413


def test_a_body_whose_length_nobody_said_is_counted_too(port: int) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    head = POST + b"application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 413 " in until_closed(port, head, piece, b"1\r\nx\r\n0\r\n\r\n")
