"""A database of a former version is brought up to date and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    Boolean,
    Date,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.errors import SchemaOutdated
from dicom_node.model.kinds import AssociationOutcome, Counted, ObjectRole
from dicom_node.store import migrate
from dicom_node.store.database import Database
from dicom_node.store.tables import (
    AnnotationReading,
    Association,
    Delivery,
    ImageCount,
    Instance,
    Job,
    ReceivedObject,
    Result,
)

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def test_the_files_are_named_by_the_versions_of_the_schema() -> None:
    scripts = ScriptDirectory.from_config(migrate._config())
    assert migrate.head() == scripts.get_current_head()
    assert migrate._versions() == {script.revision for script in scripts.walk_revisions()}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.debian("postgresql"))])
def first(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database of version 0001 with a study in it."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'node.db'}" if sqlite else request.getfixturevalue("postgres_url")
    database = Database(url)
    with database.write() as session:
        upgrade(session, "0001")
        session.execute(
            text(
                "INSERT INTO study (study_instance_uid, patient_id, issuer_of_patient_id, study_date, state,"
                " reason, revision, first_received_at, last_received_at, priority)"
                " VALUES ('1.2', 'P', '', '', 'receiving', '', 1, :now, :now, 0)"
            ),
            {"now": NOW.replace(tzinfo=None)},
        )
    yield database
    database.dispose()


def upgrade(session: Session, version: str) -> None:
    config = migrate._config()
    config.attributes["connection"] = session.connection()
    command.upgrade(config, version)


def add(session: Session, table: str, rows: list[dict[str, Any]]) -> None:
    """Rows as a program of that version wrote them; columns that no test looks at are filled in."""
    there = Table(table, MetaData(), autoload_with=session.connection())
    now = NOW.replace(tzinfo=None)
    fill = (
        (String, ""),
        (DateTime, now),
        (Date, now.date()),
        (JSON, {}),
        (Boolean, False),
        (Float, 0.0),
        (Integer, 0),
        (LargeBinary, b""),
    )
    filled = {
        column.name: next(value for kind, value in fill if isinstance(column.type, kind))
        for column in there.columns
        if not column.nullable and column.name != "id"
    }
    for number, row in enumerate(rows, start=1):
        numbered = {"id": number} if "id" in there.columns else {}
        session.execute(insert(there).values(filled | numbered | row))


def test_the_first_version_is_brought_up_to_date(first: Database) -> None:
    with pytest.raises(SchemaOutdated, match="db upgrade"):
        migrate.check(first)
    migrate.upgrade(first)
    migrate.check(first)
    with first.read() as session:
        assert session.execute(text("SELECT study_instance_uid FROM study")).scalars().all() == ["1.2"]
        assert {"image_count", "score_count", "counted_image", "annotation_reading"} <= set(
            inspect(session.connection()).get_table_names()
        )


def test_tables_that_others_refer_to_are_rebuilt(first: Database) -> None:
    with first.write() as session:
        upgrade(session, "0003")
        one = {"study_id": 1, "sop_instance_uid": "1.2.3"}
        add(session, "instance", [one | {"role": "own", "patient_sha256": "abc"}])
        add(session, "counted_image", [{"instance_id": 1, "day": NOW.date(), "card_sha256": ""}])
        add(session, "job", [{"study_id": 1, "state": "succeeded"}])
        add(session, "result", [one | {"job_id": 1, "kind": "sr"}])
    migrate.upgrade(first)
    with first.write() as session:
        assert session.scalars(select(Result.job_id)).all() == [1]
        assert session.scalars(select(Instance.patient)).all() == ["abc;;;;;"]
        session.execute(text("DELETE FROM counted_image"))
    with pytest.raises(IntegrityError), first.write() as session:
        session.execute(text("DELETE FROM job"))


def test_what_stood_in_other_columns_gets_its_own(first: Database) -> None:
    with first.write() as session:
        upgrade(session, "0006")
        study = {"study_id": 1}
        charset = {"AssumedCharacterSet": "ISO_IR 100"}
        objects = [
            {"role": "source", "attributes": {"Rows": "5", **charset}},
            {"role": "companion", "attributes": {"Rows": "5"}},
            {"role": "own", "attributes": {}},
        ]
        add(
            session,
            "instance",
            [study | {"sop_instance_uid": f"1.{n}"} | row for n, row in enumerate(objects)],
        )
        jobs = [{"rule": "a", "share_done": 0.0}, {"rule": "b", "share_done": 0.01}]
        add(session, "job", [study | {"state": "running"} | row for row in jobs])
        paths = ["results/ab/1.dcm", "deidentified/cd/2.dcm", "results/deidentified/3.dcm"]
        results = [{"job_id": 1, "kind": "sr", "path": path, "sop_instance_uid": path} for path in paths]
        add(session, "result", [study | row for row in results])
        deliveries = [
            {"state": "cancelled", "reason": "withdrawn: superseded by revision 2"},
            {"state": "cancelled", "reason": "SR is not accepted"},
            {"state": "pending", "reason": "withdrawn: is what a peer said"},
        ]
        rows = [{"result_id": n, "destination": "pacs"} | row for n, row in enumerate(deliveries, start=1)]
        add(session, "delivery", rows)
    migrate.upgrade(first)
    with first.read() as session:
        found = session.scalars(select(Instance).order_by(Instance.id)).all()
        assert [(row.role, row.attributes, row.assumed_charset) for row in found] == [
            (ObjectRole.SOURCE, {"Rows": "5"}, "ISO_IR 100"),
            (ObjectRole.NON_SOURCE, {"Rows": "5"}, ""),
            (ObjectRole.OWN, {}, ""),
        ]
        assert session.scalars(select(Job.accepted).order_by(Job.id)).all() == [False, True]
        assert session.scalars(select(Result.deidentified).order_by(Result.id)).all() == [False, True, False]
        assert session.scalars(select(Delivery.withdrawn).order_by(Delivery.id)).all() == [True, False, False]
        assert (
            session.scalars(select(Delivery.reason).order_by(Delivery.id)).first() == deliveries[0]["reason"]
        )


def test_purged_objects_and_refused_contexts_are_said_by_columns(first: Database) -> None:
    with first.write() as session:
        upgrade(session, "0008")
        files = [
            {"study_id": 1, "path": path, "sop_instance_uid": f"1.{path}"} for path in ("", "spool/a.dcm")
        ]
        add(session, "instance", [row | {"role": "source"} for row in files])
        add(session, "reception", [row | {"outcome": "new", "spool_name": row["path"]} for row in files])
        texts = ["", "CT (1.2); MR (1.3)", "CT (1.2); MR (1.3); US (1.4); and 87 more"]
        rows = [{"id": f"a{n}", "outcome": "released", "refused": text} for n, text in enumerate(texts)]
        add(session, "association", rows)
        counts = {"day": NOW.date(), "card_sha256": "", "calling_ae": ""}
        add(session, "image_count", [counts | {"outcome": word} for word in ("analysed", "mended")])
    migrate.upgrade(first)
    with first.write() as session:
        for table in (Instance, ReceivedObject):
            found = session.execute(select(table.purged, table.path).order_by(table.id)).all()
            assert found == [(True, ""), (False, "spool/a.dcm")]
        associations = session.scalars(select(Association).order_by(Association.id)).all()
        assert [(row.refused, row.refused_count) for row in associations] == [
            ([], 0),
            (["CT (1.2)", "MR (1.3)"], 2),
            (["CT (1.2)", "MR (1.3)", "US (1.4)"], 90),
        ]
        assert {row.outcome for row in associations} == {AssociationOutcome.RELEASED}
        assert set(session.scalars(select(ImageCount.outcome))) == {Counted.ANALYSED, Counted.REORIENTED}
        row = {
            "outcome": "new",
            "spool_name": "b",
            "path": "",
            "association": "",
            "calling_ae": "",
            "called_ae": "",
        }
        session.execute(insert(ReceivedObject).values(row | {"bytes": 0, "received_at": NOW}))
        assert session.scalars(select(ReceivedObject.id).order_by(ReceivedObject.id)).all() == [1, 2, 3]


def test_readings_stay_sealed_as_they_were(first: Database) -> None:
    with first.write() as session:
        upgrade(session, "0009")
        add(session, "instance", [{"study_id": 1, "sop_instance_uid": "1.2.3", "role": "source"}])
        of = {"study_id": 1, "instance_id": 1, "asked": "ab", "kind": "text", "meaning": "identity"}
        place = {
            "left": 1.5,
            "top": 2.0,
            "right": 3.0,
            "bottom": 4.0,
            "sealed": b"\x00sealed",
            "removed": True,
        }
        add(session, "mark_reading", [of | place])
    migrate.upgrade(first)
    with first.write() as session:
        (row,) = session.scalars(select(AnnotationReading))
        assert (row.id, row.instance_id, row.analysis_sha256, row.frame) == (1, 1, "ab", None)
        assert (row.kind, row.meaning, row.removed) == ("text", "identity", True)
        assert (row.left, row.top, row.right, row.bottom) == (1.5, 2.0, 3.0, 4.0)
        assert (row.sealed, row.read_at) == (b"\x00sealed", NOW)
        more = {column: getattr(row, column) for column in ("study_id", *of, *place) if column != "asked"}
        session.execute(
            insert(AnnotationReading).values(
                more | {"analysis_sha256": "cd", "confidence": 1.0, "read_at": NOW}
            )
        )
        assert session.scalars(select(AnnotationReading.id).order_by(AnnotationReading.id)).all() == [1, 2]
