"""The node and a site's device rules: a mistake in them is one of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run

FAULTY = """
source = "room 3"
[[rule]]
name = "ours"
match = { manufacturer = "Maker" }
rectangles = [{ left = 0, top = 0, right = 2.0, bottom = 20 }]
"""


@pytest.fixture
def rules(site: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "device-rules"
    folder.mkdir()
    text = site.read_text(encoding="utf-8")
    site.write_text(
        text.replace("[listener]", f'[workers]\ndevice_rules_dir = "{folder}"\n[listener]'), "utf-8"
    )
    return folder


@pytest.mark.parametrize("verb", ["check", "serve"])
def test_a_faulty_rule_stops_the_node_with_file_key_and_remedy(
    run: Run, site: Path, rules: Path, verb: str
) -> None:
    (rules / "room3.toml").write_text(FAULTY, encoding="utf-8")
    printed = run(verb, "--config", site)

    assert printed.status == 78
    place = f"{rules / 'room3.toml'}: rule[0].rectangles[0].right (rule ours)"
    assert f"workers.device_rules_dir = {place}: must be pixels" in " ".join(printed.err.split())


def test_check_counts_the_rules_and_misses_those_of_the_site(run: Run, site: Path, rules: Path) -> None:
    assert f"0 files of yours in {rules}" in run("check", "--config", site).out
    (rules / "room3.toml").write_text(FAULTY.replace("2.0", "1.0"), encoding="utf-8")
    assert f"1 files of yours in {rules}" in run("check", "--config", site).out
