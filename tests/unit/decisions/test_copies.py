"""The files of decisions: each is written once, and what was changed is no decision."""

import json
from pathlib import Path
from typing import Any

import pytest

from dicom_node.base.config.settings import NodeSettings, Settings
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import DecisionRow
from dicom_node.base.store.transitions import utc_now
from dicom_node.people import decision_copies


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
                "machine": decision_copies.machine(),
                "action": "discarded",
                "record": record,
            }
            session.add(DecisionRow(**named, at=utc_now(), applied_at=utc_now(), holds=True))
    assert decision_copies.copy(database, settings) == 2
    return settings


def test_a_decision_is_written_once_and_only_its_owner_reads_it(settings: Settings) -> None:
    database, folder = Database(settings.database_url), settings.node.data_dir
    files = decision_copies.copied(folder)
    assert [(decision_copies.read(file) or {})["id"] for file in files] == ["a", "b"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (folder / decision_copies.FOLDER).stat().st_mode & 0o777 == 0o700
    assert (decision_copies.copy(database, settings), decision_copies.take_in(database, settings)) == (0, [])
    files[0].unlink()  # with a disk
    decision_copies.take_in(database, settings)
    assert (decision_copies.copy(database, settings), len(decision_copies.copied(folder))) == (1, 2)


@pytest.mark.parametrize("content", ["", "[]", '{"id": "a"}', '{"id": "a", "sha256": 1}'])
def test_what_is_no_decision_of_ours_is_named(settings: Settings, content: str) -> None:
    file = decision_copies.copied(settings.node.data_dir)[0]
    whole = json.loads(file.read_text())
    for changed in (content, json.dumps(whole | {"holds": False}), json.dumps(whole | {"id": "b"})):
        file.write_text(changed)
        assert decision_copies.read(file) is None


def test_words_are_sealed_and_come_back_under_the_same_key_only(tmp_path: Path) -> None:
    sealed = decision_copies.seal(tmp_path, "that of Nowak", "1")
    assert "Nowak" not in sealed and decision_copies.unseal(tmp_path, sealed, "1") == "that of Nowak"
    assert decision_copies.unseal(tmp_path, sealed, "2") == decision_copies.LOST, (
        "not those of another decision"
    )
    assert decision_copies.unseal(tmp_path, "ü", "1") == decision_copies.LOST, "somebody changed it"
    (tmp_path / "keys" / "site.key").write_text("ab" * 32)
    assert decision_copies.unseal(tmp_path, sealed, "1") == decision_copies.LOST
