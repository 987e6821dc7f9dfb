"""Answers that are awaited from vendors' AI servers."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "awaited_answer",
        sa.Column("id", number, nullable=False),
        sa.Column("study_id", number, nullable=False),
        sa.Column("job_id", number, nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("began_at", sa.DateTime(), nullable=False),
        sa.Column("limit_at", sa.DateTime(), nullable=False),
        sa.Column("last_at", sa.DateTime(), nullable=True),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.Column("reason", sa.String(length=255), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_awaited_answer_study_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_awaited_answer_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_awaited_answer")),
    )
    for column in ("study_id", "job_id", "study_instance_uid", "state"):
        op.create_index(op.f(f"ix_awaited_answer_{column}"), "awaited_answer", [column])
    op.create_table(
        "answer_object",
        sa.Column("received_id", number, nullable=False),
        sa.Column("awaited_id", number, nullable=False),
        sa.ForeignKeyConstraint(
            ["received_id"], ["received_object.id"], name=op.f("fk_answer_object_received_id")
        ),
        sa.ForeignKeyConstraint(
            ["awaited_id"], ["awaited_answer.id"], name=op.f("fk_answer_object_awaited_id")
        ),
        sa.PrimaryKeyConstraint("received_id", name=op.f("pk_answer_object")),
    )
    op.create_index(op.f("ix_answer_object_awaited_id"), "answer_object", ["awaited_id"])
