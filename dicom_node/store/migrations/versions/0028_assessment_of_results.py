"""Assessment of results: with a reason and the report, and results that wait for it"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.add_column(sa.Column("because", sa.String(length=255), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("report_uid", sa.String(length=64), nullable=False, server_default=""))
    op.execute("UPDATE feedback SET verdict = 'accepted' WHERE verdict = 'right'")
    op.execute("UPDATE feedback SET verdict = 'rejected' WHERE verdict = 'wrong'")
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("assess_first", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    op.create_table(
        "held_result",
        sa.Column("result_id", number, nullable=False),
        sa.Column("study_id", number, nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("overdue", sa.Boolean(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=True),
        sa.Column("decided_at", sa.DateTime(), nullable=True),
        sa.Column("decided_by", sa.String(length=64), nullable=False),
        sa.Column("because", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("fk_held_result_result_id")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_held_result_study_id")),
        sa.PrimaryKeyConstraint("result_id", name=op.f("pk_held_result")),
    )
    with op.batch_alter_table("held_result", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_held_result_study_id"), ["study_id"], unique=False)
