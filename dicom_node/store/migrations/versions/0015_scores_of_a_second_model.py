"""What a second model in the shadow of the active one says is kept beside it"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "shadow_score",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("card_sha256", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", sa.String(length=129), nullable=False),
        sa.Column("active_model", sa.String(length=129), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("active_probability", sa.Double(), nullable=False),
        sa.Column("called", sa.Boolean(), nullable=False),
        sa.Column("active_called", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_shadow_score_instance_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_shadow_score_job_id")),
        sa.PrimaryKeyConstraint(
            "job_id", "instance_id", "card_sha256", "label", name=op.f("pk_shadow_score")
        ),
    )
    with op.batch_alter_table("shadow_score", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_shadow_score_day"), ["day"], unique=False)
        batch_op.create_index(batch_op.f("ix_shadow_score_instance_id"), ["instance_id"], unique=False)
