"""The site in Kubernetes, rendered, as far as it can be judged without a cluster."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.config import loading
from dicom_node.model.roles import Role

FOLDER = Path(__file__).resolve().parents[2] / "config" / "kubernetes"


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """What ``kubectl kustomize`` makes of it; without kubectl the files are put together here."""
    yaml = pytest.importorskip("yaml")
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize", str(FOLDER)]
        text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        return list(yaml.safe_load_all(text))
    named = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    found = [one for name in named for one in yaml.safe_load_all((FOLDER / name).read_text())]
    common = yaml.safe_load((FOLDER / "pods.yaml").read_text())["spec"]["template"]["spec"]
    for pod in pods(found):
        container = pod["containers"][0] | common["containers"][0]
        pod.update(common | {"containers": [container]})
    return found


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in objects if "template" in one.get("spec", {})]


def test_every_role_has_its_pods_and_those_that_must_not_stop_a_disruption_budget(
    objects: list[dict[str, Any]],
) -> None:
    sets = {one["metadata"]["name"]: one for one in objects if one["kind"] == "StatefulSet"}
    assert {Role(name) for name in sets} == {Role.LISTENER, Role.WORKER, Role.CONSOLE}
    for name, one in sets.items():
        [container] = one["spec"]["template"]["spec"]["containers"]
        assert container["args"] == ["serve", "--role", name]
        assert "readinessProbe" in container
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
    budgets = {one["metadata"]["name"] for one in objects if one["kind"] == "PodDisruptionBudget"}
    assert budgets == {name for name, one in sets.items() if one["spec"]["replicas"] > 1}


def test_no_pod_is_root_writes_its_root_or_holds_rights(objects: list[dict[str, Any]]) -> None:
    assert len(pods(objects)) == 4
    for pod in pods(objects):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10112
        assert pod["automountServiceAccountToken"] is False
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        words = [word for word in container["args"] if not word.startswith("-") and word not in set(Role)]
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
        probe = container.get("readinessProbe", {}).get("exec", {}).get("command", ["dicom-node"])
        assert CliRunner().invoke(app, [*probe[1:], "--help"]).exit_code == 0


def test_its_configuration_has_no_mistake(tmp_path: Path) -> None:
    secret = tmp_path / "database-password"
    secret.write_text("word\n", encoding="utf-8")
    files = [tmp_path / "node.toml", tmp_path / "console.toml"]
    for file in files:
        text = (FOLDER / file.name).read_text(encoding="utf-8")
        file.write_text(text.replace("/run/secrets/database-password", str(secret)), encoding="utf-8")
    settings = loading.load(files)
    assert settings.database_url.startswith("postgresql+psycopg://node:word@")
    assert (settings.listener.port, settings.console.port) == (11112, 8443)
