"""The console of a real node: its process, its port, what a study looks like there."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.modality import ultrasound
from tests.node_lab import Node, running, store, wait_until
from tests.ports import free_port

pytestmark = pytest.mark.timeout(300)

PASSWORD = "correct horse battery"
CONFIG = """
[spool]
minimum_free_mib = 1
[workers]
processes = 0
[assembly]
quiet_seconds_us = 0.2
[[peers]]
name = "us1"
ae_title = "US1"
[console]
enabled = true
port = {port}
"""


class Site:
    """A node with a console, and a browser's few needs."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.node = Node(folder, CONFIG.format(port=self.port), role="listener")
        self.cookie = ""

    def ask(self, method: str, path: str, **fields: str) -> tuple[int, str]:
        """Status, and body or where it leads."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Cookie": self.cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, path, urlencode(fields), headers)
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
        if given := answer.getheader("Set-Cookie"):
            self.cookie = given.partition(";")[0]
        connection.close()
        return answer.status, answer.getheader("Location") or body

    def sign_in(self) -> None:
        _, page = self.ask("GET", "/sign-in")
        token = re.search(r'name="csrf" value="(\w+)"', page)
        assert token, page
        assert self.ask("POST", "/sign-in", csrf=token[1], name="anna", password=PASSWORD) == (303, "/")

    def process(self) -> int:
        """Process id of the console."""
        tasks = Path(f"/proc/{self.node.pid}/task")
        children = [n for task in tasks.iterdir() for n in (task / "children").read_text().split()]
        lines = {n: Path(f"/proc/{n}/cmdline").read_bytes() for n in children}
        return next(int(n) for n, line in lines.items() if b"dicom_console" in line)

    def serves(self) -> bool:
        try:
            return self.ask("GET", "/sign-in")[0] == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    with running(site.node):
        wait_until(site.serves, 60, "the console")
        command = [sys.executable, "-m", "dicom_node", "users", "add", "anna", "--role", "admin"]
        command += ["--config", str(site.node.config)]
        subprocess.run(command, input=PASSWORD, text=True, check=True)
        site.sign_in()
        yield site


def test_a_study_that_was_received_is_shown_with_its_picture(site: Site) -> None:
    assert store(site.node.port, [ultrasound("shown")], "US1") == [0]
    wait_until(lambda: "/studies/1" in site.ask("GET", "/studies")[1], 60, "the study")
    status, page = site.ask("GET", "/studies/1")
    assert status == 200
    assert "object indexed" in page
    assert site.ask("GET", "/studies/images/1/1")[0] == 200


def test_a_console_that_dies_comes_back_and_users_stay_signed_in(site: Site) -> None:
    os.kill(site.process(), signal.SIGKILL)
    wait_until(site.serves, 60, "the console again")
    assert site.ask("GET", "/")[0] == 200
    wait_until(lambda: site.node.cli("events", "list")[-1]["number"] == 6020, 60, "its event", step=0.5)


def test_no_patient_and_no_password_stands_in_the_log(site: Site) -> None:
    token = re.search(r'name="csrf" value="(\w+)"', site.ask("GET", "/")[1])
    assert token
    image = ultrasound("shown")
    asked = {"patient": str(image.PatientID), "accession": str(image.AccessionNumber)}
    status, _ = site.ask("POST", "/studies/search", csrf=token[1], **asked)
    assert status < 400
    log = site.node.log.read_text(encoding="utf-8")
    assert "[6020]" in log, "what the console's processes say is in it"
    assert [word for word in (*asked.values(), str(image.PatientName), PASSWORD) if word in log] == []


def test_a_reload_switches_the_console_off_and_on(site: Site) -> None:
    text = site.node.config.read_text(encoding="utf-8")
    site.node.config.write_text(text.replace("enabled = true", "enabled = false"), encoding="utf-8")
    assert site.node.run_apart("reload").returncode == 0
    wait_until(lambda: not site.serves(), 60, "the console's end")
    site.node.config.write_text(text, encoding="utf-8")
    assert site.node.run_apart("reload").returncode == 0
    wait_until(site.serves, 60, "the console again")
    assert site.ask("GET", "/")[0] == 200


def test_the_console_ends_with_its_node(site: Site) -> None:
    process = site.process()
    assert site.node.stop() == 0
    assert not Path(f"/proc/{process}").exists()
