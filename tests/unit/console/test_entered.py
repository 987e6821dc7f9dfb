"""Peers and rules by page and command: checked, locked, never overwritten unseen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.config import loading
from dicom_node.config.settings import ConsoleSettings
from dicom_node.errors import ChangedMeanwhile, FaultyInput, NotAllowedNow
from dicom_node.events import ASSOCIATION_REJECTED
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered
from dicom_node.services.audit import Person
from dicom_node.store.entered import EnteredFile
from dicom_node.store.transitions import record
from tests.console_lab import ConsoleLab, config_file
from tests.inbox_lab import Inbox

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
    assert browser.get("/peers/new") == 200
    assert 'maxlength="16"' not in browser.text, "a title that is too long is refused, not cut"
    rest = "quiet_seconds = 7\nsilent_hours = 24"
    assert browser.post("/peers/new", **PEER, version="0", rest=rest) == 200, browser.text
    assert "us2 is saved" in browser.text
    settings = loading.load([config])
    assert (settings.peer("us2").quiet_seconds, settings.peer("us2").may) == (7, ("send",))
    assert browser.get("/peers/us2/change") == 200
    assert "silent_hours = 24" in browser.text
    assert browser.post("/peers/us2/change", **PEER, version="1", rest="") == 200
    assert loading.load([config]).peer("us2").quiet_seconds is None
    assert browser.post("/peers/us2/remove", version="1") == 409
    assert browser.post("/peers/us2/remove", version="2") == 200
    assert [peer.name for peer in loading.load([config]).peers] == ["pacs"]
    with console.database.read() as session:
        rows = audit.rows(session)
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


def test_a_machine_that_was_turned_away_is_added_with_what_is_known_of_it(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.ADMIN)
    with console.database.write() as session:
        record(
            session, ASSOCIATION_REJECTED, calling="ROOM 9", called="AINODE", address="192.0.2.9", meaning="x"
        )
    assert browser.get("/peers/why?caller=ROOM%209") == 200
    [link] = re.findall(r'href="(/peers/new[^"]*)"', browser.text)
    assert browser.get(link.replace("&amp;", "&")) == 200
    for value in ("room-9", "ROOM 9", "192.0.2.9"):
        assert f'value="{value}"' in browser.text


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
    assert second.post("/peers/us2/change", **PEER, version="2") == 409
    assert "removed" in second.text


def test_those_of_the_files_are_locked(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.ADMIN)
    assert browser.get("/peers/pacs/change") == 409
    assert browser.post("/peers/new", **PEER | {"name": "pacs"}, version="0") == 409
    assert "is in the configuration files" in browser.text
    browser.get("/peers")
    assert browser.text.count("locked") >= 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
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
    ],
)
def test_what_check_refuses_or_a_browser_must_not_do_is_not_saved(
    console: ConsoleLab, inbox: Inbox, given: dict[str, str], said: str
) -> None:
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/peers/new", **{**PEER, **given}, version="0") == 400
    assert said in browser.text.replace("&#39;", "'")
    assert not (inbox.folder / "entered.toml").exists()


def test_a_rule_of_the_text_box_is_saved_changed_and_removed(console: ConsoleLab, inbox: Inbox) -> None:
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/rules/new", rule=RULE, act="try_text", version="0") == 200
    mark = browser.field("tried")
    assert browser.post("/rules/new", rule=RULE, act="save_text", version="0", tried=mark) == 200
    assert 'name = "second"' in (inbox.folder / "entered.toml").read_text()
    other = RULE.replace("second", "other")
    assert browser.post("/rules/second/change", rule=other, act="try_text", version="1") == 400
    assert browser.post("/rules/second/remove", version="1") == 200


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (RULE.replace('"ultrasound"', '"command"'), "programs belong in the configuration files"),
        (RULE.replace('"ultrasound"', '"container"'), "programs belong in the configuration files"),
        (RULE.replace('"pacs"', '"nobody"'), "no such peer"),
        (RULE.replace('{ station = "ROOM2" }', "{}"), "has no condition"),
        (RULE.replace('"ultrasound"', '"ultrasonic"'), "pipeline"),
        ("", "write the keys of one rule"),
        ("x" * 17000, "too long"),
    ],
)
def test_a_rule_with_mistakes_is_not_saved(console: ConsoleLab, rule: str, said: str) -> None:
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/rules/new", rule=rule, act="save_text", version="0") == 400
    assert said in browser.text


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


def test_a_lost_file_is_written_anew_from_the_database(inbox: Inbox, config: Path) -> None:
    entered.save(loading.load([config]), "peers", {"name": "us2", "ae_title": "US2"}, by=Person("anna"))
    (inbox.folder / "entered.toml").unlink()
    file = EnteredFile(inbox.database, inbox.folder)
    assert file.renew()
    assert not file.renew()
    assert loading.load([config]).peer("us2").ae_title == "US2"


def test_the_command_line_does_the_same(inbox: Inbox, config: Path, tmp_path: Path) -> None:
    file = tmp_path / "us2.toml"
    file.write_text('[[peers]]\nname = "us2"\nae_title = "US2"\n')
    run = CliRunner()
    put = run.invoke(app, ["peers", "put", str(file), "--config", str(config)])
    assert "us2 is saved" in put.output, put.output
    rule = tmp_path / "rule.toml"
    rule.write_text(RULE)
    assert run.invoke(app, ["rules", "put", str(rule), "--config", str(config)]).exit_code == 0
    assert '"us2"' in run.invoke(app, ["peers", "list", "--json", "--config", str(config)]).output
    for words in (["rules", "remove", "second"], ["peers", "remove", "us2"]):
        assert run.invoke(app, [*words, "--config", str(config)]).exit_code == 0
    assert [peer.name for peer in loading.load([config]).peers] == ["pacs"]
    file.write_bytes(b"\xff")
    assert run.invoke(app, ["peers", "put", str(file), "--config", str(config)]).exit_code != 0


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"host": "127.0.0.1", "port": "104"}, "host"),
        ({"host": "localhost", "port": "104"}, "host"),
        ({"host": "169.254.169.254", "port": "80"}, "host"),
        ({"host": "192.0.2.1", "port": "1", "rest": 'query_host = "::1"'}, "rest"),
        ({"rest": 'transport = "orthanc"\nurl = "http://2130706433:8042"'}, "rest"),
        ({"rest": 'transport = "dicomweb"\nurl = "http://[::ffff:169.254.169.254]/latest"'}, "rest"),
    ],
)
def test_a_browser_points_the_node_at_itself_only_where_a_file_allows_it(
    inbox: Inbox, console: ConsoleLab, keys: dict[str, str], field: str
) -> None:
    strict = inbox.settings.model_copy(update={"console": ConsoleSettings()})
    form = PEER | {"may": "receive", "results": "sr"} | keys
    refused = ConsoleLab(strict, inbox.database).browser(UserRole.ADMIN)
    assert refused.post("/peers/new", **form, version="0") == 400
    assert "console.local_peers" in refused.fault(field)
    assert console.browser(UserRole.ADMIN).post("/peers/new", **form, version="0") == 200


def test_a_browser_cannot_say_that_a_peer_is_of_a_file(console: ConsoleLab, config: Path) -> None:
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/peers/new", **PEER, version="0", rest="entered = false") == 400
    assert browser.post("/peers/new", **PEER, version="0") == 200
    assert [peer.entered for peer in loading.load([config]).peers] == [False, True]
