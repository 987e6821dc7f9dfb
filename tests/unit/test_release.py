"""A release has one version: three packages and the changelog."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.wheels import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("package", ["dicom_console", "ai_training"])
def test_each_package_has_the_version_of_the_node_and_needs_just_that(package: str) -> None:
    project = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    [needed] = [text for text in project["dependencies"] if text.startswith("dicom-ai-node")]
    assert needed.endswith(f"]=={VERSION}")


def test_the_changelog_has_a_page_of_this_version_below_what_is_not_released() -> None:
    pages = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [page.split("\n")[0] for page in pages[:2]] == ["Unreleased", VERSION]
    assert len(pages[1].split()) <= 600, "a page, not a log"
