"""What a page shows while one looks: the database away and back, what comes in, who is signed in."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Route, expect

from dicom_console.handlers import live
from dicom_console.views import changes
from dicom_node import people
from dicom_node.base import events
from dicom_node.base.lifecycle import ResultKind, UserRole
from dicom_node.base.store import database
from dicom_node.base.store.tables import DecisionRow, Job, UserSession
from dicom_node.base.store.transitions import record, utc_now
from tests.browser_lab import IN_A_BROWSER, served, served_app, signed_in
from tests.console_lab import console_of
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.oidc_lab import PASSWORD as HOSPITAL_PASSWORD
from tests.oidc_lab import hospital
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs
from tests.postgres_lab import POSTGRESQL, Postgres, start_postgres
from tests.waiting import wait_until

pytestmark = IN_A_BROWSER


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Nobody else writes to this SQLite; what is there can be read."""
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    yield
    holder.close()


@contextmanager
def stopped(server: Postgres) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@POSTGRESQL
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_pages_say_that_the_database_is_away_and_come_back(
    tmp_path: Path, chromium: Chromium, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.2)
    monkeypatch.setattr(people, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(live, "POLL_SECONDS", 0.1)
    with ExitStack() as stack:
        server = stack.enter_context(start_postgres()) if kind == "postgres" else None
        inbox = Inbox(tmp_path / "var", url=server.new_database() if server else "")
        stack.callback(inbox.close)  # after the console, whose threads hold connections until it ends
        inbox.settle(ultrasound("one"))
        address = stack.enter_context(served(inbox))
        page, _ = signed_in(chromium, address, UserRole.OPERATOR, base_url=address)
        page.goto("/jobs")
        page.wait_for_selector("text=Updates by itself")
        form = page.context.new_page()
        form.goto("/jobs")
        with stopped(server) if server else locked(tmp_path / "var" / "node.db"):
            if server:
                told = "Not up to date: the database of the node does not answer."
                page.wait_for_selector(f"#live.problem:has-text('{told}')")
            form.click("button:has-text('Cancel')")
            form.wait_for_selector("text=not carried out, or only in part")
            answer = page.goto("/studies")
            assert answer is not None
            assert answer.status == 503
            assert "Content-Security-Policy".lower() in answer.headers
            assert "The node still stores received images" in page.inner_text("main")
            assert "node.db" not in page.content()
            assert "127.0.0.1" not in page.inner_text("main")
            inbox.receive(ultrasound("two"))
        expect(page.locator("h1")).to_have_text("Studies")
        assert inbox.column(Job.state) == ["queued"]
        inbox.settle()
        page.wait_for_selector("text=ID-two")
        page.context.close()


def test_a_page_shows_what_comes_while_one_looks_and_keeps_no_session_alive(
    tmp_path: Path, chromium: Chromium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(live, "CHECK_SECONDS", 0.2)
    inbox = Inbox(tmp_path / "var")
    with served(inbox) as address:
        page, complaints = signed_in(chromium, address, UserRole.OPERATOR, base_url=address)
        page.goto("/studies")
        page.wait_for_selector("text=Updates by itself")
        expect(page.locator("tbody tr")).to_have_count(0)
        inbox.settle(ultrasound("one"))
        page.wait_for_selector("text=ID-one")
        page.goto("/jobs")
        page.wait_for_selector("text=Updates by itself")
        page.focus("button:has-text('Cancel')")

        def with_another_job(route: Route) -> None:
            """Give the page of before the next change, once the browser knows of the change."""
            before = route.fetch()
            page.evaluate("source.addEventListener('message', (change) => { note.title = change.data; })")
            inbox.settle(ultrasound("three"))
            known = lambda: page.get_attribute("#live", "title") == changes.change_mark(inbox.database)
            wait_until(known, 60, "the browser knows of the change")
            route.fulfill(response=before)

        page.route("**/jobs", with_another_job, times=1)
        inbox.settle(ultrasound("two"))
        expect(page.locator("tbody tr")).to_have_count(3)
        assert page.evaluate("document.activeElement.innerText") == "Cancel"
        assert complaints == []
        inbox.put(UserSession, seen_at=utc_now().replace(year=utc_now().year - 1))
        page.wait_for_url("**/sign-in")
        page.context.close()
    inbox.close()


def test_a_person_signs_in_with_the_hospitals_account_and_out_of_both(
    tmp_path: Path, chromium: Chromium
) -> None:
    """A real browser, a real provider of accounts, HTTP between all three."""
    inbox = Inbox(tmp_path / "var")
    lab = console_of(inbox)
    complaints: list[str] = []
    with served_app(lab) as address, hospital(tmp_path, address) as one:
        lab.change("console", url=address, oidc=one.settings())
        page = chromium.new_context(base_url=address).new_page()
        page.on(
            "console",
            lambda said: complaints.append(said.text) if f"{address}/" in said.location["url"] else None,
        )
        page.goto("/sign-in")
        page.click("text=Sign in with the hospital's account")
        page.fill("input[name=username]", "anna")
        page.fill("input[name=password]", HOSPITAL_PASSWORD)
        page.click("button:text-is('Log in')")
        page.wait_for_selector("h1:text-is('Overview')")
        assert page.inner_text("form.user span") == "anna@localhost reader"
        assert page.url == f"{address}/"
        cookies = {one["name"]: one for one in page.context.cookies(address)}
        assert [(one["httpOnly"], one["sameSite"]) for one in cookies.values()] == [(True, "Strict")]
        assert lab.audited("signed_in")[0] == {"origin": "oidc"}
        page.click("text=Sign out")
        page.click("text=Sign out there, too")
        page.click("input[name=allow]")  # without a token of the session a provider asks
        page.wait_for_url(f"{address}/sign-in")
        page.click("text=Sign in with the hospital's account")
        page.wait_for_selector("input[name=password]")  # the provider asks again
        page.context.close()
    assert complaints == []
    inbox.close()


def test_what_is_bad_is_red_and_first_on_the_overview(tmp_path: Path, chromium: Chromium) -> None:
    """A full disk, a decision from before a restore, a PACS that is away, a machine that was refused."""
    outbox = Outbox(tmp_path, [Pacs().peer()])
    outbox.add_study(["pacs"], [ResultKind.SC])
    outbox.run_once()
    outbox.write(record, events.ASSOCIATION_REJECTED, calling="US9", meaning="not recognized")
    lost = DecisionRow(id="d1", at=utc_now(), machine="m", action="result_withdrawn", record={}, copied=True)
    outbox.add(lost)
    lab = console_of(outbox)
    lab.change("spool", minimum_free_mib=10**9)
    with served_app(lab) as address:
        page, complaints = signed_in(chromium, address, UserRole.VIEWER, base_url=address)
        page.goto("/")
        shown = page.evaluate("""() => [...document.querySelectorAll(".figure")].map(figure => {
          const [red, green] = getComputedStyle(figure.firstElementChild).color.match(/\\d+/g);
          return [red > 2 * green, figure.innerText]; })""")
    assert [red for red, _ in shown] == [True] * 6 + [False] * (len(shown) - 6), shown
    told = (
        *("no image is received", "no result is sent"),  # there is a console, and nothing else runs
        *("no object is accepted", "before a restore", "result waits for pacs", "US9"),
    )
    assert all(any(words in text for _, text in shown[:6]) for words in told), shown
    assert complaints == []
    outbox.database.dispose()
