"""Ports for servers of the tests."""

import random
import socket

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
