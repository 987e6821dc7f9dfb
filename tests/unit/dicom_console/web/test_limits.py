"""Requests that do not come, are too large or leave early, and the address of who sent them."""

import asyncio
import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from select import poll
from typing import Any
from unittest.mock import Mock

import pytest

from dicom_console.web import limits
from dicom_node.base.lifecycle import UserRole
from tests.console_lab import Browser, ConsoleLab, serving
from tests.waiting import wait_until


@pytest.fixture
def port(console: ConsoleLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The console at a real port, with little patience."""
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    with serving(console.app) as (_, port):
        yield port


POST = b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: a=x\r\nContent-Type: "


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ((), b""),
        ((b"GET / HT",), b""),
        ((b"GET /sign-in HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /sl"), b""),
        ((POST + b"application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n", b"csrf"), b" 408 "),
    ],
    ids=["silent", "half a head", "a second one that ends half-way", "half a body"],
)
def test_a_request_that_does_not_come_is_cut_off(port: int, pieces: tuple[bytes, ...], answer: bytes) -> None:
    began = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
        connection.makefile("rb") as file,
    ):
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)
        assert answer in file.read()  # until the end
    assert time.monotonic() - began < 20


def test_a_form_that_is_too_large_is_refused(operator: Browser) -> None:
    assert operator.post("/studies/search", patient="x" * (limits.FORM_BYTES - 200)) == 303
    assert operator.post("/studies/search", patient="x" * limits.FORM_BYTES) == 413


MORE_THAN_FITS = 100  # answers of 17 KB: more than system and console keep for a connection


@contextmanager
def asking(port: int) -> Iterator[socket.socket]:
    """A connection that asks again and again, and has read nothing yet."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.send(b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * MORE_THAN_FITS)
        yield connection


def test_who_takes_no_answer_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 0.3)
    watch = poll()
    with asking(port) as connection:
        watch.register(connection, 0)
        wait_until(lambda: bool(watch.poll(0)), 30, "the end of the connection, looked up without reading")


def test_an_answer_that_is_taken_slowly_comes_whole(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 30)  # a busy machine goes on with the next request late
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 2.5)
    with asking(port) as connection:
        connection.setblocking(True)
        took, answers = time.monotonic(), b""
        while answers.count(b"HTTP/1.1 200") < MORE_THAN_FITS:
            piece = connection.recv(2**18)
            assert piece, "it was cut"
            answers += piece
            time.sleep(0.012)
        assert time.monotonic() - took > 5


def test_a_page_says_what_the_disk_does(console: ConsoleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Mock(side_effect=OSError(errno.EIO, "Input/output error"))
    monkeypatch.setattr("dicom_console.handlers.studies.search.name_words", broken)
    browser = console.browser(UserRole.VIEWER)
    assert browser.get("/studies") == 503
    assert "disk: input/output error" in browser.text


def test_a_browser_that_leaves_while_it_is_answered_is_no_defect(
    console: ConsoleLab, caplog: pytest.LogCaptureFixture
) -> None:
    cookies = console.browser(UserRole.VIEWER).client.cookies
    headers = [(b"host", b"testserver"), (b"cookie", f"{console.cookie}={cookies[console.cookie]}".encode())]
    scope = {
        "type": "http",
        "asgi": {"spec_version": "2.3"},
        "method": "GET",
        "scheme": "http",
        "path": "/live",
        "query_string": b"",
        "headers": headers,
        "server": ("testserver", 80),
    }
    answers: list[Any] = []

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    asyncio.run(console.app(scope, gone, send))  # type: ignore[arg-type]
    assert answers[0]["status"] == 200
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("passed", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.7", "192.0.2.7"),  # the first was written by the visitor
        ("192.0.2.7,10.1.2.3", "192.0.2.7"),  # two proxies
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:4711, 10.0.0.9:80", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("192.0.2.1, [2001:db8::2]", "2001:db8::2"),
        ("192.0.2.1, unknown", "10.0.0.1"),
        ("192.0.2.7, <script>", "10.0.0.1"),
        ("192.0.2.1:", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_each_visitor_behind_a_trusted_proxy_has_an_address(passed: str, address: str) -> None:
    headers, trusted = [(b"x-forwarded-for", passed.encode())], [ip_network("10.0.0.0/8")]
    for sender, found in (("10.0.0.1", address), ("::ffff:10.0.0.1", address), ("192.0.2.8", "192.0.2.8")):
        scope = {"client": (sender, 5), "headers": headers}
        assert limits.address_of(scope, trusted).removeprefix("::ffff:") == found
