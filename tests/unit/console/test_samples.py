"""The samples that the viewer gets: the real values, in a type that holds them; hostile files and frames."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_node.model.roles import UserRole
from dicom_node.store.tables import Instance
from tests.console_lab import Browser, ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import chest, ultrasound

PIXELS = np.arange(64 * 64, dtype="<u2").reshape(64, 64)


@pytest.fixture
def browser(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.VIEWER)


def received(inbox: Inbox, dataset: Dataset) -> None:
    inbox.receive(dataset)
    inbox.settle()


def about(browser: Browser) -> dict[str, object]:
    found = json.loads(browser.headers["X-Samples"])
    assert isinstance(found, dict)
    return found


def page_about(browser: Browser) -> dict[str, object]:

    found = re.search(r'data-about="([^"]*)"', browser.text)
    assert found
    return dict(json.loads(html.unescape(found[1])))


def test_values_come_after_the_modality_lut(browser: Browser, inbox: Inbox) -> None:
    film = chest("one", PIXELS)
    film.RescaleIntercept = -1024
    received(inbox, film)
    assert browser.get("/studies/images/1/1/samples") == 200
    assert about(browser) == {
        "type": "i2",
        "window": {"centre": 2048.0, "width": 4096.0, "function": "LINEAR"},
        "inverted": False,
    }
    values = np.frombuffer(browser.content, "<i2").reshape(64, 64)
    assert np.array_equal(values, PIXELS.astype(int) - 1024)


def test_fractions_and_large_values_come_as_floats(browser: Browser, inbox: Inbox) -> None:
    film = chest("one", PIXELS)
    film.RescaleSlope = 0.5
    received(inbox, film)
    browser.get("/studies/images/1/1/samples")
    assert about(browser)["type"] == "f4"
    assert np.allclose(np.frombuffer(browser.content, "<f4"), PIXELS.ravel() / 2)


def test_colours_come_as_rgb(browser: Browser, inbox: Inbox) -> None:
    image = ultrasound("one")
    received(inbox, image)
    browser.get("/studies/images/1/1/samples")
    assert about(browser) == {"type": "rgb"}
    assert browser.content == image.PixelData


def test_without_a_window_the_samples_make_one(browser: Browser, inbox: Inbox) -> None:
    film = chest("one", PIXELS)
    del film.WindowCenter, film.WindowWidth
    received(inbox, film)
    browser.get("/studies/images/1/1/samples")
    window = about(browser)["window"]
    assert isinstance(window, dict) and window["function"] == "LINEAR_EXACT"
    assert abs(window["centre"] - 2047.5) < 1 and 3900 < window["width"] < 4096


@pytest.mark.parametrize("frame", ["0", "2", "-1", "99999999999999999999", "x", "1.5"])
def test_frames_that_are_not_there_are_refused(browser: Browser, inbox: Inbox, frame: str) -> None:
    received(inbox, chest("one", PIXELS))
    assert browser.get(f"/studies/images/1/{frame}/samples") in (400, 404)


def test_a_purged_or_broken_file_is_not_found(browser: Browser, inbox: Inbox) -> None:
    received(inbox, chest("one", PIXELS))
    with inbox.database.write() as session:
        row = session.get_one(Instance, 1)
        file = inbox.settings.node.data_dir / row.path
    file.write_bytes(file.read_bytes()[:600])
    assert browser.get("/studies/images/1/1/samples") == 404
    with inbox.database.write() as session:
        session.get_one(Instance, 1).purged = True
    assert browser.get("/studies/images/1/1/samples") == 404


def test_the_page_says_where_lengths_can_be_measured(browser: Browser, inbox: Inbox) -> None:
    film = chest("one", PIXELS)
    film.WindowCenter, film.WindowWidth = [1, 2, 3], [10, 20]
    film.WindowCenterWidthExplanation = "<b>SOFT"
    received(inbox, film)
    browser.get("/studies/images/1")
    said = page_about(browser)
    assert said["regions"] == [
        {"box": [0, 0, 64, 64], "row": 0.143, "column": 0.143, "note": " at the detector"}
    ]
    assert said["windows"] == [[1.0, 10.0, "<b>SOFT"], [2.0, 20.0, ""]]
    assert "<b>SOFT" not in browser.text


@pytest.mark.parametrize(
    ("keyword", "value", "rate"),
    [
        ("CineRate", "24", 24.0),
        ("RecommendedDisplayFrameRate", "30", 30.0),
        ("FrameTime", "40", 25.0),
        ("FrameTime", "0", 15.0),
        ("CineRate", "-5", 15.0),
        ("CineRate", "9999", 60.0),
        ("StudyID", "1", 15.0),
    ],
)
def test_cines_play_as_the_file_says_within_bounds(
    browser: Browser, inbox: Inbox, keyword: str, value: str, rate: float
) -> None:
    film = chest("one", PIXELS)
    setattr(film, keyword, value)
    received(inbox, film)
    browser.get("/studies/images/1")
    assert page_about(browser)["rate"] == rate


def test_who_is_not_signed_in_gets_no_samples(console: ConsoleLab, inbox: Inbox) -> None:
    received(inbox, chest("one", PIXELS))
    assert console.browser().get("/studies/images/1/1/samples") == 303
