"""The page on which an admin tries a program: its form, its roles, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.base.lifecycle import UserRole
from dicom_node.people import tried_programs
from tests import ct_lab
from tests.console_lab import ConsoleLab, console_of
from tests.inbox_lab import Inbox
from tests.unit.people.test_program_trial import DERIVES
from tests.waiting import wait_until

SLICES = ct_lab.ct_slices("one", 2, side=32)


@pytest.fixture
def node(open_with_users: Callable[..., Inbox], tmp_path: Path) -> Inbox:
    """A node with a study that a rule gives to a program."""
    inbox = open_with_users(ct_lab.configuration(ct_lab.program(tmp_path, DERIVES.replace("CHANGE", ""))))
    inbox.settle(*SLICES)
    return inbox


@pytest.fixture
def lab(node: Inbox) -> ConsoleLab:
    return console_of(node)


def test_an_admin_begins_a_trial_and_sees_objects_and_pictures(lab: ConsoleLab, node: Inbox) -> None:
    browser = lab.browser(UserRole.ADMIN)
    assert "lungs" in browser.page("/programs")
    number = node.study_of(SLICES[0]).id
    assert browser.post("/programs", study=str(number), rule="lungs") == 303, browser.text
    place = browser.headers["location"]
    token = place.rpartition("/")[2]
    wait_until(lambda: tried_programs.show(node.settings, token)["state"] != "running", what="its end")
    shown = browser.page(place)
    assert shown.count("would be sent") == 2
    assert browser.get(f"{place}/1") == 200
    assert browser.headers["content-type"] == "image/png"
    assert browser.get(f"{place}/3") == 404
    assert lab.audited("study_seen")


def test_a_trial_is_for_admins(lab: ConsoleLab) -> None:
    browser = lab.browser(UserRole.OPERATOR)
    assert browser.get("/programs") == 403
    assert browser.post("/programs", study="1", rule="lungs") == 403
    assert "/programs" not in browser.page("/studies")


@pytest.mark.parametrize(
    ("study", "rule"), [("99", "lungs"), ("1", "none"), ("", "")], ids=["no study", "no rule", "nothing"]
)
def test_what_is_not_there_is_not_tried(lab: ConsoleLab, study: str, rule: str) -> None:
    assert lab.browser(UserRole.ADMIN).post("/programs", study=study, rule=rule) == 404
