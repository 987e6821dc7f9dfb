"""A fresh node without a PACS with its console, and a person who drops pictures there."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomlkit
from PIL import Image
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page

from ai_pipeline.images.decode import open_dicom
from dicom_node.base.config import loading
from dicom_node.base.lifecycle import UserRole
from dicom_node.people import users
from dicom_node.people.demo import DRAWN_FILM
from dicom_node.people.new_node import create_node
from tests.browser_lab import signed_in
from tests.console_lab import PASSWORD
from tests.node_lab import Node, running
from tests.ports import free_port
from tests.ultrasound_lab import picture

HERE = """
[spool]
minimum_free_mib = 1
[workers]
processes = 1
[console]
enabled = true
port = {port}
"""


@dataclass(frozen=True)
class Site:
    """A node with its console, and an operator's browser at it."""

    node: Node
    page: Page
    complaints: list[str]

    def drop(self, shows: str, name: str, data: bytes) -> float:
        """Choose what the picture ``shows`` ("DX PA", "DX AP", "DX" or "US") and drop it; returns the seconds
        until its result is on the page.
        """
        self.page.goto("/try")
        self.page.check(f"input[name=Shows][value='{shows}']")
        began = time.monotonic()
        self.page.set_input_files("input[name=files]", {"name": name, "mimeType": "", "buffer": data})
        self.page.wait_for_selector("h2:text-is('Result')")
        return time.monotonic() - began


@contextmanager
def fresh_site(folder: Path, chromium: Chromium) -> Iterator[Site]:
    """A fresh node with the rules that ``dicom-node init`` writes for a node without a PACS."""
    port = free_port()
    made, _ = create_node({"admin": "anna", "data_dir": str(folder / "made")}, folder / "etc", PASSWORD)
    rules = tomlkit.dumps({"rules": tomlkit.parse(made.read_text())["rules"]})
    node = Node(folder / "node", HERE.format(port=port) + rules)
    with running(node):
        settings = loading.load([node.config])
        users.add_user(settings, UserRole.OPERATOR.value, UserRole.OPERATOR, PASSWORD)
        address = f"http://127.0.0.1:{port}"
        page, complaints = signed_in(chromium, address, UserRole.OPERATOR, base_url=address)
        yield Site(node, page, complaints)
        page.context.close()


def film() -> bytes:
    """The drawn film as a PNG."""
    data = io.BytesIO()
    Image.fromarray(open_dicom(DRAWN_FILM).display()).save(data, "PNG")
    return data.getvalue()


def screenshot_of_ultrasound() -> bytes:
    """An ultrasound picture with a name, a date and a number burned in."""
    data = io.BytesIO()
    Image.fromarray(picture(7, (480, 640), colour=True)).save(data, "PNG")
    return data.getvalue()
