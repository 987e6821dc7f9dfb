"""A server that answers with a redirect: no object and no password goes to the other address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.scu import Outgoing, Presence, SendStatus, open_destination
from tests.modality import ultrasound


@contextmanager
def server(status: int, location: str = "") -> Iterator[tuple[str, list[str]]]:
    """Its base URL and what was asked of it; it answers everything so."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            left = int(self.headers.get("Content-Length") or 0)
            while left and (piece := self.rfile.read(min(left, 65536))):
                left -= len(piece)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if location:
                self.send_header("Location", location)
            self.end_headers()

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


@pytest.mark.parametrize("leads_on", [True, False])
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("transport", ["orthanc", "dicomweb"])
def test_a_redirect_is_followed_by_nothing(
    tmp_path: Path, transport: str, status: int, leads_on: bool
) -> None:
    """Nor is it a success where it names no other address."""
    image = ultrasound("redirected")
    path = tmp_path / "image.dcm"
    image.save_as(path, enforce_file_format=True)
    item = Outgoing(
        image.SOPClassUID, image.SOPInstanceUID, image.StudyInstanceUID, image.SeriesInstanceUID, path, ""
    )
    with server(200) as (elsewhere, taken), server(status, f"{elsewhere}/taken" * leads_on) as (url, asked):
        peer = PeerSettings(
            name="pacs",
            ae_title="PACS",
            may=("receive",),
            transport=transport,  # type: ignore[arg-type]
            url=url,
            username="node",
            password="secret",
        )
        destination = open_destination(peer, Settings(peers=(peer,)))
        (sent,) = destination.send([item])
        (confirmed,) = destination.confirm([item])
        (tested,) = destination.test()
    assert len(asked) == 3 and taken == []
    assert sent.status is SendStatus.RETRY and "not followed" in sent.text
    assert confirmed.presence is Presence.UNKNOWN and "not followed" in confirmed.text
    assert not tested.ok and "not followed" in tested.text
