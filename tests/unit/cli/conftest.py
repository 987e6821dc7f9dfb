"""A data folder with a database in which everything that a list can show happened once."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import cli
from dicom_node.events import ASSOCIATION_ACCEPTED, JOB_FAILED
from dicom_node.model.kinds import ObjectRole, Outcome, ResultKind
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.store import migrate
from dicom_node.store.database import Database
from dicom_node.store.tables import (
    AuditRow,
    EventRow,
    Instance,
    ReceivedObject,
    Study,
)
from tests.rows import NOW, Stored, a_job, a_study, an_association

DELIVERED, BROKEN, CONFLICT = "1.2.840.99.1", "1.2.840.99.2", "1.2.840.99.3"

CONFIG = """
[node]
data_dir = "{folder}/var"
[listener]
port = {port}
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
[[peers]]
name = "us1"
ae_title = "US1"
[[rules]]
name = "ultrasound"
when = {{ modality = "US", calling_ae = "US1" }}
max_study_age_days = 0
pipeline = "ultrasound"
send_to = ["pacs"]
[[rules]]
name = "chest"
when = {{ modality = ["CR", "DX"], body_part = "CHEST" }}
pipeline = "chest_xray"
send_to = ["pacs"]
"""


@dataclass(frozen=True)
class Ran:
    """What a verb printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a verb in this process; its logging is undone at the end."""

    def run(*words: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        printed = capsys.readouterr()
        return Ran(int(end.value.code or 0), printed.out, printed.err)

    root = logging.getLogger()
    handlers, level, umask = list(root.handlers), root.level, os.umask(0o022)
    yield run
    os.umask(umask)
    root.handlers, root.level = handlers, level


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A configuration file; nothing runs, no database yet."""
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(folder=tmp_path, port=11112, pacs=4242), encoding="utf-8")
    return path


@pytest.fixture
def filled(site: Path) -> Path:
    """The same with three studies: delivered, failed with a dead delivery, in quarantine."""
    database = Database(f"sqlite:///{site.parent / 'var' / 'node.db'}")
    migrate.upgrade(database)
    stored = Stored(database)
    studies = [
        a_study(DELIVERED, StudyState.DELIVERED, NOW),
        a_study(BROKEN, StudyState.FAILED, NOW - timedelta(hours=1), reason="the PACS refuses it"),
        a_study(CONFLICT, StudyState.QUARANTINED, NOW - timedelta(days=2), reason="two patients"),
    ]
    stored.add(*studies)
    stored.add(*(row for study in studies for row in received(study)))
    for study, state in ((studies[0], DeliveryState.CONFIRMED), (studies[1], DeliveryState.DEAD)):
        stored.add(job := a_job(study, JobState.SUCCEEDED))
        for kind in (ResultKind.SR, ResultKind.SC):
            stored.delivery(job, state, kind)
    stored.add(
        a_job(studies[1], JobState.FAILED, rule="chest", reason="decoder: truncated"),
        an_association("a-1", NOW - timedelta(minutes=5), closed_at=NOW, objects=2),
        an_association("a-2", NOW),
        event(ASSOCIATION_ACCEPTED.number, NOW, association="a-1"),
        event(ASSOCIATION_ACCEPTED.number, NOW, association="a-9"),
        event(JOB_FAILED.number, NOW + timedelta(seconds=5), studies[1].id, job=3),
        event(9999, NOW + timedelta(seconds=6)),
    )
    database.dispose()
    return site


@contextmanager
def in_database(site: Path) -> Iterator[Session]:
    """One transaction in the database of this configuration."""
    database = Database(f"sqlite:///{site.parent / 'var' / 'node.db'}")
    with database.write() as session:
        yield session
    database.dispose()


def audited(site: Path) -> list[tuple[str, dict[str, Any]]]:
    """What the audit says that the command line did."""
    with in_database(site) as session:
        rows = session.scalars(select(AuditRow).where(AuditRow.actor == "command line").order_by(AuditRow.id))
        return [(row.action.value, dict(row.fields)) for row in rows]


def received(study: Study) -> list[Any]:
    number = (study.study_instance_uid or "0")[-1]
    titles = {"calling_ae": "US1", "called_ae": "AINODE", "path": "x", "bytes": 1, "received_at": NOW}
    rows: list[Any] = []
    for series, (modality, role) in enumerate((("US", ObjectRole.SOURCE), ("SR", ObjectRole.OWN))):
        uid = f"1.2.3.{number}.{series}"
        known = {"study_id": study.id, "sop_instance_uid": uid, **titles}
        classes = {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.6.1", "series_instance_uid": "1.2"}
        kept = {"transfer_syntax_uid": "1.2.840.10008.1.2.1", "identity_sha256": "", "attributes": {}}
        rows += [
            Instance(**known, **classes, **kept, modality=modality, role=role),
            ReceivedObject(**known, spool_name=uid, outcome=Outcome.NEW, association=f"a-{number}"),
        ]
    return rows


def event(number: int, at: datetime, study_id: int | None = None, **fields: Any) -> EventRow:
    return EventRow(at=at, number=number, study_id=study_id, fields=fields)
