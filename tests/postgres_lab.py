"""A PostgreSQL server of the tests' own, with Debian's programs, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

from tests.ports import free_port

_UNSAFE = ["-c", "fsync=off", "-c", "synchronous_commit=off"]  # it is thrown away
_NUMBERS = count(1)


class Postgres:
    """A running server; ``new_database`` gives each test one of its own.

    ``control``: runs one of its programs with these words.
    """

    def __init__(self, port: int, control: Callable[..., None]) -> None:
        self._control = control
        self._server = f"host=127.0.0.1 port={port} user=node"
        self._port = port

    def new_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = f"test{next(_NUMBERS)}"
        with psycopg.connect(f"{self._server} dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://node@127.0.0.1:{self._port}/{name}"

    def stop(self) -> None:
        """End it, with all connections."""
        self._control("pg_ctl", "-w", "-m", "fast", "stop")

    def start(self) -> None:
        """Start it again, as it was."""
        self._control("pg_ctl", "-w", "start")


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, of the newest version that is installed."""
    folder = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return str(folder / name)


@contextmanager
def start_postgres() -> Iterator[Postgres]:
    """initdb, start, and stop at the end; as user ``postgres`` when we are root (the server refuses root)."""
    folder = Path(tempfile.mkdtemp(prefix="node-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    port = free_port()

    def run(name: str, *words: str) -> None:
        done = subprocess.run(
            [*as_user, program(name), "-D", str(folder / "data"), *words],
            capture_output=True, text=True, timeout=120, check=False, cwd=folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    run("initdb", "-U", "node", "-A", "trust", "-E", "UTF8", "--no-locale")
    server = " ".join([f"-p {port}", "-h 127.0.0.1", f"-k {folder}", *_UNSAFE])
    # pg_ctl's server would keep our pipes open: its log goes to a file.

    def control(name: str, *words: str) -> None:
        run(name, "-l", str(folder / "log"), "-o", server, *words)

    control("pg_ctl", "-w", "start")
    try:
        yield Postgres(port, control)
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
