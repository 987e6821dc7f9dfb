"""A person's actions on a node, one file per noun; command line and console share these functions,
and the base classes of typed requests and results.

Each function takes the settings, opens the database for one short unit of work and raises a ``NodeError``
that says what to do. Modules that are slow to import (networking, models) are imported by the function that
needs them: a list must be quick.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import CannotRun, NotFound
from dicom_node.base.store.database import Database, in_words, sqlite_file
from dicom_node.base.store.mapping import Base
from dicom_node.people import audit

Found = TypeVar("Found", bound=Base)

BUSY_SECONDS = 60.0
"""How long what a person asked for waits for other writers: eight commands at once on two busy cores, each of
which holds SQLite's one lock for a second, were too many for the ten seconds of the node's own threads."""


_BELOW = (
    ". node.data_dir is {!r}, below the folder in which a command is started: where the node was started in "
    "another folder, start this command there, or give node.data_dir as whole path"
)


@contextmanager
def open_database(settings: Settings, busy_seconds: float | None = None) -> Iterator[Database]:
    """Context manager: the node's database, which must exist and have this version's schema. Raises
    CannotRun.

    ``busy_seconds``: how long a write waits for other writers; None: 60 s.
    """
    # SQLite would make an empty file where there is none; a list must not.
    file = sqlite_file(settings.database_url)
    if file is not None and not file.exists():
        raise CannotRun(
            f"there is no database in {settings.node.data_dir.resolve()} yet: start `dicom-node serve`, "
            "or run `dicom-node db upgrade`"
            + ("" if settings.node.data_dir.is_absolute() else _BELOW.format(str(settings.node.data_dir)))
        )
    with in_words(settings.database_url):
        database = Database(settings.database_url, busy_seconds=busy_seconds or BUSY_SECONDS)
        try:
            database.check()
            database.copy_decisions = partial(audit.copy_decisions, database, settings)
            yield database
        finally:
            database.dispose()


@contextmanager
def reading(settings: Settings) -> Iterator[Session]:
    """Context manager: a session that reads the node's database. Raises CannotRun."""
    with open_database(settings) as database, database.read() as session:
        yield session


@contextmanager
def writing(settings: Settings) -> Iterator[Session]:
    """Context manager: a session that writes to the node's database, in one transaction. Raises CannotRun."""
    with open_database(settings) as database, database.write() as session:
        yield session


def existing(
    session: Session, kind: type[Found], key: object, otherwise: str, *, lock: bool = False
) -> Found:
    """The row of the table ``kind`` with this primary key; ``lock``: lock it. Raises NotFound with the text
    ``otherwise``.
    """
    row = session.get(kind, key, with_for_update=lock or None)
    if row is None:
        raise NotFound(otherwise)
    return row


def upgrade_database(settings: Settings) -> str:
    """Update the database's schema to this program's version; returns that version."""
    with in_words(settings.database_url):
        database = Database(settings.database_url)
        try:
            database.upgrade()
            return database.version() or ""
        finally:
            database.dispose()


PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
ShortText = Annotated[str, Field(max_length=64, pattern=PRINTABLE)]


class ServiceResult(BaseModel):
    """Base class of typed results of functions that persons use; values can be read like those of a mapping,
    too.
    """

    def __getitem__(self, key: str) -> Any:
        """The value of this field."""
        return getattr(self, key)


class Row(ServiceResult):
    """A row of a list: the keys of ``dicom-node … list --json`` (docs/reference/lists.md), and further
    ones.
    """

    model_config = ConfigDict(extra="allow")


class ServiceRequest(BaseModel):
    """Base class of typed requests of persons; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid")


class Because(ServiceRequest):
    """A request with the reason that a person gives for a change; the reason must not contain names."""

    because: Annotated[
        str,
        Field(min_length=audit.SHORTEST_REASON, max_length=audit.LONGEST_REASON, pattern=PRINTABLE),
        # A refused one raises an error that says why.
        BeforeValidator(lambda text: audit.checked_reason(text) if isinstance(text, str) else text),
    ]


class Done(ServiceResult):
    """The number of results or jobs that a request has changed or sent."""

    objects: int
