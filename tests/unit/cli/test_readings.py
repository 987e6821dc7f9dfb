"""``studies readings``: names on the screen of who holds the key, an event for each look."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from ai_pipeline.contract import Meaning, PipelineResult, Reading
from dicom_node.config import loading
from dicom_node.jobs.worker.readings import ReadingRecord
from dicom_node.store.database import Database
from dicom_node.store.tables import Instance, Study
from tests.unit.cli.conftest import BROKEN, DELIVERED, Run, audited
from tests.unit.jobs.worker_lab import Obedient

SECRET = "KIM [bold] 김영희"


@pytest.fixture
def read(filled: Path) -> str:
    """An image of the delivered study in which a name was read; its UID."""
    given = loading.load([filled])
    database = Database(given.database_url)
    with database.read() as session:
        chosen = select(Instance.sop_instance_uid).join(Study).where(Study.study_instance_uid == DELIVERED)
        uid = session.scalars(chosen.order_by(Instance.id)).first() or ""
    said = Reading(uid, 2, "text", Meaning.IDENTITY, (4.0, 2.0, 90.0, 14.0), 0.9712, True, SECRET)
    ReadingRecord(database, given).take(Obedient(), {}, [uid], PipelineResult(readings=(said,)))
    database.dispose()
    return uid


def test_readings_have_the_keys_that_the_guide_names(run: Run, filled: Path, read: str) -> None:
    [row] = run("studies", "readings", DELIVERED, "--config", filled, "--json").json
    assert row.pop("read_at").endswith("Z")
    assert row == {
        "sop_instance_uid": read,
        "frame": 2,
        "kind": "text",
        "meaning": "identity",
        "text": SECRET,
        "bounds": [4.0, 2.0, 90.0, 14.0],
        "confidence": 0.971,
        "removed": True,
    }


def test_the_table_shows_the_text_as_it_is(run: Run, filled: Path, read: str) -> None:
    printed = run("studies", "readings", DELIVERED, "--config", filled)
    assert printed.status == 0
    assert SECRET in printed.out
    assert max(map(len, printed.out.splitlines())) <= 100


def test_the_look_is_in_the_audit_and_the_list_of_events_and_the_text_is_not(
    run: Run, filled: Path, read: str
) -> None:
    run("studies", "readings", DELIVERED, "--config", filled)
    listed = run("events", "list", "--config", filled, "--number", "4010", "--json")
    [event] = listed.json
    assert event["study_instance_uid"] == DELIVERED
    assert event["fields"]["readings"] == 1
    assert "KIM" not in listed.out
    assert audited(filled) == [("study_seen", {"readings": True})]


def test_where_nothing_was_read_it_says_so(run: Run, filled: Path) -> None:
    printed = run("studies", "readings", BROKEN, "--config", filled)
    assert (printed.status, printed.out) == (0, "")
    assert "Nothing was read" in printed.err


def test_another_key_is_status_65(run: Run, filled: Path, read: str) -> None:
    (filled.parent / "var" / "keys" / "site.key").write_text("cd" * 32)
    printed = run("studies", "readings", DELIVERED, "--config", filled)
    assert (printed.status, printed.out) == (65, "")
    assert "site.key" in printed.err
