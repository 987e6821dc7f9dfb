"""A model from the web is the file that was meant, over HTTPS, or nothing is left of it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.certificates_lab import self_signed
from tests.unit.ai_pipeline.models.store_lab import add, contents, models, sha256
from tests.unit.ai_training import small_models


class Served(ThreadingHTTPServer):
    """A web server on this machine that hands out one file, and counts who asks."""

    body: bytes = b""
    asked: int = 0
    tls: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    """``/model.onnx`` the file, ``/broken`` half of it, ``/moved`` to plain http elsewhere, else 404."""

    server: Served

    def do_GET(self) -> None:
        self.server.asked += 1
        place = self.path.partition("?")[0]
        if place == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://example.org/model.onnx")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if place not in {"/model.onnx", "/broken"}:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        half = len(self.server.body) // 2
        self.wfile.write(self.server.body[:half] if place == "/broken" else self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server(model: tuple[Path, Path]) -> Iterator[Served]:
    with serve(model[0].read_bytes()) as served:
        yield served


class serve:
    """Serve ``body`` while the block runs; over TLS with ``certificate``."""

    def __init__(self, body: bytes, certificate: tuple[Path, Path] | None = None) -> None:
        self._server = Served(("127.0.0.1", 0), Answers)
        self._server.body = body
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._server.tls = True

    def __enter__(self) -> Served:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self._server

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_without_agreement_to_the_licence_nothing_is_fetched(
    store: Path, model: tuple[Path, Path], server: Served
) -> None:
    done = models("add", f"{server.url}/model.onnx", "--sha256", sha256(model[0]), "--card", model[1])

    assert done.exit_code == 2
    assert "--accept-licence" in done.output
    assert server.asked == 0
    assert contents(store) == set()


def test_a_file_from_the_web_is_taken_over_https_and_its_address_kept_without_secrets(
    store: Path, model: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path, "model host")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with serve(model[0].read_bytes(), certificate) as served:
        address = f"{served.url}/model.onnx?token=geheim"
        done = add(address, model[1], "--sha256", sha256(model[0]))

    assert done.exit_code == 0, done.output
    origin = json.loads((store / "small" / "1" / "origin.json").read_text())
    assert origin["source"] == f"{served.url}/model.onnx"
    assert origin["licence"] == "Apache-2.0"
    assert sha256(store / "small" / "1" / "small.onnx") == sha256(model[0])


def test_a_server_whose_certificate_nobody_vouches_for_is_refused(
    store: Path, model: tuple[Path, Path], tmp_path: Path
) -> None:
    with serve(model[0].read_bytes(), self_signed(tmp_path, "model host")) as served:
        done = add(f"{served.url}/model.onnx", model[1], "--sha256", sha256(model[0]))

    assert done.exit_code == 65
    assert "certificate" in done.output
    assert contents(store) == set()


def test_plain_http_is_refused_before_anything_is_asked(store: Path, model: tuple[Path, Path]) -> None:
    done = add("http://example.org/model.onnx", model[1], "--sha256", sha256(model[0]))

    assert done.exit_code == 65
    assert "is not https" in done.output
    assert contents(store) == set()


@pytest.mark.parametrize(
    ("place", "told"),
    [("/moved", "is not https"), ("/gone", "answered 404"), ("/broken", "broke off")],
)
def test_a_download_that_fails_leaves_nothing_and_says_why(
    store: Path, model: tuple[Path, Path], server: Served, place: str, told: str
) -> None:
    done = add(server.url + place, model[1], "--sha256", sha256(model[0]))

    assert done.exit_code == 65
    assert told in done.output
    assert contents(store) == set()


def test_another_file_than_the_one_meant_is_refused(
    store: Path, model: tuple[Path, Path], server: Served
) -> None:
    server.body = small_models.network(slope=9.0).SerializeToString()

    done = add(f"{server.url}/model.onnx", model[1], "--sha256", sha256(model[0]))

    assert done.exit_code == 65
    assert "refused" in done.output
    assert contents(store) == set()


def test_a_hash_that_the_card_does_not_name_is_refused_before_the_download(
    store: Path, model: tuple[Path, Path], server: Served
) -> None:
    done = add(f"{server.url}/model.onnx", model[1], "--sha256", "0" * 64)

    assert done.exit_code == 65
    assert "do not belong together" in done.output
    assert server.asked == 0


def test_a_file_that_is_too_large_is_not_read_to_its_end(
    store: Path, model: tuple[Path, Path], server: Served
) -> None:
    server.body = bytes(3 << 20)

    done = add(f"{server.url}/model.onnx", model[1], "--sha256", sha256(model[0]), "--most", "1")

    assert done.exit_code == 65
    assert "larger than 1 MiB" in done.output
    assert contents(store) == set()


def test_a_url_needs_a_hash(store: Path, model: tuple[Path, Path]) -> None:
    assert add("https://example.org/model.onnx", model[1]).exit_code == 2
