"""A release: its version, what it installs, its wheels, its image, and its sites of containers and units."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from dicom_node.base.config import loading
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import Role
from dicom_node.serve.cli import app
from tests.wheels import ROOT, build

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("package", ["dicom_console", "ai_training"])
def test_each_package_has_the_version_of_the_node_and_needs_just_that(package: str) -> None:
    project = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    [needed] = [text for text in project["dependencies"] if text.startswith("dicom-ai-node")]
    assert needed.endswith(f"]=={VERSION}")


def test_an_upgrade_as_documented_replaces_what_the_installation_as_documented_made(tmp_path: Path) -> None:
    """The lines of both pages that make folders and links, with /opt elsewhere."""
    pages = [
        (ROOT / "docs" / "deploy" / name).read_text(encoding="utf-8") for name in ("service.md", "upgrade.md")
    ]
    lines = [
        re.sub(r"^python3 -m venv", "mkdir", line.strip()).replace("/opt", str(tmp_path))
        for page in pages
        for line in page.splitlines()
        if re.match(r"\s*(python3 -m venv|ln |\[ -L )", line)
    ]
    started = tmp_path / "dicom-node"
    for former in ("ln -sT", f"mkdir {started} #"):  # as the page makes it now, and as it did: a folder
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        for line in lines:
            subprocess.run(re.sub("^ln -sT", former, line), shell=True, check=True)
        assert started.resolve().name == "dicom-node-0.2.0"


CHANGELOG = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


def test_the_changelog_begins_with_what_is_not_released_and_with_this_version_and_its_date() -> None:
    assert CHANGELOG[0].startswith("Unreleased\n")
    assert re.match(rf"{re.escape(VERSION)} – \d{{4}}-\d\d-\d\d\n", CHANGELOG[1])


@pytest.mark.parametrize("page", CHANGELOG, ids=lambda page: page.split()[0])
def test_a_page_of_the_changelog_has_its_four_kinds_in_their_order(page: str) -> None:
    kinds = re.findall(r"^### (Added|Changed|Removed|Fixed)$", page, re.MULTILINE)
    assert kinds == sorted(kinds, key=["Added", "Changed", "Removed", "Fixed"].index)
    assert kinds or page.startswith("Unreleased")


LOCK = (ROOT / "release.lock").read_text(encoding="utf-8")


def locked() -> dict[str, str]:
    """Version by name."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", LOCK, re.MULTILINE))


def test_the_lock_says_what_is_installed_and_not_where_it_comes_from() -> None:
    line = re.compile(r"[a-z0-9-]+==[\w.+!]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?|# [\w ,.:]+|")
    assert [text for text in LOCK.splitlines() if not line.fullmatch(text)] == []


def test_the_lock_holds_all_that_a_release_needs_in_the_versions_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    parts = ("ai", "postgres", "console", "oidc", "s3", "pdf", "hl7", "fhir")
    asked = [*project["project"]["dependencies"], *(one for part in parts for one in extras[part])]
    wanted = [Requirement(text) for text in (*asked, *project["build-system"]["requires"])]
    assert len(wanted) > 20
    for one in wanted:
        assert one.specifier.contains(locked()[canonicalize_name(one.name)]), f"make lock: {one}"
    pins = [line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()]
    tested = {canonicalize_name(name): version for name, version in pins}
    assert {name: tested.get(name) for name in locked()} == locked(), "make lock"
    training = tomllib.loads((ROOT / "ai_training" / "pyproject.toml").read_text(encoding="utf-8"))
    assert training["project"]["optional-dependencies"]["yolo"] == [f"ultralytics=={tested['ultralytics']}"]


def test_every_package_of_a_release_has_a_licence_and_each_gpl_its_place() -> None:
    page = (ROOT / "docs" / "reference" / "licences.md").read_text(encoding="utf-8")
    rows = {cells[0]: cells for cells in (re.findall(r"[^|]+", line) for line in page.splitlines()) if cells}
    table = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    for name in locked():
        assert table[name][-1] not in ("", "UNKNOWN"), name
    viral = page.partition("## GPL")[2].partition("## A release")[0]
    assert "`dicom_connectors.orthanc.destination`" in viral
    assert "`ai_training.yolo`" in viral
    assert {"ultralytics", "orthanc-rest-client"} <= set(re.findall(r"^\| (\S+)", viral, re.M))


CARDS = ROOT / "ai_pipeline" / "cards"


HIDE_TRAINING = """
from importlib import metadata
found = metadata.Distribution.discover.__func__
metadata.Distribution.discover = classmethod(
    lambda cls, **how: (one for one in found(cls, **how) if one.name != "dicom-ai-node-training")
)
"""


@pytest.fixture(scope="module")
def run_time(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What lies in the wheel of the run time."""
    return zipfile.ZipFile(
        build(
            ROOT,
            tmp_path_factory.mktemp("run-time"),
            *("pyproject.toml", "PACKAGE.md", "LICENSE", "ai_pipeline", "dicom_connectors", "dicom_node"),
        )
    ).namelist()


def test_the_page_of_the_package_has_no_link_that_needs_a_checkout() -> None:
    page = ROOT / tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["readme"]
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    assert [link for link in links if not link.startswith("https://")] == []


def test_the_readme_names_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"\nVersion {version}: " in (ROOT / "README.md").read_text("utf-8")


def programs(*packages: str) -> set[str]:
    """Every module of these packages, migrations among them, as a wheel names it."""
    return {str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py")}


def test_the_wheel_of_the_run_time_carries_every_module_and_no_training(run_time: list[str]) -> None:
    ours = programs("ai_pipeline", "dicom_connectors", "dicom_node")
    assert {name for name in run_time if name.endswith(".py")} == ours
    assert {name.split("/")[0] for name in run_time if ".dist-info" not in name} == {
        "ai_pipeline",
        "dicom_connectors",
        "dicom_node",
    }
    assert {"ai_pipeline/py.typed", "dicom_node/base/store/migrations/env.py"} < set(run_time)


def test_the_wheel_carries_the_weights_of_its_cards_and_no_others(run_time: list[str]) -> None:
    cards = {Path(name).name for name in run_time if name.startswith("ai_pipeline/cards/")}
    assert cards == {path.name for path in CARDS.glob("*.toml")}
    rows = [row for name in cards for row in tomllib.loads((CARDS / name).read_text())["weights"]]
    ours = {row["file"] for row in rows if "package" not in row}
    assert {Path(name).name for name in run_time if name.startswith("ai_pipeline/weights/")} == ours


def test_the_wheel_of_the_console_carries_its_pages(tmp_path: Path) -> None:
    inside = zipfile.ZipFile(build(ROOT / "dicom_console", tmp_path)).namelist()
    assert {name.split("/")[0] for name in inside if ".dist-info" not in name} == {"dicom_console"}
    assert {name for name in inside if name.endswith(".py")} == programs("dicom_console")
    assert {"dicom_console/templates/base.html", "dicom_console/static/live.js"} < set(inside)


@pytest.mark.parametrize("verb", ["train", "evaluate", "split"])
def test_a_verb_of_training_says_what_to_install(verb: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE_TRAINING)
    done = subprocess.run(
        [sys.executable, "-m", "ai_pipeline", verb, "chest", "--data", "none", "--out", "none"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 78
    [line] = done.stderr.splitlines()
    assert line.endswith("pip install -c constraints.txt ./ai_training")


def test_what_the_image_copies_is_there_and_what_it_installs_has_a_hash() -> None:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    whole = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    steps = [(word, rest) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]
    for _, rest in (step for step in steps if step[0] == "COPY" and "--from" not in step[1]):
        *sources, _ = shlex.split(rest)
        assert [name for name in sources if not (ROOT / name).exists()] == []
    installs = " && ".join(rest for word, rest in steps if word == "RUN")
    third_parties, ours = re.findall(r"pip install ([^&]*)", installs)
    assert "--require-hashes --requirement /source/release.lock" in third_parties
    assert "--no-deps --no-build-isolation --no-index /source" in ours


def test_the_image_has_two_stages_runs_without_root_and_says_whether_it_is_well() -> None:
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line and not line.startswith(("#", " "))]
    assert [word[0] for word in words].count("FROM") == 2
    [user] = [word[1] for word in words if word[0] == "USER"]
    assert user not in ("0", "root", "0:0")
    assert "HEALTHCHECK" in [word[0] for word in words]


CONFIG = ROOT / "config"
KUBERNETES = CONFIG / "kubernetes"


def loaded(folder: Path, to: Path) -> Settings:
    """The site's configuration of this folder, with a password for its database."""
    (to / "password").write_text("word\n", encoding="utf-8")
    for name in ("node.toml", "console.toml"):
        text = (folder / name).read_text(encoding="utf-8")
        (to / name).write_text(text.replace("/run/secrets/database-password", str(to / "password")), "utf-8")
    return loading.load([to / "node.toml", to / "console.toml"])


def test_the_configuration_of_the_site_in_containers_has_no_mistake(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    settings = loaded(CONFIG / "compose", tmp_path)
    assert settings.console.enabled
    assert settings.console.tls is not None
    compose = yaml.safe_load((CONFIG / "compose.yaml").read_text(encoding="utf-8"))
    assert {f"/run/secrets/{name}" for name in compose["services"]["console"]["secrets"]} > {
        str(settings.console.tls.certificate),
        str(settings.console.tls.private_key),
    }
    assert settings.database_url == "postgresql+psycopg://node:word@database/node"
    assert settings.listener.port == 11112
    assert {peer.name for peer in settings.peers} == {"us1", "dx1", "pacs"}


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """What ``kubectl kustomize`` makes of it; without kubectl the files are put together here."""
    yaml = pytest.importorskip("yaml")
    if shutil.which("kubectl"):
        done = subprocess.run(
            ["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, timeout=60, check=True
        )
        return list(yaml.safe_load_all(done.stdout))
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    found = [one for name in named for one in yaml.safe_load_all((KUBERNETES / name).read_text())]
    common = yaml.safe_load((KUBERNETES / "pods.yaml").read_text())["spec"]["template"]["spec"]
    for pod in pods(found):
        container = pod["containers"][0] | common["containers"][0]
        pod.update(common | {"containers": [container], "volumes": [*common["volumes"], *pod["volumes"]]})
    return found


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in objects if "template" in one.get("spec", {})]


def test_every_set_finds_its_pods_and_one_of_several_replicas_has_a_disruption_budget(
    objects: list[dict[str, Any]],
) -> None:
    sets = {one["metadata"]["name"]: one for one in objects if one["kind"] == "StatefulSet"}
    for one in sets.values():
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
    budgets = {one["metadata"]["name"] for one in objects if one["kind"] == "PodDisruptionBudget"}
    assert budgets == {name for name, one in sets.items() if one["spec"]["replicas"] > 1}


def test_no_pod_is_root_writes_its_root_or_holds_rights(objects: list[dict[str, Any]]) -> None:
    assert len(pods(objects)) == 4
    for pod in pods(objects):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10112
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


def test_each_pod_has_a_database_login_of_its_own_and_sees_no_other_password(
    objects: list[dict[str, Any]],
) -> None:
    logins = {}
    for pod in pods(objects):
        [container] = pod["containers"]
        [user] = [one["value"] for one in container["env"] if one["name"] == "DATABASE_USER"]
        [secrets] = [one for one in pod["volumes"] if one["name"] == "secrets"]
        given = {one["secret"]["name"]: one["secret"].get("items") for one in secrets["projected"]["sources"]}
        assert given["database"] == [{"key": user, "path": "database-password"}]
        logins[container["args"][-1]] = (user, set(given) - {"database"})
    assert logins == {
        "listener": ("listener", set()),
        "worker": ("worker", set()),
        "console": ("console", {"tls"}),
        "upgrade": ("owner", set()),
    }


def test_the_configuration_of_the_site_in_kubernetes_has_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_USER", "worker")
    settings = loaded(KUBERNETES, tmp_path)
    assert settings.database_url.startswith("postgresql+psycopg://worker:word@")
    assert (settings.listener.port, settings.console.port) == (11112, 8443)


SYSTEMD = CONFIG / "systemd"
UNIT, TEMPLATE = SYSTEMD / "dicom-node.service", SYSTEMD / "dicom-node@.service"


@pytest.mark.debian("systemd")
@pytest.mark.parametrize("unit", [UNIT, TEMPLATE], ids=lambda unit: unit.name)
def test_systemd_calls_its_exposure_two_at_most(unit: Path) -> None:
    """From 0 to 10, the threshold in tenths; it had 6.9 before."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
