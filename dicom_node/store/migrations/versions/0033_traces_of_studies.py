"""Traces of studies, and of which models the results of a job are"""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("models", sa.JSON(), nullable=False, server_default="[]"))
    op.create_table(
        "study_trace",
        sa.Column("study_id", number, nullable=False),
        sa.Column("trace_id", sa.String(length=32), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=True),
        sa.Column("dropped", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_study_trace_study_id")),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_study_trace")),
    )
    with op.batch_alter_table("study_trace", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_study_trace_dropped"), ["dropped"], unique=False)
