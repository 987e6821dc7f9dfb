"""An HTTP answer without an end costs a bounded amount of memory, and the object is sent again."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.scu import http
from dicom_node.scu.destination import Presence, SendStatus
from dicom_node.scu.dicomweb import DicomwebDestination
from dicom_node.scu.orthanc import OrthancDestination
from tests.modality import ultrasound
from tests.outbox_lab import outgoing

LIMIT = 2**20
BLOCK = b" " * 2**16


class Endless(BaseHTTPRequestHandler):
    """Answers everything with blanks, until the other side has enough or sixteen times the limit is sent."""

    squeezed = False

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        if type(self).squeezed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        body = gzip.compress(BLOCK * 256) if type(self).squeezed else BLOCK
        try:
            for _ in range(1 if type(self).squeezed else 256):
                self.wfile.write(body)
        except ConnectionError:
            pass

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing to tell."""


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def endless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(http, "MAXIMUM_ANSWER_BYTES", LIMIT)
    monkeypatch.setattr(Endless, "squeezed", request.param)
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


Made = Callable[[PeerSettings, Settings], DicomwebDestination | OrthancDestination]


@pytest.mark.parametrize("make", [DicomwebDestination, OrthancDestination])
def test_an_endless_answer_is_no_answer(endless: str, tmp_path: Path, make: Made) -> None:
    kind = "orthanc" if make is OrthancDestination else "dicomweb"
    peer = PeerSettings(name="pacs", ae_title="PACS", transport=kind, url=endless, may=["receive"])
    destination = make(peer, Settings(peers=[peer]))
    image = ultrasound("one")
    item = outgoing(image, tmp_path, "0" * 64)

    [report] = destination.send([item])
    [answer] = destination.confirm([item])

    assert report.status is SendStatus.UNREACHABLE  # blanks that were read to their end: no JSON, RETRY
    assert answer.presence is Presence.UNKNOWN
    assert not destination.test()[0].ok
    destination.close()
