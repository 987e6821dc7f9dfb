"""Every page, with every kind of row, in each language."""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from enum import StrEnum
from itertools import count
from typing import Any, get_args

import pytest
from sqlalchemy import JSON, Column, Enum, String, Table, Text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.database import Database
from dicom_node.base.store.mapping import Base, UtcDateTime
from dicom_node.base.store.tables import EventRow
from dicom_node.base.store.transitions import utc_now
from dicom_node.receive.policy import Failure
from tests.console_lab import ConsoleLab, routes
from tests.inbox_lab import Inbox
from tests.rows import Stored
from tests.unit.dicom_console.illustrated import illustrated

_TITLE, _ADDRESS = "GE CT^1", "192.0.2.77"


_FIELDS = {
    "calling": _TITLE, "called": "AINODE", "address": _ADDRESS, "meaning": "no", "status": "A700",
    "peer": "pacs", "destination": "pacs", "study": "1.2", "instance": "1.2", "job": 1, "reason": "x",
    **dict.fromkeys(get_args(Failure), 1),
}  # fmt: skip


_BOXES = [[0, 0, 9, 9]]


_JSON: dict[str, Any] = {
    "fields": _FIELDS, "content": _FIELDS, "record": _FIELDS, "attributes": {}, "options": {}, "filters": {},
    "search": {}, "deliveries": [1], "boxes": _BOXES, "places": _BOXES,
    "device": {"model": "x", "rows": 9, "columns": 9},
}  # fmt: skip


_PEERS = [
    {"name": "get", "ae_title": "GET", "may": ["query"], "host": "h", "port": 4, "retrieve": "get"},
    {"name": "ups", "ae_title": "UPS", "may": ["send"], "host": "h", "port": 4, "worklist": ["A^B"]},
    {"name": "asks", "ae_title": "ASKS", "may": ["send"], "host": "h", "port": 4,
     "commit_after": "delivered"},
    {"name": "steps", "ae_title": "STEPS", "may": ["send"], "mpps": True, "silent_hours": 1.5},
    {"name": "hl7", "ae_title": "RIS", "transport": "hl7", "may": ["receive"], "host": "h", "port": 4,
     "hl7_fields": {"MSH-6": "RIS"}},
    {"name": "fhir", "ae_title": "F", "transport": "fhir", "may": ["receive"], "url": "https://h/fhir"},
    {"name": "web", "ae_title": "W", "transport": "dicomweb", "may": ["receive"], "url": "https://h/dicom-web",
     "deidentify": True, "results": ["cleaned"], "retain": ["modified_dates"]},
]  # fmt: skip


_NUMBERS = count(1000)


def _value(column: Column[Any], member: StrEnum | None) -> Any:
    """A value that the column takes; a number or a text that no other row has where it has to be unique."""
    if column.foreign_keys:
        return 1
    if isinstance(column.type, Enum):
        return member or next(iter(column.type.enum_class))  # type: ignore[arg-type]
    if isinstance(column.type, String | Text):
        names = {"calling_ae": _TITLE, "address": _ADDRESS, "peer": "asks", "destination": "pacs"}
        return names.get(column.name) or f"1.2.{next(_NUMBERS)}"
    if isinstance(column.type, JSON):
        return _JSON.get(column.name, ["1.2 3"])
    if isinstance(column.type, UtcDateTime):
        return utc_now()
    kinds: dict[type, Any] = {bytes: b"", date: utc_now().date(), bool: True, float: 0.5}
    return kinds.get(column.type.python_type, next(_NUMBERS) if column.primary_key else 1)


def _rows(table: Table) -> Iterator[dict[str, Any]]:
    """For each word of each enumeration one row with all columns, and one with as few as the table allows."""
    numbered = table.columns.get("id")
    columns = [one for one in table.columns if one is not numbered or isinstance(one.type, String)]
    words = [(one, word) for one in columns for word in getattr(one.type, "enum_class", None) or ()]
    for chosen, word in words or [(None, None)]:
        for is_whole in (True, False):
            yield {
                one.name: _value(one, word if one is chosen else None)
                for one in columns
                if is_whole or one is chosen or not (one.nullable or one.default)
            }


def fill(database: Database) -> None:
    """Add the rows. What a constraint refuses is no kind of row."""
    stored = Stored(database)
    for table in Base.metadata.sorted_tables:
        for row in _rows(table):
            with suppress(IntegrityError):
                stored.write(Session.execute, table.insert().values(row))
    kinds = [one.number for one in events.all_types()]
    told = [{"number": number, "fields": fields} for number in kinds for fields in ({}, _FIELDS)]
    stored.add(*(EventRow(at=utc_now(), study_id=1, **one) for one in told))


@pytest.mark.parametrize("language", ["de"])
def test_each_page_is_shown_with_every_kind_of_row_and_in_each_language(node: Inbox, language: str) -> None:
    fill(node.database)
    config = illustrated()
    config["peers"] += _PEERS
    settings = Settings.model_validate({**config, "node": {"data_dir": node.folder}})
    console = ConsoleLab(settings, node.database)
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/language", language=language, back="/studies") == 303
    assert browser.headers["location"] == "/studies"
    names = [peer.name for peer in settings.peers]
    paths = {f"/peers/why?caller={caller}" for caller in (*names, "GE+CT^1", _ADDRESS)}
    for route in routes(console.app.routes):
        if "GET" in route.methods and not re.match(r"/api/|/live|/sign-in/oidc|/dicomweb", route.path):
            for name in names if "/{name}" in route.path else [""]:
                for number in range(1, 25) if route.path.endswith("/{number}") else [1]:
                    path = route.path.replace("{name}", name).replace("{number}", str(number))
                    paths.add(re.sub(r"\{\w+\}", "1", path))
    for path in sorted(paths):
        assert browser.get(path) != 500, path
        if browser.status == 200 and browser.headers["content-type"].startswith("text/html"):
            assert f'<html lang="{language}">' in browser.text, path
            assert "%(" not in browser.text, path
