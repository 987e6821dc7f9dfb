"""Steps of the walk through the console (``test_console_walk.py``): what an admin does, by its buttons."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.walked_lab import OWN_MODEL


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


def draw(page: Page) -> None:
    """One box and the name of a rule."""
    for edge, value in zip(("left", "top", "right", "bottom"), ("0", "0", "130", "30"), strict=True):
        page.fill(f'input[name="{edge}"] >> nth=0', value)
    page.fill('input[name="name"]', "room3")


def peers(page: Page, port: int | None) -> None:
    """One is added, told what it shows, changed and removed."""
    page.goto("/peers")
    page.click("text=Add a peer")
    for name, value in (("name", "view"), ("ae_title", "PACS"), ("host", "127.0.0.1"), ("port", "x")):
        page.fill(f"input[name={name}]", value)
    page.check("input[name=may][value=receive]")
    with page.expect_navigation():
        page.click("text=Check and save")
    expect(page.locator(".problem")).to_have_count(1)
    page.fill("input[name=port]", str(port))
    press(page, "Check and save")
    page.click("main >> text=Go on")
    page.goto("/peers/view")
    page.click("main a:text-is('Change')")
    press(page, "Check and save")
    page.click("main >> text=Go on")
    press(page, "Remove")


def rules(page: Page) -> None:
    """One is tried, added, changed and removed."""
    page.goto("/rules")
    page.click("text=Add a rule")
    page.fill("input[name=name]", "mine")
    page.fill("input[name='when.station']", "ROOM2")
    page.check("input[name=pipeline][value=ultrasound]")
    page.select_option("select[name='options.ultrasound.policy']", "research")
    page.fill("input[name=daily_cap]", "x")
    with page.expect_navigation():
        page.click("text=Try it against the newest studies")
    expect(page.locator(".fault")).to_have_count(2)
    page.fill("input[name=daily_cap]", "")
    page.check("input[name=send_to][value=pacs]")
    press(page, "Try it against the newest studies")
    press(page, "Save the rule")
    page.click("main >> text=Go on")
    page.click("tr:has(b:text-is('mine')) >> text=Change")
    assert page.input_value("select[name='options.ultrasound.policy']") == "research"
    page.click("summary:has-text('The rule as text')")
    press(page, "Try the text")
    press(page, "Save the rule")
    page.click("main >> text=Go on")
    with page.expect_navigation():
        page.click("tr:has(b:text-is('mine')) >> text=Remove")


def models(page: Page) -> None:
    """The site's own is put into use and back."""
    page.goto(f"/models/{OWN_MODEL}")
    press(page, "Let chest_xray use it")
    page.goto("/models")
    press(page, "Roll back to the model before")


def accounts(page: Page) -> None:
    """A user is added, shut out, opened again, and removed."""
    page.click("nav >> text=Users")
    page.fill("form[action='/users'] input[name=name]", "anna")
    for field in ("password", "again"):
        page.fill(f"form[action='/users'] input[name={field}]", "four words are easy")
    press(page, "Add")
    row = page.locator("tr:has(td:text-is('anna'))")
    for words, after in (("Disable", "disabled"), ("Enable", "enabled")):
        with page.expect_navigation():
            row.locator(f"button:text-is('{words}')").click()
        assert after in row.inner_text()
    row.locator("summary:text-is('Remove')").click()
    press(page, "Remove anna")
    expect(row).to_have_count(0)
