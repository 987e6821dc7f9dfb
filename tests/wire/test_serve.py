"""``ai-pipeline serve`` as its users run it: the page's examples, and a kill in the middle of a request."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from PIL import Image
from pydicom import dcmread

from tests import ROOT
from tests.modality import ultrasound_from
from tests.ports import free_port
from tests.ultrasound_lab import Reader, decoded, picture
from tests.waiting import wait_until, wait_until_served

PAGE = ROOT / "docs" / "connect" / "serve.md"
SIDES = (480, 640)  # those of the page


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    temporary: Path
    log: Path


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """The service with a real cleaning process, and the files of the page's examples."""
    pixels = picture(3, SIDES, colour=True)
    ultrasound_from("serve", pixels).save_as(tmp_path / "us.dcm", enforce_file_format=True)
    Image.fromarray(pixels).save(tmp_path / "us.png")
    (tmp_path / "us.raw").write_bytes(pixels.tobytes())
    temporary, log, port = tmp_path / "temporary", tmp_path / "log", free_port()
    temporary.mkdir()
    given = {"AI_PIPELINE_SERVE_PORT": str(port), "TMPDIR": str(temporary)}
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "ai_pipeline", "serve"], env=os.environ | given, cwd=ROOT, stderr=written
        )
    try:
        wait_until_served(process, f"http://127.0.0.1:{port}/health")
        yield Running(process, f"http://127.0.0.1:{port}", tmp_path, temporary, log)
    finally:
        process.terminate()
        process.wait(60)


def cleaning_process(running: Running) -> psutil.Process:
    return next(
        child
        for child in psutil.Process(running.process.pid).children()
        if "ai_pipeline.serve.worker" in child.cmdline()
    )


def test_the_examples_of_the_page_hand_back_cleaned_files(running: Running) -> None:
    examples = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    for example in examples:
        lines = re.sub(r"^(pip install|ai-pipeline) .*$", "", example, flags=re.M)
        command = lines.replace("http://127.0.0.1:8000", running.url)
        shell = ["bash", "-exc", command]  # a failing example is the last that the error shows
        done = subprocess.run(shell, cwd=running.folder, stdout=subprocess.PIPE, text=True, check=True)
    reader = Reader()
    dataset = dcmread(running.folder / "cleaned.dcm")
    assert reader.secrets(decoded(running.folder / "us.dcm")[0]) != []
    assert reader.secrets(dataset.pixel_array) == []
    assert reader.secrets(np.asarray(Image.open(running.folder / "cleaned.png"))) == []
    multipart = (running.folder / "cleaned.multipart").read_bytes()
    assert multipart.count(b"DICM") == 1
    assert '"rectangles"' in done.stdout
    assert "KOWALSKA" not in running.log.read_text("utf-8")


def test_a_kill_in_the_middle_of_a_request_gives_a_reason_or_nothing(running: Running) -> None:
    """First the process that cleans is killed, then, in another request, the whole service."""
    image = (running.folder / "us.dcm").read_bytes()
    answers: list[requests.Response | None] = []
    before_any = {*running.temporary.rglob("*")}  # what libraries write when they are loaded

    def post() -> None:
        answer = None
        with suppress(requests.RequestException):
            answer = requests.post(f"{running.url}/clean", data=image, timeout=300)
        answers.append(answer)

    def begin() -> threading.Thread:
        worker = cleaning_process(running)
        before = worker.cpu_times().user
        thread = threading.Thread(target=post)
        thread.start()
        wait_until(lambda: worker.cpu_times().user > before, what="it cleans", step=0.01)
        return thread

    first = begin()
    cleaning_process(running).kill()
    first.join(300)
    assert answers[0] is not None
    assert answers[0].status_code == 503
    assert "killed" in answers[0].json()["detail"]
    post()  # by the process that takes its place
    assert answers[1] is not None
    assert answers[1].status_code == 200
    second, worker = begin(), cleaning_process(running)
    os.kill(running.process.pid, signal.SIGKILL)
    second.join(300)
    assert answers[2] is None
    wait_until(lambda: not worker.is_running(), what="the process that cleans ended")
    assert {*running.temporary.rglob("*")} == before_any, "nothing of a patient is left"
