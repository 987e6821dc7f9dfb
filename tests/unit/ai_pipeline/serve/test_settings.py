"""Settings of the service: every mistake is named with its remedy, and no value of it."""

import re
from pathlib import Path

import pytest

from ai_pipeline.serve.settings import PREFIX, ServeSettings, SettingsError, load_settings
from tests import ROOT

TOKEN = "0123456789abcdef"


def test_without_settings_only_this_machine_is_served() -> None:
    settings = load_settings(None, {})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(f'port = 9000\nseconds = 20\ntoken = "{TOKEN}"\n', encoding="utf-8")
    settings = load_settings(file, {f"{PREFIX}PORT": "9001", "PORT": "9002"})
    assert (settings.port, settings.seconds) == (9001, 20)
    assert TOKEN not in repr(settings)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"HOST": "0.0.0.0"}, "set a token"),
        ({"HOST": "0.0.0.0", "TOKEN": TOKEN}, "set certificate and private_key"),
        ({"HOST": "node.example.org", "TOKEN": TOKEN}, "set certificate and private_key"),
        ({"CERTIFICATE": "a.pem"}, "must both be given"),
        ({"TOKEN": "short"}, "token"),
        ({"PROT": "8000"}, "prot: unknown key"),
        ({"BODY_MIB": "0", "PORT": "many"}, "body_mib"),
        ({"BODY_MIB": "0", "PORT": "many"}, "port"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(given: dict[str, str], remedy: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(remedy)) as caught:
        load_settings(None, {PREFIX + name: value for name, value in given.items()})
    assert "short" not in str(caught.value).replace("shorter", "")


@pytest.mark.parametrize(
    "protection", [{"plain_http": True}, {"certificate": "a.pem", "private_key": "a.key"}]
)
def test_others_are_served_with_a_token_and_tls_or_a_proxy(protection: dict[str, object]) -> None:
    assert ServeSettings.model_validate({"host": "0.0.0.0", "token": TOKEN} | protection).host == "0.0.0.0"


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("token = secret", encoding="utf-8")
    with pytest.raises(SettingsError, match=re.escape(str(file))):
        load_settings(file, {})


def test_every_setting_is_in_the_documentation() -> None:
    page = (ROOT / "docs" / "connect" / "serve.md").read_text(encoding="utf-8")
    assert [name for name in ServeSettings.model_fields if f"`{name}`" not in page] == []
