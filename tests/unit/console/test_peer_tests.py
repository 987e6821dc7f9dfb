"""Tests of peers have two places in all: a peer that hangs must not hold every thread of the console."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from dicom_node.model.roles import UserRole
from tests.console_lab import ConsoleLab, Program
from tests.inbox_lab import Inbox


@pytest.fixture
def silent(inbox: Inbox) -> Iterator[socket.socket]:
    """A peer that takes connections, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pacs = inbox.settings.peers[-1].model_copy(update={"port": server.getsockname()[1]})
        peers = (*inbox.settings.peers[:-1], pacs)
        inbox.settings = inbox.settings.model_copy(update={"peers": peers})
        yield server


def test_a_third_test_at_the_same_time_is_put_off_by_page_and_by_program(
    silent: socket.socket, inbox: Inbox
) -> None:
    console = ConsoleLab(inbox.settings, inbox.database)
    answers: list[int] = []

    def test() -> None:
        answers.append(Program(console, UserRole.OPERATOR).ask("POST", "/peers/pacs/test")[0])

    running = [threading.Thread(target=test) for _ in range(2)]
    for thread in running:
        thread.start()
    taken = [silent.accept()[0] for _ in running]
    try:
        test()
        assert answers == [503]
        browser = console.browser(UserRole.OPERATOR)
        assert browser.post("/peers/pacs/test") == 503
        assert "Other tests are under way" in browser.text
    finally:
        for connection in (silent, *taken):
            connection.close()
        for thread in running:
            thread.join()
    assert answers == [503, 200, 200]
