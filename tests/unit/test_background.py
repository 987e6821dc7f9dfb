"""What the main process watches beside its work."""

from __future__ import annotations

from typing import Any

from dicom_node.background import Background, inode
from dicom_node.events import DATABASE_REPLACED, EventType
from dicom_node.model.roles import Role
from tests.inbox_lab import Inbox


def test_a_database_that_was_deleted_or_replaced_under_the_node_is_told(inbox: Inbox) -> None:
    said: list[EventType] = []

    def say(event: EventType, **_fields: Any) -> None:
        said.append(event)

    known = inode(inbox.database)
    background = Background(inbox.database, inbox.settings, Role.ALL, "here", say, known)
    background._watch_database()
    assert said == []

    path = inbox.folder / "node.db"
    kept = path.rename(path.with_suffix(".old"))
    background._watch_database()
    assert said == [DATABASE_REPLACED]
    path.write_bytes(kept.read_bytes())
    background._watch_database()
    assert said == [DATABASE_REPLACED] * 2
    assert DATABASE_REPLACED.number == 2032
