"""The film that the demonstration fetches: taken when it is the one that pydicom names, else left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from threading import Event, Thread

import pytest

from dicom_node.demo import inputs, public_film

FILM = b"stands for the film, whose sha256 the test names"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a web server on this machine that has the film, and ``other`` bytes beside it."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "film").write_bytes(FILM)
    (served / "other").write_bytes(FILM + b"!")
    monkeypatch.setattr(public_film, "get_cached_filehash", lambda _: hashlib.sha256(FILM).hexdigest())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=served))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_it_is_fetched_once(store: str, tmp_path: Path) -> None:
    target = tmp_path / "input" / "film.dcm"
    assert public_film.public_film(target, f"{store}/film") == target
    assert target.read_bytes() == FILM
    assert public_film.public_film(target, f"{store}/gone") == target, "it lies there already"


def test_other_bytes_and_no_answer_leave_nothing(store: str, tmp_path: Path) -> None:
    for url in (f"{store}/other", f"{store}/gone", "http://127.0.0.1:9/film"):
        assert public_film.public_film(tmp_path / "film.dcm", url) is None
    assert not (tmp_path / "film.dcm").exists()


@pytest.mark.parametrize(
    "answer", [b"who is there?\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz"]
)
def test_what_speaks_no_http_leaves_nothing(tmp_path: Path, answer: bytes) -> None:
    class Answer(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(answer)

    with TCPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/film"
        assert public_film.public_film(tmp_path / "film.dcm", url) is None


def test_a_server_that_trickles_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = Event()

    class Trickle(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with suppress(OSError):
                while not left.wait(0.01):
                    self.request.sendall(b"a")

    monkeypatch.setattr(public_film, "_IN_ALL", 0.2)
    with TCPServer(("127.0.0.1", 0), Trickle) as server:
        served = Thread(target=server.handle_request, daemon=True)
        served.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/film"
        assert public_film.public_film(tmp_path / "film.dcm", url) is None
        left.set()
        served.join()


def test_a_drawing_says_that_it_is_one_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_film, "get_url", lambda _: "http://127.0.0.1:9/film")
    chest = inputs.shipped(tmp_path, None, offline=False)[-1]
    assert "SYNTHETIC" in chest.origin
    assert "--input DIR" in chest.origin
