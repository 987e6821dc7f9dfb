"""What is not documented does not exist; pages that the program writes are as it writes them now."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typer.main import get_command

from dicom_connectors.notifications.settings import NotificationSettings
from dicom_connectors.oidc.settings import OidcSettings
from dicom_node.base import events
from dicom_node.base.config import sample
from dicom_node.base.config.settings import Conditions, PeerSettings, RuleSettings, Settings, TlsSettings
from dicom_node.serve import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_FILE = r"`((?:docs|tests|orthanc)/[\w./-]+|config/[\w/-]+\.(?!py`)\w+)`"
REFERENCE = {"conformance.md", "models.md"}
"""Longer pages beside those of docs/reference: what is generated, and measurements to look up."""


def sections() -> list[type[BaseModel]]:
    inner = [field.annotation for field in Settings.model_fields.values()]
    named = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
    accounts = (OidcSettings,)
    return [*named, TlsSettings, *accounts, PeerSettings, RuleSettings, Conditions, NotificationSettings]


SETTINGS = [(section, key) for section in sections() for key in section.model_fields]


def verbs(path: str, command: Any) -> list[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        return [(path, command)]
    names = command.list_commands(None)
    return [verb for name in names for verb in verbs(f"{path} {name}", command.commands[name])]


def test_every_setting_has_a_sentence() -> None:
    without = [
        (section, key) for section, key in SETTINGS if not sample.documented_fields(section)[key].description
    ]
    assert without == []


def test_every_setting_is_in_a_sample_file() -> None:
    files = "".join(make() for make in sample.FILES.values())

    def is_shown(section: type[BaseModel], key: str) -> bool:
        is_table = key in ("tls", "oidc") and section is not PeerSettings
        pattern = rf"^#?\s*\[(listener|console)\.{key}\]" if is_table else rf"^#?\s*{key} = "
        return re.search(pattern, files, re.MULTILINE) is not None

    assert [f"{section.__name__}.{key}" for section, key in SETTINGS if not is_shown(section, key)] == []


def test_the_sample_files_are_those_that_the_program_prints() -> None:
    for name, make in sample.FILES.items():
        assert (ROOT / "config" / f"{name}.toml").read_text(encoding="utf-8") == make()


def test_no_number_stands_for_two_events() -> None:
    numbers = [event.number for event in events.all_types()]
    assert len(set(numbers)) == len(numbers)


def test_every_event_that_the_program_knows_is_used() -> None:
    files = (path for folder in ("dicom_node", "dicom_connectors") for path in (ROOT / folder).rglob("*.py"))
    sources = {path: path.read_text(encoding="utf-8") for path in files}
    code = "".join(text for path, text in sources.items() if path.name != "events.py")
    assert [name for name in events.TYPES if not re.search(rf"\b{name}\b", code)] == []


def test_every_verb_has_an_example() -> None:
    found = verbs("dicom-node", get_command(cli.app))
    assert len(found) > 1
    assert [verb for verb, command in found if f": {verb} " not in f"{command.epilog} "] == []


def test_generated_documents_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_documents_name_files_that_are_there() -> None:
    named = [
        (document.name, name)
        for document in pages()
        for name in re.findall(_FILE, document.read_text("utf-8"))
    ]
    assert len(named) > 50
    assert [(document, name) for document, name in named if not (ROOT / name).exists()] == []


def test_every_requirement_of_ihe_has_a_test_that_is_there() -> None:
    text = (ROOT / "docs" / "ihe.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| (?!requirement|---)", line)]
    assert len(rows) > 30
    for row in rows:
        file, name = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)` \|$", row)[0]
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_every_defence_of_the_threat_model_has_a_test_that_is_there() -> None:
    text = (DOCS / "reference" / "threats.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "::" in line]
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    assert len(named) > 50
    for file, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name
    tables = re.findall(r"^\| (?:tries to|does) .*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert [line for table in tables for line in table.splitlines() if line not in rows] == []
    assert len(tables) == 10


def pages() -> list[Path]:
    """Every page of Markdown that git has, or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return [path for name in done.stdout.split() if (path := ROOT / name).is_file()]


def headings(page: Path) -> set[str]:
    """The headings of a page, as the part of an address after ``#``."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_link_leads_to_a_file_and_a_heading_that_are_there() -> None:
    def is_dead(page: Path, link: str) -> bool:
        name, _, heading = link.partition("#")
        there = page.parent / name if name else page
        return not there.exists() or bool(heading and heading not in headings(there))

    links = [
        (page, link)
        for page in pages()
        for link in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        )
        if not re.match(r"[a-z]+:", link)
    ]
    assert len(links) > 100
    assert [f"{page.relative_to(ROOT)}: {link}" for page, link in links if is_dead(page, link)] == []


def test_no_page_is_longer_than_a_quarter_of_an_hour() -> None:
    """1,500 words; reference is looked up, not read, and what is generated is as long as it is."""
    long = {
        path.name: words
        for path in DOCS.rglob("*.md")
        if not {"reference", "studies", "models"} & set(path.relative_to(DOCS).parts)
        and (words := len(path.read_text(encoding="utf-8").split())) > 1500
    }
    assert sorted(long.keys() - REFERENCE) == []
