"""A database that cannot be used: a sentence and the documented exit status from every verb, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.errors import ExitCode
from dicom_node.store import migrate
from dicom_node.store.database import Database

VERBS = [
    ["studies", "list"],
    ["jobs", "list"],
    ["outbox", "list"],
    ["outbox", "retry", "--dead"],
    ["events", "list"],
    ["associations", "list"],
    ["models", "drift"],
    ["spool", "compare"],
    ["db", "upgrade"],
    ["check"],
    ["serve", "--role", "worker"],
]


def no_database(file: Path) -> None:
    file.write_bytes(b"this is no database, but somebody's letter\n" * 100)


def overwritten(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xff" * 60_000)


def cut(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(5000)


def configured(folder: Path, url: str = "") -> Path:
    config = folder / "node.toml"
    lines = [f'data_dir = "{folder}"', f'database_url = "{url}"']
    config.write_text("\n".join(["[node]", *lines, "[workers]", "processes = 0"]), encoding="utf-8")
    return config


def in_one_process(verbs: list[list[str]], config: Path, folder: Path) -> list[tuple[list[str], int, str]]:
    """Run verbs one after the other in one interpreter: status and standard error of each."""
    program = (
        "import contextlib, io, json, sys\n"
        "from dicom_node import cli\n"
        "said = []\n"
        "for verb in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as err:\n"
        "        try: cli.main([*verb, '--config', sys.argv[2]])\n"
        "        except SystemExit as end: said.append((verb, int(end.code or 0), err.getvalue()))\n"
        "print('\\n' + json.dumps(said))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(verbs), str(config)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    rows: list[tuple[list[str], int, str]] = json.loads(done.stdout.splitlines()[-1])
    assert rows
    return rows


@pytest.mark.parametrize("damage", [no_database, overwritten, cut])
def test_a_damaged_file_is_told_with_what_to_do(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    migrate.upgrade(database)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.dispose()
    damage(tmp_path / "node.db")
    for verb, status, said in in_one_process(VERBS, configured(tmp_path), tmp_path):
        assert status == (ExitCode.CONFIG if verb == ["check"] else ExitCode.DATA), (verb, said)
        assert "is damaged" in said, verb
        assert "Traceback" not in said, verb


def test_a_postgresql_that_does_not_answer_is_told(tmp_path: Path) -> None:
    url = "postgresql+psycopg://node:hunter2@127.0.0.1:9/node"
    for verb, status, said in in_one_process(VERBS, configured(tmp_path, url), tmp_path):
        assert status == (ExitCode.CONFIG if verb == ["check"] else ExitCode.UNAVAILABLE), (verb, said)
        assert "does not answer" in said, verb
        assert "Traceback" not in said, verb
        assert "hunter2" not in said, verb
