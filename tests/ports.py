"""Ports for servers of the tests, and web servers on them."""

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_CHOICE = random.SystemRandom()  # tests seed the common one, and several processes of tests run side by side


def free_port() -> int:
    """A TCP port of the loopback that nobody uses now.

    Below the range that the kernel takes for outgoing connections (from 32768), so that none of those gets it
    before the test's server listens.
    """
    while True:
        port = _CHOICE.randrange(15_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Quiet(BaseHTTPRequestHandler):
    """Answers requests, and prints nothing."""

    def log_message(self, format: str, *values: object) -> None:
        """Nothing to tell."""


@contextmanager
def serving(handler: Any) -> Iterator[int]:
    """A web server that answers by this handler, as long as the scope lasts; its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
