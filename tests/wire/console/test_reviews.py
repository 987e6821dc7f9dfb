"""The review desk by keys and pointer."""

from pathlib import Path

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect

from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.tables import CleaningReview, DrawnByHand
from tests.browser_lab import IN_A_BROWSER, served, signed_in
from tests.inbox_lab import Inbox
from tests.unit.dicom_console.illustrated import image, scrubbing
from tests.unit.jobs.worker_lab import work

pytestmark = IN_A_BROWSER


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
