"""Every page, judged by axe-core (WCAG 2.1 A and AA, and best practices): light and wide, dark and narrow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_console.app import create_app
from dicom_node.model.roles import UserRole
from tests.browser_lab import debian_chromium, served, signed_in
from tests.console_lab import routes
from tests.inbox_lab import Inbox
from tests.unit.console.illustrated import analysed

pytestmark = pytest.mark.debian("chromium")

LOOKS = [
    {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
]
NO_PAGES = re.compile(r"/(api|live|static|sign-in/oidc|dicomweb|metrics|readyz|healthz)")


def addresses(node: Inbox) -> Iterator[str]:
    """Of all pages, with the number of the study, image, result or job that is here."""
    for route in routes(create_app(node.settings, node.database).routes):
        if "GET" in route.methods and not NO_PAGES.match(route.path):
            yield re.sub(r"\{\w+\}", "1", route.path.replace("{name}", "pacs").replace("{which}", "images"))


@pytest.mark.parametrize("look", LOOKS, ids=["light and wide", "dark and narrow"])
def test_no_page_has_what_axe_finds_fault_with(look: dict[str, object], tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with analysed(tmp_path / "var") as node, served(node) as address, debian_chromium() as chromium:
        page, _ = signed_in(chromium, address, UserRole.ADMIN, **look)
        found, looked_at = [], 0
        for place in dict.fromkeys(addresses(node)):
            answer = page.request.get(address + place)
            if answer.status != 200 or not answer.headers.get("content-type", "").startswith("text/html"):
                continue
            page.goto(address + place)
            looked_at += 1
            for fault in Axe().run(page).response["violations"]:
                nodes = [(one["target"], one["html"][:160]) for one in fault["nodes"][:2]]
                found.append((place, fault["id"], len(fault["nodes"]), nodes))
        assert looked_at > 20
        assert found == [], json.dumps(found, indent=1)
