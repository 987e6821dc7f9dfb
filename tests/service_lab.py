"""A vendor's AI as an HTTP service on a real socket: it takes studies by STOW-RS, and answers well
or badly.
"""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from tests import ROOT
from tests.modality import part_10
from tests.node_lab import site_config
from tests.pacs_lab import Pacs
from tests.ports import free_port
from tests.vendor_lab import derives, remote_rule
from tests.waiting import wait_until

BOUNDARY = "a-boundary"
KIND = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'
RETURNED = 'answers = "returned", deadline = 0.5'


def multipart(objects: Sequence[bytes], end: bytes = f"\r\n--{BOUNDARY}--\r\n".encode()) -> bytes:
    """A body with these files as parts."""
    head = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + one for one in objects) + end


def answered(objects: Sequence[Dataset]) -> bytes:
    """A whole answer of HTTP with these objects."""
    return raw(multipart([part_10(one) for one in objects]), KIND)


def raw(body: bytes, kind: str = "", status: str = "200 OK", length: int | None = None, **more: str) -> bytes:
    """An answer of HTTP as it goes over the wire."""
    headers = {"Content-Type": kind} if kind else {}
    headers |= {"Content-Length": str(len(body) if length is None else length), "Connection": "close"}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


@dataclass
class Service:
    """``answers``: what goes over the wire once the images of a request are there; by default a derived
    image for each. ``slowly``: writes the answer instead.
    """

    answers: Callable[[list[Dataset]], bytes] = lambda images: answered(derives(images))
    slowly: Callable[[Callable[[bytes], object]], None] | None = None
    asked: list[tuple[str, dict[str, str], list[Dataset]]] = field(default_factory=list)
    """Path, headers in lower case, and images of each request."""
    url: str = ""

    def keys(self) -> list[str]:
        """The idempotency keys of all requests."""
        return [headers["idempotency-key"] for _, headers, _ in self.asked]


def images_of(body: bytes, boundary: str) -> list[Dataset]:
    """The objects in the body of a request."""
    parts = (b"\r\n" + body).split(f"\r\n--{boundary}".encode())[1:-1]
    return [dcmread(BytesIO(part.partition(b"\r\n\r\n")[2])) for part in parts]


@contextmanager
def run_service(service: Service, context: Any = None) -> Iterator[Service]:
    """Serve as long as the scope lasts; ``context``: of TLS."""

    class Handler(BaseHTTPRequestHandler):
        """Reads a request, and sends what the service answers."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            boundary = str(self.headers.get_param("boundary", header="Content-Type"))
            images = images_of(body, boundary)
            service.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, images))
            with suppress(OSError):  # the node has hung up
                if service.slowly:
                    service.slowly(self.wfile.write)
                else:
                    self.wfile.write(service.answers(images))
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    service.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}/dicom-web"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def run_example(console: int = 0) -> Iterator[str]:
    """Run examples/ai_service.py as long as the scope lasts; its address. ``console``: port of the node's."""
    port = free_port()
    words = [str(port), f"http://127.0.0.1:{console}/answers"]
    served = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "ai_service.py", *words], stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: _answers(port), what="the example listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        served.kill()
        served.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def service_peer(url: str, more: str = "", name: str = "vendor") -> str:
    """The peer of a service, as TOML."""
    return (
        f'[[peers]]\nname = "{name}"\nae_title = "{name.upper()}"\ntransport = "dicomweb"\nurl = "{url}"\n'
        f'may = ["receive"]\n{more}\n'
    )


def service_site(
    pacs: Pacs, url: str, options: str = RETURNED, more: str = "", console: int = 0, **site: Any
) -> str:
    """Configuration of a node with one service; ``console``: port of its console, 0: none."""
    if console:
        more += f"\n[console]\nenabled = true\nport = {console}\n"
    given = {"results": ("image", "sr"), "senders": ("CT1",), "quiet": 0.5, "lease": 5} | site
    return site_config(pacs.port, remote_rule(options=options) + service_peer(url, more), **given)


def authorities(path: Path) -> str:
    """The key of a peer that trusts only these."""
    return f'authorities = "{path}"'
