"""The form of a rule: its fields say what the text says, and what is wrong stands beside its field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ai_pipeline.pipelines import cards
from dicom_console.forms import page
from dicom_console.forms import rule as form
from dicom_node.config.settings import Conditions, RuleSettings
from dicom_node.model.roles import UserRole
from dicom_node.services.entered import PROGRAMS
from tests.console_lab import Browser, ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound

OFFERED = [card for card in cards() if card.name not in PROGRAMS]
FIELDS = {
    "name": "second", "version": "0", "when.station": "ROOM2; ROOM3", "pipeline": "ultrasound",
    "options.ultrasound.policy": "research", "options.chest_xray.heatmaps": "true", "send_to": "pacs",
    "priority": "stat", "max_study_age_days": "0.5", "daily_cap": "", "assess_first": "true", "rest": "",
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


def entered_in(inbox: Inbox) -> str:
    file = inbox.folder / "entered.toml"
    return file.read_text() if file.exists() else ""


def test_the_form_makes_the_lines_of_the_file(admin: Browser, inbox: Inbox) -> None:
    assert admin.post("/rules/new", **FIELDS, act="try") == 200
    assert entered_in(inbox) == ""
    assert admin.post("/rules/new", **FIELDS, act="save", tried=admin.field("tried")) == 200
    assert TEXT in entered_in(inbox)
    assert admin.get("/rules/second/change") == 200
    for shown in (
        'value="ROOM2; ROOM3"',
        'value="0.5"',
        'value="ultrasound" checked',
        'value="pacs" checked',
    ):
        assert shown in admin.text, shown
    assert '<option value="research" selected>' in admin.text


def test_an_empty_form_is_told_all_that_it_lacks(admin: Browser) -> None:
    assert admin.post("/rules/new", version="0", act="try") == 400
    assert [bool(admin.fault(field)) for field in ("name", "when", "pipeline", "send_to")] == [True] * 4
    assert "is missing" not in admin.text


def test_a_name_that_is_taken_stands_beside_the_name(admin: Browser, inbox: Inbox) -> None:
    taken = inbox.settings.rules[0].name
    assert admin.post("/rules/new", **FIELDS | {"name": taken}, act="try") == 400
    assert "is in the configuration files" in admin.fault("name")


def test_nothing_is_saved_before_it_was_seen_what_it_makes(admin: Browser, inbox: Inbox) -> None:
    inbox.receive(ultrasound("one"))
    inbox.settle()
    everything = FIELDS | {"when.station": "", "when.modality": "*"}
    assert admin.post("/rules/new", **everything, act="save") == 200
    assert "Not saved yet" in admin.text
    assert "With this rule it would go to" in admin.text
    mark = admin.field("tried")
    assert admin.post("/rules/new", **everything | {"priority": "low"}, act="save", tried=mark) == 200
    assert "Not saved yet" in admin.text, "it was changed after it had been tried"
    assert entered_in(inbox) == ""
    assert admin.post("/rules/new", **everything, act="save", tried=mark) == 200
    assert 'modality = "*"' in entered_in(inbox)


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
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
        ({"daily_cap": "1.5"}, "daily_cap", "must be a whole number"),
        ({"options.ultrasound.keep_words": "R-CY"}, "options.ultrasound.keep_words", "under clinical only"),
        ({"rest": "= 1"}, "rest", "no TOML"),
        ({"rest": 'priority = "low"'}, "rest", "there is a field"),
        ({"rest": "when = { station = 'ROOM7' }"}, "rest", "there is a field"),
    ],
)
def test_a_mistake_stands_beside_its_field_and_nothing_typed_is_lost(
    admin: Browser, inbox: Inbox, given: dict[str, str], field: str, said: str
) -> None:
    filled = {**FIELDS, **given}
    assert admin.post("/rules/new", **filled, act="save") == 400
    assert said in admin.fault(field)
    assert entered_in(inbox) == ""
    for name, value in filled.items():
        if value and name not in given and name.startswith(("when.", "name", "options.ultrasound")):
            assert value in admin.text, name
    for value in filter(None, given.values()):
        assert value.replace("'", "&#39;").replace('"', "&#34;") in admin.text


def test_all_mistakes_are_said_at_once(admin: Browser) -> None:
    wrong = FIELDS | {
        "when.modality": "us",
        "send_to": "nobody",
        "options.ultrasound.dates": "some",
        "daily_cap": "x",
    }
    assert admin.post("/rules/new", **wrong, act="try") == 400
    assert all(admin.fault(name) for name in wrong.keys() - FIELDS.keys() | {"send_to", "daily_cap"})


def test_the_text_fills_the_fields(admin: Browser) -> None:
    assert admin.post("/rules/new", rule=TEXT, act="try_text", version="0") == 200
    assert 'value="ROOM2; ROOM3"' in admin.text
    assert admin.post("/rules/new", rule=TEXT + "= 1", act="try_text", version="0", name="typed") == 400
    assert "no TOML" in admin.text
    assert "assess_first = true\n= 1" in admin.text, "the text is still there"
    assert 'value="typed"' in admin.text, "and so are the fields"


def test_a_tried_text_is_saved_by_the_button_of_the_fields_whatever_it_says_twice(
    admin: Browser, inbox: Inbox
) -> None:
    text = TEXT.replace("send_to", "daily_cap = 0\nsend_to").replace("{ policy", "{ clean = true, policy")
    assert admin.post("/rules/new", rule=text, act="try_text", version="0") == 200
    fields = FIELDS | {"options.ultrasound.clean": "true"}
    assert admin.post("/rules/new", **fields, rule=text, act="save", tried=admin.field("tried")) == 200
    assert "clean = true" in entered_in(inbox)


def test_a_text_that_was_changed_by_hand_outlives_a_try_of_the_fields(admin: Browser) -> None:
    admin.get("/rules/new")
    written = admin.field("written")
    as_shown = page.SAMPLE.replace("\n", "\r\n")  # as browsers send it
    assert admin.post("/rules/new", **FIELDS, rule=as_shown, written=written, act="try") == 200
    assert "name = &#34;second&#34;" in admin.text, "the text of the page is written anew from the fields"
    assert admin.post("/rules/new", **FIELDS, rule="# mine", written=written, act="try") == 200
    assert "># mine</textarea>" in admin.text
    assert "changed by hand" in admin.text


def test_a_rule_that_another_admin_changed_is_not_overwritten(console: ConsoleLab, admin: Browser) -> None:
    admin.post("/rules/new", **FIELDS, act="try")
    assert admin.post("/rules/new", **FIELDS, act="save", tried=admin.field("tried")) == 200
    other = console.browser(UserRole.ADMIN)
    assert other.post("/rules/second/change", **FIELDS, act="try") == 409
    assert "there is a rule second already" in other.text
    assert 'value="ROOM2; ROOM3"' in other.text


@pytest.mark.parametrize(
    "content",
    [
        {"when": {"modality": "US"}},
        {"when": {"study_description": "head; neck", "station": [" x"]}},
        {"when": {"modality": ["US", "IVUS"]}, "options": {"clean": False, "keep_words": ["R-CY", "L-M"]}},
        {"when": {"modality": "US"}, "options": {"keep_words": ["a;b"], "unknown": [1, 2]}},
        {"when": {"modality": "DX"}, "pipeline": "chest_xray", "options": {"prevalence": {"Effusion": 0.05}}},
        {"when": {"modality": "US"}, "daily_cap": 7, "tell_pacs_refusals": True, "priority": "low"},
        {"when": {"modality": "US"}, "max_study_age_days": 0, "secondary_captures_from": ["grabber"]},
        {"when": {"modality": "DX"}, "complete_from": "pacs", "priors": {"peer": "pacs", "most": 1}},
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
    as_text = {"then", "complete_from", "priors"}
    assert set(RuleSettings.model_fields) - {"when", "options"} - as_text <= names
    assert "rest" in names and "then = [" in admin.text, "conditions on results are written as text"
    assert {f"when.{key}" for key in Conditions.model_fields} <= names
    assert set(page.CONDITIONS) == set(Conditions.model_fields)
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


def test_a_pipeline_that_cannot_be_loaded_is_offered_without_options(
    admin: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(page.PIPELINES, "broken", None)
    monkeypatch.setattr(form, "card_of", lambda name: None)
    assert admin.get("/rules/new") == 200
    assert 'value="broken"' in admin.text


def test_conditions_on_results_are_read_from_the_text_and_come_back_as_it() -> None:
    then = [{"when": 'Odd "name", 50 % suspected', "send_to": ["er"], "notify": ["on-call"]}]
    content = {"name": "us", "when": {"modality": "US"}, "pipeline": "ultrasound", "send_to": ["pacs"]}
    fields = form.as_form({**content, "then": then})
    assert form.as_content(fields, "us") == ({**content, "then": then}, [])
