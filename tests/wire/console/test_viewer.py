"""Films and ultrasound images in the viewer: grey values, marks, measures, a cine."""

from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect

from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.tables import Instance
from tests.browser_lab import IN_A_BROWSER, served, signed_in
from tests.inbox_lab import Inbox
from tests.modality import chest
from tests.unit.dicom_console.illustrated import FRAMES, analysed
from tests.waiting import wait_until

pytestmark = IN_A_BROWSER


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
