"""A real browser at a console that listens on a port of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect, sync_playwright

from dicom_node.base.lifecycle import UserRole
from dicom_node.people import users
from tests.console_lab import PASSWORD, ConsoleLab, add_users, console_of, quick_hasher, serving
from tests.inbox_lab import Inbox

_AUTOFOCUS = "Autofocus processing was blocked"
_SECONDS = 120  # that a page may take: a slow machine is no fault
expect.set_options(timeout=1000 * _SECONDS)
IN_A_BROWSER = [
    *(pytest.mark.debian("chromium-headless-shell"), pytest.mark.timeout(600)),
    pytest.mark.filterwarnings("ignore:The string:UserWarning"),  # of a name; the node lets none be said
]
"""Marks of a file of such tests."""


@contextmanager
def served(inbox: Inbox) -> Iterator[str]:
    """The address of a console whose users bear the names of their roles."""
    with served_app(console_of(inbox)) as address:
        yield address


@contextmanager
def served_app(lab: ConsoleLab) -> Iterator[str]:
    """The same of a console that is there already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "hasher", quick_hasher)
        add_users(lab.settings)
        with serving(lab.app) as (server, port):
            lab.app.state.live.stops_when = lambda: server.should_exit
            yield f"http://127.0.0.1:{port}"


@contextmanager
def debian_chromium() -> Iterator[Chromium]:
    """Debian's browser, without a window."""
    with sync_playwright() as playwright:
        program = "/usr/bin/chromium-headless-shell"
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def signed_in(chromium: Chromium, address: str, role: UserRole, **how: object) -> tuple[Page, list[str]]:
    """A page of a new browser, and what its console complains of.

    Not that a name was typed before it came to put the cursor there: that is a busy machine, no fault.
    """
    page = chromium.new_context(**how).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(1000 * _SECONDS)
    complaints: list[str] = []
    page.on("console", lambda said: None if _AUTOFOCUS in said.text else complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{address}/studies")
    page.fill("input[name=name]", role.value)
    page.fill("input[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Sign out")
    return page, complaints


def press(page: Page, words: str) -> None:
    """Press a button, and wait for the page that answers."""
    with page.expect_navigation():
        page.click(f"main button:text-is('{words}') >> visible=true >> nth=0")
    assert page.locator("h1:text-is('That did not work')").count() == 0, page.inner_text("main")


def because(page: Page, words: str) -> None:
    """Open what asks for a reason, give one, and go on."""
    page.click(f"main summary:text-is('{words}') >> visible=true >> nth=0")
    page.fill("details[open] input[name=because]", "not of this patient")
    press(page, words)
