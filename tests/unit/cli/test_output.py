"""What reaches a terminal: everything from outside is shown, nothing of it is obeyed; no word is broken."""

from __future__ import annotations

import ast
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from dicom_node import cli
from dicom_node.model.lifecycle import StudyState
from dicom_node.printable import printable, printable_json
from dicom_node.store.database import Database
from dicom_node.store.tables import Association, Study
from tests.rows import NOW, a_study, an_association
from tests.unit.cli.conftest import DELIVERED, Run, event, in_database

HOSTILE = "[/red] [bold red]JOHN[/]\x1b[2J\x9b31m\u202e\nFORGED :smile:"
SHOWN = r"[/red] [bold red]JOHN[/]\x1b[2J\x9b31m\u202e\nFORGED :smile:"
LONG_UID = "1.2.840.113619.2.5.1762583153.215519.978957063.1234567890.98765.1"


@pytest.fixture
def hostile(filled: Path) -> Path:
    """A caller without any right chose its AE title, a modality its patient's ID."""
    database = Database(f"sqlite:///{filled.parent / 'var' / 'node.db'}")
    with database.write() as session:
        row = an_association("evil", NOW)
        row.calling_ae = HOSTILE
        session.add(row)
        session.add(event(1004, NOW, calling_ae=HOSTILE))
        study = session.query(Study).filter_by(study_instance_uid=DELIVERED).one()
        study.patient_id, study.study_instance_uid = HOSTILE, LONG_UID
        assert session.query(Association).count() == 3
    database.dispose()
    return filled


@pytest.mark.parametrize("group", ["associations", "events", "studies"])
def test_markup_and_control_characters_are_shown_and_not_obeyed(run: Run, hostile: Path, group: str) -> None:
    printed = run(group, "list", "--config", hostile)
    assert (printed.status, printed.err) == (0, "")
    assert SHOWN in printed.out
    as_json = run(group, "list", "--config", hostile, "--json")
    assert not {"\x1b", "\x9b", "\u202e"} & set(printed.out + as_json.out)
    assert HOSTILE in texts(as_json.json)


def texts(value: object) -> str:
    """All texts of a JSON document, as they are."""
    if isinstance(value, dict):
        return " ".join(map(texts, value.values()))
    return " ".join(map(texts, value)) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("group", ["associations", "studies", "jobs", "outbox", "events"])
def test_in_a_pipe_each_row_is_one_whole_line(run: Run, hostile: Path, group: str) -> None:
    rows = len(run(group, "list", "--config", hostile, "--json").json)
    lines = run(group, "list", "--config", hostile).out.splitlines()
    assert len(lines) == 1 + rows
    assert all(line == line.rstrip() for line in lines)
    if group in ("studies", "jobs"):
        assert any(LONG_UID in line.split() for line in lines)


def test_a_uid_can_be_pasted_back_from_a_narrow_terminal(run: Run, hostile: Path) -> None:
    shown = at_a_terminal("studies", "list", "--config", str(hostile))
    assert "\x9b" not in shown and "\u202e" not in shown
    [uid] = [word for word in shown.split() if word.startswith("…")]
    assert LONG_UID.endswith(uid[1:])
    for verb in (
        "studies show {}",
        "jobs list --study {}",
        "outbox list --study {}",
        "events list --study {}",
    ):
        printed = run(*verb.format(uid).split(), "--config", hostile, "--json")
        assert printed.status == 0, printed.err
        assert printed.json, verb
    details = at_a_terminal("studies", "show", uid, "--config", str(hostile))
    assert LONG_UID in details.split(), "not broken over two lines"


def test_shortened_uids_of_a_list_differ(filled: Path) -> None:
    uids = ["1.2.840.1.20040826185059.5457.1234567", "1.2.840.2.20040826185059.5457.1234567"]
    with in_database(filled) as session:
        session.add_all(a_study(uid, StudyState.DELIVERED, NOW) for uid in uids)
    words = at_a_terminal("studies", "list", "--config", str(filled)).split()
    shown = [word for word in words if word.startswith("…")]
    assert sorted(shown) == ["…1.20040826185059.5457.1234567", "…2.20040826185059.5457.1234567"]


def at_a_terminal(*words: str, columns: int = 60) -> str:
    """What a verb writes to a terminal of this width."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "dumb", "NO_COLOR": "1"}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node", *words], stdout=its, stdin=its, stderr=its, env=environment
    )
    os.close(its)
    written = b""
    try:
        while some := os.read(ours, 65536):
            written += some
    except OSError:  # EIO: the other end is closed
        pass
    os.close(ours)
    assert process.wait(30) == 0, written
    return written.decode("utf-8")


def test_every_line_that_a_verb_prints_goes_through_one_door() -> None:
    folder = Path(cli.__file__).parent
    verbs = [path for path in sorted(folder.rglob("*.py")) if path.name != "output.py"]
    assert len(verbs) > 20
    for path in verbs:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", "") or "", *(alias.name for alias in node.names)]
                assert not any(name.partition(".")[0] == "rich" for name in names), path.name
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in FORBIDDEN, (path.name, node.lineno)
            if isinstance(node, ast.Name):
                assert node.id != "print", (path.name, node.lineno)


FORBIDDEN = {"typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}


def test_names_that_need_joiners_or_other_scripts_stay_as_they_are() -> None:
    for name in ("Müller^Jürgen", "山田^太郎", "نیم\u200cفاصله", "क्\u200dष"):
        assert printable(name) == name
    escaped = printable_json('{\n "a": "\x7f\ud800\U000e0041"\n}')
    assert escaped == '{\n "a": "\\u007f\\ud800\\udb40\\udc41"\n}'
