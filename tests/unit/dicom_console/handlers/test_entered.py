"""Peers and rules that an admin enters: checked, locked, never overwritten unseen."""

import errno
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from dicom_node.base.config import loading
from dicom_node.base.config.settings import ConsoleSettings
from dicom_node.base.errors import FaultyInput, NotAllowedNow
from dicom_node.base.lifecycle import JobState, UserRole
from dicom_node.base.store.tables import Delivery
from dicom_node.people import entered
from tests.console_lab import Browser, ConsoleLab, config_file, entered_in
from tests.inbox_lab import Inbox
from tests.rows import NOW, a_job, a_result, a_study

FORM = {"name": "us2", "ae_title": "US2", "may": "send"}


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


def test_a_peer_is_added_changed_and_removed_by_an_admin(
    console: ConsoleLab, admin: Browser, config: Path
) -> None:
    assert 'maxlength="16"' not in admin.page("/peers/new"), "a title that is too long is refused, not cut"
    rest = "quiet_seconds = 7\nsilent_hours = 24"
    assert admin.post("/peers/new", **FORM, version="0", rest=rest) == 200, admin.text
    assert "us2 is saved" in admin.text
    settings = loading.load([config])
    assert (settings.peer("us2").quiet_seconds, settings.peer("us2").may) == (7, ("send",))
    assert "silent_hours = 24" in admin.page("/peers/us2/change")
    assert admin.post("/peers/us2/change", **FORM, version=admin.field("version"), rest="") == 200
    assert loading.load([config]).peer("us2").quiet_seconds is None
    console.add(study := a_study("1.2.3"))
    console.add(job := a_job(study, JobState.SUCCEEDED))
    console.add(result := a_result(job))
    console.add(Delivery(result_id=result.id, destination="us2", next_at=NOW))
    console.take(loading.load([config]))
    assert "1 result waits for it, and will be given up" in admin.page("/peers/us2")
    admin.page("/peers/us2/change")
    assert admin.post("/peers/us2/remove", version=admin.field("version")) == 200
    assert [peer.name for peer in loading.load([config]).peers] == ["pacs"]
    assert [row["action"] for row in console.audit_rows()[:3]] == ["peer_removed", "peer_saved", "peer_saved"]
    assert "peer us2 removed" in admin.page("/entered")
    assert admin.post("/entered/1/undo") == 200
    assert loading.load([config]).peer("us2").quiet_seconds == 7


def test_mistakes_of_a_peer_stand_beside_their_fields_all_at_once(admin: Browser) -> None:
    wrong = {
        "ae_title": "x" * 17,
        "port": "many",
        "may": "receive",
        "host": "h",
        "rest": "colour = 1\ncharset = 2",
    }
    assert admin.post("/peers/new", **FORM | wrong, version="0") == 400
    assert "more than 16 characters" in admin.fault("ae_title")
    assert admin.fault("port") == "must be a number"
    assert "choose at least one" in admin.fault("results")
    assert "colour: unknown key" in admin.fault("rest")
    assert "charset: 2" in admin.fault("rest")
    assert "peers." not in admin.text
    assert admin.post("/peers/new", **FORM | {"may": "receive", "results": "sr"}, version="0") == 400
    assert "host and port are missing" in admin.fault("host")
    assert admin.post("/peers/new", **FORM | {"name": "pacs"}, version="0") == 409
    assert "is in the configuration files" in admin.fault("name")


def test_the_second_of_two_admins_is_told_and_nothing_is_lost(console: ConsoleLab, config: Path) -> None:
    first, second = console.browser(UserRole.ADMIN), console.browser(UserRole.ADMIN)
    first.post("/peers/new", **FORM, version="0")
    second.get("/peers/us2/change")
    seen = second.field("version")
    first.post("/peers/us2/change", **FORM | {"ae_title": "FIRST"}, version=seen)
    assert second.post("/peers/us2/change", **FORM | {"ae_title": "SECOND"}, version=seen) == 409
    assert "admin: peer us2" in second.text
    assert 'value="SECOND"' in second.text, "what was entered is still there"
    assert 'href="/peers/us2/change"' in second.text, "and what it is now can be opened"
    assert loading.load([config]).peer("us2").ae_title == "FIRST"
    assert second.post("/peers/new", **FORM, version="0") == 409
    first.get("/peers/us2/change")
    first.post("/peers/us2/remove", version=first.field("version"))
    assert second.post("/peers/us2/change", **FORM, version=seen) == 409
    assert "removed" in second.text


def test_what_check_refuses_or_a_browser_must_not_do_is_not_saved(admin: Browser, inbox: Inbox) -> None:
    for typed, said in (
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
    ):
        assert admin.post("/peers/new", **{**FORM, **typed}, version="0") == 400, typed
        assert said in admin.text.replace("&#39;", "'"), typed
    assert entered_in(inbox) == ""


@pytest.mark.parametrize(
    ("step", "does", "says"),
    [
        ("write_new", Mock(side_effect=OSError(errno.ENOSPC, "no space")), "no space"),
        ("write_new", Mock(side_effect=FileExistsError), "somebody else"),
        ("bucket_of", Mock(), "share no folder"),
    ],
)
def test_where_nothing_can_be_entered_the_reason_is_said_and_nothing_is_noted(
    console: ConsoleLab, monkeypatch: pytest.MonkeyPatch, step: str, does: Mock, says: str
) -> None:
    monkeypatch.setattr(entered, step, does)
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/peers/new", **FORM, version="0") == 409
    assert says in browser.fault("name")
    assert console.audited("peer_saved") == []


def test_what_a_hand_wrote_stays(inbox: Inbox, config: Path) -> None:
    settings = loading.load([config])
    us2 = {"name": "us2", "ae_title": "US2", "may": ["send"]}
    seen = entered.save_entry(settings, "peers", us2, 0).version
    file = inbox.folder / "entered" / "000001.toml"
    file.write_text("# of the site\n" + file.read_text().replace('"US2"', '"HAND"  # moved'))
    with pytest.raises(NotAllowedNow):
        entered.save_entry(settings, "peers", us2, seen)
    check = entered._checked

    def edited_meanwhile(*given: Any) -> entered.Warned:
        file.write_text(f"{file.read_text()}# once more\n")
        return check(*given)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(NotAllowedNow):
        patch.setattr(entered, "_checked", edited_meanwhile)
        entered.remove_entry(settings, "peers", "us2")
    entered.save_entry(settings, "peers", {**us2, "ae_title": "HAND", "quiet_seconds": 7})
    text = entered_in(inbox)
    assert text.startswith("# of the site\n")
    assert 'ae_title = "HAND"  # moved' in text
    assert "quiet_seconds = 7" in text
    assert "# once more" in text
    assert sorted(one.name for one in file.parent.iterdir()) == ["000001.toml", "000002.toml"], (
        "no file is left behind"
    )


def test_a_peer_that_a_rule_sends_to_stays(inbox: Inbox, config: Path) -> None:
    settings = loading.load([config])
    pacs2 = {"name": "pacs2", "ae_title": "P2", "host": "127.0.0.1", "port": 2, "may": ["receive"]}
    entered.save_entry(settings, "peers", pacs2)
    settings = loading.load([config])
    entered.save_entry(settings, "rules", entered.parse_entry("rules", RULE.replace('"pacs"', '"pacs2"')))
    with pytest.raises(FaultyInput, match="no such peer"):
        entered.remove_entry(loading.load([config]), "peers", "pacs2")
    with pytest.raises(NotAllowedNow):
        entered.remove_entry(loading.load([config]), "rules", "second", version=7)
    with pytest.raises(NotAllowedNow):
        entered.save_entry(loading.load([config]), "peers", {**pacs2, "name": "pacs"})


def test_a_browser_points_the_node_at_itself_only_where_a_file_allows_it(
    inbox: Inbox, console: ConsoleLab
) -> None:
    strict = inbox.settings.model_copy(update={"console": ConsoleSettings()})
    refused, allowed = (one.browser(UserRole.ADMIN) for one in (ConsoleLab(strict, inbox.database), console))
    for number, (keys, name) in enumerate(
        (
            ({"host": "127.0.0.1", "port": "104"}, "host"),
            ({"host": "localhost", "port": "104"}, "host"),
            ({"host": "169.254.169.254", "port": "80"}, "host"),
            ({"host": "192.0.2.1", "port": "1", "rest": 'query_host = "::1"'}, "rest"),
            ({"rest": 'transport = "orthanc"\nurl = "http://2130706433:8042"'}, "rest"),
            ({"rest": 'transport = "dicomweb"\nurl = "http://[::ffff:169.254.169.254]/latest"'}, "rest"),
        )
    ):
        named = {"name": f"us{number}", "ae_title": f"US{number}", "may": "receive", "results": "sr"}
        assert refused.post("/peers/new", **named | keys, version="0") == 400, keys
        assert "console.local_peers" in refused.fault(name), keys
        assert allowed.post("/peers/new", **named | keys, version="0") == 200, keys
