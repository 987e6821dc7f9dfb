"""A PostgreSQL server of the tests' own, with Debian's programs, in a temporary folder."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest

from tests.ports import free_port

POSTGRESQL = pytest.mark.debian("postgresql")
_UNSAFE = {"fsync": "off", "synchronous_commit": "off"}  # it is thrown away
KEEPS_COMMITS = {"fsync": "off"}  # also when it is killed; only a loss of power would take what it has
_NUMBERS = count(1)


class Postgres:
    """A server in ``folder``, which is its user's; ``new_database`` gives each test one of its own.

    ``options``: of the server, in place of those that make it quick and unsafe.
    """

    def __init__(self, folder: Path, options: Mapping[str, str] = MappingProxyType(_UNSAFE)) -> None:
        self.folder, self.port = folder, free_port()
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        words = [f"-c {name}={value}" for name, value in options.items()]
        # pg_ctl's server would keep our pipes open: its log goes to a file.
        server = " ".join([f"-p {self.port}", "-h 127.0.0.1", f"-k {folder}", *words])
        self._server = ["-l", str(folder / f"{self.port}.log"), "-o", server]

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.folder / f"data-{self.port}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection of the test's own, without transactions."""
        words = f"host=127.0.0.1 port={self.port} user=node dbname={database}"
        return psycopg.connect(words, autocommit=True)

    def new_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = f"test{next(_NUMBERS)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://node@127.0.0.1:{self.port}/{name}"

    def create(self) -> None:
        """initdb."""
        self.run("initdb", "-U", "node", "-A", "trust", "-E", "UTF8", "--no-locale")

    def start(self) -> None:
        """Start it, or start it again as it was."""
        self.run("pg_ctl", *self._server, "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        """End it, with all connections."""
        self.run("pg_ctl", "-w", "-m", mode, "stop")

    def run(self, name: str, *words: str) -> None:
        """Run one of its programs on its data; as ``postgres`` when we are root, which a server refuses."""
        done = subprocess.run(
            [*self._as_user, program(name), "-D", str(self.data), *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, of the newest version that is installed."""
    return str(max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)) / name)


@contextmanager
def server_folder() -> Iterator[Path]:
    """A temporary folder that belongs to the user that servers run as."""
    folder = Path(tempfile.mkdtemp(prefix="node-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def start_postgres(options: Mapping[str, str] = MappingProxyType(_UNSAFE)) -> Iterator[Postgres]:
    """initdb, start, and stop at the end."""
    with server_folder() as folder:
        server = Postgres(folder, options)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
