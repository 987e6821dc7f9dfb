"""What ``check`` says of ``[console]``."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.config.settings import Settings
from dicom_node.model.roles import Role, UserRole
from dicom_node.preflight import console
from dicom_node.preflight.found import Tried
from dicom_node.services import users
from tests.inbox_lab import Inbox
from tests.ports import free_port


def problems(folder: Path, role: Role = Role.ALL, **keys: object) -> dict[str, str]:
    """Key → remedy."""
    settings = Settings.model_validate({"node": {"data_dir": folder}, "console": {"enabled": True, **keys}})
    found = [*console.check_console(settings, role), *console.probe_console(settings, role)]
    return {one[0]: one[2] for one in found if not isinstance(one, Tried)}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.1"])
def test_this_machine_needs_no_tls(tmp_path: Path, host: str) -> None:
    assert "console.host" not in problems(tmp_path, host=host, port=free_port())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_another_address_needs_tls(tmp_path: Path, host: str) -> None:
    assert "[console.tls]" in problems(tmp_path, host=host)["console.host"]
    assert problems(tmp_path, host=host, enabled=False) == {}
    assert problems(tmp_path, Role.WORKER, host=host) == {}


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    said = problems(tmp_path, host="console.example.org")["console.host"]
    assert "is not an address of this machine" in said


def test_certificates_that_are_not_there_are_told(tmp_path: Path) -> None:
    found = problems(tmp_path, port=free_port(), tls={"certificate": "none.pem", "private_key": "none.key"})
    assert set(found) == {"console.tls.certificate", "console.tls.private_key"}


def test_the_listener_keeps_its_port(tmp_path: Path) -> None:
    assert "listener" in problems(tmp_path, port=11112)["console.port"]


def test_a_console_without_users_is_told(inbox: Inbox) -> None:
    own = inbox.settings.console.model_copy(update={"enabled": True})
    settings = inbox.settings.model_copy(update={"console": own})
    assert [one for one in console.check_console(settings, Role.ALL) if "sign in" in str(one)] == []
    for role in UserRole:
        users.remove_user(settings, role.value)
    [told] = [one for one in console.check_console(settings, Role.ALL) if "sign in" in str(one)]
    assert "dicom-node users add" in str(told)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "console_program", lambda: "")
    assert "./dicom_console" in problems(tmp_path, port=free_port())["console.enabled"]
