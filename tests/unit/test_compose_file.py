"""The site in containers, as far as it can be read without an engine that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.config import loading
from dicom_node.model.roles import Role

FOLDER = Path(__file__).resolve().parents[2] / "config"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    content: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    return content


def test_it_has_two_listeners_two_workers_and_a_console_that_wait_for_the_upgrade(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    roles = [service["command"][-1] for service in services.values() if "serve" in service.get("command", ())]
    assert sorted(roles) == [Role.CONSOLE, Role.LISTENER, Role.LISTENER, Role.WORKER, Role.WORKER]
    for service in services.values():
        if "serve" in service.get("command", ()):
            assert service["depends_on"] == {"upgrade": {"condition": "service_completed_successfully"}}
            assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_its_commands_are_verbs_of_the_program(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if service["image"] == "dicom-ai-node":
            words = [
                word
                for word in service["command"]
                if not word.startswith("-") and word not in {str(role) for role in Role}
            ]
            assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0


def test_its_configuration_has_no_mistake(compose: dict[str, Any], tmp_path: Path) -> None:
    secret = tmp_path / "database-password"
    secret.write_text("word\n", encoding="utf-8")
    files = [tmp_path / f"{name}.toml" for name in ("node", "console")]
    for file in files:
        text = (FOLDER / "compose" / file.name).read_text(encoding="utf-8")
        file.write_text(text.replace("/run/secrets/database-password", str(secret)), encoding="utf-8")
    settings = loading.load(files)
    assert settings.console.enabled and settings.console.tls is not None
    assert {f"/run/secrets/{name}" for name in compose["services"]["console"]["secrets"]} > {
        str(settings.console.tls.certificate),
        str(settings.console.tls.private_key),
    }
    assert settings.database_url == "postgresql+psycopg://node:word@database/node"
    assert settings.listener.port == 11112
    assert {peer.name for peer in settings.peers} == {"us1", "pacs"}
