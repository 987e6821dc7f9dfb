"""The service as it is run, under what should stop it: an answer with a reason or none, in bounded memory."""

import http.client
import io
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests

from ai_pipeline.serve.settings import PREFIX
from tests.modality import ultrasound_from
from tests.ports import free_port
from tests.ultrasound_lab import SIZE, picture
from tests.waiting import wait_until

MIB = 1 << 20
BODY_MIB = 128
REQUESTS = 10_000


@dataclass(frozen=True)
class Running:
    """A service in processes of its own."""

    port: int
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except OSError:
            return False

    def processes(self) -> list[int]:
        """The server and those that it started."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def peaks(self) -> list[int]:
        """Most memory that the server, and each process of it, has had (MiB)."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self.processes()]
        return [int(found[1]) >> 10 for text in texts if (found := re.search(r"VmHWM:\s+(\d+)", text))]


def start(folder: Path) -> Running:
    port = free_port()
    settings = {"PORT": port, "BODY_MIB": BODY_MIB, "REQUESTS": 4, "SECONDS": 60}
    environment = {f"{PREFIX}{name}": str(value) for name, value in settings.items()}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ai_pipeline", "serve"],
            env={**os.environ, **environment, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
    running = Running(port, process, folder)
    wait_until(lambda: running.answers() or process.poll() is not None, 180, "the service answers")
    return running


def files_in(folder: Path) -> list[str]:
    """Files that are left, but the log and one of ONNX Runtime (.ses), which has nothing of an image."""
    files = [path.name for path in folder.rglob("*") if path.is_file()]
    return [name for name in files if name not in ("log", ".ses")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start(tmp_path_factory.mktemp("serve"))
    yield running
    running.process.terminate()
    running.process.wait(60)
    assert files_in(running.folder) == []


def deflated(size: int) -> bytes:
    """An ultrasound in Deflated Explicit VR (PS3.5 A.5) with ``size`` bytes of private data: a bomb."""
    image = ultrasound_from("bomb", np.zeros((8, 8, 3), np.uint8))
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    content = file.getvalue()
    syntax, bomb = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    at = content.index(b"\x02\x00\x10\x00UI") + 8
    length = int.from_bytes(content[140:144], "little")
    head = content[:140] + (length + len(bomb) - len(syntax)).to_bytes(4, "little") + content[144 : at - 2]
    head += len(bomb).to_bytes(2, "little") + bomb + content[at + len(syntax) : 144 + length]
    squeeze = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = squeeze.compress(content[144 + length :])
    body += squeeze.compress(b"\xf1\x7f\x10\x00OB\0\0" + size.to_bytes(4, "little"))
    for _ in range(size // MIB):
        body += squeeze.compress(bytes(MIB))
    return head + body + squeeze.flush()


def test_a_gigabyte_ends_with_a_reason(service: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.putrequest("POST", "/clean")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    sent = 0
    try:
        for _ in range(1024):
            connection.send(b"100000\r\n" + bytes(MIB) + b"\r\n")
            sent += 1
    except OSError:
        pass  # it does not wait for the rest
    assert connection.getresponse().status == 413
    assert sent < 2 * BODY_MIB
    connection.close()


def test_a_bomb_ends_with_a_reason(service: Running) -> None:
    bomb = deflated(512 * MIB)
    assert len(bomb) < 4 * MIB
    answer = requests.post(f"{service.url}/clean", data=bomb, timeout=180)
    assert answer.status_code == 400
    assert "inflates to more than" in answer.json()["detail"]


def test_ten_thousand_requests_are_answered(service: Running) -> None:
    def ask(number: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        connection.request("POST", "/clean", b"no picture %d" % number)
        status = connection.getresponse().status
        connection.close()
        return status

    with ThreadPoolExecutor(16) as pool:
        statuses = Counter(pool.map(ask, range(REQUESTS)))
    assert {*statuses} <= {415, 429}
    assert statuses[415] > 0
    assert service.answers()


def test_it_still_cleans_within_its_memory(service: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """After all that stands above."""
    image = ultrasound_from("good", picture(5, SIZE, colour=True))
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    answer = requests.post(f"{service.url}/clean", data=file.getvalue(), timeout=120)
    server, *others = service.peaks()
    with capsys.disabled():
        print(f"\n  most memory: server {server} MiB, cleaning process {others} MiB")
    assert answer.status_code == 200
    assert server < 300
    assert max(others) < 1500


def test_a_server_that_is_killed_in_a_request_leaves_nothing(tmp_path: Path) -> None:
    running = start(tmp_path)
    image = ultrasound_from("killed", picture(5, (960, 1280), colour=True))
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(requests.post, f"{running.url}/clean", data=file.getvalue(), timeout=120)
        metrics = f"{running.url}/metrics"
        begun = re.compile("ai_pipeline_serve_requests_begun 2")
        wait_until(lambda: begun.search(requests.get(metrics, timeout=5).text) is not None, 60, "it is begun")
        time.sleep(0.3)
        others = running.processes()[1:]
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(60)
        with pytest.raises(requests.ConnectionError):
            asked.result()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), 60, "its processes end")
    assert others
    assert files_in(tmp_path) == []
