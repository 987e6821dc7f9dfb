"""The tables of an empty database are made once in a process: further ones are copies of the first.

All migrations take a quarter of a second, and a thousand tests begin with an empty database. The first is
made by the migrations, so what a test sees is what they leave.
"""

import shutil
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, inspect

from dicom_node.base.store.database import Database

_TEMPLATE = "schema"


def remember(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let ``Database.upgrade`` fill an empty database from the first one, which stands in ``folder``."""
    upgrade = Database.upgrade
    turn = threading.Lock()

    @cache
    def made(url: URL) -> None:
        template = Database(url.render_as_string(hide_password=False))
        upgrade(template)
        template.dispose()

    def copy_or_upgrade(database: Database) -> None:
        with turn:
            take = _take_sqlite if database.is_sqlite else _take_postgres
            if not take(database, folder, made):
                upgrade(database)

    patch.setattr(Database, "upgrade", copy_or_upgrade)


def _take_sqlite(database: Database, folder: Path, made: Callable[[URL], None]) -> bool:
    file = Path(database.url.database or ":memory:")
    if file.name == ":memory:" or file.exists():
        return False
    template = folder / _TEMPLATE
    made(database.url.set(database=str(template)))
    shutil.copyfile(template, file)
    return True


def _take_postgres(database: Database, _folder: Path, made: Callable[[URL], None]) -> bool:
    if inspect(database.engine).get_table_names():
        return False
    template = database.url.set(database=_TEMPLATE)
    database.dispose()  # a database that somebody uses cannot be dropped
    server = database.url.set(drivername="postgresql", database="postgres")
    name = database.url.database
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_TEMPLATE]).fetchone():
            connection.execute(f"CREATE DATABASE {_TEMPLATE}")
        made(template)
        connection.execute(f"DROP DATABASE {name}")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    return True
