"""A setting under its former name counts, with a warning that names the present one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node import preflight
from dicom_node.config import renamed
from tests.unit.config.test_settings import SITE, write


@pytest.fixture(autouse=True)
def _two_were_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"peers.at_once": "maximum_associations", "listener.address": "host"}
    monkeypatch.setattr(renamed, "RENAMED", names)


def checked(tmp_path: Path, text: str) -> preflight.Checked:
    return preflight.check([write(tmp_path / "node.toml", text.replace("./var", str(tmp_path / "var")))])


def test_it_counts_and_a_warning_names_the_present_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADDRESS", "127.0.0.7")
    site = SITE.replace('ae_title = "US1"', 'ae_title = "US1"\nat_once = 3')
    found = checked(tmp_path, site.replace('host = "127.0.0.1"', 'address = "${ADDRESS}"', 1))
    assert found.settings is not None and not found.problems
    assert found.settings.listener.host == "127.0.0.7"
    assert {peer.name: peer.maximum_associations for peer in found.settings.peers} == {"pacs": 20, "us1": 3}
    assert {(line.subject, line.text) for line in found.tried if "former" in line.text} == {
        (
            "peers.us1.at_once",
            "is the former name of maximum_associations: write maximum_associations, this one will go",
        ),
        ("listener.address", "is the former name of host: write host, this one will go"),
    }


@pytest.mark.parametrize(
    ("written", "mistake"),
    [
        ("at_once = 0", "peers.us1.maximum_associations = 0: must be at least 1"),
        (
            "at_once = 3\nmaximum_associations = 4",
            "peers.us1.at_once: is the former name of maximum_associations, which is set too: take it out",
        ),
    ],
)
def test_mistakes_in_it_name_its_line(tmp_path: Path, written: str, mistake: str) -> None:
    site = SITE.replace('ae_title = "US1"', f'ae_title = "US1"\n{written}')
    [problem] = checked(tmp_path, site).problems
    line = next(n for n, text in enumerate(site.splitlines(), 1) if text.startswith("at_once"))
    assert str(problem) == f"{tmp_path / 'node.toml'}:{line}: {mistake}"
