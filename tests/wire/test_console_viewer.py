"""The viewer of an image in a real browser: zoom, window, lengths, overlays, before and after, frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from dicom_node.model.roles import UserRole
from dicom_node.store.tables import Instance
from tests.browser_lab import debian_chromium, served, signed_in
from tests.modality import chest
from tests.unit.console.illustrated import FRAMES, analysed
from tests.waiting import wait_until

pytestmark = pytest.mark.debian("chromium")

RAMP = np.tile(np.linspace(0, 4095, 400, dtype="<u2"), (200, 1))  # from left to right


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("viewer")
    with analysed(folder) as node:
        film = chest("ramp", RAMP)
        film.WindowCenter, film.WindowWidth = [1024, 3000], [2048, 500]
        film.WindowCenterWidthExplanation = ["WIDE", "BRIGHT"]
        node.receive(film)
        inverse = chest("inverse", RAMP.copy())
        inverse.PhotometricInterpretation, inverse.PresentationLUTShape = "MONOCHROME1", "INVERSE"
        node.receive(inverse)
        node.settle()
        with served(node) as address, debian_chromium() as chromium:
            page, complaints = signed_in(chromium, address, UserRole.VIEWER, base_url=address)
            with node.database.read() as session:
                assert [session.get_one(Instance, number).modality for number in (3, 4)] == ["DX", "DX"]
            yield page
            assert [one for one in complaints if "getImageData" not in one] == []  # the test reads pixels


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
    share = (float(RAMP[0, column]) - (centre - 0.5)) / (width - 1) + 0.5
    return round(255 * min(max(share, 0.0), 1.0))


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


def test_the_window_is_that_of_the_file_until_a_person_changes_it(page: Page) -> None:
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


def test_grey_levels_are_inverted_and_monochrome1_is_shown_as_it_is_meant(page: Page) -> None:
    opened(page, 3)
    page.keyboard.press("i")
    sampled(page)
    assert abs(grey(page, 100) - (255 - shown(1024, 2048, 100))) <= 2
    opened(page, 4)
    page.keyboard.press("w")
    drag(page, (0.5, 0.5), (0.5, 0.5))
    sampled(page)
    assert abs(grey(page, 100) - (255 - shown(2048, 4096, 100))) <= 2


def test_the_wheel_enlarges_what_is_under_the_mouse_and_a_drag_moves_it(page: Page) -> None:
    opened(page, 3)
    box = page.locator(".stage").bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"])
    for _ in range(6):
        page.mouse.wheel(0, -100)
    wait_until(lambda: page.get_attribute(".stage", "data-scale") == "2.99", 10, "enlarged")
    left, _, width, _ = map(float, str(page.get_attribute(".stage", "viewBox")).split())
    # The stage may be wider than the picture: the point under the mouse stays where it was.
    assert 0 < left < left + width <= 400 and abs(width - 400 / 2.99) < 1
    sampled(page)
    assert abs(grey(page, int(left + width / 2)) - shown(1024, 2048, int(left + width / 2))) <= 3
    drag(page, (0.5, 0.5), (0.6, 0.5))
    moved = float(str(page.get_attribute(".stage", "viewBox")).split()[0])
    assert moved < left
    page.keyboard.press("0")
    assert page.get_attribute(".stage", "viewBox") == "0 0 400 200"


def test_a_length_is_in_millimetres_where_the_image_says_how_large_pixels_are(page: Page) -> None:
    for number, unit in ((3, "mm at the detector"), (1, "pixels")):
        opened(page, number)
        page.keyboard.press("m")
        drag(page, (0.4, 0.5), (0.6, 0.5))
        line, words = page.locator(".lengths line"), page.locator(".lengths text").inner_html()
        pixels = abs(float(str(line.get_attribute("x2"))) - float(str(line.get_attribute("x1"))))
        value, said = words.split(" ", 1)
        assert said == unit
        assert abs(float(value) - (pixels * 0.143 if number == 3 else pixels)) < 0.6
        page.keyboard.press("0")
        expect(page.locator(".lengths line")).to_have_count(0)


def test_overlays_are_switched_one_by_one_and_lie_on_their_coordinates(page: Page) -> None:
    opened(page, 1)
    mark = page.locator("g.mark")
    assert mark.is_visible()
    assert mark.locator("text").inner_html().startswith("Mark suspected, 0.75")
    script = """() => { const m = document.querySelector(".stage").getScreenCTM();
      const p = new DOMPoint(20, 17.5).matrixTransform(m); return [p.x, p.y]; }"""
    x, y = page.evaluate(script)
    box = mark.locator("polyline").bounding_box()
    assert box  # from 10 to 30 and from 10 to 25, its line around it
    centre = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert abs(centre[0] - x) < 2 and abs(centre[1] - y) < 2
    page.uncheck("[data-shows=Mark]")
    assert not mark.is_visible()
    page.keyboard.press("b")
    assert mark.is_visible()


def test_the_slider_goes_from_before_to_after(page: Page) -> None:
    page.goto("/studies/images/1")
    page.click("text=Cleaned")
    page.wait_for_selector(".compare >> visible=true")
    page.focus(".compare input")
    share = {}
    for key in ("Home", "End"):
        page.keyboard.press(key)
        share[key] = page.locator("clipPath rect").get_attribute("width")
    assert share == {"Home": "240", "End": "0"}


def test_frames_of_a_cine_come_by_keys_and_play(page: Page) -> None:
    page.goto("/studies/images/2?frame=2")
    page.wait_for_selector(".tools >> visible=true")
    assert page.locator("g.mark").is_visible()
    page.keyboard.press(".")
    page.wait_for_selector(f"text=3 / {FRAMES}")
    assert page.locator(".received").get_attribute("href") == "/studies/images/2/3"
    assert not page.locator("g.mark").is_visible()
    page.click("text=Play")
    page.wait_for_selector(f"text=1 / {FRAMES}")
    page.click("text=Play")
    assert page.get_attribute(".play", "aria-pressed") == "false"


def test_two_fingers_enlarge(page: Page) -> None:
    opened(page, 3)
    script = """() => { const stage = document.querySelector(".stage"), box = stage.getBoundingClientRect();
      stage.setPointerCapture = () => {};
      const send = (type, id, x) => stage.dispatchEvent(new PointerEvent(type, { pointerId: id, bubbles: true,
        clientX: box.x + x * box.width, clientY: box.y + 0.5 * box.height }));
      send("pointerdown", 1, 0.45); send("pointerdown", 2, 0.55); send("pointermove", 2, 0.75);
      send("pointerup", 1, 0.45); send("pointerup", 2, 0.75); }"""
    page.evaluate(script)
    assert float(str(page.get_attribute(".stage", "data-scale"))) == 3.0


def test_without_script_links_do_the_same(page: Page) -> None:
    browser = page.context.browser
    assert browser is not None
    plain = browser.new_context(java_script_enabled=False, storage_state=page.context.storage_state())
    quiet = plain.new_page()
    quiet.goto(page.url.split("/studies")[0] + "/studies/images/2")
    quiet.click("text=Cleaned")
    quiet.click("text=Next frame")
    expect(quiet.locator("h1")).to_have_text("Cleaned")
    assert quiet.locator(".over").get_attribute("href").endswith("/2")  # type: ignore[union-attr]
    assert not quiet.locator(".tools").is_visible()
    plain.close()
