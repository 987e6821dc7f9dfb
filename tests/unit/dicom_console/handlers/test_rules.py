"""The page of the rules: the flow through each."""

from dicom_node.base.lifecycle import UserRole
from tests.console_lab import ConsoleLab, Program
from tests.inbox_lab import Inbox


def test_the_page_shows_the_flow_through_each_rule(console_of_node: ConsoleLab, node: Inbox) -> None:
    page = console_of_node.browser(UserRole.VIEWER).page("/rules")
    flow = page.partition("Flow of the last 24 hours")[2].partition("</section>")[0]
    assert f"<b>{node.settings.rules[0].name}</b>" in flow
    assert "1 study" in flow
    assert '<span class="state succeeded">' in flow
    assert '<span class="state pending">' in flow


def test_a_program_gets_the_flow_as_json(console_of_node: ConsoleLab) -> None:
    _, [row, *_] = Program(console_of_node, UserRole.VIEWER).ask("GET", "/rules/flow")
    assert row["jobs"] == {"succeeded": 1}
    assert row["destinations"][0]["waiting"]["number"] > 0
