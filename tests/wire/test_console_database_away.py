"""The database goes away while pages are open: they say so, nothing is lost, and they come back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from dicom_console.handlers import live
from dicom_node import services
from dicom_node.model.roles import UserRole
from dicom_node.store import database
from tests.browser_lab import debian_chromium, served, signed_in
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.postgres_lab import start_postgres

pytestmark = [pytest.mark.debian("chromium"), pytest.mark.debian("postgresql")]

Away = Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["sqlite", "postgres"])
def node(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Inbox, Away]]:
    """A node with a job that waits, and how its database goes away and comes back."""
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.2)
    monkeypatch.setattr(services, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(live, "POLL_SECONDS", 0.1)
    with start_postgres() as server:
        url = server.new_database() if request.param == "postgres" else ""
        inbox = Inbox(tmp_path / "var", url=url)
        inbox.receive(ultrasound("one"))
        inbox.settle()

        @contextmanager
        def locked() -> Iterator[None]:
            holder = sqlite3.connect(tmp_path / "var" / "node.db", isolation_level=None)
            holder.execute("BEGIN IMMEDIATE")  # nobody else writes; what is there can be read
            yield
            holder.close()

        @contextmanager
        def stopped() -> Iterator[None]:
            server.stop()
            yield
            server.start()

        yield inbox, stopped if url else locked
        inbox.close()


def test_pages_say_that_it_is_away_and_come_back(node: tuple[Inbox, Away]) -> None:
    inbox, away = node
    with served(inbox) as address, debian_chromium() as chromium:
        page, _ = signed_in(chromium, address, UserRole.OPERATOR, base_url=address)
        page.goto("/jobs")
        page.wait_for_selector("text=Updates by itself")
        form = page.context.new_page()
        form.goto("/jobs")
        with away():
            if not inbox.database.is_sqlite:
                told = "Not up to date: the database of the node does not answer."
                page.wait_for_selector(f"#live.problem:has-text('{told}')")
            form.click("button:has-text('Cancel')")
            form.wait_for_selector("text=not carried out, or only in part")
            answer = page.goto("/studies")
            assert answer is not None and answer.status == 503
            assert "Content-Security-Policy".lower() in answer.headers
            assert "The node still stores received images" in page.inner_text("main")
            assert "node.db" not in page.content() and "127.0.0.1" not in page.inner_text("main")
            inbox.receive(ultrasound("two"))
        expect(page.locator("h1")).to_have_text("Studies", timeout=60_000)
        assert [job.state.value for job in inbox.jobs()] == ["queued"]
        inbox.settle()
        page.wait_for_selector("text=ID-two", timeout=60_000)
