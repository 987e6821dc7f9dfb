"""What a notification says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicom_node import events
from dicom_node.config.notifications import NotificationSettings
from dicom_node.errors import FaultyInput
from dicom_node.notifications.message import LONGEST_TEXT, TemplateEvent, check_templates, written
from dicom_node.notifications.occasions import EVENTS
from dicom_node.preflight import check
from tests.unit.config.test_settings import write

AT = "2026-01-02T03:04:05Z"


def rule(**other: Any) -> NotificationSettings:
    return NotificationSettings.model_validate({"name": "n", "on": ["disk"], "url": "https://h/x", **other})


def test_ours_names_events_fields_and_findings() -> None:
    told = [
        TemplateEvent(5004, AT, {"destination": "pacs", "status": ""}),
        TemplateEvent(3003, AT, {"job": 1}, ["Mass"]),
    ]
    said = written(rule(), "NODE", told)
    assert said.subject == "NODE: Suspected: Mass and 1 more"
    for word in ("delivery given up", "(5004)", "destination=pacs", "Mass", "notification n"):
        assert word in said.text
    assert "status" not in said.text


def test_a_subject_is_one_line() -> None:
    said = written(
        rule(subject="a\r\nBcc: x@example.org {{ 'x' * 500 }}"), "NODE", [TemplateEvent(3006, AT, {})]
    )
    assert "\n" not in said.subject
    assert len(said.subject) == 200


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ groups.append(1) }}",
        "{{ unknown }}",
        "{% for",
        "{{ 1 / 0 }}",
        "{% for a in range(99999) %}{{ groups }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ range(10 ** 9) | list }}",
        "{% include '/etc/passwd' %}",
        "x" * 70_000,
    ],
)
def test_a_template_that_fails_or_reaches_out_is_told_and_ours_is_sent(tmp_path: Path, template: str) -> None:
    file = write(tmp_path / "template.txt", template)
    given = rule(template=file)
    with pytest.raises(FaultyInput):
        check_templates(given)
    said = written(given, "NODE", [TemplateEvent(6006, AT, {"free_mib": 3})])
    assert "free_mib=3" in said.text
    assert "template" in said.text
    assert len(said.text) < LONGEST_TEXT


def test_check_finds_templates_that_fail_and_events_that_are_none(tmp_path: Path) -> None:
    text = f'''[node]
data_dir = "{tmp_path / "var"}"
[[notifications]]
name = "n"
events = [1, 3006]
subject = "{{{{ nobody }}}}"
url = "http://h/KEY"
[[notifications]]
name = "m"
on = ["disk"]
to = ["a@example.org"]
'''
    found = check([write(tmp_path / "node.toml", text)])
    keys = {problem.key for problem in found.problems}
    assert {"notifications.n.events", "notifications.n.subject", "notifications.m.to"} <= keys
    said = " ".join([*map(str, found.problems), *(line.text for line in found.tried)])
    assert "unencrypted" in said
    assert "KEY" not in said


def test_errors_of_the_node_belong_to_an_occasion() -> None:
    import logging

    named = {kind for kinds in EVENTS.values() for kind in kinds}
    left = {kind.number for kind in events.all_types() if kind.level >= logging.ERROR and kind not in named}
    assert left == set()
