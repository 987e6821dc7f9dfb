"""Every page and every action of the console, in a real browser, as each role, on a node that did its work.

The route table says what there is: one that no role comes to by links and buttons is a failure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, Request, expect

from dicom_console.web.access import ANYONE
from dicom_node.model.roles import UserRole
from dicom_node.services import entered
from tests.browser_lab import debian_chromium, served_app, signed_in
from tests.console_lab import ConsoleLab, routes
from tests.modality import ultrasound
from tests.walked_lab import Walked, walked
from tests.wire.walk_steps import accounts, because, draw, models, peers, press, rules

pytestmark = [
    *(pytest.mark.debian("chromium"), pytest.mark.timeout(600)),
    pytest.mark.filterwarnings("ignore:The string:UserWarning"),  # of a name; the node lets none be said
]

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
NO_PAGES = {
    *("/live", "/static/{name}", "/healthz", "/readyz", "/metrics"),
    *("/studies/{which}/{number}/{frame}", "/studies/{which}/{number}/{frame}/samples"),
    *("/studies/{number}/thumbnail", "/studies/results/{number}/masks/{segment}"),
    "/models/{identifier}/{version}/feedback.csv",
}
"""What pages fetch, a browser keeps as a file, or only machines ask for."""
FETCHING = {"/fetches", "/fetches/{name}/again", "/fetches/{name}/cancel", "/fetches/{name}/missing"}
"""Forms that need an archive to fetch from: ``tests/unit/console/test_fetches.py`` sends them."""
EACH = {"/studies/{number}", "/peers/ward"}
"""Of these pages all are looked at, since they differ with what they show; of others one."""


@dataclass
class Walk:
    """Browsers at one console, and which of its routes each role asked for."""

    site: Walked
    address: str
    app: FastAPI
    chromium: Chromium
    asked: dict[UserRole, set[tuple[str, str]]] = field(default_factory=dict)

    def table(self) -> Iterator[tuple[str, str, object]]:
        """Method, path and role of all that is for people."""
        for route in routes(self.app.routes):
            for method in route.methods - {"HEAD"}:
                if not route.path.startswith("/api/"):
                    yield method, route.path, route.endpoint.needs  # type: ignore[attr-defined]

    def of(self, method: str, address: str) -> APIRoute:
        """The route that answers."""
        path = re.sub(r"https?://[^/]+", "", address).partition("?")[0].partition("#")[0]
        return next(
            one for one in routes(self.app.routes) if method in one.methods and one.path_regex.match(path)
        )

    def page(self, role: UserRole, **how: object) -> tuple[Page, list[str]]:
        """A page of a new browser; what it asks for is written down."""
        page, complaints = signed_in(self.chromium, self.address, role, base_url=self.address, **how)
        asked = self.asked.setdefault(role, set())

        def note(request: Request) -> None:
            if request.url.startswith(self.address):
                asked.add((request.method, self.of(request.method, request.url).path))

        page.on("request", note)
        return page, complaints

    def actions(self, role: UserRole) -> set[str]:
        """What only this role and those above may do."""
        return {path for method, path, needed in self.table() if method == "POST" and needed is role}

    def done(self, role: UserRole) -> set[str]:
        """The same, as far as its browser did it."""
        return {path for method, path in self.asked[role] if method == "POST"} & self.actions(role)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Walk]:
    data = request.config.getoption("--data")
    with walked(tmp_path_factory.mktemp("walked"), data) as site, pytest.MonkeyPatch.context() as patch:
        lab = ConsoleLab(site.settings, site.database)
        patch.setattr(entered, "apply", lambda _: site.taken_over(lab.app))
        with served_app(lab) as address, debian_chromium() as chromium:
            yield Walk(site, address, lab.app, chromium)


def fits(page: Page, width: int) -> bool:
    """Whether nothing is to be scrolled sideways but what has its own bar."""
    return bool(page.evaluate("document.documentElement.scrollWidth") <= width)


def offered(page: Page) -> tuple[list[str], list[str]]:
    """Where links and forms of the page lead to."""
    links, forms = (
        page.eval_on_selector_all(selector, f"all => all.map(one => one.getAttribute('{name}'))")
        for selector, name in (("a[href^='/']", "href"), ("form[method=post]", "action"))
    )
    return links, forms


@pytest.mark.parametrize("role", [UserRole.VIEWER, UserRole.OPERATOR, UserRole.ADMIN])
def test_links_lead_each_role_to_all_of_its_pages_and_to_no_others(
    walk: Walk, role: UserRole, tmp_path: Path
) -> None:
    page, complaints = walk.page(role, viewport=DESKTOP)
    waiting, known, seen = ["/"], {"/"}, set()
    while waiting:
        place = waiting.pop(0)
        answer = page.goto(place)
        assert answer is not None and answer.status == 200, place
        path = walk.of("GET", place).path
        seen.add(path)
        assert fits(page, DESKTOP["width"]), place
        if role is UserRole.ADMIN:
            shoot(page, tmp_path / (re.sub(r"\W+", "-", place).strip("-") or "overview"))
        links, forms = offered(page)
        for form in forms:
            needs = walk.of("POST", form).endpoint.needs  # type: ignore[attr-defined]
            assert needs == ANYONE or role.includes(needs), (place, form)
        for link in links:
            route = walk.of("GET", link)
            assert role.includes(route.endpoint.needs), (place, link)  # type: ignore[attr-defined]
            each = {link, route.path} & EACH and role is not UserRole.VIEWER
            which = link if each else route.path
            if which not in known and route.path not in NO_PAGES:
                known.add(which)
                waiting.append(link)
    mine = {
        path
        for method, path, needs in walk.table()
        if method == "GET" and needs != ANYONE and role.includes(needs)
    }  # type: ignore[arg-type]
    assert seen == mine - NO_PAGES
    assert complaints == []
    page.context.close()


def shoot(page: Page, file: Path) -> None:
    """Pictures of the page, light on a desk and dark on a phone, where it must fit too."""
    page.wait_for_load_state("networkidle") if page.locator("[data-live]").count() == 0 else None
    page.screenshot(path=f"{file}-light.png", full_page=True)
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size(PHONE)
    assert fits(page, PHONE["width"]), page.url
    page.screenshot(path=f"{file}-phone.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(DESKTOP)


def test_a_viewer_searches_and_signs_out(walk: Walk) -> None:
    page, complaints = walk.page(UserRole.VIEWER)
    page.goto("/studies")
    page.fill("input[name=patient]", "ID-o*")
    press(page, "Find")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert "ID-o" not in page.url
    page.select_option("select[name=days]", "7")
    press(page, "Find")
    page.fill("form[action='/studies/filters'] input[name=name]", "This week")
    press(page, "Save")
    with page.expect_navigation():
        page.click("text=This week")
    with page.expect_navigation():
        page.click("th >> text=Received ↓")
    expect(page.locator("th[aria-sort=ascending]")).to_have_count(1)
    press(page, "×")
    page.goto("/patients")
    page.fill("input[name=patient]", "ID-t*")
    press(page, "Find")
    expect(page.locator("tbody tr")).to_have_count(2)
    other, _ = signed_in(walk.chromium, walk.address, UserRole.VIEWER)
    page.click("header >> a:text-is('viewer')")
    with page.expect_navigation():
        page.click("tr:not(:has-text('this browser')) >> button:text-is('End') >> nth=0")
    assert other.goto(f"{walk.address}/jobs") and other.url.endswith("/sign-in")
    with page.expect_navigation():
        page.click("text=Sign out")
    assert "/sign-in" in page.url
    assert walk.done(UserRole.VIEWER) == walk.actions(UserRole.VIEWER)
    assert complaints == []


@pytest.mark.data
def test_a_reader_assesses_rejects_accepts_and_sends_it(walk: Walk) -> None:
    page, complaints = walk.page(UserRole.READER)
    page.goto(f"/studies/{walk.site.studies['held']}")
    page.focus("#findings summary >> nth=0")
    for key in ("Enter", "Tab"):
        page.keyboard.press(key)
    page.keyboard.type("a rib")
    page.click("#findings details[open] button[value=rejected]")
    page.wait_for_selector("#findings >> text=reader: a rib")
    page.click("#findings button[value=accepted] >> nth=0")
    page.wait_for_selector("#findings .state.confirmed")
    because(page, "Reject: none is sent")
    press(page, "Accept and send after all")
    page.wait_for_selector("h1 ~ .state.delivering")
    page.goto(f"/studies/{walk.site.studies['chest']}")
    page.click("#findings button[value=accepted] >> nth=0")
    press(page, "Send my assessment to pacs")
    model = page.inner_text("#findings tbody tr >> nth=0 >> td >> nth=4").split()
    page.goto(f"/models/{model[0]}/{model[-1]}")
    with page.expect_download() as kept:
        page.click("text=All of it as CSV")
    assert "accepted" in Path(kept.value.path()).read_text(encoding="utf-8")
    assert walk.done(UserRole.READER) == walk.actions(UserRole.READER)
    assert complaints == []


def test_an_operator_does_all_that_an_operator_may(walk: Walk, tmp_path: Path) -> None:
    page, complaints = walk.page(UserRole.OPERATOR, viewport=DESKTOP)
    deliveries(walk, page)
    studies(walk, page)
    peers_rules_and_messages(walk, page)
    cleaning(walk, page)
    patients_and_uploads(page, tmp_path)
    assert walk.done(UserRole.OPERATOR) == walk.actions(UserRole.OPERATOR) - FETCHING
    assert complaints == []
    page.context.close()


def deliveries(walk: Walk, page: Page) -> None:
    """What was given up is sent again or not at all, one by one and all of a peer."""
    page.goto("/outbox?state=dead&to=strict")
    press(page, "Send again")
    because(page, "Discard")
    page.goto("/outbox")
    with page.expect_navigation():
        page.click("form:has(input[value=old]) button:text-is('Send all again')")
    page.goto("/outbox")
    because(page, "Discard all")
    expect(page.locator("td:text-is('not of this patient')").nth(1)).to_be_attached()


def studies(walk: Walk, page: Page) -> None:
    """Send, withdraw, run again, release; and the jobs that come of it."""
    page.goto(f"/studies/{walk.site.studies['dead']}")
    press(page, "Send")
    page.click("text=Withdraw results")
    page.check("text=Quality")
    page.fill("input[name=because]", "of the wrong side")
    press(page, "Withdraw")
    page.click("text=Back to the study")
    press(page, "Run the rules again")
    page.goto("/jobs?state=queued")
    press(page, "Put first")
    press(page, "Cancel")
    page.goto("/jobs?state=cancelled")
    press(page, "Run")
    page.goto("/jobs?state=queued")
    press(page, "Cancel")
    page.goto("/jobs?state=cancelled")
    press(page, "Run all 1")
    page.goto("/studies?state=quarantined")
    page.check("#all")
    assert page.inner_text("#number") == str(page.locator("input[name=study]").count())
    press(page, "Release")
    assert page.locator("h1").inner_text().startswith("0 done")
    page.click("text=Back to the list")
    page.goto(f"/studies/{walk.site.studies['quarantined']}")
    page.click("text=Choose and release")
    page.click("label.option >> nth=1")
    press(page, "Release the study")


def peers_rules_and_messages(walk: Walk, page: Page) -> None:
    """Try peers, rules and messages."""
    page.goto("/peers/pacs")
    press(page, "Test the connection")
    press(page, "Send a test study")
    page.goto("/peers/pacs/conformance")
    press(page, "Validate the files now")
    with page.expect_download() as kept:
        page.click("text=Report to keep")
    assert kept.value.suggested_filename == "conformance.md"
    page.goto("/rules")
    page.click("summary:has-text('Try changed rules')")
    press(page, "Try them against the newest studies")
    page.goto("/notifications")
    walk.site.web.status = 200
    press(page, "Send a test")
    press(page, "Send again")


def cleaning(walk: Walk, page: Page) -> None:
    """Accept an image, try a device rule, and black something out."""
    page.goto("/reviews")
    page.click("text=Look at it >> nth=0")
    press(page, "Accept: it stays withheld")  # the next image follows
    draw(page)
    press(page, "Try it on the last images of the device")
    page.click("text=Back to the image")
    draw(page)
    press(page, "Black these out and clean again")
    page.goto("/reviews")
    expect(page.locator("text=boxes drawn, cleaned again")).to_have_count(1)


def patients_and_uploads(page: Page, tmp_path: Path) -> None:
    """Register a patient, upload for them and otherwise, take the registration back."""
    page.goto("/patients")
    page.click("summary:has-text('Register a')")
    page.fill("form[action='/patients/register'] input[name=PatientID]", "P-9")
    page.fill("form[action='/patients/register'] input[name=PatientName]", "Doe^Jane")
    press(page, "Register")
    ultrasound("five").save_as(tmp_path / "five.dcm", enforce_file_format=True)
    page.set_input_files("input[name=files]", [tmp_path / "five.dcm"])
    page.click("main button:text-is('Send')")
    page.wait_for_selector("text=Objects still being read: 1 of 1")
    page.wait_for_selector("text=Updates by itself")
    page.goto("/patients")
    press(page, "Remove")


def test_an_admin_changes_peers_rules_models_and_deletes(walk: Walk) -> None:
    page, complaints = walk.page(UserRole.ADMIN, viewport=DESKTOP)
    peers(page, walk.site.settings.peer("pacs").port)
    rules(page)
    models(page)
    accounts(page)
    page.goto("/reviews")
    page.click("text=Look at it >> nth=0")
    draw(page)
    press(page, "Try it on the last images of the device")
    press(page, "Save the rule, and clean this image again")
    page.click("main >> text=Go on")
    press(page, "Remove")
    page.goto(f"/patients/{walk.site.studies['chest']}")
    page.click("summary:has-text('Delete the received images')")
    press(page, "Delete them")
    assert " of 1 studies: received images deleted" in page.inner_text("main")
    assert walk.done(UserRole.ADMIN) == walk.actions(UserRole.ADMIN)
    assert [one for one in complaints if "400 (Bad Request)" not in one] == []  # the mistake is one
