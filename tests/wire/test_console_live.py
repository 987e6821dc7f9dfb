"""Pages that update by themselves: streams over real connections, and what a browser makes of them."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from dicom_console.handlers import live
from dicom_node.model.roles import UserRole
from dicom_node.store.accounts import UserSession
from dicom_node.store.transitions import utc_now
from tests.browser_lab import debian_chromium, served, signed_in
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.waiting import wait_until


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = Inbox(tmp_path / "var")
    yield inbox
    inbox.close()


@pytest.fixture
def address(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(live, "CHECK_SECONDS", 0.2)
    with served(inbox) as address:
        yield address


@dataclass
class Stream:
    """An open stream and its status."""

    connection: http.client.HTTPConnection
    answer: http.client.HTTPResponse

    def close(self) -> None:
        self.answer.close()
        self.connection.close()

    def until(self, start: bytes, seconds: float = 60.0) -> bytes:
        """The next line that begins so; b"" at the end of the stream."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            line = self.answer.readline()
            if line.startswith(start) or not line:
                return line
        raise AssertionError(f"no line {start!r}")


def cookie(inbox: Inbox) -> str:
    """Of a new session of the viewer."""
    console = ConsoleLab(inbox.settings, inbox.database)
    return f"{console.cookie}={console.browser(UserRole.VIEWER).client.cookies[console.cookie]}"


Open = Callable[[str], Stream]


@pytest.fixture
def opened(address: str) -> Iterator[Open]:
    """Opens streams with a token; they are closed in the end."""
    streams: list[Stream] = []

    def open_stream(cookie: str) -> Stream:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        connection.request("GET", "/live", headers={"Cookie": cookie})
        streams.append(Stream(connection, connection.getresponse()))
        return streams[-1]

    yield open_stream
    for stream in streams:
        stream.close()


def test_a_change_is_told_and_quiet_is_quiet(opened: Open, inbox: Inbox) -> None:
    stream = opened(cookie(inbox))
    assert stream.answer.headers["content-type"].startswith("text/event-stream")
    first = stream.until(b"data:")
    inbox.receive(ultrasound("one"))
    inbox.settle()
    assert stream.until(b"data:") != first
    assert stream.until(b":") == b":\n"


def test_streams_have_a_limit_and_give_their_places_back(
    opened: Open, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = cookie(inbox), cookie(inbox)
    streams = [opened(mine) for _ in range(live.STREAMS_OF_A_SESSION + 1)]
    assert [stream.answer.status for stream in streams] == [200] * live.STREAMS_OF_A_SESSION + [503]
    monkeypatch.setattr(live, "STREAMS", live.STREAMS_OF_A_SESSION)
    assert opened(other).answer.status == 503
    for stream in streams:
        stream.close()
    wait_until(lambda: opened(other).answer.status == 200, 60, "a free place")


def test_a_page_that_updates_by_itself_keeps_no_session_alive(opened: Open, inbox: Inbox) -> None:
    stream = opened(cookie(inbox))
    assert stream.answer.status == 200
    with inbox.database.write() as session:
        [row] = session.scalars(select(UserSession))
        row.seen_at = utc_now().replace(year=utc_now().year - 1)
    assert stream.until(b"event:") == b"event: ended\n"
    assert opened("nobody").answer.status == 303


def test_requests_of_a_page_do_not_count(inbox: Inbox, address: str) -> None:
    browser = ConsoleLab(inbox.settings, inbox.database).browser(UserRole.VIEWER)

    def seen_after(headers: dict[str, str]) -> bool:
        before = utc_now().replace(microsecond=0)
        with inbox.database.write() as session:
            [row] = session.scalars(select(UserSession))
            row.seen_at = at = before.fromtimestamp(before.timestamp() - 60, before.tzinfo)
        assert browser.client.get("/jobs", headers=headers).status_code == 200
        with inbox.database.read() as session:
            return bool(session.scalars(select(UserSession.seen_at)).one() != at)

    assert not seen_after({"X-By-Itself": "1"})
    assert seen_after({})


def test_a_console_that_stops_ends_its_streams(
    opened: Open, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = opened(cookie(inbox))
    stream.until(b"data:")
    monkeypatch.setattr(live.Live, "is_stopping", lambda _: True)
    assert stream.until(b"never") == b""


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with debian_chromium() as chromium:
        page, complaints = signed_in(chromium, address, UserRole.OPERATOR, base_url=address)
        yield page
        assert complaints == []


@pytest.mark.debian("chromium")
def test_a_study_appears_while_one_looks(page: Page, inbox: Inbox) -> None:
    page.goto("/studies")
    page.wait_for_selector("text=Updates by itself")
    expect(page.locator("tbody tr")).to_have_count(0)
    inbox.receive(ultrasound("one"))
    inbox.settle()
    page.wait_for_selector("text=ID-one")
    page.goto("/jobs")
    page.wait_for_selector("text=Updates by itself")
    page.focus("button:has-text('Cancel')")
    inbox.receive(ultrasound("two"))
    inbox.settle()
    wait_until(lambda: page.locator("tbody tr").count() == 2, 60, "a second job")
    assert page.evaluate("document.activeElement.innerText") == "Cancel"
