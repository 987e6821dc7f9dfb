"""What is not documented does not exist, pages are as the program writes them, sentences are short."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typer.main import get_command

from ai_pipeline import cli as pipeline_cli
from ai_pipeline.models.registry import find
from ai_pipeline.summary import MOST
from dicom_connectors.notifications.settings import NotificationSettings
from dicom_connectors.oidc.settings import OidcSettings
from dicom_node.base import events
from dicom_node.base.config import sample
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import Conditions, RuleSettings
from dicom_node.base.config.settings import Settings, TlsSettings
from dicom_node.serve import cli
from tests import ROOT

ROOMS = (
    "ai_pipeline",
    "dicom_node/results",
    "dicom_node/jobs/worker",
    "dicom_node/base/dicom",
)
_PUT_IN = "12345678"
"""Stands for a value that is put in: as long as a number with its unit, or a short name."""
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_NO_PROSE = ("CHANGELOG", "models", "training")
_END = re.compile(r"(?<=[.!?])\s+|\r?\n")
_NO_SENTENCES = (
    "ai_pipeline/burnin/decide/",
    "ai_pipeline/fetal_head/intended_use.py",
    "ai_pipeline/models/",
    "ai_pipeline/cli/",
    "dicom_node/results/deidentified/",
)
"""Files with patterns and word lists, and those whose words only the command line shows."""


def sentences() -> Iterator[tuple[str, str]]:
    """File with line, and sentence; of literals with a space that are neither docstrings nor patterns."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            where = path.relative_to(ROOT)
            if str(where).startswith(_NO_SENTENCES):
                continue
            for line, text in _literals(ast.parse(path.read_text(encoding="utf-8"))):
                yield from ((f"{where}:{line}", one.strip()) for one in _END.split(text))


def messages() -> Iterator[tuple[str, str]]:
    """File with line, and text, of all literals of the packages with a space that are no docstrings."""
    for package in ("ai_pipeline", "ai_training", "dicom_connectors", "dicom_console", "dicom_node"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from (
                (f"{path.relative_to(ROOT)}:{line}", text)
                for line, text in _literals(ast.parse(path.read_text(encoding="utf-8")))
            )


def prose() -> Iterator[tuple[str, str]]:
    """Page with line, and line, outside of code; not the changes, nor yet models, studies and training."""
    for page in sorted(
        (*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "orthanc").glob("*.md"))
    ):
        if page.name.startswith(_NO_PROSE) or "studies" in page.relative_to(ROOT).parts:
            continue
        text = _CODE.sub(lambda code: re.sub(r"[^\n]", "·", code[0]), page.read_text(encoding="utf-8"))
        yield from (
            (f"{page.relative_to(ROOT)}:{number}", line) for number, line in enumerate(text.splitlines(), 1)
        )


def _literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            inside.add(id(node.value))  # a docstring
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else _PUT_IN for part in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, re.sub(r"\{[a-z_]*\}", _PUT_IN, node.value)


DOCS = ROOT / "docs"
_FILE = r"`((?:docs|tests|orthanc)/[\w./-]+|config/[\w/-]+\.(?!py`)\w+)`"


def sections() -> list[type[BaseModel]]:
    inner = (field.annotation for field in Settings.model_fields.values())
    named = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [*named, TlsSettings, OidcSettings, PeerSettings, RuleSettings, Conditions, NotificationSettings]


SETTINGS = [(section, key) for section in sections() for key in section.model_fields]


def verbs(path: str, command: Any) -> list[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        return [(path, command)]
    names = command.list_commands(None)  # a noun knows its verbs once they are asked for
    return [verb for name in names for verb in verbs(f"{path} {name}", command.get_command(None, name))]


def test_every_setting_has_a_sentence() -> None:
    assert [
        (section, key) for section, key in SETTINGS if not sample.documented_fields(section)[key].description
    ] == []


def test_every_setting_is_in_a_sample_file() -> None:
    files = "".join(make() for make in sample.FILES.values())

    def is_shown(section: type[BaseModel], key: str) -> bool:
        is_table = key in ("tls", "oidc") and section is not PeerSettings
        return bool(
            re.search(
                rf"^#?\s*\[(listener|console)\.{key}\]" if is_table else rf"^#?\s*{key} = ",
                files,
                re.MULTILINE,
            )
        )

    assert [f"{section.__name__}.{key}" for section, key in SETTINGS if not is_shown(section, key)] == []


def test_no_number_stands_for_two_events() -> None:
    assert max(Counter(event.number for event in events.all_types()).values()) == 1


def test_every_event_that_the_program_knows_is_used_and_no_other_is_named() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("dicom_node", "dicom_connectors", "dicom_console")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "events.py"
    )
    assert [name for name in events.TYPES if not re.search(rf"\b{name}\b", code)] == []
    assert [name for name in re.findall(r"\bevents\.([A-Z_]{3,})\b", code) if not hasattr(events, name)] == []


def test_every_verb_has_an_example() -> None:
    found = verbs("dicom-node", get_command(cli.app))
    assert len(found) > 1
    assert [verb for verb, command in found if f": {verb} " not in f"{command.epilog} "] == []


@cache
def _programs() -> dict[str, Any]:
    """The commands of both programs, by the program's name."""
    pipeline_cli.mount_commands()
    return {"dicom-node": get_command(cli.app), "ai-pipeline": get_command(pipeline_cli.app)}


def unknown_of(program: str, line: str) -> list[str]:
    """What a command line after the name of the program names that there is not: a verb, or options."""
    command, words = _programs()[program], line.split()
    while words and hasattr(command, "commands"):
        verb = words.pop(0).rstrip(".,:")
        command = command.get_command(None, verb)
        if command is None:
            return [verb]
    known = {name for option in command.params for name in option.opts} | {"--help"}
    options = [word.partition("=")[0].rstrip(".,:") for word in words if word.startswith("--")]
    return [option for option in options if option not in known]


def test_every_command_of_a_page_is_one_that_the_programs_take() -> None:
    text = "\n".join(page.read_text("utf-8") for page in pages() if page.name != "CHANGELOG.md")
    found = re.findall(r"(?:`|^|/)(dicom-node|ai-pipeline) ([a-z][^`\n#>|&;(]*)", text, re.M)
    assert len(found) > 200
    assert [one for one in found if unknown_of(*one)] == []


def test_every_command_that_the_programs_name_is_one_that_they_take() -> None:
    """In messages and sample files; up to what is put in, and to the next sign."""
    samples = (ROOT / "config").glob("*.toml")
    texts = [*messages(), *((path.name, path.read_text("utf-8")) for path in samples)]
    found = [
        (where, program, line.partition(_PUT_IN)[0])
        for where, text in texts
        for program, line in re.findall(r"(dicom-node|ai-pipeline) ([a-z][\w -]*)", text)
    ]
    assert len(found) > 90
    assert [one for one in found if unknown_of(*one[1:])] == []


def test_generated_documents_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


CHEST, HEART, HEAD = "chest-efficientnet-lite0", "chest-anatomy-unet", "fetal-head-unet"
OVARY, MARKS = "ovarian-efficientnet-lite0", "ultrasound-marks-unet"
TWO, THREE = "{0:.2f} [{1:.2f}, {2:.2f}]", "{0:.3f} [{1:.3f}, {2:.3f}]"
FIGURES = (
    ("README.md", TWO, CHEST, "metrics>mean_auc"),
    ("README.md", TWO, CHEST, "external>auc>mean"),
    ("README.md", "{0:.4f} [{1:.4f}, {2:.4f}]", HEART, "metrics>test>ratio>error"),
    ("README.md", "{0:.1f} mm [{1:.1f}, {2:.1f}]", HEAD, "metrics>test>error"),
    ("README.md", "{} test images of adults", CHEST, "metrics>images"),
    ("README.md", "on {} images of other patients", CHEST, "external>images"),
    ("README.md", "{} of 45 test images", HEART, "metrics>test>measured"),
    ("README.md", "of {} test images", HEART, "metrics>test>images"),
    ("README.md", "{} test heads", HEAD, "metrics>test>images"),
    (
        "README.md",
        "Of {:,} words",
        MARKS,
        "metrics>legible_clinical>engines>rapidocr>legible_before",
    ),
    ("README.md", "{} could still be read", MARKS, "metrics>legible_clinical>engines>rapidocr>left"),
    ("README.md", "into {} ultrasound pictures", MARKS, "metrics>legible_clinical>pictures"),
    ("README.md", "on {} test frames", MARKS, "metrics>legible_clinical>distinct_frames"),
    ("README.md", "{0:.0%} [{1:.0%}, {2:.0%}]", CHEST, "@>without_finding_called"),
    ("README.md", "effusion is suspected in {0:.0%}", CHEST, "@>labels>Effusion>sensitivity"),
    ("README.md", "atelectasis in {0:.0%}", CHEST, "@>labels>Atelectasis>sensitivity"),
    ("docs/read/chest.md", "{0:.0%} of effusions", CHEST, "@>labels>Effusion>sensitivity"),
    ("docs/read/chest.md", "{0:.0%} of atelectases", CHEST, "@>labels>Atelectasis>sensitivity"),
    ("docs/studies/README.md", THREE, CHEST, "metrics>mean_auc"),
    ("docs/studies/README.md", THREE, CHEST, "metrics>top3>all_labels"),
    ("docs/studies/README.md", THREE, CHEST, "metrics>top3>constant"),
    ("docs/studies/README.md", THREE, CHEST, "detection>test>head>mean T"),
    ("docs/studies/README.md", THREE, CHEST, "detection>test>difference>mean T"),
    ("docs/studies/ovarian.md", THREE, OVARY, "metrics>cross_validation>macro_auc"),
    ("docs/studies/cleaning.md", "{} of 1,592", MARKS, "metrics>legible_clinical>engines>tesseract>left"),
    ("docs/studies/fetal-head.md", "Dice is {0:.3f}", HEAD, "metrics>test>dice"),
)
"""Page, figure as it is written there, card, its place there; "@": the table of the usual thresholds."""


def test_figures_of_models_in_pages_are_those_of_the_cards() -> None:
    def plain(text: str) -> str:
        return re.sub(r"\s+", " ", re.sub(r" ?%", "", re.sub(r"(?<!\d)0\.", ".", text)))

    for page, words, card, path in FIGURES:
        found: Any = find(card).details
        for key in path.replace("@", "metrics>operating_points>specific").split(">"):
            found = found[key]
        assert plain(words.format(*(found if isinstance(found, list) else [found]))) in plain(
            (ROOT / page).read_text("utf-8")
        ), (page, card, path)


def test_documents_name_files_that_are_there() -> None:
    named = [
        (document.name, name)
        for document in pages()
        for name in re.findall(_FILE, document.read_text("utf-8"))
    ]
    assert len(named) > 50
    assert [(document, name) for document, name in named if not (ROOT / name).exists()] == []


def test_every_requirement_and_every_defence_has_a_test_that_is_there() -> None:
    ihe, threats = ((DOCS / name).read_text("utf-8") for name in ("ihe.md", "reference/threats.md"))
    rows = re.findall(r"^\| (?!requirement|---).*", ihe, re.M)
    assert len(rows) > 30
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::test_\w+` \|$", row)] == []
    defences = re.findall(r"^\| .*::.*", threats, re.M)
    assert len(defences) > 50
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", "".join(rows) + threats):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name
    tables = re.findall(r"^\| (?:tries to|does) .*\n\|[-|]+\n((?:\|.*\n)+)", threats, re.MULTILINE)
    assert [line for table in tables for line in table.splitlines() if line not in defences] == []
    assert len(tables) == 11


def pages() -> list[Path]:
    """Every page of Markdown that git has, or would take."""
    listed = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], text=True, cwd=ROOT
    )
    return [path for name in listed.split() if (path := ROOT / name).is_file()]


def headings(page: Path) -> set[str]:
    """The headings of a page, as the part of an address after ``#``."""
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }


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
    assert [
        path.name
        for path in DOCS.rglob("*.md")
        if not {"reference", "studies", "models"} & set(path.relative_to(DOCS).parts)
        and path.name not in ("conformance.md", "models.md")  # what is generated, and measurements to look up
        and len(path.read_text(encoding="utf-8").split()) > 1500
    ] == []


GOLDEN = Path(__file__).parent / "golden"
# Texts of the objects in the dumps: of reports, presentation states and pictures.
_TEXT = re.compile(
    r'(?:TEXT \(.*"(?:Conclusion|Comment)"\) = '
    r"|(?:UnformattedTextValue|DerivationDescription|ImageComments|PresentationDescription): )(.+)"
)

_PRIVATE = re.compile(
    r"\b(told|tells? of|said|stands?(?! for| out| upside)|those that|to be had|what lay)\b", re.I
)
"""Words that were terms here. Write who does what: "is in" for "stands in", "reports", "images that"."""
_OF = re.compile(r"\bthat of\b", re.I)


def test_no_page_and_no_message_has_private_words() -> None:
    pages, texts = list(prose()), list(messages())
    assert min(len(pages), len(texts)) > 3000, "no pages, or no messages"
    assert [(at, text) for at, text in [*pages, *texts] if _PRIVATE.search(text)] == []
    assert [(at, line) for at, line in pages if _OF.search(line)] == []


def test_no_sentence_that_can_reach_a_pacs_is_longer_than_a_line() -> None:
    golden = [
        (dump.name, one)
        for dump in sorted(GOLDEN.glob("*.txt"))
        for found in _TEXT.finditer(dump.read_text(encoding="utf-8"))
        for one in re.split(r"(?<=[.!?])\s+| \| ", found[1])
    ]
    catalogue = list(sentences())
    assert len(catalogue) > 500, "no text was found"
    assert len(golden) > 50, "no text was found"
    assert [(where, text) for where, text in [*catalogue, *golden] if len(text) > MOST] == []
