"""Every page and action of the console, as each role walks it."""

import html
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from fastapi.routing import APIRoute
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_console.web import languages
from dicom_console.web.access import ANYONE
from dicom_node.base.config import loading
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import DeliveryState, UserRole
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, Notification, Study
from dicom_node.people import entered
from dicom_node.people.audit import COMMAND_LINE, Person
from dicom_node.people.demo import DRAWN_FILM
from dicom_node.people.registered import PatientData, register_patient
from dicom_node.people.uploads import take_files
from tests.browser_lab import IN_A_BROWSER, because, press, served_app, signed_in
from tests.console_lab import ConsoleLab, console_of, own_model, routes
from tests.modality import part_10, ultrasound, ultrasound_from
from tests.node_lab import Node, running, store
from tests.pacs_lab import Pacs, run_pacs
from tests.rows import Stored
from tests.smtp_lab import WebServer
from tests.ultrasound_lab import picture
from tests.unit.receive.objects import changed
from tests.waiting import wait_until

pytestmark = IN_A_BROWSER

# The console in use: a node that received studies, processed them and sent what it made. When everything came
# to its end the node stops, and only its console goes on: no state moves under a browser.

WALKED = """
[spool]
minimum_free_mib = 1
[assembly]
quiet_seconds = 0.2
quiet_seconds_us = 0.2
[outbox]
refusals = 1
[workers]
processes = 1
models_dir = "{models}"
[console]
local_peers = true
[[notifications]]
name = "hook"
on = ["quarantine"]
url = "{hook}"
[[peers]]
name = "us1"
ae_title = "US1"
may = ["send"]
[[peers]]
name = "us2"
ae_title = "US2"
may = ["send"]
[[peers]]
name = "xray1"
ae_title = "XRAY1"
may = ["send"]
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
results = ["sr", "gsps", "sc", "heatmap", "cleaned"]
assessments = true
iocm = true
[[peers]]
name = "strict"
ae_title = "STRICT"
host = "127.0.0.1"
port = {strict}
may = ["receive"]
results = ["sr", "cleaned"]
[[peers]]
name = "old"
ae_title = "STRICT"
host = "127.0.0.1"
port = {strict}
may = ["receive"]
results = ["sr"]
[[peers]]
name = "archive"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
results = ["sr", "sc"]
[[rules]]
name = "chest"
when = {{ calling_ae = "XRAY1" }}
pipeline = "chest_xray"
options = {{ heatmaps = true }}
send_to = ["pacs"]
max_study_age_days = 0
[[rules]]
name = "held"
when = {{ calling_ae = "US2" }}
pipeline = "chest_xray"
send_to = ["pacs"]
max_study_age_days = 0
assess_first = true
[[rules]]
name = "ultrasound"
when = {{ calling_ae = "US1" }}
pipeline = "ultrasound"
send_to = ["pacs", "strict", "old"]
max_study_age_days = 0
"""
# A mistake that sites make: it covers the whole picture, so that nothing can be cleaned.
_DEVICE_RULE = """source = "a test"
licence = "AGPL-3.0-or-later"
[[rule]]
name = "too-much"
match = { modality = "US", manufacturer = "Maker", model = "Scan 7" }
rectangles = [{ left = 0, top = 0, right = 1.0, bottom = 1.0 }]
"""


@dataclass
class Walked:
    """The node after its work. ``settings`` and ``database``: of its console."""

    node: Node
    settings: Settings
    database: Database
    studies: dict[str, int]

    def taken_over(self, app: FastAPI) -> None:
        """What a reload does to the console: it starts with the configuration of now."""
        self.settings = loading.load([self.node.config])
        app.state.site = replace(app.state.site, settings=self.settings)


@contextmanager
def walked(folder: Path) -> Iterator[Walked]:
    """Studies by what becomes of them."""
    film = dcmread(DRAWN_FILM)
    film.decompress(generate_instance_uid=False)
    sent = _studies(film)
    own_model(folder / "models")
    rules = folder / "var" / "device_rules"
    rules.mkdir(parents=True)
    (rules / "room9.toml").write_text(_DEVICE_RULE, encoding="utf-8")
    pacs, strict = Pacs(), Pacs(ae_title="STRICT", answer=lambda uid, times: 0xA900)
    web = WebServer(status=404)
    with run_pacs(pacs), run_pacs(strict), web.running():
        config = WALKED.format(pacs=pacs.port, strict=strict.port, hook=web.url, models=folder / "models")
        node = Node(folder, config)
        with running(node):
            for calling, *objects in sent.values():
                assert set(store(node.port, objects, calling)) == {0}
            ended = ("delivered", "not_applicable", "unassessed", "quarantined", "failed")
            node.wait_for(ended, count=len(sent))
            settings = loading.load([node.config])
            database = Database(settings.database_url)
            _upload(database, settings, sent["dead"][1])
            wait_until(lambda: _all_told(database), 60, "the end of deliveries")
            assert node.stop() == 0
        entered.save_entry(settings, "peers", {"name": "ward", "ae_title": "WARD", "may": ["send"]})
        settings = loading.load([node.config])
        rule = {"name": "ward", "when": {"calling_ae": "WARD"}, "pipeline": "ultrasound", "send_to": ["pacs"]}
        entered.save_entry(settings, "rules", rule)
        known = PatientData(PatientID="R-1", PatientName="Registered^Rita", PatientSex="F")
        register_patient(settings, known, COMMAND_LINE)
        settings = loading.load([node.config])
        numbers = {row.study_instance_uid: row.id for row in Stored(database).rows(Study)}
        studies = {name: numbers[str(objects[0].StudyInstanceUID)] for name, (_, *objects) in sent.items()}
        yield Walked(node, settings, database, studies)
        database.dispose()


def _studies(chest: Dataset) -> dict[str, tuple[str, Dataset, ...]]:
    """What is sent, with the AE title that sends it."""
    two = ultrasound("two")
    other = changed(two, PixelData=bytes(255 - value for value in two.PixelData))
    device = {"Manufacturer": "Maker", "ManufacturerModelName": "Scan 7", "SoftwareVersions": "2.1"}
    return {
        "chest": ("XRAY1", chest),
        "held": (
            "US2",
            changed(chest, StudyInstanceUID="1.2.3.1", SOPInstanceUID="1.2.3.2", PatientID="ID-one"),
        ),
        "quarantined": ("US1", two, other),
        "withheld": ("US1", *(changed(ultrasound("three", number=n), **device) for n in (1, 2, 3))),
        "dead": ("US1", changed(_named("four"), PatientName="<script>alert(1)</script>")),
    }


def _named(name: str) -> Dataset:
    """An ultrasound with a name, a date and a number burned in."""
    return ultrasound_from(name, picture(7, (240, 320), colour=True))


def _upload(database: Database, settings: Settings, again: Dataset) -> None:
    """One of the objects once more, by the console."""
    take_files(database, settings, [("again.dcm", io.BytesIO(part_10(again)))], {}, Person("operator"))


def _all_told(database: Database) -> bool:
    """Whether every delivery and message came to an end."""
    waiting = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.UNCONFIRMED)
    stored = Stored(database)
    going_on = stored.scalars(select(Delivery.id).where(Delivery.state.in_(waiting)))
    return not going_on and "failed" in stored.scalars(select(Notification.state))


DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
OUTLINE = "getComputedStyle(document.activeElement).outlineStyle"
NO_PAGES = {
    *("/live", "/static/{name}", "/healthz", "/readyz", "/metrics"),
    *("/studies/{which}/{number}/{frame}", "/studies/{which}/{number}/{frame}/samples"),
    *("/studies/{number}/thumbnail", "/studies/results/{number}/masks/{segment}", "/audit/export"),
    "/try/{number}",  # opened by a dropped picture: test_trial.py
    *("/programs/{token}", "/programs/{token}/{number}"),  # opened by a trial: test_program_page.py
    # Learnt from twenty patients: tests/unit/dicom_console/handlers/test_screens.py
    *("/screens/{number}", "/screens/{number}/rule"),
}


@dataclass
class Walk:
    """Browsers at one console."""

    site: Walked
    address: str
    lab: ConsoleLab
    chromium: Chromium

    def routes(self) -> list[APIRoute]:
        """All that is for people."""
        return [one for one in routes(self.lab.app.routes) if not one.path.startswith("/api/")]

    def of(self, method: str, address: str) -> APIRoute:
        """The route that answers."""
        path = re.sub(r"https?://[^/]+", "", address).partition("?")[0].partition("#")[0]
        return next(one for one in self.routes() if method in one.methods and one.path_regex.match(path))

    def page(self, role: UserRole, **how: object) -> tuple[Page, list[str]]:
        """A page of a new browser."""
        return signed_in(self.chromium, self.address, role, base_url=self.address, **how)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, chromium: Chromium) -> Iterator[Walk]:
    with walked(tmp_path_factory.mktemp("walked")) as site, pytest.MonkeyPatch.context() as patch:
        lab = console_of(site)
        patch.setattr(entered, "apply_now", lambda _: site.taken_over(lab.app))
        with served_app(lab) as address:
            yield Walk(site, address, lab, chromium)


def faults_of(page: Page, place: str) -> list[tuple[object, ...]]:
    """What axe finds (WCAG 2.1 A and AA, best practices), light and wide; of the colours, dark and narrow,
    too; and whether more is to be scrolled sideways than has its own bar.
    """
    found: list[tuple[object, ...]] = []
    page.goto(place)
    page.evaluate(Axe().axe_script)
    judge = "rules => axe.run({resultTypes: ['violations'], ...rules}).then(found => found.violations)"
    for size, scheme, rules in ((PHONE, "dark", {"runOnly": ["color-contrast"]}), (DESKTOP, "light", {})):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for width in (size["width"], 1024):
            page.set_viewport_size({**size, "width": width})  # type: ignore[typeddict-item]
            if page.evaluate("document.documentElement.scrollWidth") > width:
                found.append((page.url, width, "too wide"))
        page.set_viewport_size(size)  # type: ignore[arg-type]
        found += [
            (page.url, scheme, fault["id"], [one["html"][:160] for one in fault["nodes"][:2]])
            for fault in page.evaluate(judge, rules)
        ]
    return found


@pytest.mark.parametrize("role", [UserRole.VIEWER, UserRole.OPERATOR, UserRole.ADMIN])
def test_links_lead_each_role_to_all_of_its_pages_and_to_no_others(walk: Walk, role: UserRole) -> None:
    """They are read; an admin's browser shows one page of each kind, too."""
    browser, waiting, known, seen = walk.lab.browser(role), ["/"], {"/"}, dict[str, str]()
    while waiting:
        place = waiting.pop(0)
        text = browser.page(place)
        seen.setdefault(walk.of("GET", place).path, place)
        for form in re.findall(r'<form [^>]*method="post"[^>]*action="([^"]+)"', text):
            needs = walk.of("POST", form).endpoint.needs  # type: ignore[attr-defined]
            assert needs == ANYONE or role.includes(needs), (place, form)
        for link in map(html.unescape, re.findall(r'<a [^>]*href="(/[^"]*)"', text)):
            route = walk.of("GET", link)
            assert role.includes(route.endpoint.needs), (place, link)  # type: ignore[attr-defined]
            each = {link, route.path} & {"/studies/{number}", "/peers/ward"} and role is not UserRole.VIEWER
            which = link if each else route.path
            if which not in known and route.path not in NO_PAGES:
                known.add(which)
                waiting.append(link)
    needed = {one.path: one.endpoint.needs for one in walk.routes() if "GET" in one.methods}  # type: ignore[attr-defined]
    assert (
        seen.keys()
        == {path for path, needs in needed.items() if needs != ANYONE and role.includes(needs)} - NO_PAGES
    )
    if role is UserRole.ADMIN:
        page, complaints = walk.page(role)
        assert [fault for place in seen.values() for fault in faults_of(page, place)] == []
        assert complaints == []


PICTURES = {
    "overview": "/",
    "add-peer": "/peers/new",
    "add-rule": "/rules/new",
    "study": "/studies/{chest}",
    "assess": "/studies/{held}",
    "cleaning": "/reviews/1",
}
"""Pages in docs/pictures, by name: ``make pictures``."""


def test_lists_are_dense_and_what_a_reader_presses_is_seen_in_every_language(
    walk: Walk, tmp_path: Path
) -> None:
    page, complaints = walk.page(UserRole.ADMIN, viewport=DESKTOP)
    page.goto("/studies")
    rows = [row.bounding_box() for row in page.locator("table.studies tbody tr").all()]
    assert rows, "two lines each"
    assert all(row and row["height"] < 62 for row in rows), "two lines each"
    assert rows[0], "eight on a screen"
    assert rows[0]["y"] + 8 * 62 < DESKTOP["height"], "eight on a screen"
    page.set_viewport_size({"width": 1024, "height": 640})
    for name, place in PICTURES.items():
        page.goto(place.format_map(walk.site.studies))
        page.screenshot(path=Path(os.environ.get("PICTURES", tmp_path)) / f"console-{name}.png")
    fits = """language => document.documentElement.lang == language
      && [...document.querySelectorAll("#findings, .scroll")].every(it => it.scrollWidth <= it.clientWidth)"""
    for language in languages.LANGUAGES:
        page.goto(f"/studies/{walk.site.studies['chest']}")
        with page.expect_navigation():
            page.click(f"footer button[value={language}]")
        for place in (page.url, "/studies", "/jobs", "/outbox", "/peers", "/rules", "/reviews", "/users"):
            page.goto(place)
            assert page.evaluate(fits, language), (language, place)
    assert complaints == []


def test_a_viewer_goes_by_keyboard_and_signs_out(walk: Walk) -> None:
    page, complaints = walk.page(UserRole.VIEWER)
    page.goto("/")
    reached: list[str] = []
    while not "".join(reached[-1:]).endswith("studies failed"):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText"))
        assert len(reached) < 40, reached
        assert page.evaluate(OUTLINE) != "none", reached
    assert reached[:3] == ["To the content", "DICOM AI node", "Studies"]
    with page.expect_navigation():
        page.click("text=Sign out")
    assert "/sign-in" in page.url
    assert complaints == []


def test_a_reader_rejects_accepts_assesses_and_sends_it(walk: Walk) -> None:
    page, complaints = walk.page(UserRole.READER)
    page.goto(f"/studies/{walk.site.studies['held']}")
    because(page, "Reject: none is sent")
    press(page, "Accept and send after all")
    page.wait_for_selector("h1 ~ .state.delivering")
    page.goto(f"/studies/{walk.site.studies['chest']}")
    page.focus("#findings summary >> nth=0")
    for key in ("Enter", "Tab"):
        page.keyboard.press(key)
    page.keyboard.type("a rib")
    page.click("#findings details[open] button[value=modified]")
    page.wait_for_selector("#findings >> text=reader: a rib")
    press(page, "Send my assessment to pacs")
    model = page.inner_text("#findings tbody tr >> nth=0 >> td >> nth=0 >> small >> nth=-1").split()
    page.goto(f"/models/{model[0]}/{model[-1]}")
    expect(page.locator("main")).to_contain_text("Missed")
    assert complaints == []


def test_an_operator_uploads_an_object_and_what_is_none(walk: Walk, tmp_path: Path) -> None:
    page, complaints = walk.page(UserRole.OPERATOR, viewport=DESKTOP)
    page.goto("/upload")
    ultrasound("five").save_as(tmp_path / "five.dcm", enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="utf-8")
    page.set_input_files("input[name=files]", [tmp_path / name for name in ("five.dcm", "notes.txt")])
    page.evaluate("document.getElementById('upload').dataset.largest = 1000")
    page.click("main button:text-is('Send')")
    page.wait_for_selector("#problem >> text=That is larger than 2.0 GiB: send it in parts")
    page.evaluate("document.getElementById('upload').dataset.largest = 2 ** 31")
    page.click("main button:text-is('Send')")
    page.wait_for_selector("text=1 object taken, 1 refused")
    expect(page.locator("td:text-is('notes.txt')")).to_have_count(1)
    page.wait_for_selector("text=Objects still being read: 1 of 1")
    page.wait_for_selector("text=Updates by itself")
    assert complaints == []
    page.context.close()
