"""A web server that is no PACS, or a PACS that answers nonsense: an end in words, and no traceback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import pytest

from dicom_node.config.settings import PeerSettings
from dicom_node.model.kinds import ResultKind
from dicom_node.scu import open_destination
from tests.outbox_lab import Outbox

JSON = "application/dicom+json"
Transport = Literal["orthanc", "dicomweb"]


@contextmanager
def server(body: bytes, kind: str) -> Iterator[tuple[str, list[str]]]:
    """Its base URL and what was asked of it; it answers everything with 200 and this body."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.command)
            left = int(self.headers.get("Content-Length") or 0)
            while left and (piece := self.rfile.read(min(left, 65536))):
                left -= len(piece)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = answer  # names that the library looks for

        def log_message(self, *_: object) -> None:
            """Quiet."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}", asked
    finally:
        running.shutdown()
        running.server_close()


def receiver(transport: Transport, url: str, *, confirm: Literal["query", "none"] = "query") -> PeerSettings:
    return PeerSettings(
        name="pacs", ae_title="PACS", may=("receive",), transport=transport, url=url, confirm=confirm
    )


@pytest.mark.parametrize("confirm", ["query", "none"])
@pytest.mark.parametrize("transport", ["orthanc", "dicomweb"])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[]", JSON),
        (b"{}", JSON),
        (b"[1]", JSON),
        (b'"stored"', JSON),
        (b"null", JSON),
        (b'{"00081199": 5}', JSON),
        (b'{"00081199": {"vr": "SQ", "Value": [7]}}', JSON),
        (b'{"Status": ["Success"]}', JSON),
        (b"[" * 100_000, JSON),
        (b"<html>sign in</html>", "application/dicom+xml"),
        (b"<html", "application/dicom+xml"),
        (b"<html>sign in</html>", "text/html"),
    ],
)
def test_no_nonsense_is_a_success_and_its_tries_have_an_end(
    tmp_path: Path,
    transport: Transport,
    body: bytes,
    kind: str,
    confirm: Literal["query", "none"],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with server(body, kind) as (url, asked):
        peer = receiver(transport, url, confirm=confirm)
        outbox = Outbox(tmp_path, [peer], retry_seconds=0.01, retry_limit_seconds=0.01, confirm_seconds=0.01)
        outbox.add_study(["pacs"], [ResultKind.SR])
        outbox.run_until("dead", seconds=30)
        [row] = outbox.rows()
        [check] = open_destination(peer, outbox.settings).test()
    assert 3 <= asked.count("POST") < 20
    assert "defect" not in row["reason"] and len(row["reason"]) > 20, row["reason"]
    assert not any(record.exc_info for record in caplog.records)
    assert len(check.text) > 10
