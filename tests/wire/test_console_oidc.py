"""Signing in with an account of the hospital: a real browser, a real provider, HTTP between all three."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page

from dicom_node.model.roles import UserRole
from dicom_node.services import users
from tests.browser_lab import debian_chromium, served_app
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.oidc_lab import PASSWORD, Hospital, hospital

pytestmark = [pytest.mark.debian("chromium"), pytest.mark.timeout(180)]


@dataclass(frozen=True, slots=True)
class Site:
    """A console, its address, and the hospital's provider of accounts."""

    lab: ConsoleLab
    address: str
    hospital: Hospital
    chromium: Chromium

    def page(self, complaints: list[str]) -> Page:
        """A page of a new browser."""
        page = self.chromium.new_context(base_url=self.address).new_page()
        ours = f"{self.address}/"
        page.on(
            "console", lambda said: complaints.append(said.text) if ours in said.location["url"] else None
        )
        return page

    def sign_in(self, page: Page, name: str) -> None:
        """By the button, at the provider, and back."""
        page.goto("/sign-in")
        page.click("text=Sign in with the hospital's account")
        page.fill("input[name=username]", name)
        page.fill("input[name=password]", PASSWORD)
        page.click("button:text-is('Log in')")

    def role(self, name: str) -> str:
        return next(row["role"] for row in users.list_users(self.lab.settings) if row["name"] == name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    inbox = Inbox(tmp_path_factory.mktemp("oidc") / "var")
    lab = ConsoleLab(inbox.settings, inbox.database)
    folder = tmp_path_factory.mktemp("provider")
    with served_app(lab) as address, hospital(folder, address) as one, debian_chromium() as chromium:
        lab.change("console", url=address, oidc=one.settings())
        yield Site(lab, address, one, chromium)
    inbox.close()


def test_a_person_signs_in_with_the_hospitals_account_and_out_of_both(site: Site) -> None:
    complaints: list[str] = []
    page = site.page(complaints)
    site.sign_in(page, "anna")
    page.wait_for_selector("h1:text-is('Overview')")
    assert page.inner_text("form.user span") == "anna@localhost reader"
    assert page.url == f"{site.address}/"
    cookies = {one["name"]: one for one in page.context.cookies(site.address)}
    assert [(one["httpOnly"], one["sameSite"]) for one in cookies.values()] == [(True, "Strict")]
    assert site.lab.audited("signed_in")[0] == {"origin": "oidc"}
    page.click("text=Sign out")
    page.click("text=Sign out there, too")
    page.click("input[name=allow]")  # without a token of the session a provider asks
    page.wait_for_url(f"{site.address}/sign-in")
    page.click("text=Sign in with the hospital's account")
    page.wait_for_selector("input[name=password]")  # the provider asks again
    assert complaints == []
    page.context.close()


def test_a_person_of_no_group_is_refused_in_words(site: Site) -> None:
    page = site.page([])
    site.sign_in(page, "bert")
    page.wait_for_selector("text=None of your groups may use this console")
    page.goto("/")
    assert page.url.endswith("/sign-in")
    assert site.lab.audited("sign_in_refused")[0]["user"] == "bert@localhost"
    page.context.close()


def test_another_group_counts_at_the_next_sign_in(site: Site) -> None:
    page = site.page([])
    site.sign_in(page, "anna")
    page.wait_for_selector("h1:text-is('Overview')")
    before = site.role("anna@localhost")
    site.hospital.employ({"anna": ["Radiology", "PACS-Admins"], "bert": []})
    page.goto("/sign-in")
    page.click("text=Sign in with the hospital's account")  # the provider knows the browser still
    page.wait_for_selector("h1:text-is('Overview')")
    page.click("nav >> text=Users")
    assert (before, site.role("anna@localhost")) == ("reader", UserRole.ADMIN)
    site.hospital.employ({"anna": [], "bert": []})
    page.goto("/sign-in")
    page.click("text=Sign in with the hospital's account")
    page.wait_for_selector("text=None of your groups")
    page.goto("/")
    assert page.url.endswith("/sign-in"), "who lost the group is signed out"
    page.context.close()
