"""Pictures of images and results, as the viewer gets them."""

import html
import io
import json
import re
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from dicom_node.base.lifecycle import ResultKind, UserRole
from dicom_node.base.store.tables import Instance
from tests.console_lab import Browser, ConsoleLab, console_of
from tests.inbox_lab import Inbox
from tests.modality import chest, ultrasound
from tests.unit.dicom_console.decisions_lab import result
from tests.unit.dicom_console.illustrated import illustrated
from tests.unit.jobs.worker_lab import work
from tests.unit.receive.objects import changed


def test_each_organ_is_a_picture_of_its_own_and_may_be_switched_on(
    open_with_users: Callable[..., Inbox],
) -> None:
    made = illustrated()
    made["peers"][1]["results"] = ["sr", "seg"]
    node = open_with_users(made)
    node.settle(ultrasound("one"))
    work(node)
    browser = console_of(node).browser(UserRole.VIEWER)
    assert 'data-shows="AI Heart"' in browser.page("/studies/images/1")
    assert 'data-shows="AI Left lung"' in browser.text
    number = result(node, ResultKind.SEG).id
    assert browser.get(f"/studies/results/{number}/masks/2") == 200
    picture = np.asarray(Image.open(io.BytesIO(browser.content)))
    assert picture.shape == (180, 240, 4)
    assert picture[50, 150, 3] > 0
    assert picture[70, 80, 3] == 0  # the lung, and where the heart is
    for place in (f"/studies/results/{number}/masks/3", "/studies/results/1/masks/1"):
        assert browser.get(place) == 404
    assert browser.get(f"/studies/results/{number}/masks/x") == 400


PIXELS = np.arange(64 * 64, dtype="<u2").reshape(64, 64)


@pytest.fixture
def browser(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.VIEWER)


def test_values_come_after_the_modality_lut(browser: Browser, inbox: Inbox) -> None:
    inbox.settle(changed(chest("one", PIXELS), RescaleIntercept=-1024))
    assert browser.get("/studies/images/1/1/samples") == 200
    window = {"centre": 2048.0, "width": 4096.0, "function": "LINEAR"}
    assert json.loads(browser.headers["X-Samples"]) == {"type": "i2", "window": window, "inverted": False}
    assert np.array_equal(np.frombuffer(browser.content, "<i2").reshape(64, 64), PIXELS.astype(int) - 1024)


def test_colours_come_as_rgb(browser: Browser, inbox: Inbox) -> None:
    inbox.settle(image := ultrasound("one"))
    browser.get("/studies/images/1/1/samples")
    assert (browser.headers["X-Samples"], browser.content) == ('{"type": "rgb"}', image.PixelData)


def test_a_purged_or_broken_file_is_not_found(browser: Browser, inbox: Inbox) -> None:
    inbox.settle(chest("one", PIXELS))
    file = inbox.folder / inbox.rows(Instance)[0].path
    file.write_bytes(file.read_bytes()[:600])
    assert browser.get("/studies/images/1/1/samples") == 404
    inbox.put(Instance, 1, purged=True)
    assert browser.get("/studies/images/1/1/samples") == 404


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        ({"CineRate": "24"}, 24.0),
        ({"RecommendedDisplayFrameRate": "30"}, 30.0),
        ({"FrameTime": "40"}, 25.0),
        ({"FrameTime": "0"}, 15.0),
        ({"CineRate": "-5"}, 15.0),
        ({"CineRate": "9999"}, 60.0),
        ({}, 15.0),
    ],
)
def test_cines_play_as_the_file_says_within_bounds(
    browser: Browser, inbox: Inbox, given: dict[str, str], rate: float
) -> None:
    inbox.settle(changed(chest("one", PIXELS), **given))
    found = re.search(r'data-about="([^"]*)"', browser.page("/studies/images/1"))
    assert found
    assert json.loads(html.unescape(found[1]))["rate"] == rate
