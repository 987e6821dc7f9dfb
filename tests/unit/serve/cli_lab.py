"""A site with a database in which everything that a list can show happened once, and a verb run on it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.lifecycle import (
    ObjectRole,
    Outcome,
)
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import AuditRow, EventRow, Instance, ReceivedObject, Study
from tests.rows import NOW

# A data folder with a database in which everything that a list can show happened once.

DELIVERED, BROKEN, CONFLICT = "1.2.840.99.1", "1.2.840.99.2", "1.2.840.99.3"

CONFIG = """
[node]
data_dir = "{folder}/var"
[listener]
port = 11112
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 4242
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


def set_in_workers(config: Path, key: str, folder: Path) -> None:
    rewrite(config, {"[listener]": f'[workers]\n{key} = "{folder}"\n[listener]'})


def rewrite(config: Path, changes: dict[str, str], further: str = "") -> None:
    text = config.read_text(encoding="utf-8")
    for old, new in changes.items():
        text = text.replace(old, new)
    config.write_text(text + further, encoding="utf-8")


PASSWORD = "correct horse battery"
