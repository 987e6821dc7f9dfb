"""The files of decisions: each is written once, and what was changed is no decision."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.base.config.settings import NodeSettings, Settings
from dicom_node.base.lifecycle import AuditAction
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import DecisionRow
from dicom_node.base.store.transitions import utc_now
from dicom_node.people import audit


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node whose database has two decisions, which are copied."""
    settings = Settings(node=NodeSettings(data_dir=tmp_path))
    database = Database(settings.database_url)
    database.upgrade()
    record: dict[str, Any] = {"actor": "reader", "address": "", "fields": {}, "what": {}, "words": ""}
    with database.write() as session:
        for number in ("a", "b"):
            named = {
                "id": number,
                "machine": audit.machine_name(),
                "action": "discarded",
                "record": record,
            }
            session.add(DecisionRow(**named, at=utc_now(), applied_at=utc_now(), holds=True))
    assert audit.copy_decisions(database, settings) == 2
    return settings


def test_a_decision_is_written_once_and_only_its_owner_reads_it(settings: Settings) -> None:
    database, folder = Database(settings.database_url), settings.node.data_dir
    files = audit.copied_decisions(folder)
    assert [(audit.read_decision(file) or {})["id"] for file in files] == ["a", "b"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (folder / audit.FOLDER).stat().st_mode & 0o777 == 0o700
    assert (audit.copy_decisions(database, settings), audit.enter_copies(database, settings)) == (0, [])
    files[0].unlink()  # with a disk
    audit.enter_copies(database, settings)
    assert (audit.copy_decisions(database, settings), len(audit.copied_decisions(folder))) == (1, 2)


def test_the_last_decision_is_the_latest_also_where_the_clock_was_put_back(settings: Settings) -> None:
    with Database(settings.database_url).write() as session:
        for hours in (3, 1):
            person = audit.Person("reader", decided_at=utc_now() + timedelta(hours=hours))
            audit.note(session, person, AuditAction.DISCARDED, hours=hours)
        rows = session.scalars(select(DecisionRow).order_by(DecisionRow.at)).all()
        assert [row.record["fields"] for row in rows[2:]] == [{"hours": 3}, {"hours": 1}]


@pytest.mark.parametrize("content", ["", "[]", '{"id": "a"}', '{"id": "a", "sha256": 1}'])
def test_what_is_no_decision_of_ours_is_named(settings: Settings, content: str) -> None:
    file = audit.copied_decisions(settings.node.data_dir)[0]
    whole = json.loads(file.read_text())
    for changed in (content, json.dumps(whole | {"holds": False}), json.dumps(whole | {"id": "b"})):
        file.write_text(changed)
        assert audit.read_decision(file) is None


def test_words_are_sealed_and_come_back_under_the_same_key_only(tmp_path: Path) -> None:
    sealed = audit.seal(tmp_path, "that of Nowak", "1")
    assert "Nowak" not in sealed
    assert audit.unseal(tmp_path, sealed, "1") == "that of Nowak"
    assert audit.unseal(tmp_path, sealed, "2") == audit.LOST, "not those of another decision"
    assert audit.unseal(tmp_path, "ü", "1") == audit.LOST, "somebody changed it"
    (tmp_path / "keys" / "site.key").write_text("ab" * 32)
    assert audit.unseal(tmp_path, sealed, "1") == audit.LOST
