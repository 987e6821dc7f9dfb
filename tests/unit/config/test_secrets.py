"""A password is in nothing that is printed: settings, mistakes, events, logs, JSON."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from dicom_node.config.loading import load
from dicom_node.config.notifications import NotificationSettings
from dicom_node.config.settings import PeerSettings, Settings, TlsSettings
from dicom_node.events import CONFIGURATION_REFUSED, happened

SECRET = "hunter2"
CONFIG = f"""
[node]
database_url = "postgresql+psycopg://node:{SECRET}@db/node"
[[peers]]
name = "web"
ae_title = "WEB"
may = ["receive"]
transport = "dicomweb"
url = "https://pacs/dicom-web"
username = "node"
password = "{SECRET}"
[[peers]]
name = "rest"
ae_title = "REST"
may = ["receive"]
transport = "orthanc"
url = "https://node:{SECRET}@orthanc"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "node.toml"
    file.write_text(CONFIG, encoding="utf-8")
    return load([file])


def test_settings_show_no_secret_in_any_form(settings: Settings) -> None:
    changed = settings.model_copy(update={"peers": settings.peers[:1]})
    for one in (settings, changed, *settings.peers, settings.node):
        assert isinstance(one, BaseModel)
        shown = (
            repr(one),
            str(one),
            f"{one}",
            one.model_dump_json(),
            repr(one.model_dump()),
            str(one.__dict__),
        )
        shown += (json.dumps(one.model_dump(mode="json")), repr(list(one)))
        assert [text for text in shown if SECRET in text] == []
    assert SECRET not in repr(settings.fixed)


def test_an_error_about_settings_shows_no_secret(settings: Settings) -> None:
    given = json.loads(settings.for_children())
    given["peers"][0]["passwort"] = given["peers"][0].pop("password")
    given["node"]["database_url"] = [given["node"]["database_url"]]
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate(given)
    told = "".join(traceback.format_exception(raised.value))
    assert "passwort" in told and SECRET not in told


def test_events_and_logs_show_no_secret(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    event = happened(CONFIGURATION_REFUSED, keys=", ".join(map(str, settings.fixed.values())))
    with caplog.at_level(logging.DEBUG):
        logging.getLogger(__name__).info("%s %r %s", settings, settings.peers, event)
    assert SECRET not in caplog.text and SECRET not in repr(event)


def test_children_of_the_node_get_the_whole(settings: Settings) -> None:
    again = Settings.model_validate_json(settings.for_children())
    assert again == settings
    assert again.database_url == f"postgresql+psycopg://node:{SECRET}@db/node"
    assert [peer.password.get_secret_value() for peer in again.peers] == [SECRET, SECRET]
    assert pickle.loads(pickle.dumps(settings)) == settings


LISTED = (PeerSettings, TlsSettings, NotificationSettings)


def test_every_setting_that_sounds_like_a_secret_is_one() -> None:
    words = ("password", "token", "secret", "passphrase", "credential", "database_url")
    found = {
        (model.__name__, key): field.annotation
        for model in (
            PeerSettings,
            TlsSettings,
            NotificationSettings,
            *(type(value) for _, value in Settings()),
        )
        if isinstance(model, type) and issubclass(model, BaseModel)
        for key, field in model.model_fields.items()
        if any(word in key for word in words)
    }
    assert set(found) == {
        ("PeerSettings", "password"),
        ("PeerSettings", "token"),
        ("NodeSettings", "database_url"),
        ("ConsoleSettings", "metrics_token"),
        ("MailSettings", "password"),
        ("NotificationSettings", "token"),
        ("ObjectStoreSettings", "secret_access_key"),
    }
    assert set(found.values()) == {SecretStr}
