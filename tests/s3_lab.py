"""An S3 service to try an object store on: moto's server (PyPI), a process of its own on this machine.

It answers as S3 does, and keeps all in memory: it is stopped and continued (SIGSTOP, SIGCONT), not started
again.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.request import Request, urlopen

from dicom_connectors.bucket.client import S3Bucket
from dicom_connectors.bucket.settings import ObjectStoreSettings
from tests.pacs_lab import free_port
from tests.waiting import wait_until

SECRET = "of-a-test-only"


@dataclass(frozen=True)
class S3:
    """A running service; ``settings`` of a bucket that is there."""

    port: int
    pid: int

    def settings(self, prefix: str = "node") -> dict[str, object]:
        """The table ``[object_store]``; tests with prefixes of their own may share a service."""
        return {
            "url": f"s3://site/{prefix}",
            "endpoint": f"http://127.0.0.1:{self.port}",
            "access_key_id": "test",
            "secret_access_key": SECRET,
            "seconds": 2,
        }

    def bucket(self, prefix: str = "node", **other: object) -> S3Bucket:
        """It, with other settings; one of its own, which remembers nothing of the node's."""
        return S3Bucket(ObjectStoreSettings.model_validate({**self.settings(prefix), **other}))

    def stop(self) -> None:
        """It takes connections and answers nothing any more."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """It answers again, and has what it had."""
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def start_s3() -> Iterator[S3]:
    """Start it with an empty bucket; end it whatever happens."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _listens(port), 60, "the S3 service listens")
            urlopen(Request(f"http://127.0.0.1:{port}/site", method="PUT"), timeout=30).close()
            yield S3(port, process.pid)
        finally:
            process.kill()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
