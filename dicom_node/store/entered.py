"""Peers and rules that a person entered: kept in the database, and in a file beside the configuration.

A process that reads the configuration thus finds them without a database. The node writes the file again at
its start and at each reload, in case it is lost.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.config.sections import ENTERED_FILE
from dicom_node.store.database import Database
from dicom_node.store.tables import EnteredTable

_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 3600.0  # until what could not be taken over is tried again
_CLOCKS_DIFFER = 60.0  # at most, of the machines that share a folder
_HEAD = "# Entered by the console or by dicom-node, which rewrite this file: change the entries there.\n"


def entered(session: Session, kind: str = "") -> list[EnteredTable]:
    """All entered peers and rules, or those of one kind."""
    chosen = select(EnteredTable).order_by(EnteredTable.kind, EnteredTable.name)
    return list(session.scalars(chosen.where(EnteredTable.kind == kind) if kind else chosen))


def as_file(rows: Iterable[EnteredTable]) -> str:
    """The entered peers and rules as the text of a TOML file; "" without rows."""
    tables = "".join(f"\n[[{row.kind}]]\n{row.keys}" for row in rows)
    return _HEAD + tables if tables else ""


def is_entered(database: Database, kind: str, name: str) -> bool:
    """Whether the site has this entry, even if this machine has not loaded it yet."""
    with database.read() as session:
        return session.get(EnteredTable, (kind, name)) is not None


class EnteredFile:
    """The file of entered peers and rules of one node, compared with the database."""

    def __init__(self, database: Database, data_dir: Path) -> None:
        self.database, self._path = database, data_dir / ENTERED_FILE
        self._renewed = self._in_force = self._seen = self._told = ""
        self._again_at, self._pause = 0.0, _FIRST_PAUSE

    def renew(self) -> bool:
        """Write the database's entries to the file; returns whether it was different."""
        self._renewed = text = self._text()
        there = self._path.read_text(encoding="utf-8") if self._path.is_file() else ""
        if there == text:
            return False
        if not text:
            self._path.unlink(missing_ok=True)
            return True
        new = self._path.with_suffix(f".new-{os.getpid()}")  # other nodes of the folder do the same
        with new.open("w", encoding="utf-8") as file:  # closed to others by the umask
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        return True

    def is_newer_than(self, moment: float) -> bool:
        """Whether another node may have written the file since ``moment`` (time.time); clocks may differ."""
        return self._path.is_file() and self._path.stat().st_mtime > moment - _CLOCKS_DIFFER

    def taken_over(self) -> None:
        """Note that the node runs with the entries that ``renew`` wrote."""
        self._in_force = self._renewed

    def is_behind(self) -> bool:
        """Whether two reads in a row gave the same new entries, so that the node should load them.

        False at the first read: the machine where they were entered asks its node at once. Repeated warnings
        become ever rarer.
        """
        before, self._seen = self._seen, self._text()
        if self._seen == self._in_force or self._seen != before:
            return False
        if self._seen != self._told:
            self._told, self._pause, self._again_at = self._seen, _FIRST_PAUSE, 0.0
        if time.monotonic() < self._again_at:
            return False
        self._again_at, self._pause = time.monotonic() + self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return True

    def _text(self) -> str:
        with self.database.read() as session:
            return as_file(entered(session))
