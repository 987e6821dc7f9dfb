"""The screens of devices at the console: an admin sees them drawn, and says what stays."""

from collections.abc import Callable

import pytest

from ai_pipeline.burnin.devices.rules import read_rules
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.tables import LearntScreen
from tests.console_lab import ConsoleLab, console_of
from tests.inbox_lab import Inbox
from tests.unit.ai_pipeline.burnin.screens_lab import name_of
from tests.unit.people.test_screens import learn


@pytest.fixture
def node(open_with_users: Callable[..., Inbox]) -> Inbox:
    inbox = open_with_users()
    learn(inbox)
    return inbox


@pytest.fixture
def console(node: Inbox) -> ConsoleLab:
    return console_of(node)


def rules(node: Inbox) -> list[str]:
    """The texts that stay by the rule of the screen."""
    found = read_rules(node.settings.node.data_dir / DEVICE_RULES_FOLDER)
    return [text.text for rule in found for text in rule.texts]


def test_an_admin_sees_the_screen_with_its_boxes_and_nobody_else(console: ConsoleLab) -> None:
    admin = console.browser(UserRole.ADMIN)
    assert "/screens/1" in admin.page("/reviews")
    page = admin.page("/screens/1")
    for part in ('class="mark stays"', 'class="mark ask"', 'class="mark goes"', 'value="Map#" checked'):
        assert part in page, part
    assert 'value="MSCSKEL" checked' not in page
    assert [name_of(number) for number in range(30) if name_of(number) in page] == []
    operator = console.browser(UserRole.OPERATOR)
    assert "/screens/1" not in operator.page("/reviews")
    assert operator.get("/screens/1") == 403


def test_what_is_ticked_stays_and_the_rule_can_be_taken_elsewhere(console: ConsoleLab, node: Inbox) -> None:
    admin = console.browser(UserRole.ADMIN)
    assert admin.post("/screens/1/confirm", text=["qFLM#", "MSCSKEL"]) == 200
    assert rules(node) == ["qFLM#", "MSCSKEL"]
    assert 'text = "MSCSKEL"' in admin.page("/screens/1/rule")
    assert 'value="MSCSKEL" checked' in admin.page("/screens/1")


def test_nothing_ticked_or_a_text_that_is_not_offered_is_refused(console: ConsoleLab, node: Inbox) -> None:
    admin = console.browser(UserRole.ADMIN)
    assert admin.post("/screens/1/confirm") == 400
    assert admin.post("/screens/1/confirm", text=name_of(1)) == 409
    assert admin.get("/screens/1/rule") == 409
    assert not (node.settings.node.data_dir / DEVICE_RULES_FOLDER).exists()


def test_a_screen_is_forgotten(console: ConsoleLab, node: Inbox) -> None:
    assert console.browser(UserRole.ADMIN).post("/screens/1/forget") == 303
    assert node.rows(LearntScreen) == []
