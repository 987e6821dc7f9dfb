"""How what lists and timers ask is looked for: by an index, however many studies there were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from dicom_node import events
from dicom_node.config.settings import PeerSettings
from dicom_node.outbox.outages import outages
from dicom_node.scu.destination import SendReport, SendStatus
from dicom_node.store import views
from dicom_node.store.tables import Association, ReceivedObject, Study
from dicom_node.store.transitions import record, utc_now
from tests.outbox_lab import Outbox


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return filled(tmp_path)


def filled(folder: Path, database_url: str = "") -> Outbox:
    """A study of one association, whose results wait for a peer that was tried."""
    pacs = PeerSettings(name="pacs", ae_title="PACS", host="127.0.0.1", port=1, may=("receive",))
    outbox = Outbox(folder, [pacs], database_url=database_url)
    outbox.add_study(["pacs"])
    away = [SendReport(SendStatus.UNREACHABLE, "", "away")] * 3
    outbox.worker(open_destination=lambda *_: AnyPeer(away)).run_once()
    now, titles = utc_now(), {"calling_ae": "US1", "called_ae": "AINODE"}
    with outbox.database.write() as session:
        session.add(Association(id="a", listener="l", address="192.0.2.21", opened_at=now, **titles))
        session.add(
            ReceivedObject(
                spool_name="s",
                path="x",
                study_id=1,
                outcome="new",
                association="a",
                bytes=1,
                received_at=now,
                **titles,
            )
        )
    return outbox


class AnyPeer:
    def __init__(self, reports: list[SendReport]) -> None:
        self.send = lambda _: reports
        self.close = lambda: None


def plans(outbox: Outbox, ask: Callable[[Session], object]) -> dict[str, str]:
    """The plan of each statement of what is asked."""
    asked: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        asked.append((statement, parameters))

    event.listen(outbox.database.engine, "before_cursor_execute", note)
    with outbox.database.read() as session:
        ask(session)
    event.remove(outbox.database.engine, "before_cursor_execute", note)
    with outbox.database.engine.connect() as connection:
        return {
            statement: " | ".join(
                row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )
            for statement, parameters in asked
            if statement.startswith("SELECT")
        }


def test_events_of_a_study_are_looked_for_by_study_and_time(outbox: Outbox) -> None:
    uid = uid_of(outbox)
    found = plans(outbox, lambda session: views.list_events(session, study_instance_uid=uid))
    [plan] = [plan for statement, plan in found.items() if "FROM event" in statement]
    assert "ix_event_study_id" in plan and "ix_event_at" in plan
    assert "SCAN" not in plan and "ix_event_number" not in plan


def test_held_studies_are_looked_for_by_the_state_of_jobs(outbox: Outbox) -> None:
    found = plans(outbox, lambda session: views.list_studies(session, states=[views.HELD], limit=100))
    first = next(iter(found.values()))
    assert "ix_job_claim (state=?)" in first and "SCAN study" not in first


def test_outages_are_looked_for_among_the_events_since_they_began(outbox: Outbox) -> None:
    found = plans(outbox, outages)
    of_events = [plan for statement, plan in found.items() if "FROM event" in statement]
    assert len(of_events) >= 2
    assert all("study_id=?" in plan or "rowid>?" in plan for plan in of_events), of_events


@pytest.mark.debian("postgresql")
def test_events_of_an_open_association_are_found_in_any_time_zone_of_the_server(
    tmp_path: Path, postgres_url: str
) -> None:
    outbox = filled(tmp_path, postgres_url)
    name = outbox.database.url.database
    with outbox.database.write() as session:
        session.execute(text(f"ALTER DATABASE {name} SET timezone = 'America/New_York'"))
    outbox.database.dispose()  # for connections from now on
    with outbox.database.write() as session:
        record(session, events.STORE_REFUSED, association="a")
    with outbox.database.read() as session:
        shown = views.list_events(session, study_instance_uid=uid_of(outbox))
    assert events.STORE_REFUSED.number in {row["number"] for row in shown}
    outbox.database.dispose()


def uid_of(outbox: Outbox) -> str:
    with outbox.database.read() as session:
        return str(session.get_one(Study, 1).study_instance_uid)
