"""``dicom-node init``: five questions at a terminal, options for scripts; nothing is overwritten."""

from __future__ import annotations

import os
import pty
import select
import sys
import termios
import time
from pathlib import Path

import pytest

from dicom_node.config import loading
from dicom_node.errors import ExitCode
from dicom_node.services import users
from tests.unit.cli.conftest import Run

PASSWORD = "correct horse battery"


def at_a_terminal(*arguments: str, answers: dict[str, list[str]]) -> tuple[int, str]:
    """Exit status and what the terminal shows; each question gets its next answer."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "dicom_node", "init", *arguments])
    shown, answered, end = "", 0, time.monotonic() + 300
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                shown += os.read(terminal, 4096).decode()
            except OSError:  # it has ended
                break
        for question, left in answers.items():
            asked = shown.rfind(question, answered) >= 0 and shown.endswith(": ")
            hidden = not termios.tcgetattr(terminal)[3] & termios.ECHO  # what is typed before is thrown away
            if left and asked and hidden == (question in ("Password", "Repeat")):
                os.write(terminal, left.pop(0).encode() + b"\n")
                answered = len(shown)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_at_a_terminal_a_faulty_answer_is_asked_for_again_and_no_password_shows(tmp_path: Path) -> None:
    data = tmp_path / "data"
    answers = {
        "AE title": ["A TITLE THAT IS TOO LONG", "NODE1"],
        "Folder": [str(data)],
        "PACS": ["PACS", "PACS@192.0.2.10:104"],
        "Machines": ["US1@192.0.2.21, XR 2@192.0.2.22"],
        "Console": ["anna"],
        "Password": [PASSWORD],
        "Repeat": [PASSWORD],
    }
    status, shown = at_a_terminal("--to", str(tmp_path / "etc"), answers=answers)
    assert status == 0, shown
    assert "has more than 16 characters" in shown and "write AE@HOST:PORT" in shown
    assert PASSWORD not in shown
    settings = loading.load([tmp_path / "etc" / "node.toml"])
    assert (settings.node.ae_title, settings.node.data_dir) == ("NODE1", data)
    assert [(peer.name, peer.ae_title, peer.host, peer.port) for peer in settings.peers] == [
        ("pacs", "PACS", "192.0.2.10", 104),
        ("us1", "US1", "192.0.2.21", None),
        ("xr-2", "XR 2", "192.0.2.22", None),
    ]
    assert [rule.send_to for rule in settings.rules] == [("pacs",), ("pacs",)]
    assert [(row["name"], row["role"]) for row in users.list_users(settings)] == [("anna", "admin")]
    unit = (tmp_path / "etc" / "dicom-node.service").read_text()
    assert f"ReadWritePaths={data}\nWorkingDirectory={data}\n" in unit
    assert f"DICOM_NODE_CONFIG={tmp_path}/etc/node.toml\n" in unit
    assert f"ExecStart={Path(sys.executable).with_name('dicom-node')} serve\n" in unit
    for path in (data / "node.db", tmp_path / "etc" / "node.toml"):
        assert path.stat().st_mode & 0o077 == 0


def test_options_and_defaults_ask_nothing_and_what_is_there_stays(run: Run, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "etc"
    command = ("init", "--defaults", "--to", folder, "--data-dir", data)
    done = run(*command)
    assert done.status == 0, done.err
    assert not loading.load([folder / "node.toml"]).console.enabled
    before = (folder / "node.toml").read_bytes()
    assert run(*command, "--ae-title", "OTHER").status == ExitCode.CANNOT_CREATE
    (folder / "node.toml").rename(tmp_path / "kept")
    assert run(*command).status == ExitCode.CANNOT_CREATE, "the unit is there"
    (folder / "dicom-node.service").unlink()
    (data / "spool").mkdir()
    assert run(*command).status == ExitCode.CANNOT_CREATE, "the data folder holds a node"
    assert (tmp_path / "kept").read_bytes() == before
    assert not (folder / "node.toml").exists()


@pytest.mark.parametrize(
    ("option", "value", "because"),
    [
        ("--pacs", "PACS@host", "AE@HOST:PORT"),
        ("--pacs", "PACS@host:99999", "at most 65535"),
        ("--machines", "US1", "AE@HOST"),
        ("--machines", "US1@a b", "no name or address"),
        ("--machines", "US1@a,US1@b", "us1"),
        ("--ae-title", "A\\B", "no backslash"),
        ("--data-dir", "/tmp/a b\n[x]", "needs a path"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_and_nothing_is_written(
    run: Run, tmp_path: Path, option: str, value: str, because: str
) -> None:
    known = {"--data-dir": str(tmp_path / "data")} | {option: value}
    done = run(
        "init", "--defaults", "--to", tmp_path / "etc", *(word for pair in known.items() for word in pair)
    )
    assert done.status not in (0, ExitCode.SOFTWARE) and because in done.err
    assert not (tmp_path / "etc").exists() and not (tmp_path / "data").exists()
