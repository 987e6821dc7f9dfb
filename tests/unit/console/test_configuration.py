"""Peers, rules and models by page and command: checked, locked, tested, never overwritten unseen."""

import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ai_pipeline.chest import trial
from ai_pipeline.models.registry import SHIPPED
from ai_pipeline.pipelines import cards
from dicom_console.forms import rule as form
from dicom_console.views.metrics import gauges
from dicom_node.config import loading
from dicom_node.config.loading import undercuts
from dicom_node.config.settings import Conditions, ConsoleSettings, RuleSettings, Settings
from dicom_node.errors import ChangedMeanwhile, FaultyInput, NotAllowedNow
from dicom_node.events import ASSOCIATION_REJECTED
from dicom_node.model.lifecycle import RequestedState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered, models, rules
from dicom_node.services.entered import PROGRAMS
from dicom_node.store import requested
from dicom_node.store.tables import RequestedCommitment
from dicom_node.store.transitions import utc_now
from tests.console_lab import Browser, ConsoleLab, Program, config_file
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import small_xray

GOOD = """
[[rules]]
name = "all"
when = { modality = "*" }
pipeline = "ultrasound"
send_to = ["pacs"]
max_study_age_days = 0
"""


def test_peers_are_listed_with_what_they_did_last_and_no_secret(console: ConsoleLab, inbox: Inbox) -> None:
    secret = {"username": "someone", "password": "hidden-word", "url": "https://pacs.example/orthanc"}
    peers = [one.model_copy(update=secret if one.name == "pacs" else {}) for one in console.settings.peers]
    console.take(console.settings.model_copy(update={"peers": tuple(peers)}))
    inbox.opened("one")
    inbox.receive(ultrasound("one"), association="one")
    inbox.released("one")
    inbox.tell(ASSOCIATION_REJECTED, "two", calling="STRANGER", meaning="calling AE title not recognized")
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    below = ("", "/modality", "/pacs", "/why?caller=STRANGER")
    listed, modality, pacs, stranger = (browser.page(f"/peers{path}") for path in below)
    assert re.search(r"modality</a>.*?released", listed, re.DOTALL)
    assert "pacs.example" not in listed, "results go by DIMSE: its host and port are the address"
    assert "/peers/why?caller=STRANGER" in listed and "ae_title = &#34;STRANGER&#34;" in stranger
    assert "Test the connection" not in modality
    assert not any(word in listed + modality + pacs + stranger for word in ("hidden-word", "someone"))
    assert browser.get("/peers/nobody") == 404
    assert "did not call in this time" in browser.page("/peers/why?caller=NEVER")


def test_the_page_of_a_peer_lists_the_commitments_that_wait_for_a_report(
    console: ConsoleLab, inbox: Inbox
) -> None:
    asking = {"host": "127.0.0.1", "port": 104, "commit_after": "delivered"}
    known = console.settings.peers
    peers = [one.model_copy(update=asking if one.name == "modality" else {}) for one in known]
    browser = console.browser(UserRole.VIEWER)
    assert "Storage commitment" not in browser.page("/peers/modality")
    console.take(console.settings.model_copy(update={"peers": tuple(peers)}))
    assert "It has a report on all that it asked for." in browser.page("/peers/modality")
    for uid in ("2.25.1", "2.25.2"):
        inbox.write(requested.keep, "modality", "MODALITY", uid, ["1.2 1.3", "1.4 1.3"], utc_now())
    inbox.put(RequestedCommitment, reason="cannot connect")
    inbox.put(RequestedCommitment, 1, state=RequestedState.REPORTED)
    assert "…2.25.2" in browser.page("/peers/modality") and "2.25.1" not in browser.text
    assert '<td data-label="objects">2</td>' in browser.text and "cannot connect" in browser.text
    counted = {one.labels: one.value for one in inbox.read(gauges, console.settings) if "commit" in one.name}
    assert counted == {(("state", "waiting"),): 1, (("state", "decided"),): 0}


def test_rules_say_what_they_make_of_recent_studies(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"), small_xray("two"))
    browser = console.browser(UserRole.VIEWER)
    assert "no rule applies; closest is ultrasound" in browser.page("/rules")
    assert "Try changed rules" not in browser.text
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/rules/try", rules=GOOD) == 200
    assert "2 of 2 studies would be taken by other rules" in browser.text
    assert browser.post("/rules/try", rules=rules.as_toml(console.settings)) == 200
    assert "0 of 2 studies" in browser.text
    assert [job.rule for job in inbox.jobs()] == ["ultrasound"]


def model_in(console: ConsoleLab, slot: str) -> str:
    """The model that runs in a slot, "" for none."""
    return {one.slot: one.model for one in models.in_use(console.settings)}[slot]


def test_a_model_of_the_sites_own_is_put_into_use_and_back(console: ConsoleLab, tmp_path: Path) -> None:
    admin = console.browser(UserRole.ADMIN)
    place = "/models/chest-efficientnet-lite0/9.9"
    assert admin.post(f"{place}/activate", pipeline="chest_xray") == 409
    assert "workers.models_dir" in admin.text
    own = tmp_path / "models" / "chest-efficientnet-lite0" / "9.9"
    own.mkdir(parents=True)
    text = (SHIPPED / "chest-efficientnet-lite0.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert version
    (own / "card.toml").write_text(text.replace(version[0], 'version = "9.9"', 1), encoding="utf-8")
    for part in SHIPPED.parent.joinpath("weights").glob("chest-efficientnet-lite0*"):
        shutil.copy(part, own)
    console.change("workers", models_dir=tmp_path / "models")
    assert "Let chest_xray use it" in admin.page(place)
    assert admin.post(f"{place}/activate", pipeline="nothing") == 404
    assert admin.post(f"{place}/activate", pipeline="chest_xray") == 303, admin.text
    assert model_in(console, "chest_xray") == "chest-efficientnet-lite0@9.9"
    admin.follow()
    assert "Roll back" in admin.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "note", Mock(side_effect=RuntimeError("the audit takes nothing")))
        patch.setattr(trial, "try_out", lambda *_: None)
        for address in (f"{place}/activate", "/models/chest_xray/rollback"):
            assert admin.post(address, pipeline="chest_xray_boxes") == 500
    assert model_in(console, "chest_xray") == "chest-efficientnet-lite0@9.9"
    assert "9.9" not in model_in(console, "chest_xray_boxes"), "changed without a record"
    assert [admin.post("/models/chest_xray/rollback") for _ in range(2)] == [303, 409]
    assert model_in(console, "chest_xray") == f"chest-efficientnet-lite0@{version[1]}"
    assert len(console.audited("model_activated")) == len(console.audited("model_rollback")) == 1


PEER = {"name": "us2", "ae_title": "US2", "may": "send"}


RULE = """\
name = "second"
when = { station = "ROOM2" }
pipeline = "ultrasound"
send_to = ["pacs"]
"""


@pytest.fixture
def config(inbox: Inbox) -> Path:
    """A configuration file with the peers of the node."""
    return config_file(inbox.settings, "[console]\nlocal_peers = true\n")


def test_a_peer_is_added_changed_and_removed_by_an_admin(console: ConsoleLab, config: Path) -> None:
    browser = console.browser(UserRole.ADMIN)
    assert 'maxlength="16"' not in browser.page("/peers/new"), "a title that is too long is refused, not cut"
    rest = "quiet_seconds = 7\nsilent_hours = 24"
    assert browser.post("/peers/new", **PEER, version="0", rest=rest) == 200, browser.text
    assert "us2 is saved" in browser.text
    settings = loading.load([config])
    assert (settings.peer("us2").quiet_seconds, settings.peer("us2").may) == (7, ("send",))
    assert "silent_hours = 24" in browser.page("/peers/us2/change")
    assert browser.post("/peers/us2/change", **PEER, version="1", rest="") == 200
    assert loading.load([config]).peer("us2").quiet_seconds is None
    assert browser.post("/peers/us2/remove", version="1") == 409
    assert browser.post("/peers/us2/remove", version="2") == 200
    assert [peer.name for peer in loading.load([config]).peers] == ["pacs"]
    rows = console.audit_rows()
    assert [row["action"] for row in rows[:3]] == ["peer_removed", "peer_saved", "peer_saved"]


def test_mistakes_of_a_peer_stand_beside_their_fields_all_at_once(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.ADMIN)
    wrong = {
        "ae_title": "x" * 17,
        "port": "many",
        "may": "receive",
        "host": "h",
        "rest": "colour = 1\ncharset = 2",
    }
    assert browser.post("/peers/new", **PEER | wrong, version="0") == 400
    assert "more than 16 characters" in browser.fault("ae_title")
    assert browser.fault("port") == "must be a number"
    assert "choose at least one" in browser.fault("results")
    assert "colour: unknown key" in browser.fault("rest") and "charset: 2" in browser.fault("rest")
    assert "peers." not in browser.text
    assert browser.post("/peers/new", **PEER | {"may": "receive", "results": "sr"}, version="0") == 400
    assert "host and port are missing" in browser.fault("host")
    assert browser.post("/peers/new", **PEER | {"name": "pacs"}, version="0") == 409
    assert "is in the configuration files" in browser.fault("name")


def test_the_second_of_two_admins_is_told_and_nothing_is_lost(console: ConsoleLab, config: Path) -> None:
    first, second = console.browser(UserRole.ADMIN), console.browser(UserRole.ADMIN)
    first.post("/peers/new", **PEER, version="0")
    second.get("/peers/us2/change")
    first.post("/peers/us2/change", **PEER | {"ae_title": "FIRST"}, version="1")
    assert second.post("/peers/us2/change", **PEER | {"ae_title": "SECOND"}, version="1") == 409
    assert "admin changed us2 at" in second.text
    assert 'value="SECOND"' in second.text, "what was entered is still there"
    assert 'href="/peers/us2/change"' in second.text, "and what it is now can be opened"
    assert loading.load([config]).peer("us2").ae_title == "FIRST"
    assert second.post("/peers/new", **PEER, version="0") == 409
    first.post("/peers/us2/remove", version="2")
    assert second.post("/peers/us2/change", **PEER, version="2") == 409 and "removed" in second.text


REFUSED: tuple[tuple[dict[str, str], str], ...] = (
    ({"ae_title": "MODALITY"}, "the same AE title"),
    ({"ae_title": "x" * 17}, "ae_title"),
    ({"name": "PACS"}, "differs from pacs in capitals only"),
    ({"may": "receive"}, "host and port are missing"),
    ({"may": ""}, "to be queried"),
    ({"port": "99999"}, "port"),
    ({"port": "x"}, "must be a number"),
    ({"rest": "nonsense = 1"}, "nonsense"),
    ({"rest": "= 1"}, "no TOML"),
    ({"rest": "x = " + "[" * 5000}, "no TOML"),
    ({"rest": "tls = 2020-01-01"}, "of a kind that no setting has"),
    ({"rest": "port = 1"}, "there is a field"),
    ({"rest": 'assume_charset = "LATIN"'}, "assume_charset"),
    ({"rest": 'password = "x"'}, "belongs in the configuration files"),
    ({"host": "${file:/etc/passwd}"}, "for the configuration files only"),
    ({"rest": 'url = "http://u:p@h"'}, "belongs in the configuration files"),
    ({"rest": "entered = false"}, "entered"),
)


def test_what_check_refuses_or_a_browser_must_not_do_is_not_saved(console: ConsoleLab, inbox: Inbox) -> None:
    browser = console.browser(UserRole.ADMIN)
    for given, said in REFUSED:
        assert browser.post("/peers/new", **{**PEER, **given}, version="0") == 400, given
        assert said in browser.text.replace("&#39;", "'"), given
    assert entered_in(inbox) == ""


def test_a_peer_that_a_rule_sends_to_stays(inbox: Inbox, config: Path) -> None:
    settings = loading.load([config])
    pacs2 = {"name": "pacs2", "ae_title": "P2", "host": "127.0.0.1", "port": 2, "may": ["receive"]}
    entered.save(settings, "peers", pacs2)
    settings = loading.load([config])
    entered.save(settings, "rules", entered.parsed("rules", RULE.replace('"pacs"', '"pacs2"')))
    with pytest.raises(FaultyInput, match="no such peer"):
        entered.remove(loading.load([config]), "peers", "pacs2")
    with pytest.raises(ChangedMeanwhile):
        entered.remove(loading.load([config]), "rules", "second", version=7)
    with pytest.raises(NotAllowedNow):
        entered.save(loading.load([config]), "peers", {**pacs2, "name": "pacs"})


OF_THIS_MACHINE: tuple[tuple[dict[str, str], str], ...] = (
    ({"host": "127.0.0.1", "port": "104"}, "host"),
    ({"host": "localhost", "port": "104"}, "host"),
    ({"host": "169.254.169.254", "port": "80"}, "host"),
    ({"host": "192.0.2.1", "port": "1", "rest": 'query_host = "::1"'}, "rest"),
    ({"rest": 'transport = "orthanc"\nurl = "http://2130706433:8042"'}, "rest"),
    ({"rest": 'transport = "dicomweb"\nurl = "http://[::ffff:169.254.169.254]/latest"'}, "rest"),
)


def test_a_browser_points_the_node_at_itself_only_where_a_file_allows_it(
    inbox: Inbox, console: ConsoleLab
) -> None:
    strict = inbox.settings.model_copy(update={"console": ConsoleSettings()})
    refused, allowed = (one.browser(UserRole.ADMIN) for one in (ConsoleLab(strict, inbox.database), console))
    for number, (keys, field) in enumerate(OF_THIS_MACHINE):
        named = {"name": f"us{number}", "ae_title": f"US{number}", "may": "receive", "results": "sr"}
        assert refused.post("/peers/new", **named | keys, version="0") == 400, keys
        assert "console.local_peers" in refused.fault(field), keys
        assert allowed.post("/peers/new", **named | keys, version="0") == 200, keys


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


def test_the_form_makes_the_lines_of_the_file_once_it_was_seen_what_they_make(
    admin: Browser, inbox: Inbox
) -> None:
    assert admin.post("/rules/new", **FIELDS, act="save") == 200 and "Not saved yet" in admin.text
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
    assert "there is a rule second already" in admin.text and 'value="ROOM2; ROOM3"' in admin.text


MISTAKES: tuple[tuple[dict[str, str], str, str], ...] = (
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
)


def test_a_mistake_stands_beside_its_field_and_nothing_typed_is_lost(admin: Browser, inbox: Inbox) -> None:
    for given, field, said in MISTAKES:
        filled = {**FIELDS, **given}
        assert admin.post("/rules/new", **filled, act="save") == 400, given
        assert said in admin.fault(field), given
        for name, value in filled.items():
            if value and name not in given and name.startswith(("when.", "name", "options.ultrasound")):
                assert value in admin.text, (given, name)
        for value in filter(None, given.values()):
            assert value.replace("'", "&#39;").replace('"', "&#34;") in admin.text, given
    assert entered_in(inbox) == ""


def test_the_text_fills_the_fields(admin: Browser) -> None:
    assert admin.post("/rules/new", rule=TEXT, act="try_text", version="0") == 200
    assert 'value="ROOM2; ROOM3"' in admin.text
    assert admin.post("/rules/new", rule=TEXT + "= 1", act="try_text", version="0", name="typed") == 400
    assert "no TOML" in admin.text
    assert "assess_first = true\n= 1" in admin.text, "the text is still there"
    assert 'value="typed"' in admin.text, "and so are the fields"


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


FIELDS_holds = {
    "name": "held", "version": "0", "when.station": "ROOM2", "pipeline": "ultrasound", "send_to": "pacs",
    "priority": "routine", "max_study_age_days": "7", "daily_cap": "", "assess_first": "true", "rest": "",
}  # fmt: skip


SAYS = "gets by it at once what held holds of the same study"


def test_the_form_of_a_rule_saves_it_only_with_the_tick(console: ConsoleLab, admin: Browser) -> None:
    assert admin.post("/rules/new", **FIELDS_holds, act="try") == 200 and SAYS in admin.text
    mark = admin.field("tried")
    assert admin.post("/rules/new", **FIELDS_holds, act="save", tried=mark) == 200
    assert 'name="despite_hold"' in admin.text and not console.read(entered.listed, "rules")
    assert admin.post("/rules/new", **FIELDS_holds, act="save", tried=mark, despite_hold="true") == 200
    assert "held is saved." in admin.text
    assert SAYS in admin.text, "the page that says that it is saved shows the warnings"
    assert "in_force.js" not in admin.text, "and stays until it was read"
    assert list(console.read(entered.listed, "rules")) == ["held"]
    assert SAYS in str(console.audited("rule_saved"))


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


@pytest.fixture
def silent(inbox: Inbox) -> Iterator[socket.socket]:
    """A peer that takes connections, and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pacs = inbox.settings.peers[-1].model_copy(update={"port": server.getsockname()[1]})
        peers = (*inbox.settings.peers[:-1], pacs)
        inbox.settings = inbox.settings.model_copy(update={"peers": peers})
        yield server


def test_a_third_test_at_the_same_time_is_put_off_by_page_and_by_program(
    silent: socket.socket, inbox: Inbox
) -> None:
    console = ConsoleLab(inbox.settings, inbox.database)
    answers: list[int] = []

    def test() -> None:
        answers.append(Program(console, UserRole.OPERATOR).ask("POST", "/peers/pacs/test")[0])

    running = [threading.Thread(target=test) for _ in range(2)]
    for thread in running:
        thread.start()
    taken = [silent.accept()[0] for _ in running]
    try:
        test()
        assert answers == [503]
        browser = console.browser(UserRole.OPERATOR)
        assert browser.post("/peers/pacs/test") == 503 and "Other tests are under way" in browser.text
    finally:
        for connection in (silent, *taken):
            connection.close()
        for thread in running:
            thread.join()
    assert answers == [503, 200, 200]
