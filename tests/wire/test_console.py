"""A real browser: every page and action of the console, streams, pictures, keys, others' sign-in; and the
search of the documentation.
"""

import html
import io
import os
import re
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from fastapi.routing import APIRoute
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, Route, expect
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_console.handlers import live
from dicom_console.views import changes
from dicom_console.web import languages
from dicom_console.web.access import ANYONE
from dicom_node import people
from dicom_node.base import events
from dicom_node.base.config import loading
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import DeliveryState, ResultKind, UserRole
from dicom_node.base.store import database
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    CleaningReview,
    DecisionRow,
    Delivery,
    DrawnByHand,
    Instance,
    Notification,
    Study,
    UserSession,
)
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.people import configured, users
from dicom_node.people.audit import Person
from dicom_node.people.demo import DRAWN_FILM
from dicom_node.people.stow import take_files
from tests.browser_lab import debian_chromium, served, served_app, signed_in
from tests.console_lab import PASSWORD, ConsoleLab, own_model, routes
from tests.inbox_lab import Inbox
from tests.modality import chest, part_10, ultrasound, ultrasound_from
from tests.node_lab import Node, in_background, running, store
from tests.oidc_lab import PASSWORD as HOSPITAL_PASSWORD
from tests.oidc_lab import hospital
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.postgres_lab import Postgres, start_postgres
from tests.rows import Stored
from tests.smtp_lab import WebServer
from tests.ultrasound_lab import picture
from tests.unit.dicom_console.illustrated import FRAMES, analysed, image, scrubbing
from tests.unit.jobs.worker_lab import work
from tests.unit.receive.objects import changed
from tests.waiting import wait_until
from tests.wheels import ROOT

pytestmark = [
    *(pytest.mark.debian("chromium-headless-shell"), pytest.mark.timeout(600)),
    pytest.mark.filterwarnings("ignore:The string:UserWarning"),  # of a name; the node lets none be said
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with debian_chromium() as browser:
        yield browser


@pytest.fixture(autouse=True)
def _a_tests_own_pages_are_closed(chromium: Chromium) -> Iterator[None]:
    """A cine that nobody looks at any more plays on, and takes half a core from the tests after it."""
    before = chromium.contexts
    yield
    for context in chromium.contexts:
        if context not in before:
            context.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Inbox, str]]:
    """A node that analysed a still and a cine and received two films, and the address of its console."""
    with analysed(tmp_path_factory.mktemp("pictures")) as node:
        film, inverse = chest("ramp", RAMP), chest("inverse", RAMP.copy())
        film.WindowCenter, film.WindowWidth = [1024, 3000], [2048, 500]
        film.WindowCenterWidthExplanation = ["WIDE", "BRIGHT"]
        inverse.PhotometricInterpretation, inverse.PresentationLUTShape = "MONOCHROME1", "INVERSE"
        node.receive(film, inverse)
        node.settle()
        assert [node.get(Instance, number).modality for number in (3, 4)] == ["DX", "DX"]
        with served(node) as address:
            yield node, address


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


@pytest.mark.debian("postgresql")
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
        assert [job.state.value for job in inbox.jobs()] == ["queued"]
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
    lab = ConsoleLab(inbox.settings, inbox.database)
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
    outbox = Outbox(tmp_path, [Pacs(free_port()).peer()])
    outbox.add_study(["pacs"], [ResultKind.SC])
    outbox.worker().run_once()
    outbox.write(record, events.ASSOCIATION_REJECTED, calling="US9", meaning="not recognized")
    lost = DecisionRow(id="d1", at=utc_now(), machine="m", action="result_withdrawn", record={}, copied=True)
    outbox.add(lost)
    lab = ConsoleLab(outbox.settings, outbox.database)
    lab.change("spool", minimum_free_mib=10**9)
    with served_app(lab) as address:
        page, complaints = signed_in(chromium, address, UserRole.VIEWER, base_url=address)
        page.goto("/")
        shown = page.evaluate("""() => [...document.querySelectorAll(".figure")].map(figure => {
          const [red, green] = getComputedStyle(figure.firstElementChild).color.match(/\\d+/g);
          return [red > 2 * green, figure.innerText]; })""")
    assert [red for red, _ in shown] == [True] * 4 + [False] * (len(shown) - 4), shown
    told = ("no object is accepted", "before a restore", "result waits for pacs", "US9")
    assert all(any(words in text for _, text in shown[:4]) for words in told), shown
    assert complaints == []
    outbox.database.dispose()


TASKS = {
    "forgot password": ("console/start.html", "#forgot-a-password"),
    "second modality": ("connect/modality.html", "#add-a-second-modality-such-as-an-ultrasound-machine"),
    "init": ("deploy/service.html", "#or-by-questions-init"),
    "full disk": ("operate/disk.html", ""),
    "restore": ("operate/backup.html", "#restore"),
    "withdraw results": ("console/studies.html", "#withdraw-results"),
}
"""What an operator looks for: the page and its heading."""
MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"


@pytest.mark.skipif(
    not MKDOCS.exists() and "CI" not in os.environ, reason="`make docs` installs what makes pages"
)
def test_the_search_of_the_documentation_shows_the_page_of_the_task_first(
    tmp_path: Path, chromium: Chromium
) -> None:
    subprocess.run([MKDOCS, "build", "--quiet", "--site-dir", tmp_path], cwd=ROOT, check=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as site:
        in_background(site.serve_forever)
        page = chromium.new_page(base_url=f"http://127.0.0.1:{site.server_port}")
        for words, (place, heading) in TASKS.items():
            page.goto("/index.html")
            page.fill(".md-search__input", words)
            found = page.locator(".md-search-result__item").first.locator("a")
            expect(found.first).to_have_attribute("href", re.compile(re.escape(place)))
            assert any(str(link.get_attribute("href")).endswith(heading) for link in found.all()), words
        site.shutdown()


def rows_of(page: Page) -> list[list[str]]:
    """The edges that the form holds, empty rows left out."""
    found = [
        [one.input_value() for one in row.locator("input").all()]
        for row in page.locator(".edges tbody tr").all()
    ]
    return [row for row in found if any(row)]


def test_keys_decide_on_images_and_a_box_is_drawn_with_the_pointer_and_moved_by_keys(
    tmp_path: Path, chromium: Chromium
) -> None:
    """N shows the next image, A accepts and goes on, C cleans again."""
    node = Inbox(tmp_path / "var", scrubbing())
    node.receive(image("NAME", 1), image("NAME", 2))
    node.settle()
    work(node)
    with served(node) as address:
        page, complaints = signed_in(chromium, address, UserRole.OPERATOR, base_url=address)
        page.goto("/reviews/1")
        page.keyboard.press("n")
        page.wait_for_url("**/reviews/2")
        page.keyboard.press("a")
        page.wait_for_url("**/reviews/1")
        stage = page.locator(".stage")
        stage.scroll_into_view_if_needed()
        box = stage.bounding_box()
        assert box is not None
        scale = min(box["width"] / 240, box["height"] / 180)
        left, top = box["x"] + (box["width"] - 240 * scale) / 2, box["y"] + (box["height"] - 180 * scale) / 2
        page.mouse.move(left + 130 * scale, top + 30 * scale)
        page.mouse.down()
        page.mouse.move(left + 20 * scale, top + 10 * scale)
        page.mouse.move(left - 40, top - 40)  # beyond the picture: its edge
        page.mouse.up()
        [drawn] = rows_of(page)
        assert drawn[:2] == ["0", "0"]
        assert abs(int(drawn[2]) - 130) <= 1
        assert abs(int(drawn[3]) - 30) <= 1
        page.mouse.click(left + 100 * scale, top + 100 * scale)
        assert len(rows_of(page)) == 1, "a click is no box"
        page.focus('input[name="right"] >> nth=0')
        page.keyboard.press("ArrowUp")
        assert rows_of(page)[0][2] == str(int(drawn[2]) + 1)
        assert page.locator(".drawn rect").get_attribute("width") == str(int(drawn[2]) + 1)
        page.mouse.click(left + 60 * scale, top + 20 * scale)
        assert rows_of(page) == [], "a click on a box removes it"
        page.mouse.move(left + 130 * scale, top + 30 * scale)
        page.mouse.down()
        page.mouse.move(left - 40, top - 40)
        page.mouse.up()
        page.keyboard.press("c")
        page.wait_for_url("**/reviews")
        expect(page.locator("text=No image waits.")).to_have_count(1)
        page.context.close()
    assert node.get(DrawnByHand, node.get(CleaningReview, 1).instance_id).boxes[0][:2] == [0, 0]
    assert complaints == []
    node.close()


RAMP = np.tile(np.linspace(0, 4095, 400, dtype="<u2"), (200, 1))  # from left to right


@pytest.fixture
def page(chromium: Chromium, pictures: tuple[Inbox, str]) -> Iterator[Page]:
    """A viewer's."""
    page, complaints = signed_in(chromium, pictures[1], UserRole.VIEWER, base_url=pictures[1])
    yield page
    assert [one for one in complaints if "getImageData" not in one] == []  # the test reads pixels
    page.context.close()


def grey(page: Page, column: int, row: int = 100) -> int:
    """The grey level that the canvas shows at a place of the image."""
    script = """([x, y]) => {
      const stage = document.querySelector(".stage"), canvas = document.querySelector("canvas");
      const point = new DOMPoint(x + 0.5, y + 0.5).matrixTransform(stage.getScreenCTM());
      const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
      const place = [(point.x - box.x) * scale, (point.y - box.y) * scale];
      return canvas.getContext("2d").getImageData(...place, 1, 1).data[0];
    }"""
    return int(page.evaluate(script, [column, row]))


def shown(centre: float, width: float, column: int) -> int:
    """What the window makes of the ramp's value there (PS3.3 C.11.2.1.2)."""
    return round(255 * min(max((float(RAMP[0, column]) - (centre - 0.5)) / (width - 1) + 0.5, 0.0), 1.0))


def opened(page: Page, number: int) -> None:
    page.goto(f"/studies/images/{number}")
    page.wait_for_selector(".tools >> visible=true")


def sampled(page: Page) -> None:
    """Wait until the real samples are drawn."""
    page.wait_for_selector(".received[visibility=hidden]", state="attached")


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """With the mouse, from and to shares of the stage's sides."""
    box = page.locator(".stage").bounding_box()
    assert box
    for place, act in ((start, page.mouse.down), (end, page.mouse.up)):
        page.mouse.move(box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"], steps=4)
        act()


def test_a_reader_windows_enlarges_and_measures_a_film(page: Page) -> None:
    """The window is that of the file until a person changes it; what is under the mouse is enlarged."""
    opened(page, 3)
    page.keyboard.press("w")
    drag(page, (0.5, 0.5), (0.5, 0.5))
    sampled(page)
    for column in (40, 100, 150, 300):
        assert abs(grey(page, column) - shown(1024, 2048, column)) <= 2
    page.select_option(".presets", label="BRIGHT")
    wait_until(lambda: page.inner_text(".window") == "3000 / 500", 10, "the preset")
    for column in (200, 280, 295, 310, 380):
        assert abs(grey(page, column) - shown(3000, 500, column)) <= 2
    drag(page, (0.3, 0.5), (0.6, 0.5))
    width = float(page.inner_text(".window").split(" / ")[1])
    assert width > 600
    assert abs(grey(page, 300) - shown(3000, width, 300)) <= 3
    page.keyboard.press("0")
    assert page.inner_text(".window") == "1024 / 2048"

    opened(page, 3)
    box = page.locator(".stage").bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"])
    for _ in range(6):
        page.mouse.wheel(0, -100)
    wait_until(lambda: page.get_attribute(".stage", "data-scale") == "2.99", 10, "enlarged")
    left, _, width, height = map(float, str(page.get_attribute(".stage", "viewBox")).split())
    # The picture fills the whole stage, and the point under the mouse stays where it was.
    assert 0 < left < left + width <= 400
    assert abs(width / height - box["width"] / box["height"]) < 0.02
    sampled(page)
    assert abs(grey(page, int(left + width / 2)) - shown(1024, 2048, int(left + width / 2))) <= 3
    drag(page, (0.5, 0.5), (0.6, 0.5))
    assert float(str(page.get_attribute(".stage", "viewBox")).split()[0]) < left, "a drag moves it"
    page.keyboard.press("0")
    assert str(page.get_attribute(".stage", "viewBox")).endswith(" 200")
    measured(page, 0.143, "mm at the detector")


def measured(page: Page, size: float, unit: str) -> None:
    """A length on the image that is open is in this unit, by pixels of this size."""
    page.keyboard.press("m")
    drag(page, (0.4, 0.5), (0.6, 0.5))
    line, words = page.locator(".lengths line"), page.locator(".lengths text").inner_html()
    pixels = abs(float(str(line.get_attribute("x2"))) - float(str(line.get_attribute("x1"))))
    value, said = words.split(" ", 1)
    assert said == unit
    assert abs(float(value) - pixels * size) < 0.6
    page.keyboard.press("0")
    expect(page.locator(".lengths line")).to_have_count(0)


def test_marks_of_an_ultrasound_lie_on_their_coordinates_and_a_cine_plays(page: Page) -> None:
    opened(page, 1)
    measured(page, 1, "pixels")
    mark = page.locator("g.mark")
    assert mark.is_visible()
    assert mark.locator("text").inner_html().startswith("Mark suspected, 0.75")
    script = """() => { const m = document.querySelector(".stage").getScreenCTM();
      const p = new DOMPoint(20, 17.5).matrixTransform(m); return [p.x, p.y]; }"""
    x, y = page.evaluate(script)
    box = mark.locator("polyline").bounding_box()
    assert box  # from 10 to 30 and from 10 to 25, its line around it
    assert abs(box["x"] + box["width"] / 2 - x) < 2
    assert abs(box["y"] + box["height"] / 2 - y) < 2
    page.uncheck("[data-shows=Mark]")
    assert not mark.is_visible()
    page.keyboard.press("b")
    assert mark.is_visible()
    page.goto("/studies/images/2?frame=2")
    page.wait_for_selector(".tools >> visible=true")
    assert mark.is_visible()
    page.keyboard.press(".")
    page.wait_for_selector(f"text=3 / {FRAMES}")
    assert page.locator(".received").get_attribute("href") == "/studies/images/2/3"
    assert not mark.is_visible()
    page.click("text=Play")
    page.wait_for_selector(f"text=1 / {FRAMES}")
    page.click("text=Play")
    assert page.get_attribute(".play", "aria-pressed") == "false"


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
    pacs, strict = Pacs(free_port()), Pacs(free_port(), "STRICT", answer=lambda uid, times: 0xA900)
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
        configured.save_entry(settings, "peers", {"name": "ward", "ae_title": "WARD", "may": ["send"]})
        settings = loading.load([node.config])
        rule = {"name": "ward", "when": {"calling_ae": "WARD"}, "pipeline": "ultrasound", "send_to": ["pacs"]}
        configured.save_entry(settings, "rules", rule)
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
    take_files(database, settings, [("again.dcm", io.BytesIO(part_10(again)))], Person("operator"))


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
    *("/studies/{number}/thumbnail", "/studies/results/{number}/masks/{segment}"),
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
        lab = ConsoleLab(site.settings, site.database)
        patch.setattr(configured, "apply_now", lambda _: site.taken_over(lab.app))
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
    model = page.inner_text("#findings tbody tr >> nth=0 >> td >> nth=0 >> small >> nth=-1").split()
    page.goto(f"/models/{model[0]}/{model[-1]}")
    expect(page.locator("main")).to_contain_text("accepted")
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
