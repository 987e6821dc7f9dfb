"""How much and how long a browser may send, and how long it may take no answer."""

from __future__ import annotations

import http.client
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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


SHEET = b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
MORE_THAN_FITS = 100  # answers of 17 KB: more than system and console keep for a connection
ELSEWHERE = "127.0.0.2"


def asking(port: int, stack: ExitStack) -> socket.socket:
    """A connection that asks again and again, and has read nothing yet."""
    connection = stack.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    with suppress(BlockingIOError):
        connection.send(SHEET * MORE_THAN_FITS)
    return connection


def is_cut(connection: socket.socket) -> bool:
    """Looked up without reading."""
    watch = select.poll()
    watch.register(connection, 0)
    return bool(watch.poll(0))


def status_of(port: int, address: str) -> int:
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=(address, 0))
    asked.request("GET", "/sign-in")
    status = asked.getresponse().status
    asked.close()
    return status


def test_who_takes_no_answer_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 0.3)
    with ExitStack() as stack:
        connection = asking(port, stack)
        wait_until(lambda: is_cut(connection), 30, "the end of the connection")


def test_who_takes_no_answers_keeps_others_from_none(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUESTS", 8)
    monkeypatch.setattr(limits, "REQUESTS_FROM_ONE_ADDRESS", 4)
    with ExitStack() as stack:
        for _ in range(10):
            asking(port, stack)
        wait_until(lambda: status_of(port, "127.0.0.1") == 503, 30, "all places of the address")
        assert status_of(port, ELSEWHERE) == 200


def test_of_many_that_take_no_answer_the_slowest_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMING_FROM_ONE_ADDRESS", 3)
    monkeypatch.setattr(limits, "YOUNG_SECONDS", 0.2)
    with ExitStack() as stack:
        stalled = [asking(port, stack) for _ in range(10)]

        def left() -> int:
            with socket.create_connection(("127.0.0.1", port)):  # a newcomer
                return sum(not is_cut(one) for one in stalled)

        wait_until(lambda: left() <= 3, 30, "their ends")


def test_an_answer_that_is_taken_slowly_comes_whole(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 1.0)
    with ExitStack() as stack:
        connection = asking(port, stack)
        connection.setblocking(True)
        took, answers = time.monotonic(), b""
        while answers.count(b"HTTP/1.1 200") < MORE_THAN_FITS:
            piece = connection.recv(2**18)
            assert piece, "it was cut"
            answers += piece
            time.sleep(0.005)
        assert time.monotonic() - took > 2


def test_one_large_answer_that_is_taken_steadily_comes_whole(
    port: int, console: ConsoleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture is written in one piece, and takes longer to be read than a piece may."""
    size = 4 * 2**20

    async def picture(_request: Request) -> Response:
        return Response(bytes(size))

    console.app.router.routes.insert(0, Route("/static/picture", picture))
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /static/picture HTTP/1.1\r\nHost: localhost\r\n\r\n")
        began, taken = time.monotonic(), 0
        while taken < size:
            piece = connection.recv(2**15)
            assert piece, f"it was cut after {taken} bytes"
            taken += len(piece)
            time.sleep(0.015)
        assert time.monotonic() - began > 1.5
