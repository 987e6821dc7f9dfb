"""A running node takes over a peer that a person entered, without a restart."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_node.config import loading
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from tests.browser_lab import debian_chromium, signed_in
from tests.console_lab import PASSWORD
from tests.modality import ultrasound
from tests.node_lab import Node, running, store, wait_until
from tests.ports import free_port

pytestmark = [pytest.mark.timeout(300), pytest.mark.debian("chromium")]

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
"""


@contextmanager
def asked_again_and_again(port: int) -> Iterator[list[int]]:
    """What the console answers meanwhile, 0 where it does not."""
    answers: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.02):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as answer:
                    answers.append(answer.status)
            except OSError:
                answers.append(0)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers
    finally:
        ended.set()
        asking.join()


def test_a_modality_and_a_rule_entered_in_a_browser_are_in_force_at_once_and_after_a_restart(
    tmp_path: Path,
) -> None:
    port = free_port()
    with running(Node(tmp_path, CONFIG.format(port=port), role="listener")) as node:
        users.add_user(loading.load([node.config]), UserRole.ADMIN.value, UserRole.ADMIN, PASSWORD)
        assert store(node.port, [ultrasound("none")], "US2") == [None]
        wait_until(lambda: "[6020]" in node.log.read_text(), 60, "the console")
        with debian_chromium() as chromium:
            page, complaints = signed_in(chromium, f"http://127.0.0.1:{port}", UserRole.ADMIN)
            page.goto(f"http://127.0.0.1:{port}/peers/new")
            page.fill("input[name=name]", "us2")
            page.fill("input[name=ae_title]", "US2")
            with asked_again_and_again(port) as answers:
                page.click("text=Check and save")
                page.wait_for_selector("text=us2 is saved")
                wait_until(lambda: "Finished server process" in node.log.read_text(), 60, "the one before")
                page.click("text=Go on")  # it waits for that where `check` warns of something
                page.wait_for_selector("text=changed by admin")
            page.goto(f"http://127.0.0.1:{port}/rules/new")
            page.fill("input[name=name]", "breast")
            page.fill("input[name='when.calling_ae']", "US2")
            page.check("input[name=pipeline][value=ultrasound]")
            page.check("input[name=send_to][value=pacs]")
            page.click("text=Try it against the newest studies")
            page.click("text=Save the rule")
            page.wait_for_selector("text=breast is saved")
            wait_until(lambda: node.log.read_text().count("[6010]") == 2, 60, "the rule in force")
        assert complaints == []
        assert set(answers) == {200}, "nobody is refused while another process takes over"
        wait_until(lambda: node.log.read_text().count("[6020]") == 3, 60, "the console again")
        assert store(node.port, [ultrasound("one")], "US2") == [0]
        (tmp_path / "var" / "entered.toml").unlink()
        node.stop()
        node.start()
        assert store(node.port, [ultrasound("two")], "US2") == [0]
