"""The review desk in a real browser: boxes by pointer, by keys and without script."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select

from dicom_node.model.roles import UserRole
from dicom_node.store.tables import CleaningReview, DrawnByHand
from tests.browser_lab import debian_chromium, served, signed_in
from tests.inbox_lab import Inbox
from tests.unit.console.scrubbed import image, scrubbing
from tests.unit.jobs.worker_lab import work

pytestmark = pytest.mark.debian("chromium")


class Desk:
    """A node with two withheld images, and browsers at it."""

    def __init__(self, node: Inbox, address: str, chromium: Browser) -> None:
        self.node, self.address, self.chromium = node, address, chromium

    def page(self, role: UserRole, **how: object) -> tuple[Page, list[str]]:
        return signed_in(self.chromium, self.address, role, base_url=self.address, **how)

    def boxes(self, review: int) -> list[list[int]]:
        with self.node.database.read() as session:
            row = session.get_one(CleaningReview, review)
            return session.get_one(DrawnByHand, row.instance_id).boxes


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    node = Inbox(tmp_path_factory.mktemp("desk") / "var", scrubbing())
    node.receive(image("NAME", 1), image("NAME", 2))
    node.settle()
    work(node)
    with served(node) as address, debian_chromium() as chromium:
        yield Desk(node, address, chromium)
    node.close()


def rows_of(page: Page) -> list[list[str]]:
    """The edges that the form holds, empty rows left out."""
    found = [
        [one.input_value() for one in row.locator("input").all()]
        for row in page.locator(".edges tbody tr").all()
    ]
    return [row for row in found if any(row)]


def test_a_box_is_drawn_with_the_pointer_and_moved_by_keys(desk: Desk) -> None:
    page, complaints = desk.page(UserRole.OPERATOR)
    page.goto("/reviews")
    page.click("text=Look at it >> nth=0")
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
    assert drawn[:2] == ["0", "0"] and abs(int(drawn[2]) - 130) <= 1 and abs(int(drawn[3]) - 30) <= 1
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
    page.wait_for_url("**/reviews/2")
    page.goto("/reviews")
    expect(page.locator("text=boxes drawn, cleaned again")).to_have_count(1)
    assert desk.boxes(1)[0][:2] == [0, 0]
    assert complaints == []
    work(desk.node)


def test_by_keys_alone_and_without_script(desk: Desk) -> None:
    first, _ = desk.page(UserRole.OPERATOR)
    plain = desk.chromium.new_context(
        java_script_enabled=False, storage_state=first.context.storage_state(), base_url=desk.address
    )
    page = plain.new_page()
    page.goto("/reviews/2")
    assert not page.locator(".clear").first.is_visible()
    page.focus('input[name="left"] >> nth=0')
    for edge in ("0", "0", "130", "30"):
        page.keyboard.type(edge)
        page.keyboard.press("Tab")
    page.focus("text=Black these out")
    page.keyboard.press("Enter")
    page.wait_for_url("**/reviews")
    assert desk.boxes(2) == [[0, 0, 130, 30]]
    plain.close()


def test_the_desk_shows_before_and_after_and_what_was_found(desk: Desk) -> None:
    page, complaints = desk.page(UserRole.OPERATOR)
    page.goto("/reviews/1")
    assert page.locator(".tools").is_visible()
    mark = page.locator("g.mark").first
    if page.locator("g.mark").count():
        page.uncheck("[data-shows='Detected annotation']")
        assert "off" in (mark.get_attribute("class") or "")
    assert page.get_attribute("button[data-tool=box]", "aria-pressed") == "true"
    page.keyboard.press("p")
    assert page.get_attribute(".stage", "data-tool") == "move"
    page.keyboard.press("d")
    assert page.get_attribute(".stage", "data-tool") == "box"
    assert complaints == []


def test_keys_decide_and_lead_to_the_next_image(desk: Desk) -> None:
    """As a person does who looks at many: N shows the next one, A accepts and goes on."""
    node = desk.node
    node.receive(*(image("NAME", number) for number in range(11, 15)))
    node.settle()
    work(node)
    with node.database.read() as session:
        waits = list(
            session.scalars(
                select(CleaningReview.id).where(CleaningReview.verdict.is_(None)).order_by(CleaningReview.id)
            )
        )
    assert len(waits) >= 3
    page, complaints = desk.page(UserRole.OPERATOR)
    page.goto(f"/reviews/{waits[0]}")
    page.keyboard.press("n")
    page.wait_for_url(f"**/reviews/{waits[1]}")
    for place in range(1, len(waits)):
        page.keyboard.press("a")
        following = waits[place + 1] if place + 1 < len(waits) else waits[0]
        page.wait_for_url(f"**/reviews/{following}")
    page.keyboard.press("a")
    page.wait_for_url("**/reviews")
    expect(page.locator("text=No image waits.")).to_have_count(1)
    assert complaints == []
