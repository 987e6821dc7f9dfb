"""A node with its console as processes: what is entered counts at once, and after a start."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page

from dicom_node.base.config import loading
from dicom_node.base.lifecycle import UserRole
from dicom_node.people import users
from tests.browser_lab import IN_A_BROWSER, press, signed_in
from tests.console_lab import PASSWORD
from tests.modality import ultrasound
from tests.node_lab import Node, in_background, running, store
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = IN_A_BROWSER


@contextmanager
def asked_again_and_again(address: str) -> Iterator[list[int]]:
    """What the console answers meanwhile, 0 where it does not."""
    answers: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.02):
            try:
                answers.append(requests.get(f"{address}/healthz", timeout=60).status_code)
            except requests.RequestException:
                answers.append(0)

    asking = in_background(ask)
    yield answers
    ended.set()
    asking.join()


CONFIG = """
[spool]
minimum_free_mib = 1
[workers]
processes = 0
[[peers]]
name = "a"
ae_title = "A"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 9
may = ["receive"]
[console]
enabled = true
port = {port}
dicomweb_store = true
"""


@dataclass(frozen=True)
class Site:
    """A node with its console, and an admin's browser at it."""

    node: Node
    address: str
    page: Page
    complaints: list[str]

    def process(self) -> int:
        """Process id of the console."""
        tasks = Path(f"/proc/{self.node.pid}/task")
        children = [n for task in tasks.iterdir() for n in (task / "children").read_text().split()]
        return next(int(n) for n in children if "dicom_console" in Path(f"/proc/{n}/comm").read_text())

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/healthz", timeout=5).ok
        except requests.RequestException:
            return False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, chromium: Chromium) -> Iterator[Site]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    node = Node(tmp_path_factory.mktemp("site"), CONFIG.format(port=port), role="listener")
    with running(node):
        users.add_user(loading.load([node.config]), UserRole.ADMIN.value, UserRole.ADMIN, PASSWORD)
        wait_until(lambda: "[6020]" in node.log.read_text(), 60, "the console")
        page, complaints = signed_in(chromium, address, UserRole.ADMIN, base_url=address)
        yield Site(node, address, page, complaints)


def test_a_modality_and_a_rule_entered_in_a_browser_are_in_force_at_once(site: Site) -> None:
    node, page = site.node, site.page
    assert store(node.port, [ultrasound("none")], "US2") == [None]
    page.goto("/peers/new")
    page.fill("input[name=name]", "us2")
    page.fill("input[name=ae_title]", "US2")
    with asked_again_and_again(site.address) as answers:
        page.click("text=Check and save")
        page.wait_for_selector("text=us2 is saved")
        wait_until(lambda: "Finished server process" in node.log.read_text(), 60, "the one before")
        page.click("text=Go on")  # it waits for that where `check` warns of something
        page.wait_for_selector("a[href='/peers/us2/change']")
    assert set(answers) == {200}, "nobody is refused while another process takes over"
    page.goto("/rules/new")
    page.fill("input[name=name]", "breast")
    page.fill("input[name='when.calling_ae']", "US2")
    page.check("input[name=pipeline][value=ultrasound]")
    page.check("input[name=send_to][value=pacs]")
    page.click("text=Try it against the newest studies")
    page.click("text=Save the rule")
    page.wait_for_selector("text=breast is saved")
    wait_until(lambda: node.log.read_text().count("[6010]") == 2, 60, "the rule in force")
    wait_until(lambda: node.log.read_text().count("[6020]") == 3, 60, "the console again")
    page.wait_for_url("**/rules")  # the page goes on by itself: another address would be in its way
    assert store(node.port, [ultrasound("one")], "US2") == [0]
    assert site.complaints == []


def test_a_study_is_shown_and_a_console_that_dies_comes_back_with_its_users_signed_in(site: Site) -> None:
    """Neither patient nor password is in the log."""
    image, page = ultrasound("one"), site.page
    wait_until(lambda: len(site.node.studies()) == 1, 60, "the study")
    page.goto("/studies/1")
    assert "object indexed" in page.content()
    assert page.request.get(f"{site.address}/studies/images/1/1").status == 200
    page.goto("/studies")
    page.fill("input[name=patient]", str(image.PatientID))
    press(page, "Find")
    words = (str(image.PatientID), str(image.AccessionNumber), str(image.PatientName), PASSWORD)
    log = site.node.log.read_text(encoding="utf-8")
    assert "[6020]" in log, "what the console's processes say is in it"
    assert [word for word in words if word in log] == []
    os.kill(site.process(), signal.SIGKILL)
    wait_until(lambda: site.node.events()[-1]["number"] == 6020, 60, "its event", step=0.5)
    wait_until(site.answers, 60, "the console again")
    page.goto("/")
    assert page.url == f"{site.address}/"


def test_what_was_entered_is_in_force_after_a_start_and_the_console_ends_with_its_node(
    site: Site,
) -> None:
    node, console = site.node, site.process()
    assert node.stop() == 0
    assert not Path(f"/proc/{console}").exists()
    node.start()
    assert store(node.port, [ultrasound("three")], "US2") == [0]
