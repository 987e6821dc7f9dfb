"""The peers that pages show, which people copy: each is right as it stands."""

import re
from pathlib import Path

import pytest

from dicom_node.base.config.loading import load
from tests import ROOT

FRAME = """
[node]
ae_title = "AINODE"
data_dir = "./var"
"""
PACS = """
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "192.0.2.10"
port = 104
may = ["send", "receive", "query"]
"""
PAGES = [
    page
    for page in [ROOT / "README.md", ROOT / "orthanc" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if re.search(r"^```toml\n(?:#.*\n)*\[\[peers\]\]", page.read_text(encoding="utf-8"), re.MULTILINE)
]


def blocks(page: Path) -> list[str]:
    """The blocks with peers; what stands for values of the site is put in."""
    found = re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    named = 'name = "other"\nae_title = "OTHER"\nhost = "192.0.2.11"\nport = 104'
    return [
        re.sub(r"\$\{file:[^}]*\}", "a secret of sixteen", block).replace(
            "# name, AE title, host, port", named
        )
        for block in found
        if "[[peers]]" in block
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_peers_of_a_page_are_no_mistake(tmp_path: Path, page: Path) -> None:
    for number, block in enumerate(blocks(page)):
        file = tmp_path / f"{number}.toml"
        file.write_text(FRAME + block + ("" if 'name = "pacs"' in block else PACS), encoding="utf-8")
        load([file])


def test_pages_with_peers_are_found() -> None:
    assert {page.name for page in PAGES} >= {"pacs.md", "modality.md", "ris.md"}
