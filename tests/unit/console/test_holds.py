"""A hold that another rule undercuts is confirmed where it is entered, and stands on the overview."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.config.holds import undercuts
from dicom_node.config.settings import Settings
from dicom_node.errors import HoldUndercut
from dicom_node.model.roles import UserRole
from dicom_node.services import entered
from tests.console_lab import ConsoleLab, Program, config_file

FIELDS = {
    "name": "held", "version": "0", "when.station": "ROOM2", "pipeline": "ultrasound", "send_to": "pacs",
    "priority": "routine", "max_study_age_days": "7", "daily_cap": "", "assess_first": "true", "rest": "",
}  # fmt: skip
RULE: dict[str, Any] = {
    "when": {"station": "ROOM2"}, "pipeline": "ultrasound", "send_to": ["pacs"], "assess_first": True,
}  # fmt: skip
SAYS = "gets by it at once what held holds of the same study"


def kept(console: ConsoleLab) -> list[str]:
    """Rules that were entered."""
    with console.database.read() as session:
        return list(entered.listed(session, "rules"))


def test_the_form_of_a_rule_saves_it_only_with_the_tick(console: ConsoleLab) -> None:
    admin = console.browser(UserRole.ADMIN)
    assert admin.post("/rules/new", **FIELDS, act="try") == 200
    assert SAYS in admin.text
    mark = admin.field("tried")
    assert admin.post("/rules/new", **FIELDS, act="save", tried=mark) == 200
    assert 'name="despite_hold"' in admin.text
    assert kept(console) == []
    assert admin.post("/rules/new", **FIELDS, act="save", tried=mark, despite_hold="true") == 200
    assert "held is saved." in admin.text
    assert SAYS in admin.text, "the page that says that it is saved shows the warnings"
    assert "in_force.js" not in admin.text, "and stays until it was read"
    assert kept(console) == ["held"]
    assert SAYS in str(console.audited("rule_saved"))


def test_a_program_saves_it_only_with_the_field(console: ConsoleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entered, "apply", lambda _: 0)
    admin = Program(console, UserRole.ADMIN)
    status, answer = admin.ask("PUT", "/rules/held", json=RULE)
    assert status == 409 and SAYS in answer["error"] and "despite_hold" in answer["error"]
    assert kept(console) == []
    status, answer = admin.ask("PUT", "/rules/held", json=RULE, params={"despite_hold": True})
    assert status == 200 and any(SAYS in line for line in answer["warnings"])
    assert kept(console) == ["held"]


def test_one_that_is_known_is_not_confirmed_again(console: ConsoleLab) -> None:
    content = {"name": "held", **RULE}
    entered.save(console.settings, "rules", content, despite_hold=True)
    now = console.settings.model_copy(
        update={"rules": (*console.settings.rules, settings_of(console, content).rules[-1])}
    )
    assert entered.save(now, "rules", content | {"priority": "low"}).version == 2


def test_the_form_of_a_peer_asks_too_where_it_becomes_the_place_of_another(console: ConsoleLab) -> None:
    settings = settings_of(console, {"name": "held", **RULE, "send_to": ["elsewhere"]}, elsewhere=True)
    console.take(settings)
    assert list(undercuts(settings)) == []
    pacs = settings.peer("pacs")
    same = {"name": "elsewhere", "ae_title": pacs.ae_title, "host": pacs.host, "port": str(pacs.port)}
    fields = {**same, "may": "receive", "results": "sr", "version": "1", "rest": ""}
    admin = console.browser(UserRole.ADMIN)
    assert admin.post("/peers/elsewhere/change", **fields) == 409
    assert SAYS in admin.text and 'name="despite_hold"' in admin.text
    assert admin.post("/peers/elsewhere/change", **fields, despite_hold="true") == 200
    assert SAYS in admin.text


def test_it_stands_on_the_overview_while_it_is_so(console: ConsoleLab) -> None:
    viewer = console.browser(UserRole.VIEWER)
    assert viewer.get("/") == 200 and SAYS not in viewer.text
    before = console.settings
    console.take(settings_of(console, {"name": "held", **RULE}))
    assert viewer.get("/") == 200 and SAYS in viewer.text
    console.take(before)
    assert viewer.get("/") == 200 and SAYS not in viewer.text


def test_the_command_line_wants_its_option(console: ConsoleLab, tmp_path: Path) -> None:
    rule = (
        '[[rules]]\nname = "free"\npipeline = "ultrasound"\nwhen = { modality = "US" }\nsend_to = ["pacs"]\n'
    )
    file, keys = config_file(console.settings, rule), tmp_path / "held.toml"
    keys.write_text(entered.as_text("rules", {"name": "held", **RULE}))
    words = ["rules", "put", str(keys), "--config", str(file)]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, HoldUndercut)
    assert kept(console) == []
    saved = CliRunner().invoke(app, [*words, "--despite-hold"])
    assert "held is saved" in saved.output and SAYS in saved.output.replace("\n", " ")
    assert kept(console) == ["held"]


@pytest.mark.parametrize(
    ("held", "free", "expected"),
    [
        ({"modality": "US"}, {"modality": "US"}, True),
        ({"modality": "US"}, {"modality": ["DX", "CR"]}, False),
        ({"modality": "US"}, {"modality": ["DX", "us"]}, True),
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
    assert bool(list(undercuts(Settings.model_validate({"rules": rules})))) is expected


def settings_of(console: ConsoleLab, rule: dict[str, Any], *, elsewhere: bool = False) -> Settings:
    """Those of the console with one rule more; ``elsewhere``: and a peer that was entered."""
    settings = console.settings
    if elsewhere:
        place = {"name": "elsewhere", "ae_title": "ELSE", "host": "127.0.0.1", "port": 4711}
        peer = {**place, "may": ["receive"], "results": ["sr"]}
        entered.save(settings, "peers", peer)
        more = Settings.model_validate({"peers": [peer]}).peers
        settings = settings.model_copy(update={"peers": (*settings.peers, *more)})
    made = Settings.model_validate({"rules": [rule]}).rules
    return settings.model_copy(update={"rules": (*settings.rules, *made)})
