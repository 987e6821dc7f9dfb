"""The form of a rule: its fields, what it makes, what it asks before it saves."""

import re
from typing import Any

import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from ai_pipeline.pipelines import cards
from dicom_console.forms import rule as form
from dicom_node.base.config import loading
from dicom_node.base.config.rule import PROGRAMS, Conditions, RuleSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.tables import Job
from dicom_node.people import entered
from dicom_node.people.rule_trial import try_rules
from tests.console_lab import Browser, ConsoleLab, entered_in
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.receive.objects import changed, small_xray


def test_rules_say_what_they_make_of_recent_studies(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"), small_xray("two"))
    assert "no rule applies; closest is ultrasound" in console.browser(UserRole.VIEWER).page("/rules")
    assert inbox.column(Job.rule) == ["ultrasound"]


def test_a_study_of_secondary_captures_is_not_one_without_images(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(changed(ultrasound("one"), SOPClassUID=SecondaryCaptureImageStorage))
    text = console.browser(UserRole.VIEWER).page("/rules")
    assert "it is a secondary capture, and secondary_captures_from does not name its sender" in text
    [rule, *others] = inbox.settings.rules
    taking = rule.model_copy(update={"secondary_captures_from": ("modality",)})
    other = inbox.settings.model_copy(update={"rules": (taking, *others)})
    [row] = inbox.read(try_rules, inbox.settings, other)
    assert [taker["images"] for taker in row["then"]["rules"]] == [1]
    assert row["changes"]


OFFERED = [card for card in cards() if card.name not in PROGRAMS]


FIELDS = {
    "name": "second", "version": "0", "when.station": "ROOM2; ROOM3", "pipeline": "ultrasound",
    "options.ultrasound.policy": "research", "options.chest_xray.heatmaps": "true", "send_to": "pacs",
    "priority": "stat", "max_study_age_days": "0.5", "assess_first": "true", "rest": "",
    "despite_hold": "true",
}  # fmt: skip


TEXT = """\
name = "second"
when = { station = ["ROOM2", "ROOM3"] }
pipeline = "ultrasound"
options = { policy = "research" }
send_to = ["pacs"]
priority = "stat"
max_study_age_days = 0.5
assess_first = true
"""


@pytest.fixture
def admin(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.ADMIN)


def test_the_form_makes_the_lines_of_the_file_once_it_was_seen_what_they_make(
    admin: Browser, inbox: Inbox
) -> None:
    assert admin.post("/rules/new", **FIELDS, act="save") == 200
    assert "Not saved yet" in admin.text
    mark = admin.field("tried")
    assert admin.post("/rules/new", **FIELDS | {"priority": "low"}, act="save", tried=mark) == 200
    assert "Not saved yet" in admin.text, "it was changed after it had been tried"
    assert entered_in(inbox) == ""
    assert admin.post("/rules/new", **FIELDS, act="save", tried=mark) == 200
    assert TEXT in entered_in(inbox)
    admin.page("/rules/second/change")
    for shown in ('"ROOM2; ROOM3"', '"0.5"', '"ultrasound" checked', '"pacs" checked', '"research" selected'):
        assert f"value={shown}" in admin.text, shown
    assert admin.post("/rules/second/change", **FIELDS, act="try") == 409, "what another admin added"
    assert "there is a rule second already" in admin.text
    assert 'value="ROOM2; ROOM3"' in admin.text


def test_a_mistake_stands_beside_its_field_and_nothing_typed_is_lost(admin: Browser, inbox: Inbox) -> None:
    for typed, place, said in (
        ({"name": ""}, "name", "must not be empty"),
        ({"name": "a b"}, "name", "no space"),
        ({"when.station": ""}, "when", "fill in at least one"),
        ({"when.modality": "CT"}, "when.modality", "takes no such images"),
        ({"when.modality": "ultrasound"}, "when.modality", "a code in capital letters"),
        ({"when.calling_ae": "NOBODY"}, "when.calling_ae", "never holds"),
        ({"pipeline": ""}, "pipeline", "choose one"),
        ({"send_to": "nobody"}, "send_to", "no such peer"),
        ({"send_to": "modality"}, "send_to", "may not receive"),
        ({"max_study_age_days": "a week"}, "max_study_age_days", "must be a number"),
        ({"max_study_age_days": "-1"}, "max_study_age_days", "must be at least 0"),
        ({"options.ultrasound.keep_words": "R-CY"}, "options.ultrasound.keep_words", "under clinical only"),
        ({"rest": "= 1"}, "rest", "no TOML"),
        ({"rest": 'priority = "low"'}, "rest", "there is a field"),
        ({"rest": "when = { station = 'ROOM7' }"}, "rest", "there is a field"),
    ):
        filled = {**FIELDS, **typed}
        assert admin.post("/rules/new", **filled, act="save") == 400, typed
        assert said in admin.fault(place), typed
        for name, value in filled.items():
            if value and name not in typed and name.startswith(("when.", "name", "options.ultrasound")):
                assert value in admin.text, (typed, name)
        for value in filter(None, typed.values()):
            assert value.replace("'", "&#39;").replace('"', "&#34;") in admin.text, typed
    assert entered_in(inbox) == ""


@pytest.mark.parametrize(
    "content",
    [
        {"when": {"modality": "US"}},
        {"when": {"study_description": "head; neck", "station": [" x"]}},
        {"when": {"modality": ["US", "IVUS"]}, "options": {"clean": False, "keep_words": ["R-CY", "L-M"]}},
        {"when": {"modality": "US"}, "options": {"keep_words": ["a;b"], "unknown": [1, 2]}},
        {"when": {"modality": "DX"}, "pipeline": "chest_xray", "options": {"prevalence": {"Effusion": 0.05}}},
        {"when": {"modality": "US"}, "tell_pacs_refusals": True, "priority": "low"},
        {"when": {"modality": "US"}, "max_study_age_days": 0, "secondary_captures_from": ["grabber"]},
        {"when": {"modality": "DX"}, "priors": "pacs", "no_call": []},
    ],
)
def test_fields_and_what_none_can_show_make_the_same_rule_again(content: dict[str, Any]) -> None:
    rule = {"name": "one", "pipeline": "ultrasound", "send_to": ["pacs"], **content}
    again, problems = form.as_content(form.as_form(rule), "")
    assert problems == []
    assert RuleSettings(**again) == RuleSettings(**rule)


def test_every_key_of_a_rule_has_a_field(admin: Browser) -> None:
    admin.get("/rules/new")
    names = set(re.findall(r'name="([^"]+)"', admin.text))
    as_text = {"then", "priors", "no_call"}
    assert set(RuleSettings.model_fields) - {"when", "options", "entered"} - as_text <= names
    assert "rest" in names, "conditions on results are written as text"
    assert "then = [" in admin.text, "conditions on results are written as text"
    assert {f"when.{key}" for key in Conditions.model_fields} <= names
    assert set(form.CONDITIONS) == set(Conditions.model_fields)
    for card in OFFERED:
        assert {f"options.{card.name}.{key}" for key in card.options.model_fields} <= names
    assert not {"command", "container"} & set(
        re.findall(r'type="radio" name="pipeline" value="(\w+)"', admin.text)
    )


def test_every_choice_of_an_option_is_one_that_its_pipeline_takes(admin: Browser) -> None:
    for card in OFFERED:
        fields = FIELDS | {"pipeline": card.name, "options.ultrasound.policy": ""}
        fields |= {"when.modality": next(iter(card.modalities))}
        for option in card.options.listed():
            for value in option.choices:
                sent = fields | {f"options.{card.name}.{option.key}": value}
                assert admin.post("/rules/new", **sent, act="try") == 200, (card.name, option.key, value)
                assert f"{option.key} = &#34;{value}&#34;" in admin.text


HELD = {
    "name": "held", "version": "0", "when.station": "ROOM2", "pipeline": "ultrasound", "send_to": "pacs",
    "priority": "routine", "max_study_age_days": "7", "assess_first": "true", "rest": "",
}  # fmt: skip


SAYS = "gets by it at once what held holds of the same study"


def test_the_form_of_a_rule_saves_it_only_with_the_tick(console: ConsoleLab, admin: Browser) -> None:
    assert admin.post("/rules/new", **HELD, act="try") == 200
    assert SAYS in admin.text
    mark = admin.field("tried")
    assert admin.post("/rules/new", **HELD, act="save", tried=mark) == 200
    assert 'name="despite_hold"' in admin.text
    assert not entered.entered_versions(console.settings)
    assert admin.post("/rules/new", **HELD, act="save", tried=mark, despite_hold="true") == 200
    assert "held is saved." in admin.text
    assert SAYS in admin.text, "the page that says that it is saved shows the warnings"
    assert "in_force.js" not in admin.text, "and stays until it was read"
    assert "rule held" in entered.entered_versions(console.settings)[0].saved
    assert SAYS in str(console.audited("rule_saved"))


@pytest.mark.parametrize(
    ("held", "free", "expected"),
    [
        ({"modality": "US"}, {"modality": "US"}, True),
        ({"modality": "US"}, {"modality": ["DX", "CR"]}, False),
        ({"modality": "US"}, {"modality": ["DX", "U*"]}, True),
        ({"modality": "*"}, {"modality": "US"}, True),
        ({"station": "ROOM*"}, {"station": "ROOM2"}, True),
        ({"station": "ROOM*"}, {"station": "WARD"}, False),
        ({"station": "ROOM*"}, {"station": "*2"}, True),
        ({"calling_ae": "US1"}, {"station": "WARD"}, True),
        ({"calling_ae": "US1"}, {"calling_ae": "US2"}, False),
    ],
)
def test_rules_that_never_take_the_same_image_undercut_nothing(
    held: dict[str, Any], free: dict[str, Any], expected: bool
) -> None:
    rules = [
        {"name": "held", "when": held, "pipeline": "ultrasound", "send_to": ["pacs"], "assess_first": True},
        {"name": "free", "when": free, "pipeline": "ultrasound", "send_to": ["pacs"]},
    ]
    assert bool(list(loading.undercuts(Settings.model_validate({"rules": rules})))) is expected
