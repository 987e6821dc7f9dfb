"""Studies are searched by what their reports found; assessments are counted by age group, sex and station"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    op.create_table(
        "reported_finding",
        sa.Column("result_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("finding", sa.String(length=64), nullable=False),
        sa.Column("study_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["result_id"], ["result.id"], name=op.f("fk_reported_finding_result_id_result")
        ),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_reported_finding_study_id_study")),
        sa.PrimaryKeyConstraint("result_id", "finding", name=op.f("pk_reported_finding")),
    )
    with op.batch_alter_table("reported_finding", schema=None) as batch_op:
        batch_op.create_index("ix_reported_finding_name", ["finding", "study_id"], unique=False)
        batch_op.create_index(op.f("ix_reported_finding_study_id"), ["study_id"], unique=False)
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        for name in ("age_group", "sex", "station"):
            batch_op.add_column(sa.Column(name, sa.String(length=64), nullable=False, server_default=""))
