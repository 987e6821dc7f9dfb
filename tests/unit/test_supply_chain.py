"""What others wrote and a release brings: pinned, with hashes, under licences that are listed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "release.lock").read_text(encoding="utf-8")


def locked() -> dict[str, str]:
    """Version by name."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", LOCK, re.MULTILINE))


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_the_lock_says_what_is_installed_and_not_where_it_comes_from() -> None:
    line = re.compile(r"[a-z0-9-]+==[\w.+!]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?|# [\w ,.:]+|")
    assert [text for text in LOCK.splitlines() if not line.fullmatch(text)] == []


def test_the_lock_holds_all_that_a_release_needs_in_the_versions_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    parts = ("ai", "postgres", "console", "oidc", "ldap", "s3", "pdf", "hl7", "fhir")
    asked = [*project["project"]["dependencies"], *(one for part in parts for one in extras[part])]
    wanted = [Requirement(text) for text in (*asked, *project["build-system"]["requires"])]
    assert len(wanted) > 20
    for one in wanted:
        assert one.specifier.contains(locked()[canonicalize_name(one.name)]), f"make lock: {one}"
    tested = pinned()
    assert {name: tested.get(name) for name in locked()} == locked(), "make lock"


@pytest.mark.parametrize("name", ["pip", "setuptools", "pip-tools", "cyclonedx-bom", "pip-audit"])
def test_the_tools_that_install_and_release_are_pinned(name: str) -> None:
    assert name in pinned()


def test_both_environments_begin_with_a_pip_of_now() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (".demo", ".test"):
        recipe = text.partition(f"$(VENV)/{target}: ")[2].partition("\n\n")[0]
        assert recipe.splitlines()[1] == "\t$(PIP) --upgrade pip setuptools"


def test_ultralytics_is_the_version_that_is_tested() -> None:
    training = tomllib.loads((ROOT / "ai_training" / "pyproject.toml").read_text(encoding="utf-8"))
    assert training["project"]["optional-dependencies"]["yolo"] == [f"ultralytics=={pinned()['ultralytics']}"]


def test_every_package_of_a_release_has_a_licence_and_each_gpl_its_place() -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = {cells[0]: cells for cells in (re.findall(r"[^|]+", line) for line in page.splitlines()) if cells}
    table = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    for name in locked():
        assert table[name][-1] not in ("", "UNKNOWN"), name
    viral = page.partition("## GPL")[2].partition("## A release")[0]
    assert "`dicom_node/scu/orthanc.py`" in viral
    assert "`ai_training/detect/locating/yolo.py`" in viral
    assert {"pylibjpeg-libjpeg", "ultralytics", "orthanc-rest-client"} <= set(
        re.findall(r"^\| (\S+)", viral, re.M)
    )
