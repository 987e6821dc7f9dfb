"""The first schema"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "association",
        _text("id", 64),
        _text("listener", 64),
        _text("calling_ae", 16),
        _text("called_ae", 16),
        _text("address", 255),
        _given("opened_at", sa.DateTime()),
        sa.Column("closed_at", sa.DateTime(), nullable=True),
        _text("outcome", 16),
        _given("objects", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_association")),
    )
    _index("association", "closed_at", "listener")

    op.create_table(
        "cursor",
        _text("name", 255),
        _given("offset", sa.BigInteger()),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cursor")),
    )
    op.create_table(
        "lease",
        _text("name", 64),
        _text("owner", 64),
        _given("until", sa.DateTime()),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "study",
        _given("id", _NUMBER),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        _text("patient_id", 255),
        _text("issuer_of_patient_id", 255),
        _text("study_date", 8),
        _text("state", 16),
        _given("reason", sa.Text()),
        _given("revision", sa.Integer()),
        _given("first_received_at", sa.DateTime()),
        _given("last_received_at", sa.DateTime()),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        _given("priority", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_study_study_instance_uid")),
    )
    _index("study", "due_at", "state")

    op.create_table(
        "event",
        _given("id", _NUMBER),
        _given("at", sa.DateTime()),
        _given("number", sa.Integer()),
        sa.Column("study_id", _NUMBER, nullable=True),
        _given("fields", sa.JSON()),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_event_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    _index("event", "at", "number", "study_id")

    op.create_table(
        "instance",
        _given("id", _NUMBER),
        _given("study_id", _NUMBER),
        _text("sop_instance_uid", 64),
        _text("sop_class_uid", 64),
        _text("series_instance_uid", 64),
        _text("transfer_syntax_uid", 64),
        _text("modality", 16),
        _text("role", 16),
        _given("path", sa.Text()),
        _given("bytes", sa.BigInteger()),
        _text("pixels_sha256", 64),
        _text("identity_sha256", 64),
        _text("patient_sha256", 64),
        _given("attributes", sa.JSON()),
        _text("calling_ae", 16),
        _text("called_ae", 16),
        _given("received_at", sa.DateTime()),
        _given("revision", sa.Integer()),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_instance_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_instance_sop_instance_uid")),
    )
    _index("instance", "study_id")

    op.create_table(
        "job",
        _given("id", _NUMBER),
        _given("study_id", _NUMBER),
        _given("study_revision", sa.Integer()),
        _text("rule", 64),
        _text("pipeline", 64),
        _given("options", sa.JSON()),
        _given("destinations", sa.JSON()),
        _given("source_uids", sa.JSON()),
        _given("priority", sa.Integer()),
        _text("state", 16),
        _given("reason", sa.Text()),
        _given("attempts", sa.Integer()),
        _given("tries", sa.Integer()),
        _given("run_at", sa.DateTime()),
        _text("lease_owner", 64),
        sa.Column("lease_until", sa.DateTime(), nullable=True),
        _given("cancel_requested", sa.Boolean()),
        _given("share_done", sa.Double()),
        _text("doing", 255),
        _given("created_at", sa.DateTime()),
        sa.Column("started_at", sa.DateTime(), nullable=True),
        sa.Column("finished_at", sa.DateTime(), nullable=True),
        sa.Column("analysed_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_job_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("study_id", "study_revision", "rule", name="uq_job_once_per_rule"),
    )
    op.create_index("ix_job_claim", "job", ["state", "priority", "run_at"])
    _index("job", "lease_until", "study_id")

    op.create_table(
        "reception",
        _given("id", _NUMBER),
        _text("spool_name", 255),
        _given("path", sa.Text()),
        sa.Column("study_id", _NUMBER, nullable=True),
        _text("sop_instance_uid", 64),
        _text("outcome", 16),
        _given("reason", sa.Text()),
        _text("association", 64),
        _text("calling_ae", 16),
        _text("called_ae", 16),
        _given("bytes", sa.BigInteger()),
        _given("received_at", sa.DateTime()),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_reception_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reception")),
        sa.UniqueConstraint("spool_name", name=op.f("uq_reception_spool_name")),
    )
    _index("reception", "association", "sop_instance_uid", "study_id")

    op.create_table(
        "result",
        _given("id", _NUMBER),
        _given("study_id", _NUMBER),
        _given("job_id", _NUMBER),
        _text("kind", 16),
        _text("sop_instance_uid", 64),
        _text("sop_class_uid", 64),
        _text("series_instance_uid", 64),
        _given("path", sa.Text()),
        _text("sha256", 64),
        _given("bytes", sa.BigInteger()),
        _text("supersedes", 64),
        _given("created_at", sa.DateTime()),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_result_job_id")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_result_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_result")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_result_sop_instance_uid")),
    )
    _index("result", "job_id", "study_id")

    op.create_table(
        "delivery",
        _given("id", _NUMBER),
        _given("result_id", _NUMBER),
        _text("destination", 64),
        _text("state", 16),
        _given("reason", sa.Text()),
        _text("status", 32),
        _given("attempts", sa.Integer()),
        _given("refusals", sa.Integer()),
        _given("queries", sa.Integer()),
        _given("next_at", sa.DateTime()),
        _text("lease_owner", 64),
        sa.Column("lease_until", sa.DateTime(), nullable=True),
        sa.Column("sent_at", sa.DateTime(), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("fk_delivery_result_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("result_id", "destination", name="uq_delivery_once_per_destination"),
    )
    op.create_index("ix_delivery_due", "delivery", ["state", "next_at"])
    _index("delivery", "destination", "result_id")


def _given(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _text(name: str, length: int) -> sa.Column[Any]:
    return _given(name, sa.String(length))


def _index(table: str, *columns: str) -> None:
    for column in columns:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
